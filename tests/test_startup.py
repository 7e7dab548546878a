"""What is not loaded: libraries that a command does not need take longer to load than a small scan to predict."""

from __future__ import annotations

import subprocess
import sys

FOR_TRAINING = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "torchio", "mlflow")
FOR_OTHERS = ("matplotlib", "pandas", "scipy.stats", "scipy.signal", "sklearn", "skimage", "onnx", "openvino")
COMPILER = ("torch._dynamo", "torch._inductor", "sympy")


def loaded_by(code: str, names: tuple[str, ...]) -> str:
    """Which of the modules a fresh process has loaded after some code, or what went wrong."""
    code += f"\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_predicting_loads_nothing_of_training_nor_reports_nor_torchs_compiler() -> None:
    assert loaded_by("import seg3d.verbs.predict", (*FOR_TRAINING, *FOR_OTHERS, "h5py", *COMPILER)) == ""


def test_serving_a_model_loads_nothing_of_training_nor_reports_nor_torchs_compiler() -> None:
    assert loaded_by("import seg3d.serving.model", (*FOR_TRAINING, *FOR_OTHERS, *COMPILER)) == ""


def test_what_computes_with_no_network_loads_no_torch() -> None:
    verbs = ("evaluate", "report", "view", "figure", "check", "convert", "prepare")
    code = "".join(f"import seg3d.verbs.{verb}\n" for verb in verbs)
    assert loaded_by(code, ("torch", *FOR_TRAINING)) == ""


def test_counting_memory_does_not_load_torchs_compiler() -> None:
    code = """
import itertools
from seg3d.inference.forward import Forward
from seg3d.inference.live import pass_bytes
from seg3d.models import AttentionUNet, ReducedUNet, UNet
valid = lambda *shape, **settings: UNet(*shape, padding="valid", upsampling="nearest", **settings)
kinds = (ReducedUNet, UNet, AttentionUNet, valid)
for kind, norm, whole in itertools.product(kinds, ("batch", "instance"), (False, True)):
    forward = Forward(kind(1, 2, dims=3, features=(4, 8), norm=norm).eval(), as_it_is=whole).without_values()
    for chunk in (None, 12):
        pass_bytes(forward, (1, 60, 92, 92), chunk)
"""
    assert loaded_by(code, COMPILER) == ""
