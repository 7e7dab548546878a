"""Regions: overlapping sets of labels, a sigmoid output each, from the dataset to scores."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scans import oblique_affine, write_nifti
from study import TINY, losses_of, make_study
from torch import nn
from typer.testing import CliRunner

import seg3d
from seg3d.build.dataset import build_dataset
from seg3d.build.training import build_module
from seg3d.cases import Dataset, DeclaredRegion, Region, as_region_map, assemble_regions, read_dataset
from seg3d.cases.regions import find_regions, nnunet_regions
from seg3d.cli import app
from seg3d.config import config_digest, load_config, to_yaml
from seg3d.errors import ConfigError, FaultsError, RunError
from seg3d.inference.ensemble import Spread, binary_entropy
from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.io import read_volume
from seg3d.keyed import keyed
from seg3d.preparation import Crop, ForegroundCrop, Normalisation, Recipe
from seg3d.verbs.audit_ops import audit_operators
from seg3d.verbs.region_scores import as_shown, shown_names

LABELS = {"background": 0, "edema": 1, "core": 2, "enhancing": 3, "ignore": 9}
NESTED = (Region("whole", (1, 2, 3), 1), Region("inner", (2, 3), 2), Region("active", (3,), 3))


def found(
    *declared: tuple[Any, ...], labels: dict[str, int] = LABELS
) -> tuple[tuple[Region, ...], list[tuple[str, str]]]:
    """Regions and their faults, as kind and what."""
    regions, faults = find_regions([DeclaredRegion(*each) for each in declared], labels, 9, "here")
    return regions, [(fault.kind, str(fault)) for fault in faults]


# --- what a region is


def test_nested_regions_are_shown_as_the_label_that_no_later_one_has() -> None:
    declared = [("whole", ("edema", "core", "enhancing")), ("inner", ("core", "enhancing")), ("active", ("enhancing",))]
    assert found(*declared) == (NESTED, [])


def test_labels_are_given_by_name_or_value_and_a_name_goes_first() -> None:
    assert found(("whole", (1, "2", "enhancing")))[0] == (Region("whole", (1, 2, 3), 1),)
    assert found(("odd", ("2",)), labels={"background": 0, "2": 1, "b": 2})[0] == (Region("odd", (1,), 1),)


def test_a_region_inside_its_sibling_is_shown_as_asked() -> None:
    # kidney, all masses in it, and of these the tumours: the cysts are what no later region has
    regions, faults = found(("kidney", (1, 2, 3), 1), ("masses", (2, 3), 3), ("tumour", (2,), 2))
    assert [region.label for region in regions] == [1, 3, 2]
    assert faults == []


def test_labels_of_one_region_alone_are_merged() -> None:
    assert found(("tumour", (1, 2, 3))) == ((Region("tumour", (1, 2, 3), 1),), [])


@pytest.mark.parametrize(
    ("declared", "kind", "words"),
    [
        ([("a", ("necrosis",))], "region_labels", "unknown label"),
        ([("a", (7,))], "region_labels", "unknown label"),
        ([("a", ())], "region_labels", "no labels"),
        ([("a", ("background", "core"))], "region_labels", "background is in no region"),
        ([("a", (1, "ignore"))], "region_labels", "ignored label is in no region"),
        ([("a", (1,)), ("a", (2,))], "region_name", "same name"),
        ([("a/b", (1,))], "region_name", "file name"),
        ([("core", (1, 2))], "region_name", "a label has the same name"),
        ([("a", (1, 2), 3)], "region_label", "not one of its own"),
        ([("inner", (2, 3)), ("whole", (1, 2, 3))], "region_order", "outermost"),
        ([("a", (1, 2), 1), ("b", (1,), 1)], "region_order", "later region 'b'"),
        ([("a", (1, 3)), ("b", (2, 3))], "region_order", "label 3 would be shown as label 2"),
    ],
)
def test_what_no_label_map_could_tell_is_a_fault(declared: list[tuple[Any, ...]], kind: str, words: str) -> None:
    kinds, texts = zip(*found(*declared)[1], strict=True)
    assert kind in kinds
    assert any(words in text for text in texts)


def test_the_overlap_of_two_regions_needs_a_region_of_its_own() -> None:
    assert found(("a", (1, 3)), ("b", (2, 3)))[1] != []
    regions, faults = found(("a", (1, 3)), ("b", (2, 3)), ("both", (3,)))
    assert faults == []
    probabilities = np.array([[0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.9, 0.1], [0.1, 0.9, 0.1, 0.1]])
    assert assemble_regions(probabilities, regions).tolist() == [1, 3, 2, 0]


def test_every_sound_label_map_comes_back_from_its_regions() -> None:
    truth = np.arange(4, dtype=np.uint8).repeat(3)
    masks = [np.isin(truth, region.values).astype(np.float32) for region in NESTED]
    np.testing.assert_array_equal(assemble_regions(masks, NESTED), truth)


def test_a_half_is_not_enough_and_later_regions_lie_over_earlier_ones() -> None:
    probabilities = np.array([[0.5, 0.51, 0.2, 0.9], [0.5, 0.2, 0.9, 0.6], [0.5, 0.0, 0.0, 0.7]], np.float32)
    label = assemble_regions(probabilities, NESTED)
    assert label.tolist() == [0, 1, 2, 3]  # the third is inner although it is not whole
    assert label.dtype == np.uint8


def test_the_map_of_a_region_keeps_what_is_ignored() -> None:
    label = np.array([0, 1, 2, 3, 9], np.uint8)
    assert as_region_map(label, NESTED[1], 9).tolist() == [0, 0, 2, 2, 9]
    assert as_region_map(label, Region("far", (1, 300), 300)).tolist() == [0, 300, 0, 0, 0]


# --- where regions are declared


BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def nnunet(folder: Path, labels: dict[str, Any], **content: Any) -> Dataset:
    folder.mkdir(exist_ok=True)
    header = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz", "labels": labels, **content}
    (folder / "dataset.json").write_text(json.dumps(header))
    return read_dataset(folder)


def test_a_dataset_of_nnu_net_with_regions(tmp_path: Path) -> None:
    dataset = nnunet(tmp_path, {**BRATS, "ignore": 4}, regions_class_order=[1, 2, 3])
    assert dataset.faults == ()
    assert dataset.labels == {"background": 0, "label 1": 1, "label 2": 2, "enhancing": 3, "ignore": 4}
    assert dataset.ignore_label == 4
    assert dataset.regions == (
        Region("whole", (1, 2, 3), 1),
        Region("core", (2, 3), 2),
        Region("enhancing", (3,), 3),
    )


def test_the_order_of_regions_is_the_files_and_what_they_are_shown_as_its_regions_class_order(tmp_path: Path) -> None:
    kidney = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
    dataset = nnunet(tmp_path, kidney, regions_class_order=[1, 3, 2])
    assert [(region.name, region.label) for region in dataset.regions] == [("kidney", 1), ("masses", 3), ("tumor", 2)]


def test_without_regions_class_order_it_follows_from_the_regions(tmp_path: Path) -> None:
    assert [region.label for region in nnunet(tmp_path, BRATS).regions] == [1, 2, 3]


def test_lists_of_one_value_make_no_regions(tmp_path: Path) -> None:
    dataset = nnunet(tmp_path, {"background": [0], "tumour": [1]})
    assert (dataset.labels, dataset.regions, dataset.faults) == ({"background": 0, "tumour": 1}, (), ())


@pytest.mark.parametrize(
    ("labels", "order", "kind"),
    [
        (BRATS, [1, 2], "region_order"),
        (BRATS, [1, 2, 2], "region_label"),
        (BRATS, "123", "region_order"),
        (BRATS, [3, 2, 1], "region_label"),
        ({"background": 0, "whole": [0, 1, 2], "core": 2}, [1, 2], "region_labels"),
        ({"background": 0, "whole": [1, 2, 4], "core": 2, "ignore": 4}, [1, 2], "region_labels"),
        ({"background": 0, "whole": [1, 2], "core": []}, [1, 2], "label_not_a_number"),
        ({"background": 0, "whole": [1, 2.5], "core": 2}, [1, 2], "label_not_a_number"),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": [3]}, [1, 2], "label_not_a_number"),
    ],
)
def test_faults_of_nnu_nets_regions_are_told_by_check(
    tmp_path: Path, labels: dict[str, Any], order: Any, kind: str
) -> None:
    nnunet(tmp_path, labels, regions_class_order=order)
    assert kind in {fault.kind for fault in seg3d.check(tmp_path)}
    write_cases(tmp_path, 1)
    with pytest.raises(FaultsError, match="cannot be used"):
        seg3d.prepare(config_of(tmp_path, tmp_path))


def test_nnunet_regions_reads_what_is_there() -> None:
    labels, declared, faults = nnunet_regions({"labels": BRATS}, "file")
    assert labels == {"background": 0, "enhancing": 3, "label 1": 1, "label 2": 2}
    assert declared[0] == DeclaredRegion("whole", (1, 2, 3), None)
    assert faults == []


def write_cases(folder: Path, cases: int, ignored: bool = False) -> None:
    """Balls in balls, as brighter as inner, in nnU-Net's folders."""
    voxels = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), axis=-1)
    for number in range(cases):
        rng = keyed(number, "balls")
        distance = np.sqrt(((voxels - rng.uniform(9, 15, 3)) ** 2).sum(axis=-1))
        label = np.sum([distance < radius for radius in (8, 6, 4)], axis=0).astype(np.uint8)
        image = 100.0 * label + rng.normal(0, 10, label.shape)
        if ignored:
            label[:, :3] = 4
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        write_nifti(folder / "imagesTr" / f"c{number}_0000.nii.gz", image.astype(np.float32), affine)
        write_nifti(folder / "labelsTr" / f"c{number}.nii.gz", label, affine)


def config_of(source: Path, folder: Path, **replaced: str) -> Path:
    text = TINY.format(folder=folder).replace(f"{folder}/data", str(source))
    for key, value in replaced.items():
        text = text.replace(key, value)
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_a_config_declares_regions_for_any_layout_short_or_long(tmp_path: Path) -> None:
    path = make_study(tmp_path, labels=("one", "two"))
    short = load_config(path, ["data.regions={both: [one, 2], inner: [two]}"])
    long = load_config(path, ["data.regions=[{name: both, labels: [one, 2]}, {name: inner, labels: [two]}]"])
    assert short == long
    assert load_config(path, []).data.regions is None
    expected = (Region("both", (1, 2), 1), Region("inner", (2,), 2))
    assert build_dataset(short).regions == expected
    (tmp_path / "again.yaml").write_text(to_yaml(short))
    assert load_config(tmp_path / "again.yaml") == short


def test_the_order_of_regions_is_part_of_the_config_digest(tmp_path: Path) -> None:
    path = make_study(tmp_path, labels=("one", "two"))
    settings = ["{a: [one], b: [two]}", "{b: [two], a: [one]}", "[]"]
    digests = {config_digest(load_config(path, [f"data.regions={regions}"])) for regions in settings}
    assert len(digests) == 3


def test_a_config_replaces_a_datasets_regions_or_takes_none(tmp_path: Path) -> None:
    nnunet(tmp_path, BRATS, regions_class_order=[1, 1, 1])  # at fault
    path = config_of(tmp_path, tmp_path)
    dataset = build_dataset(load_config(path, ["data.regions={inner: [2, 3]}"]))
    assert (dataset.regions, dataset.faults) == ((Region("inner", (2, 3), 2),), ())
    dataset = build_dataset(load_config(path, ["data.regions=[]"]))
    assert (dataset.regions, dataset.faults) == ((), ())


def test_faults_of_a_configs_regions_are_told_by_check(tmp_path: Path) -> None:
    path = make_study(tmp_path)
    faults = seg3d.check(path, ["data.regions={a: [blob, mass], b: [background]}"])
    assert [fault.where for fault in faults if fault.kind == "region_labels"] == [
        "data.regions region 'a'",
        "data.regions region 'b'",
    ]
    with pytest.raises(FaultsError, match=r"data\.regions\.0\.labels"):
        load_config(path, ["data.regions={a: []}"])
    with pytest.raises(FaultsError, match="sigmoid output"):
        load_config(path, ["loss.terms=[{kind: bce}]"])


def test_regions_know_no_background_and_their_weights_have_their_names(tmp_path: Path) -> None:
    path, regions = make_study(tmp_path), (Region("a", (1,), 1),)
    labels = {"background": 0, "blob": 1}
    for setting, words in (
        ("loss.terms=[{kind: dice, include_background: true}]", "no background"),
        ("loss.class_weights={blob: 2}", "unknown labels"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_module(load_config(path, [setting]), 1, labels, None, 1, None, regions)
    with pytest.raises(ConfigError, match="nothing that is to be found has a weight"):
        build_module(load_config(path, ["loss.class_weights={a: 0}"]), 1, labels, None, 1, None, regions)
    with pytest.raises(ConfigError, match="nothing that is to be found has a weight"):
        build_module(load_config(path, ["loss.class_weights={background: 1, blob: 0}"]), 1, labels, None, 1, None)
    module = build_module(load_config(path, ["loss.class_weights={a: 2}"]), 1, labels, None, 1, None, regions)
    assert module.loss.class_weights.tolist() == [2.0]


# --- prediction


class Ramps(nn.Module):
    """Regions above 0.5, 1.5 and 2.5, as sharp as asked."""

    def __init__(self, sharp: float = 20.0) -> None:
        super().__init__()
        self.sharp = sharp

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.sharp * torch.cat([image - 0.5, image - 1.5, image - 2.5], dim=1)


SHAPE = (24, 28, 20)


def onion() -> np.ndarray:
    image = np.zeros(SHAPE, np.int16)
    for value, margin in ((100, 3), (200, 5), (300, 8)):
        image[margin:-margin, margin:-margin, margin:-margin] = value
    return image


def predictor(*networks: nn.Module, spacing: tuple[float, float, float] | None = None, **settings: Any) -> Predictor:
    recipe = Recipe(Crop(ForegroundCrop(threshold=10, margin_mm=3)), spacing, (Normalisation("divide", by=100),))
    window = SlidingWindow((16, 16, 16), activation="sigmoid")
    first, *others = networks
    return Predictor(
        first,
        window,
        recipe,
        ("CT",),
        (0, 1, 2, 3),
        torch.device("cpu"),
        others=tuple((network, window) for network in others),
        regions=NESTED,
        **settings,
    )


@pytest.mark.parametrize("spacing", [None, (0.5, 0.5, 0.5)], ids=["own spacing", "resampled"])
def test_regions_are_put_together_on_the_scans_grid(tmp_path: Path, spacing: tuple[float, float, float] | None) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", onion(), oblique_affine())
    answer = predictor(Ramps(), spacing=spacing).predict([read_volume(path)], probabilities=True)
    assert answer.label.dtype == np.uint8
    assert list(answer.probabilities) == ["whole", "inner", "active"]
    if spacing is None:
        np.testing.assert_array_equal(answer.label, onion() // 100)
    for region in NESTED:  # nested: a voxel of a region is one of the regions around it
        mask = np.isin(answer.label, region.values)
        np.testing.assert_array_equal(answer.probabilities[region.name] > 0.5, mask)
        assert 0.9 < mask.sum() / np.isin(onion() // 100, region.values).sum() < 1.1
    assert answer.probabilities["whole"][0, 0, 0] == 0.0


def test_clean_up_goes_by_label(tmp_path: Path) -> None:
    image = onion()
    image[0, 0, 0] = 300
    path = write_nifti(tmp_path / "scan.nii.gz", image)
    assert predictor(Ramps()).predict([read_volume(path)]).label[0, 0, 0] == 3
    assert predictor(Ramps(), keep_largest=(3,)).predict([read_volume(path)]).label[0, 0, 0] == 0


class Sure(nn.Module):
    """The same probabilities everywhere."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.logit(torch.tensor(probabilities))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits.view(1, -1, 1, 1, 1).expand(len(image), -1, *image.shape[2:])


def bernoulli(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_uncertainty_of_regions_by_hand(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", np.full(SHAPE, 100, np.int16))
    answer = predictor(Sure(0.9, 0.6, 0.1), Sure(0.7, 0.8, 0.5)).predict([read_volume(path)], probabilities=True)
    middle = (12, 14, 10)
    assert answer.label[middle] == 2  # means 0.8, 0.7, 0.3
    assert answer.probabilities["whole"][middle] == pytest.approx(0.8, abs=1e-6)
    total = sum(map(bernoulli, (0.8, 0.7, 0.3)))
    mean = sum(map(bernoulli, (0.9, 0.6, 0.1, 0.7, 0.8, 0.5))) / 2
    assert answer.uncertainty["entropy"][middle] == pytest.approx(total, abs=1e-5)
    assert answer.uncertainty["mutual_information"][middle] == pytest.approx(total - mean, abs=1e-5)
    assert answer.uncertainty["sd"][middle] == pytest.approx(0.1, abs=1e-6)  # of inner, which is shown


def test_where_no_region_is_shown_the_sd_is_the_largest_of_theirs(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", np.full(SHAPE, 100, np.int16))
    answer = predictor(Sure(0.4, 0.3, 0.1), Sure(0.4, 0.1, 0.2)).predict([read_volume(path)])
    assert answer.label[12, 14, 10] == 0
    assert answer.uncertainty["sd"][12, 14, 10] == pytest.approx(0.1, abs=1e-6)


def test_members_that_agree_on_regions_dispute_nothing() -> None:
    same = torch.sigmoid(torch.randn(3, 9, 8, 7, generator=torch.Generator().manual_seed(0)))
    spread = Spread(torch.zeros(7, 9, 8, 7), binary_entropy)
    for _ in range(5):
        spread.add(same)
    assert float(spread.mutual_information.abs().max()) == 0.0
    sure = binary_entropy(torch.tensor([[0.0], [1.0]]).reshape(2, 1, 1, 1))
    assert float(sure) == 0.0


# --- a study of three nested regions, end to end


SETTINGS = ["train.max_epochs=10", "sampling.patches_per_epoch=16", "train.optimizer.learning_rate=0.01"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested")
    write_cases(folder / "data", 6, ignored=True)
    nnunet(folder / "data", {**BRATS, "ignore": 4}, regions_class_order=[1, 2, 3])
    return config_of(folder / "data", folder, **{"loss: {terms": "loss: {class_weights: {core: 2}, terms"})


@pytest.fixture(scope="module")
def run(study: Path) -> Path:
    return seg3d.train(study, SETTINGS)


def rows_of(path: Path) -> list[dict[str, str]]:
    head, *lines = path.read_text().splitlines()
    return [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]


def test_a_run_validates_regions(run: Path) -> None:
    rows = rows_of(run / "metrics.csv")
    names = {name.removeprefix("val_dice_") for name in rows[-1] if name.startswith("val_dice_")}
    assert names == {"whole", "core", "enhancing"}
    best = max(rows, key=lambda row: float(row["val_dice"]))
    mean = sum(float(best[f"val_dice_{name}"]) for name in names) / 3
    result = json.loads((run / "result.json").read_text())
    assert result["best_score"] == pytest.approx(mean)
    assert mean > 0.4  # a whole that fills the volume has 0.3


def test_the_dice_of_a_validation_is_that_of_its_label_map(study: Path) -> None:
    labels = {"background": 0, "label 1": 1, "label 2": 2, "enhancing": 3}
    module = build_module(load_config(study, ["loss.class_weights=null"]), 1, labels, 9, 1, None, NESTED)
    reference = np.array([1, 2, 3, 3, 0, 9]).reshape(6, 1, 1).astype(np.uint8)
    whole, inner, active = [9, 9, 2, 9, 9, 9], [1, 9, 9, 9, 1, 9], [0, 7, 1, 9, 0, 0]
    probabilities = torch.tensor([whole, inner, active]).reshape(3, 6, 1, 1) / 10
    dice = module._region_dice(probabilities, reference)
    # shown as 1 3 2 3 1, the last is ignored; whole: one too many, active: one of two found, one too many
    assert dice == pytest.approx({1: 8 / 9, 2: 1.0, 3: 0.5})


def test_the_network_has_an_output_for_each_region(run: Path) -> None:
    model = json.loads((run / "model.json").read_text())
    assert model["regions"][1] == {"name": "core", "values": [2, 3], "label": 2}
    checkpoint = torch.load(next((run / "checkpoints").glob("last*")), weights_only=True)
    head = [tensor for name, tensor in checkpoint["state_dict"].items() if "head" in name and name.endswith("bias")]
    assert [tuple(tensor.shape) for tensor in head] == [(3,)]


@pytest.fixture(scope="module")
def predicted(run: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers with nothing but the run folder and scans without labels."""
    folder = tmp_path_factory.mktemp("answers")
    scans = folder / "scans"
    scans.mkdir()
    for number in range(6):
        shutil.copy(study.parent / "data" / "imagesTr" / f"c{number}_0000.nii.gz", scans / f"c{number}.nii.gz")
    moved = study.parent / "data" / "dataset.json"
    kept = moved.read_text()
    moved.unlink()
    try:
        seg3d.predict(run, [scans], folder / "out", overrides=["predict.probabilities=true"])
    finally:
        moved.write_text(kept)
    return folder / "out"


def test_a_run_folder_is_all_that_prediction_needs(predicted: Path, study: Path) -> None:
    manifest = json.loads((predicted / "predictions.json").read_text())
    assert [region["name"] for region in manifest["regions"]] == ["whole", "core", "enhancing"]
    source = nib.load(study.parent / "data" / "imagesTr" / "c0_0000.nii.gz")
    answer = nib.load(predicted / "c0.nii.gz")
    np.testing.assert_array_equal(answer.affine, source.affine)
    label = np.asanyarray(answer.dataobj)
    assert set(np.unique(label)) <= {0, 1, 2, 3}
    maps = {n: nib.load(predicted / "probabilities" / f"c0_probability_{n}.nii.gz") for n in ("core", "enhancing")}
    core, enhancing = (np.asanyarray(maps[name].dataobj) > 0.5 for name in ("core", "enhancing"))
    np.testing.assert_array_equal(label == 3, enhancing)
    np.testing.assert_array_equal(label == 2, core & ~enhancing)
    assert len(list((predicted / "probabilities").iterdir())) == 18


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("known_by", ["config", "dataset", "predictions"])
def test_evaluation_scores_regions_too(predicted: Path, study: Path, tmp_path: Path, known_by: str) -> None:
    data = study.parent / "data"
    references = {"config": study, "dataset": data, "predictions": data / "labelsTr"}[known_by]
    summary = seg3d.evaluate(predicted, references, tmp_path / "summary.json")
    regions = summary["regions"]["per_label"]
    assert [entry["name"] for entry in regions.values()] == ["whole", "core", "enhancing"]
    assert [entry["values"] for entry in regions.values()] == [[1, 2, 3], [2, 3], [3]]
    assert [entry["name"] for entry in summary["per_label"].values()] == ["label 1", "label 2", "enhancing"]
    for key, values in (("1", (1, 2, 3)), ("2", (2, 3)), ("3", (3,))):
        for row in summary["regions"]["metric_per_case"]:
            label, reference = (
                np.asanyarray(nib.load(folder / f"{row['case']}.nii.gz").dataobj)
                for folder in (predicted, data / "labelsTr")
            )
            counted = reference != 4
            expected = dice(np.isin(label, values) & counted, np.isin(reference, values) & counted)
            assert row["metrics"][key]["Dice"] == pytest.approx(expected)
    assert summary["per_label"]["3"]["Dice"]["mean"] == regions["3"]["Dice"]["mean"]
    lines = rows_of(tmp_path / "summary.csv")
    named = {(line["label"], line["name"]) for line in lines}
    assert named >= {("1", "label 1"), ("1 2 3", "whole"), ("3", "enhancing")}


def test_the_printed_table_has_the_regions(predicted: Path, study: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(predicted), str(study), "--output", str(tmp_path / "summary.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "region Dice over 6 cases" in done.output
    assert "whole" in done.output


def test_a_run_with_regions_is_verified_bit_for_bit(run: Path) -> None:
    assert seg3d.verify(run, epochs=2, allow_changed=True, tell=lambda _: None).identical


def test_changed_regions_are_no_longer_the_run(run: Path, study: Path) -> None:
    path = study.parent / "data" / "dataset.json"
    kept = path.read_text()
    path.write_text(kept.replace('"core"', '"inside"'))
    try:
        with pytest.raises(RunError, match=r"data regions: .*core.* -> .*inside"):
            seg3d.verify(run, tell=lambda _: None)
    finally:
        path.write_text(kept)


def test_a_stopped_run_with_regions_goes_on_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    from seg3d.training.checkpoints import list_checkpoints

    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    newest = max(list_checkpoints(copy / "checkpoints", "last"), key=lambda checkpoint: checkpoint.step)
    newest.path.unlink()
    seg3d.resume(copy, allow_changed=True, tell=lambda _: None)
    assert losses_of(copy) == losses_of(run)
    digests = [json.loads((path / "result.json").read_text())["weights_sha256"] for path in (copy, run)]
    assert digests[0] == digests[1]


def test_a_study_with_regions_is_deterministic_on_cuda(study: Path) -> None:
    terms = ", ".join(f"{{kind: {kind}}}" for kind in ("cross_entropy", "dice", "focal", "tversky", "generalised_dice"))
    assert audit_operators(study, [f"loss.terms=[{terms}]"]).clean


def test_a_loss_that_does_not_fit_the_regions_leaves_no_run_folder(study: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown labels"):
        seg3d.train(study, ["loss.class_weights={inside: 2}"], folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_of_other_regions_are_no_ensemble(run: Path, study: Path, tmp_path: Path) -> None:
    other = seg3d.train(study, ["train.max_epochs=1", "data.regions=[]", "loss.class_weights=null"])
    with pytest.raises(RunError, match="another regions"):
        seg3d.predict([run, other], [study.parent / "data" / "imagesTr"], tmp_path)


def test_an_ensemble_of_regions_answers_with_the_mean(run: Path, study: Path, tmp_path: Path) -> None:
    other = seg3d.train(study, [*SETTINGS, "seed=1", "data.split.seed=0", "train.max_epochs=1"])
    scan = study.parent / "data" / "imagesTr" / "c0_0000.nii.gz"
    for name, runs in (("a", run), ("b", other), ("both", [run, other])):
        seg3d.predict(runs, [scan], tmp_path / name, overrides=["predict.probabilities=true"])
    maps = [
        np.asanyarray(nib.load(tmp_path / name / "probabilities" / "c0_0000_probability_core.nii.gz").dataobj)
        for name in ("a", "b", "both")
    ]
    np.testing.assert_allclose(maps[2], (maps[0] + maps[1]) / 2, atol=1e-5)
    kinds = {path.name for path in (tmp_path / "both" / "uncertainty").iterdir()}
    assert kinds == {f"c0_0000_{kind}.nii.gz" for kind in ("entropy", "mutual_information", "sd")}


# --- one region: a binary task with one output


def test_a_binary_task_has_one_output_and_binary_cross_entropy(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    settings = ["data.regions={blob: [blob]}", "loss.terms=[{kind: cross_entropy}]", *SETTINGS]
    run = seg3d.train(study, settings)
    row = rows_of(run / "metrics.csv")[-1]
    assert row["val_dice"] == row["val_dice_blob"]
    assert float(row["val_dice"]) > 0.5
    seg3d.predict(run, [], tmp_path / "out", split="test", overrides=["predict.probabilities=true"])
    (answer,) = (tmp_path / "out").glob("*.nii.gz")
    (probability,) = (tmp_path / "out" / "probabilities").iterdir()
    assert probability.name == answer.name.replace(".nii.gz", "_probability_blob.nii.gz")
    mask = np.asanyarray(nib.load(probability).dataobj) > 0.5
    np.testing.assert_array_equal(np.asanyarray(nib.load(answer).dataobj), mask)
    summary = seg3d.evaluate(tmp_path / "out", study, tmp_path / "summary.json", subset=True)
    assert "regions" not in summary  # the label says it all
    assert summary["pooled_soft_dice"]["1"]["cases"] == 1


# --- labels that regions do not tell apart


def test_labels_that_are_not_told_apart_are_scored_as_one() -> None:
    merged = (Region("any", (1, 2, 3), 1), Region("inner", (3,), 3))
    names = {1: "a", 2: "b", 3: "c", 5: "elsewhere"}
    assert shown_names(names, merged) == {1: "a + b", 3: "c"}
    assert shown_names(names, ()) == names
    label = np.array([0, 1, 2, 3, 5, 9], np.uint8)
    assert as_shown(label, merged).tolist() == [0, 1, 1, 3, 5, 9]
    assert as_shown(label, NESTED) is label


def test_evaluation_of_a_merged_region_is_not_zero_for_the_label_that_is_never_shown(tmp_path: Path) -> None:
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:4, 2:6, 2:6], reference[4:6, 2:6, 2:6] = 1, 2
    prediction = (reference > 0).astype(np.uint8)
    write_nifti(tmp_path / "labels" / "a.nii.gz", reference)
    write_nifti(tmp_path / "out" / "a.nii.gz", prediction)
    manifest = {"labels": {"background": 0, "left": 1, "right": 2}, "ignore_label": None, "scans": ["a.nii.gz"]}
    manifest["regions"] = [{"name": "lung", "values": [1, 2], "label": 1}]
    (tmp_path / "out" / "predictions.json").write_text(json.dumps(manifest))
    summary = seg3d.evaluate(tmp_path / "out", tmp_path / "labels", tmp_path / "summary.json")
    assert {entry["name"] for entry in summary["per_label"].values()} == {"left + right"}
    assert summary["foreground_dice"]["mean"] == 1.0
    assert summary["regions"]["per_label"]["1"]["Dice"]["mean"] == 1.0
