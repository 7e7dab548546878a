"""A study small enough to be trained in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from seg3d.atomic import write_json
from seg3d.digest import sha256_file, sha256_json
from seg3d.phantom import PhantomSpec, write_phantom_dataset

TINY = """
name: tiny
data:
  source: {folder}/data
  store: {folder}/store
  split: {{kind: share, val_share: 0.2, test_share: 0.2}}
output_dir: {folder}/runs
prepare:
  normalise: [{{kind: zscore}}]
  workers: 1
sampling: {{patch_size: [16, 16, 16], patches_per_epoch: 8, patches_per_visit: 2, queue_length: 4}}
augment:
  flip: {{p: 0.5, axes: [x, y, z]}}
  affine: {{p: 0.5, rotation_deg: [10, 10, 10], scale: [0.9, 1.1], shift_mm: [1, 1, 1]}}
  elastic: {{p: 0.5, control_spacing_mm: 8, sd_mm: 1}}
  noise: {{p: 0.5, sd: [0, 0.1]}}
model: {{features: [4, 8], norm: batch, dropout: 0.1}}
loss: {{terms: [{{kind: dice}}, {{kind: cross_entropy}}]}}
train: {{max_epochs: 2, batch_size: 2, accelerator: cpu, progress: false}}
tracking: {{enabled: false}}
"""


def make_study(folder: Path, cases: int = 5, **spec: Any) -> Path:
    """The config of a study on phantoms in ``folder``."""
    write_phantom_dataset(folder / "data", PhantomSpec(cases=cases, kind="blobs", shape=(24, 24, 24), **spec))
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(folder=folder))
    return path


PLANAR = """
model: {kind: unet, dims: 2, features: [4, 8], norm: batch, dropout: 0.1}
augment:
  flip: {p: 0.5, axes: [x, y]}
  rot90: {p: 0.5}
  affine: {p: 0.5, rotation_deg: [0, 0, 20], scale: [0.9, 1.1], shift_mm: [1, 1, 0]}
  elastic: {p: 0.5, control_points: [3, 3, 1], sd_mm: 1}
  noise: {p: 0.5, sd: [0, 0.1]}
"""
SLICES = """
sampling:
  {patch_size: [16, 16, 1], neighbours: 1, balance: slice, patches_per_epoch: 8, patches_per_visit: 2, queue_length: 4}
"""
PICTURES = """
sampling:
  {patch_size: [20, 20, 1], border: mirror, patches_per_epoch: 8, patches_per_visit: 2, queue_length: 4}
"""
CELLS = {"images": ["image/{case}.png"], "label": "label/{case}.png"}


def make_planar_study(folder: Path, form: str, cases: int = 5) -> Path:
    """The config of a study in two dimensions: ``"slices"`` of volumes, or ``"pictures"`` with valid convolutions."""
    if form == "slices":
        write_phantom_dataset(folder / "data", PhantomSpec(cases=cases, kind="blobs", shape=(24, 24, 24)))
        sections = SLICES
    else:
        write_phantom_dataset(folder / "data", PhantomSpec(cases=cases, kind="cells", shape=(40, 32, 1)))
        sections = PICTURES
    content = yaml.safe_load(TINY.format(folder=folder)) | yaml.safe_load(PLANAR) | yaml.safe_load(sections)
    if form == "pictures":
        content["data"] |= {"layout": "folders", "folders": CELLS, "labels": {"membrane": 0, "cell": 1}}
        content["model"] |= {"padding": "valid", "upsampling": "transposed"}
        content["prepare"] |= {"separation": {"w0": 5, "sigma": 3}}
        content["loss"] = {"terms": [{"kind": "cross_entropy"}]}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def result_of(run: Path) -> dict[str, Any]:
    """``result.json`` of a run."""
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def rewrite(run: Path, name: str, content: Any) -> None:
    """Give a run another document, as if it had begun with it."""
    write_json(run / name, content)
    manifest = json.loads((run / "run.json").read_text())
    del manifest["sha256"]
    manifest["files"][name] = sha256_file(run / name)
    write_json(run / "run.json", {**manifest, "sha256": sha256_json(manifest)})


def losses_of(run: Path) -> list[str]:
    """Every step's loss in a run, exact."""
    lines = [json.loads(line) for line in (run / "trace.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
