"""The guarantees of the 3D path hold for slices and for pictures: workers, resume, verify, operators."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scans import write_nifti
from study import make_planar_study, result_of
from test_resume import OFTEN, digests, kill, start, train_in_process

import seg3d
from seg3d.errors import DataError
from seg3d.io import read_header, read_label_map, read_volume
from seg3d.verbs.audit_ops import audit_operators

FORMS = ("slices", "pictures")


@pytest.fixture(scope="module", params=FORMS)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_planar_study(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Path:
    return seg3d.train(config, OFTEN)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_trains_the_same_weights(
    config: Path, undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    run = seg3d.train(config, [*OFTEN, f"data.num_workers={workers}"], folder=tmp_path / undisturbed.name)
    assert digests(run) == digests(undisturbed)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
    config: Path, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    delay = random.Random(seed).uniform(0.1, 1.5) * result_of(undisturbed)["seconds"]
    run = tmp_path / undisturbed.name
    process = start(train_in_process, config, run, [f"data.num_workers={seed % 3}"])
    process.join(delay)
    kill(process)
    if not (run / "run.json").exists():
        train_in_process(config, run, [])
    seg3d.resume(run)
    assert digests(run) == digests(undisturbed)


def test_a_run_is_verified(undisturbed: Path) -> None:
    found = seg3d.verify(undisturbed)
    assert found.identical
    assert found.steps == 12


def test_no_operator_of_training_or_prediction_is_left_to_chance_on_cuda(config: Path) -> None:
    assert audit_operators(config).clean


def test_predictions_lie_on_the_grids_of_their_sources(undisturbed: Path, tmp_path: Path) -> None:
    answers = seg3d.predict(undisturbed, output=tmp_path, split="test")
    assert answers
    sources = {path.name: path for path in (undisturbed.parents[1] / "data").rglob("*") if "label" in path.parent.name}
    for answer in answers:
        source = sources[answer.name]
        assert read_header(answer).grid.same_as(read_header(source).grid)
        assert set(np.unique(read_label_map(answer).data)) <= {0, 1}


def test_a_scan_of_another_kind_than_was_learnt_from_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    scans = {"picture": tmp_path / "a.png", "volume": tmp_path / "b.nii.gz"}
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(scans["picture"])
    write_nifti(scans["volume"], np.zeros((24, 24, 1), np.uint8))
    other = "volume" if ".png" in (undisturbed / "data.json").read_text() else "picture"
    with pytest.raises(DataError, match=f"a {other} .* learnt from.*{scans[other].name}"):
        seg3d.predict(undisturbed, [tmp_path], tmp_path / "answers")
    assert not (tmp_path / "answers").exists()
    scans[other].unlink()
    assert len(seg3d.predict(undisturbed, [tmp_path], tmp_path / "answers")) == 1


@pytest.mark.parametrize("config", ["pictures"], indirect=True)
def test_a_picture_that_viewers_show_turned_is_told(undisturbed: Path, tmp_path: Path) -> None:
    exif, lines = Image.Exif(), list[str]()
    exif[0x0112] = 6
    for name, remark in (("phone.jpg", exif), ("upright.jpg", Image.Exif())):
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / name, exif=remark)
    seg3d.predict(undisturbed, [tmp_path], tmp_path / "answers", tell=lines.append)
    (note,) = (line for line in lines if line.startswith("NOTE"))
    assert note.startswith("NOTE: phone.png: viewers are told to show the picture turned")


def test_attention_is_written_on_the_grid_of_the_source(config: Path, tmp_path: Path) -> None:
    plain = ["model.kind=attention_unet", "model.padding=same", "model.upsampling=nearest", "model.features=[4,8,8]"]
    run = seg3d.train(config, [*plain, "train.max_epochs=1", "sampling.patch_size=[16,16,1]"])
    answers = seg3d.predict(run, output=tmp_path, split="test", overrides=["predict.attention=true"])
    maps = sorted((tmp_path / "attention").iterdir())
    assert len(maps) == 2 * len(answers)  # two gates
    for path in maps:
        found = read_volume(path)
        assert found.grid.same_as(read_header(answers[0]).grid)
        assert 0 <= found.data.min() < found.data.max() <= 1


def test_an_image_resized_by_its_number_of_voxels_comes_back_onto_its_grid(config: Path, tmp_path: Path) -> None:
    resized = ["prepare.size=[22, 26, null]", "train.max_epochs=1"]
    run = seg3d.train(config, resized)
    for answer in seg3d.predict(run, output=tmp_path, split="test"):
        sources = [p for p in (run.parents[1] / "data").rglob(answer.name) if "label" in p.parent.name]
        assert read_header(answer).grid.same_as(read_header(sources[0]).grid)


def test_weights_of_the_loss_reach_it(tmp_path: Path) -> None:
    config = make_planar_study(tmp_path, "pictures", cases=4)
    losses = {}
    for name, override in (("with", []), ("without", ["prepare.separation=null"])):
        run = seg3d.train(config, ["train.max_epochs=1", *override], folder=tmp_path / name)
        losses[name] = (run / "metrics.csv").read_text()
    assert losses["with"] != losses["without"]
