"""Subject 5: preparing a case: read, normalise, resample, store."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.peers.harness import Job, Settings, run_job, with_and_without
from benchmarks.peers.meter import Measures, Meter
from seg3d.volume import Spacing

NAME = "5 preparing"
TOOLS = {"seg3d": ("ours", "seg3d"), "nnU-Net": ("nnunet", "nnunetv2")}


def jobs(settings: Settings) -> list[Job]:
    """Small MR scans, and a whole CT in its own and in a finer spacing; nothing where the scans are absent."""
    cases: dict[str, tuple[list[tuple[str, str]], Spacing | None]] = {}
    hippocampus = settings.data / "hippocampus"
    names = sorted(path.name for path in hippocampus.glob("imagesTr/*.nii.gz"))[: 4 if settings.quick else 40]
    if names:
        pairs = [(str(hippocampus / "imagesTr" / name), str(hippocampus / "labelsTr" / name)) for name in names]
        cases["hippocampus"] = (pairs, None)
    ct = settings.data / "ct_lung_tumour"
    if not settings.quick and (ct / "LUNG1-001_ct.nii.gz").exists():
        pair = [(str(ct / "LUNG1-001_ct.nii.gz"), str(ct / "LUNG1-001_seg.nii.gz"))]
        cases["LUNG1-001, own spacing"] = (pair, None)
        cases["LUNG1-001, 1 x 1 x 1.5 mm"] = (pair, (1.0, 1.0, 1.5))
    found: list[Job] = []
    for case, (pairs, spacing) in cases.items():
        project = str(settings.folder / f"project_{len(found)}")
        shared = {"pairs": pairs, "spacing": spacing, "project": project}
        run_job(Job(case, "nnU-Net", "nnunetv2", "benchmarks.peers.tools.nnunet:plan_preparing", shared))
        found += [
            Job(case, tool, package, f"{__name__}:measure", {**shared, "tool": adapter})
            for tool, (adapter, package) in TOOLS.items()
        ]
    return with_and_without(found)


def measure(tool: str, pairs: list[tuple[str, str]], spacing: Spacing | None, project: str) -> Measures:
    """Per case, one after the other in one process."""
    with tempfile.TemporaryDirectory() as folder:
        prepare = import_module(f"benchmarks.peers.tools.{tool}").preparer(Path(folder), Path(project), spacing)
        with Meter() as meter:
            for scan, label in pairs:
                prepare(Path(scan), Path(label))
    found = meter.measures
    return {
        "wall per case": found["wall"] / len(pairs),
        "CPU per case": found["CPU"] / len(pairs),
        "peak memory": found["peak memory"],
    }
