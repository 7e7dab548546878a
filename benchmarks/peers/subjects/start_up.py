"""Subject 6: from nothing to the help text, and from nothing to the label map of one case."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.peers.harness import Job, JobError, Settings, run_job
from benchmarks.peers.meter import Measures, Meter

NAME = "6 start-up"
PROGRAMS = {  # what asks for the help text, by name of the tool
    "seg3d": ("seg3d", ["seg3d", "--help"]),
    "seg3d predict": ("seg3d", ["seg3d", "predict", "--help"]),
    "nnU-Net": ("nnunetv2", ["nnUNetv2_predict", "-h"]),
    "TorchIO": ("torchio", ["tiotr", "--help"]),
    "MONAI, import alone": ("monai", ["python", "-c", "import monai"]),  # its program needs a package more
}
TOOLS = {"seg3d": ("ours", "seg3d"), "nnU-Net": ("nnunet", "nnunetv2"), "MONAI": ("monai", "monai")}


def jobs(settings: Settings) -> list[Job]:
    """Every process is new; the files are in the page cache after the first."""
    found = [
        Job("--help", tool, package, f"{__name__}:measure", {"command": command})
        for tool, (package, command) in PROGRAMS.items()
    ]
    dataset = settings.folder / "one"
    run_job(Job("phantoms", "inputs", "", f"{__name__}:make_inputs", {"folder": str(dataset)}))
    for tool, (adapter, package) in TOOLS.items():
        model = settings.folder / f"model_{adapter}"
        arguments = {"tool": adapter, "dataset": str(dataset), "model": str(model)}
        try:
            run_job(Job("model", tool, package, f"{__name__}:make_model", arguments))
        except JobError as error:
            print(f"start-up: no model of {tool}, {error}")
            continue
        found.append(Job("predict one case, 48 x 56 x 40", tool, package, f"{__name__}:measure_prediction", arguments))
    return found


def make_inputs(folder: str) -> None:
    """Six small phantoms; the first is predicted."""
    from seg3d.phantom import PhantomSpec, write_phantom_dataset

    write_phantom_dataset(Path(folder), PhantomSpec(cases=6, kind="blobs", shape=(48, 56, 40)))


def make_model(tool: str, dataset: str, model: str) -> None:
    """A model of the tool that has hardly been trained."""
    import_module(f"benchmarks.peers.tools.{tool}").make_model(Path(dataset), Path(model))


def measure_prediction(tool: str, dataset: str, model: str) -> Measures:
    """One scan from file to file by the tool's program."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = import_module(f"benchmarks.peers.tools.{tool}")
        command = adapter.predict_command(Path(dataset), Path(model), Path(folder))
        return measure(command, Path(folder) / "answers")


def measure(command: list[str], answers: Path | None = None) -> Measures:
    """Wall and CPU seconds of a program of this environment."""
    program = str(Path(sys.executable).with_name(command[0]))
    with Meter() as meter:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-500:]}")
    if answers is not None and not list(answers.rglob("*.nii.gz")):
        raise RuntimeError(f"{command[0]} wrote no label map: {done.stdout[-500:]}")
    return {name: meter.measures[name] for name in ("wall", "CPU")}
