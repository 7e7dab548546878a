"""Train, apply and audit medical image segmentation models, bit for bit reproducibly.

The verbs of the command line are functions of the same names; they are imported when first used, because torch is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "audit",
    "check",
    "compare",
    "demo",
    "diff",
    "evaluate",
    "figure",
    "predict",
    "prepare",
    "resume",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from seg3d.verbs.audit import audit
    from seg3d.verbs.check import check
    from seg3d.verbs.compare import compare
    from seg3d.verbs.demo import demo
    from seg3d.verbs.evaluate import evaluate
    from seg3d.verbs.figure import figure
    from seg3d.verbs.predict import predict
    from seg3d.verbs.prepare import prepare
    from seg3d.verbs.resume import resume
    from seg3d.verbs.train import train
    from seg3d.verbs.verify import diff, verify


# verbs that share a module with another
_MODULES = {"diff": "verify"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"seg3d.verbs.{_MODULES.get(name, name)}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
