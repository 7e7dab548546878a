"""Every config in configs/ runs end to end on a phantom of its kind: check, prepare, train, predict, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from studies import STUDIES

import seg3d
from seg3d.build.dataset import build_dataset
from seg3d.config import load_config, to_yaml
from seg3d.io import image_stem, read_header, read_label_map
from seg3d.phantom import write_phantom_dataset

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


def test_every_config_has_its_phantom() -> None:
    assert {path.stem for path in CONFIGS} == set(STUDIES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs_end_to_end(path: Path, tmp_path: Path) -> None:
    spec, layout, small = STUDIES[path.stem]
    source = write_phantom_dataset(tmp_path / "data", spec, layout)
    batch = load_config(path).train.batch_size
    overrides = [
        f"data.source={source}",
        f"data.store={tmp_path / 'store'}",
        f"output_dir={tmp_path / 'runs'}",
        "data.num_workers=0",
        "data.split.folds=4",
        "data.split.val_share=0.2",
        "prepare.workers=1",
        "train.max_epochs=1",
        "train.validate_every=1",
        f"sampling.patches_per_epoch={2 * batch}",
        "train.precision=fp32",
        "tracking.enabled=false",
        *small,
    ]
    assert [fault for fault in seg3d.check(path, overrides) if not fault.note] == []
    run = seg3d.train(path, overrides)
    result = json.loads((run / "result.json").read_text())
    assert {"best_score", "weights_sha256", "trace_sha256", "config_sha256", "data_sha256", "seconds"} <= set(result)
    answers = seg3d.predict(run, output=tmp_path / "answers", split="test")
    assert answers
    config = load_config(path, overrides)
    scans = {case.case_id: case.images[0] for case in build_dataset(config).cases}
    for answer in answers:
        assert read_header(answer).grid.same_as(read_header(scans[image_stem(answer)]).grid, 1e-3)
        assert set(np.unique(read_label_map(answer).data)) <= set(range(len(spec.label_names) + 1))
    references = tmp_path / "study.yaml"  # a config names the references, whatever the layout
    references.write_text(to_yaml(config))
    summary = seg3d.evaluate(tmp_path / "answers", references, tmp_path / "summary.json", subset=True)
    assert {row["case"] for row in summary["metric_per_case"]} == {image_stem(a) for a in answers}
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == len(answers)
    assert (tmp_path / "summary.csv").read_text().count("\n") == 1 + len(answers) * len(spec.label_names)
