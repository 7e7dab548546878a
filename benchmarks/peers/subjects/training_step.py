"""Subject 3: what a training step costs."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

from benchmarks.peers.harness import Job, Settings, run_job, with_and_without
from benchmarks.peers.meter import Measures, cpu_seconds, peak_bytes

NAME = "3 training step"
TOOLS = {
    "seg3d": ("ours", "seg3d"),
    "plain PyTorch loop": ("plain", "torch"),
    "MONAI with Lightning": ("monai", "monai"),
    "nnU-Net trainer": ("nnunet", "nnunetv2"),
}


def jobs(settings: Settings) -> list[Job]:
    """One network, batches of two patches of 40 x 56 x 40."""
    dataset = settings.folder / "phantoms"
    run_job(Job("phantoms", "inputs", "", f"{__name__}:make_inputs", {"folder": str(dataset)}))
    shared = {"steps": 2 if settings.quick else 5, "dataset": str(dataset)}
    return with_and_without(
        [
            Job(
                "2 patches of 40 x 56 x 40, instance norm, float32",
                tool,
                package,
                f"{__name__}:measure",
                {**shared, "tool": adapter},
            )
            for tool, (adapter, package) in TOOLS.items()
        ]
    )


def make_inputs(folder: str) -> None:
    """Four small phantoms with one label."""
    from seg3d.phantom import PhantomSpec, write_phantom_dataset

    write_phantom_dataset(Path(folder), PhantomSpec(cases=4, kind="blobs", shape=(64, 72, 56)))


def measure(tool: str, steps: int, dataset: str) -> Measures:
    """Of the last two of three rounds of steps, so that what is done once does not count."""
    import tempfile

    marks: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        import_module(f"benchmarks.peers.tools.{tool}").train_steps(
            steps, lambda: marks.append((time.perf_counter(), cpu_seconds())), Path(dataset), Path(folder)
        )
    assert len(marks) == 3, len(marks)
    wall, cpu = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    return {"wall per step": wall / (2 * steps), "CPU per step": cpu / (2 * steps), "peak memory": peak_bytes() / 2**30}
