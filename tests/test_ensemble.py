"""Several answers to one scan: their mean, how far they agree, and dropout that is sampled without side effects."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scans import oblique_affine, write_nifti
from study import losses_of, make_study, rewrite
from torch import nn
from typer.testing import CliRunner

import seg3d
from seg3d.build.prediction import build_network
from seg3d.cli import app
from seg3d.config import load_config
from seg3d.errors import DataError, RunError
from seg3d.inference.ensemble import McDropout, Spread, entropy, sampling_dropout, seeded
from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow, evaluating
from seg3d.io import read_volume
from seg3d.models.planar import Planar
from seg3d.preparation import Crop, ForegroundCrop, Normalisation, Recipe
from seg3d.verbs.members import part_runs

SHAPE = (24, 28, 20)
KINDS = ("entropy", "mutual_information", "sd")


# --- the running mean and spread, by hand


def fresh(outputs: int, *shape: int, uncertainty: Any = entropy) -> Spread:
    """The spread of no members yet."""
    return Spread(torch.zeros(2 * outputs + 1, *shape), uncertainty)


def spread_of(*members: Any) -> Spread:
    """The spread of members whose probabilities are given for each class of one voxel."""
    spread = fresh(len(members[0]), 1, 1, 1)
    for member in members:
        spread.add(torch.tensor(member, dtype=torch.float32).reshape(-1, 1, 1, 1))
    return spread


def test_entropy_is_in_nats_and_a_probability_of_zero_adds_nothing() -> None:
    found = entropy(torch.tensor([[0.5, 1.0, 0.2], [0.5, 0.0, 0.8]]).reshape(2, 3, 1, 1)).flatten()
    expected = [math.log(2), 0.0, -0.2 * math.log(0.2) - 0.8 * math.log(0.8)]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert found[1] == 0.0


def test_two_members_by_hand() -> None:
    spread = spread_of([0.9, 0.1], [0.5, 0.5])
    torch.testing.assert_close(spread.mean.flatten(), torch.tensor([0.7, 0.3]))
    total = -0.7 * math.log(0.7) - 0.3 * math.log(0.3)
    mean = (-0.9 * math.log(0.9) - 0.1 * math.log(0.1) + math.log(2)) / 2
    assert float(spread.entropy) == pytest.approx(total, abs=1e-6)
    assert float(spread.mutual_information) == pytest.approx(total - mean, abs=1e-6)
    assert float(spread.sd[0]) == pytest.approx(0.2, abs=1e-6)  # the population's; the sample's is 0.283


def test_members_that_are_sure_of_different_classes_dispute_all_there_is() -> None:
    spread = spread_of([1.0, 0.0], [0.0, 1.0])
    assert float(spread.entropy) == pytest.approx(math.log(2), abs=1e-6)
    assert float(spread.mutual_information) == pytest.approx(math.log(2), abs=1e-6)
    assert float(spread.sd[1]) == pytest.approx(0.5)


def test_members_that_agree_dispute_nothing_however_unsure_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.softmax(torch.randn(3, 9, 8, 7, generator=generator), dim=0)
    spread = fresh(3, 9, 8, 7)
    for _ in range(7):
        spread.add(same)
    assert float(spread.mutual_information.abs().max()) == 0.0
    assert float(spread.sd[1].max()) == 0.0
    assert float(spread.entropy.min()) > 0.1
    assert torch.equal(spread.mean, same)


def test_running_values_are_those_of_all_members_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    members = torch.softmax(3 * torch.randn(11, 3, 6, 5, 4, generator=generator), dim=1)
    spread = fresh(3, 6, 5, 4)
    for member in members:
        spread.add(member)
    exact = members.double().numpy()
    mean = exact.mean(axis=0)
    total = -(mean * np.log(mean)).sum(axis=0)
    np.testing.assert_allclose(spread.mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(spread.sd[2].numpy(), exact[:, 2].std(axis=0), atol=1e-6)
    np.testing.assert_allclose(spread.entropy.numpy(), total, atol=1e-5)
    expected = total + (exact * np.log(exact)).sum(axis=1).mean(axis=0)
    np.testing.assert_allclose(spread.mutual_information.numpy(), expected, atol=1e-5)
    assert float(spread.mutual_information.min()) >= 0.0


def test_rounding_never_makes_mutual_information_negative() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 30, 30, 30, generator=generator)
    spread = fresh(3, 30, 30, 30)
    for _ in range(3):  # members that agree but for the last bits
        spread.add(torch.softmax(logits + 1e-6 * torch.randn(logits.shape, generator=generator), dim=0))
    assert float(spread.mutual_information.min()) == 0.0


def test_members_are_not_changed_by_being_added() -> None:
    member = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1)
    spread = fresh(2, 1, 1, 1)
    spread.add(member)
    spread.add(1 - member)
    assert member.flatten().tolist() == [0.25, 0.75]


# --- modes and random numbers


def dropping(p: float = 0.5) -> nn.Sequential:
    """A small network with batch norm and dropout, whose weights are the same for any rate."""
    with seeded(3, torch.device("cpu")):
        network = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Dropout3d(p), nn.ReLU(), nn.Conv3d(8, 2, 1)
        )
        network(torch.randn(2, 1, 8, 8, 8))  # statistics that are not the initial ones
    return network.eval()


def test_sampling_reaches_every_kind_of_dropout_and_nothing_else() -> None:
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    network = nn.Sequential(*(kind(0.3) for kind in kinds), nn.BatchNorm3d(2), nn.InstanceNorm3d(2)).eval()
    with sampling_dropout(network):
        assert [module.training for module in network] == [True] * 6 + [False] * 2
        assert not network.training
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("mode", [evaluating, sampling_dropout])
def test_each_module_is_in_its_own_mode_again_even_after_an_error(mode: Any) -> None:
    network = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm3d(2), nn.Dropout(0.1)).train()
    network[1].eval()  # a frozen batch norm in a network that is trained
    with pytest.raises(KeyError), mode(network):
        raise KeyError
    assert [module.training for module in network.modules()] == [True, True, False, True]


def test_seeding_leaves_the_process_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    with seeded(1, torch.device("cpu")):
        first = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(1, torch.device("cpu")):
        assert torch.equal(torch.rand(4), first)
    with seeded(2, torch.device("cpu")):
        assert not torch.equal(torch.rand(4), first)


def test_one_pass_is_no_monte_carlo() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        McDropout(1, 0)


# --- a predictor of several answers


class Sure(nn.Module):
    """Bright voxels are foreground, with logits as large as asked for."""

    def __init__(self, logit: float = 20.0) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logit * torch.cat([0.5 - image, image - 0.5], dim=1)


def predictor(*networks: nn.Module, spacing: Any = None, **settings: Any) -> Predictor:
    crop = Crop(ForegroundCrop(threshold=10, margin_mm=5), superior_mm=2)
    recipe = Recipe(crop, spacing, (Normalisation("divide", by=100),))
    first, *others = networks
    window = settings.pop("window", SlidingWindow((16, 16, 16)))
    tiled = tuple((network, window) for network in others)
    return Predictor(first, window, recipe, ("CT",), (0, 1), torch.device("cpu"), others=tiled, **settings)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    image = np.zeros(SHAPE, np.int16)
    image[4:11, 9:22, 5:10] = 100
    image[15:18, 5:8, 11:13] = 100
    return write_nifti(tmp_path / "scan.nii.gz", image, oblique_affine())


def test_one_network_gives_no_uncertainty_maps(scan: Path) -> None:
    assert predictor(Sure()).predict([read_volume(scan)]).uncertainty == {}


def test_the_ensemble_is_the_mean_and_its_label_map_the_argmax_of_it(scan: Path) -> None:
    """Two timid members against a bold one: the mean is the bold one's, a vote would not be."""
    volumes = [read_volume(scan)]
    singles = [predictor(Sure(logit)).predict(volumes, probabilities=True) for logit in (20.0, -1.0, -0.5)]
    found = predictor(Sure(20.0), Sure(-1.0), Sure(-0.5)).predict(volumes, probabilities=True)
    mean = np.mean([single.probabilities[1] for single in singles], axis=0)
    np.testing.assert_allclose(found.probabilities[1], mean, atol=1e-6)
    np.testing.assert_array_equal(found.label, mean > 0.5)
    assert not np.array_equal(found.label, np.sum([single.label for single in singles], axis=0) > 1)


def test_networks_of_slices_in_other_planes_are_averaged_where_they_belong(scan: Path) -> None:
    """A network of sagittal, one of coronal and one of axial slices, each of which is handed on along another axis."""
    torch.manual_seed(0)
    members = [Planar(nn.Conv2d(1, 2, 3, padding=1), axis).eval() for axis in range(3)]
    windows = [SlidingWindow(tuple(1 if a == axis else 16 for a in range(3))) for axis in range(3)]
    made = [predictor(network, window=window) for network, window in zip(members, windows, strict=True)]
    volumes = [read_volume(scan)]
    singles = [one.predict(volumes, probabilities=True).probabilities[1] for one in made]
    assert not np.allclose(singles[0], singles[1])
    for first in range(3):
        others = tuple((members[n], windows[n]) for n in range(3) if n != first)
        found = replace(made[first], others=others).predict(volumes, probabilities=True)
        np.testing.assert_allclose(found.probabilities[1], np.mean(singles, axis=0), atol=1e-6)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)], ids=["own spacing", "resampled"])
def test_maps_lie_on_the_scans_grid_and_are_zero_outside_the_crop(scan: Path, spacing: Any) -> None:
    found = predictor(Sure(1.0), Sure(-1.0), spacing=spacing).predict([read_volume(scan)])
    assert tuple(found.uncertainty) == KINDS
    for values in found.uncertainty.values():
        assert values.shape == SHAPE
        assert values.dtype == np.float32
        assert values[0, 0, 0] == 0.0
        assert values[6, 15, 7] > 0.05
    p = 1 / (1 + math.e)  # of a voxel well inside: the members swap sides
    inside = {kind: float(values[6, 15, 7]) for kind, values in found.uncertainty.items()}
    assert inside["entropy"] == pytest.approx(math.log(2), abs=1e-3)
    expected = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert inside["mutual_information"] == pytest.approx(expected, abs=1e-2)
    assert inside["sd"] == pytest.approx(0.5 - p, abs=1e-2)


def test_the_sd_is_of_the_class_that_the_label_map_shows(scan: Path) -> None:
    """Three classes, of which only the first two are disputed: a voxel of the third has no spread to tell of."""

    class Three(Sure):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            flat = torch.zeros_like(image)
            return torch.cat([flat + self.logit, flat - self.logit, 8.0 * (image - 0.5)], dim=1)

    crop = Recipe(Crop(), None, (Normalisation("divide", by=100),))
    networks = (Three(0.2), Three(-0.2))
    window = SlidingWindow((16, 16, 16))
    others = tuple((network, window) for network in networks[1:])
    made = Predictor(networks[0], window, crop, ("CT",), (0, 3, 5), torch.device("cpu"), others=others)
    found = made.predict([read_volume(scan)])
    bright, dark = found.label == 5, found.label == 0
    assert bright.any()
    assert dark.any()
    assert found.uncertainty["sd"][bright].max() < 1e-3  # that of class 0 is 0.0035 there
    assert found.uncertainty["sd"][dark].min() > 0.05


def test_softmax_is_applied_once(scan: Path) -> None:
    """Twice would leave at most 0.73."""
    found = predictor(Sure(), Sure(30.0)).predict([read_volume(scan)], probabilities=True)
    assert found.probabilities[1].max() > 0.99
    assert found.uncertainty["entropy"].max() < 0.01
    window, image = SlidingWindow((16, 16, 16)), torch.ones(1, 20, 18, 16)
    sampled = window.probabilities(Sure(), image, [0.0], mode=sampling_dropout)
    assert float(sampled[1].min()) > 0.99
    torch.testing.assert_close(sampled.sum(dim=0), torch.ones(20, 18, 16))


def sampled(network: nn.Module, scan: Path, passes: int = 3, seed: int = 0, name: str = "a") -> Any:
    made = predictor(network, mc_dropout=McDropout(passes, seed))
    return made.predict([read_volume(scan)], probabilities=True, name=name)


def test_monte_carlo_dropout_is_repeatable_and_depends_on_seed_scan_and_pass_alone(scan: Path) -> None:
    network = dropping()
    first = sampled(network, scan)
    sampled(network, scan, name="b")  # another scan in between, and other random numbers
    torch.rand(5)
    again = sampled(network, scan)
    for kind in KINDS:
        np.testing.assert_array_equal(again.uncertainty[kind], first.uncertainty[kind])
    np.testing.assert_array_equal(again.probabilities[1], first.probabilities[1])
    for other in (sampled(network, scan, seed=1), sampled(network, scan, name="b"), sampled(network, scan, passes=4)):
        assert not np.array_equal(other.probabilities[1], first.probabilities[1])
    assert first.uncertainty["sd"].max() > 0.01  # passes differ


def test_a_second_network_has_masks_of_its_own(scan: Path) -> None:
    network = dropping()
    made = predictor(network, network, mc_dropout=McDropout(2, 0))
    found = made.predict([read_volume(scan)], probabilities=True, name="a")
    assert np.array_equal(found.probabilities[1], sampled(network, scan, passes=4).probabilities[1])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dropout", [None, McDropout(3, 0)])
def test_prediction_changes_neither_statistics_nor_modes_nor_random_numbers(
    scan: Path, dropout: McDropout | None, training: bool
) -> None:
    network = dropping().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert "1.running_mean" in before
    modes, state = [module.training for module in network.modules()], torch.get_rng_state()
    predictor(network, mc_dropout=dropout).predict([read_volume(scan)])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_norm_uses_its_running_statistics_while_dropout_is_sampled(scan: Path) -> None:
    """Without any dropout the passes are the plain prediction, which batch statistics would not give."""
    volumes = [read_volume(scan)]
    plain = predictor(dropping()).predict(volumes, probabilities=True)
    found = predictor(dropping(0.0), mc_dropout=McDropout(2, 0)).predict(volumes, probabilities=True)
    np.testing.assert_array_equal(found.probabilities[1], plain.probabilities[1])
    assert found.uncertainty["sd"].max() == 0.0


def test_a_higher_rate_spreads_more(scan: Path) -> None:
    spreads = [sampled(dropping(p), scan, passes=8).uncertainty["sd"].mean() for p in (0.05, 0.5)]
    assert spreads[1] > 1.5 * spreads[0]


class Watched:
    """A sliding window that counts, whenever it is called, the elements of all tensors alive."""

    precision, memory_bytes = "fp32", None

    def __init__(self) -> None:
        self.window = SlidingWindow((16, 16, 16))
        self.alive: list[int] = []

    def slabs(self, *arguments: Any, **settings: Any) -> Any:
        gc.collect()
        self.alive.append(sum(each.numel() for each in gc.get_objects() if type(each) is torch.Tensor))
        return self.window.slabs(*arguments, **settings)


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """The garbage collector looks at what is made from now on, which is fast and leaves other tests' tensors out."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("kind", ["passes", "members"])
def test_memory_does_not_grow_with_the_number_of_answers(scan: Path, kind: str) -> None:
    peaks = []
    for number in (3, 12):
        watched, network = Watched(), dropping()
        if kind == "passes":
            made = predictor(network, mc_dropout=McDropout(number, 0), window=watched)
        else:
            made = predictor(*[network] * number, window=watched)
        prepared = made.prepare([read_volume(scan)])
        made.answer(prepared)
        assert len(watched.alive) == number
        peaks.append(max(watched.alive))
    assert peaks[0] > 5 * math.prod(prepared.grid.shape)  # the running sums are seen
    assert peaks[1] == peaks[0]


# --- runs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="module")
def runs(config: Path) -> list[Path]:
    """Two runs that differ in nothing but their seed."""
    return [seg3d.train(config, [f"seed={seed}", "data.split.seed=0", "train.max_epochs=1"]) for seed in (0, 1)]


@pytest.fixture(scope="module")
def source(config: Path) -> Path:
    return min((config.parent / "data" / "imagesTr").iterdir())


def read(path: Path) -> Any:
    return nib.load(path).get_fdata(dtype=np.float32)


def maps_in(folder: Path) -> dict[str, Any]:
    return {path.name: read(path) for path in sorted(folder.rglob("*.nii.gz"))}


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "predictions.json").read_text())
    return content


WITH_PROBABILITIES = ["predict.probabilities=true"]


def test_several_runs_give_the_mean_of_their_probabilities(runs: list[Path], source: Path, tmp_path: Path) -> None:
    for name, chosen in (("a", runs[0]), ("b", runs[1]), ("both", runs)):
        seg3d.predict(chosen, [source], tmp_path / name, overrides=WITH_PROBABILITIES)
    one, other, both = (maps_in(tmp_path / name / "probabilities") for name in ("a", "b", "both"))
    (name,) = both
    assert not np.array_equal(one[name], other[name])
    np.testing.assert_allclose(both[name], (one[name] + other[name]) / 2, atol=1e-6)
    np.testing.assert_array_equal(read(tmp_path / "both" / source.name) == 1, both[name] > 0.5)
    assert not (tmp_path / "a" / "uncertainty").exists()
    stem = source.name.removesuffix(".nii.gz")
    found = maps_in(tmp_path / "both" / "uncertainty")
    assert list(found) == [f"{stem}_{kind}.nii.gz" for kind in KINDS]
    np.testing.assert_allclose(found[f"{stem}_sd.nii.gz"], np.abs(one[name] - other[name]) / 2, atol=1e-5)
    for path in (tmp_path / "both" / "uncertainty").iterdir():
        image, scan = nib.load(path), nib.load(source)
        assert image.get_data_dtype() == np.float32
        assert image.shape == scan.shape
        np.testing.assert_array_equal(image.affine, scan.affine)


@pytest.mark.slow
def test_runs_of_other_networks_and_patches_are_averaged_where_they_are(
    config: Path, source: Path, tmp_path: Path
) -> None:
    """A patch that the other's strides do not divide, and valid convolutions, which see further than they answer."""
    alike = ["data.split.seed=0", "train.max_epochs=1", "model.dropout=0"]
    settings = (
        ["model.norm=instance", "sampling.patch_size=[20,20,20]"],
        ["model.norm=instance", "model.features=[4,8,8,8]"],
        ["model.kind=unet", "model.padding=valid", "sampling.patch_size=[8,8,8]"],
    )
    chosen = [seg3d.train(config, [*alike, *own]) for own in settings]
    folders = [tmp_path / str(number) for number in range(len(chosen))]
    for run, folder in zip(chosen, folders, strict=True):
        seg3d.predict(run, [source], folder, overrides=WITH_PROBABILITIES)
    mean = sum(next(iter(maps_in(folder / "probabilities").values())) for folder in folders) / len(folders)
    for number, order in enumerate((chosen, chosen[::-1])):
        seg3d.predict(order, [source], tmp_path / f"all {number}", overrides=WITH_PROBABILITIES)
        (found,) = maps_in(tmp_path / f"all {number}" / "probabilities").values()
        np.testing.assert_allclose(found, mean, atol=1e-5)


def test_the_manifest_names_the_members(runs: list[Path], source: Path, tmp_path: Path) -> None:
    for name, chosen, passes in (("a", runs[0], None), ("b", runs[1], None), ("both", runs, None), ("mc", runs[0], 2)):
        seg3d.predict(chosen, [source], tmp_path / name, mc_dropout=passes)
    one, other, both, dropout = (manifest(tmp_path / name) for name in ("a", "b", "both", "mc"))
    told = {"labels", "ignore_label", "scans", "parts", "probabilities", "tiling", "precision"}
    assert set(one) == {"run", "weights", *told}
    assert one["tiling"]["kind"] == "exact"
    assert [(m["run"], m["weights"]) for m in both["members"]] == [(m["run"], m["weights"]) for m in (one, other)]
    assert "run" not in both
    assert both["mc_dropout"] is None
    assert both["scans"] == [source.name]
    assert dropout["mc_dropout"] == {"passes": 2, "seed": 0}
    assert [member["dropout"] for member in dropout["members"]] == [0.1]
    assert dropout["weights"] == one["weights"]


def test_an_audit_folder_stands_for_its_finished_runs(runs: list[Path], source: Path, tmp_path: Path) -> None:
    for name, run in (("seed-1", runs[1]), ("seed-0", runs[0]), ("stopped", runs[0])):
        shutil.copytree(run, tmp_path / "audit" / "cells" / name)
    (tmp_path / "audit" / "cells" / "stopped" / "result.json").unlink()
    seg3d.predict(tmp_path / "audit", [source], tmp_path / "from audit")
    assert [m["run"] for m in manifest(tmp_path / "from audit")["members"]] == ["seed-0", "seed-1"]
    seg3d.predict(runs, [source], tmp_path / "from runs")
    of_audit, of_runs = (maps_in(tmp_path / name) for name in ("from audit", "from runs"))
    assert len(of_audit) == 4
    # the order of the members is the same, and so are the bits
    assert all(np.array_equal(values, of_runs[name]) for name, values in of_audit.items())


def test_the_same_weights_count_once(runs: list[Path], source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    told: list[str] = []
    seg3d.predict([runs[0], copy, runs[1]], [source], tmp_path / "three", tell=told.append)
    assert any("copy: the same weights as" in line for line in told)
    seg3d.predict(runs, [source], tmp_path / "two")
    three, two = maps_in(tmp_path / "three"), maps_in(tmp_path / "two")
    assert all(np.array_equal(values, two[name]) for name, values in three.items())
    seg3d.predict([runs[0], copy], [source], tmp_path / "one", tell=told.append)
    assert any("no ensemble" in line for line in told)
    assert not (tmp_path / "one" / "uncertainty").exists()


def test_monte_carlo_dropout_of_a_run_does_not_depend_on_the_other_scans(
    runs: list[Path], source: Path, tmp_path: Path
) -> None:
    alone, among = tmp_path / "alone", tmp_path / "among"
    seg3d.predict(runs[0], [source], alone, mc_dropout=3)
    seg3d.predict(runs[0], sorted(source.parent.iterdir())[:2][::-1], among, mc_dropout=3)
    found = maps_in(alone)
    assert found[f"{source.name.removesuffix('.nii.gz')}_sd.nii.gz"].max() > 0
    for path in sorted(alone.rglob("*.nii.gz")):
        np.testing.assert_array_equal(found[path.name], read(among / path.relative_to(alone)))


def test_scans_have_masks_of_their_own(runs: list[Path], source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / "in" / f"{name}.nii.gz")
    seg3d.predict(runs[0], [tmp_path / "in"], tmp_path / "out", mc_dropout=2)
    found = maps_in(tmp_path / "out" / "uncertainty")
    assert not np.array_equal(found["a_sd.nii.gz"], found["b_sd.nii.gz"])


def test_the_dropout_rate_is_what_the_config_says(config: Path) -> None:
    for rate in (0.1, 0.5):
        network = build_network(load_config(config, [f"model.dropout={rate}"]), 1, 2)
        rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout3d)]
        convolutions = sum(isinstance(module, nn.Conv3d) for module in network.modules())
        assert rates == [rate] * (convolutions - 1)  # all but the head


def test_another_dropout_rate_is_another_training(config: Path, runs: list[Path], tmp_path: Path) -> None:
    settings = ["seed=0", "data.split.seed=0", "train.max_epochs=1", f"output_dir={tmp_path}"]
    other = losses_of(seg3d.train(config, [*settings, "model.dropout=0.5"]))
    assert losses_of(seg3d.train(config, settings)) == losses_of(runs[0])
    assert all(a != b for a, b in zip(other, losses_of(runs[0]), strict=True))


@contextmanager
def edited(run: Path, target: Path, **changes: Any) -> Iterator[Path]:
    """A copy of a run with another ``model.json``."""
    copy = shutil.copytree(run, target)
    model = json.loads((copy / "model.json").read_text())
    rewrite(copy, "model.json", model | changes)
    yield copy
    shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [("channels", ["MR"]), ("labels", {"background": 0, "other": 7}), ("ignore_label", 9), ("recipe_sha256", "0")],
)
def test_runs_that_cannot_be_averaged_are_refused(
    runs: list[Path], source: Path, tmp_path: Path, key: str, value: Any
) -> None:
    with edited(runs[1], tmp_path / "other", **{key: value}) as other:
        with pytest.raises(RunError, match=rf"other: the run does not go with {runs[0].name}: another {key} \(got"):
            seg3d.predict([runs[0], other], [source], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_part_of_the_split_that_another_run_may_have_learnt_from_is_refused(
    config: Path, runs: list[Path], tmp_path: Path
) -> None:
    splits = json.loads((runs[1] / "splits.json").read_text())
    assert seg3d.predict(runs, [], tmp_path / "same", split="test")
    other = shutil.copytree(runs[1], tmp_path / "other")
    swapped = splits | {"test": splits["train"][:1], "train": [*splits["test"], *splits["train"][1:]]}
    rewrite(other, "splits.json", swapped)
    with pytest.raises(RunError, match="other test cases"):
        seg3d.predict([runs[0], other], [], tmp_path / "out", split="test")


def test_dropout_that_cannot_be_sampled_is_refused(
    config: Path, runs: list[Path], source: Path, tmp_path: Path
) -> None:
    for passes in (1, 0, -3):
        with pytest.raises(RunError, match=r"--mc-dropout: too few passes to show a spread .*2 passes or more"):
            seg3d.predict(runs[0], [source], tmp_path / "out", mc_dropout=passes)
    without = seg3d.train(config, ["model.dropout=0", "train.max_epochs=1", f"output_dir={tmp_path}"])
    for run, overrides in ((without, []), (without, ["model.dropout=0.5"]), (runs[0], ["model.dropout=0"])):
        with pytest.raises(RunError, match=f"{run.name}: there is no dropout to sample"):
            seg3d.predict(run, [source], tmp_path / "out", mc_dropout=2, overrides=overrides)
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_run_are_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cells" / "begun").mkdir(parents=True)
    with pytest.raises(RunError, match="no finished run"):
        seg3d.predict(tmp_path, [source], tmp_path / "out")
    with pytest.raises(RunError, match="not a run folder"):
        seg3d.predict([source.parent], [source], tmp_path / "out")
    with pytest.raises(RunError, match="no run was given"):
        seg3d.predict([], [source], tmp_path / "out")


def test_runs_among_the_arguments_are_told_from_scans(runs: list[Path], source: Path, tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "audit" / "cells" / "a")
    assert part_runs([runs[0], source, runs[1], tmp_path / "audit", source.parent]) == (
        [*runs, tmp_path / "audit"],
        [source, source.parent],
    )
    assert part_runs([source, runs[0]]) == ([source, runs[0]], [])  # so that the first, which is no run, is told


def test_nothing_to_predict_is_told_for_ensembles_too(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        seg3d.predict(runs, [], tmp_path / "out")


def test_the_command_line_averages_runs_and_samples_dropout(runs: list[Path], source: Path, tmp_path: Path) -> None:
    several = CliRunner().invoke(app, ["predict", *map(str, runs[:2]), str(source), "--output", str(tmp_path / "a")])
    assert several.exit_code == 0, several.output
    sampled = ["predict", str(runs[0]), str(source), "--output", str(tmp_path / "b"), "--mc-dropout", "2"]
    assert CliRunner().invoke(app, sampled).exit_code == 0
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert len(list((folder / "uncertainty").iterdir())) == 3
    assert len(manifest(tmp_path / "a")["members"]) == 2
    assert manifest(tmp_path / "b")["mc_dropout"]["passes"] == 2
