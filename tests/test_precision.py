"""bf16 stands for float32 only where a check on the scan itself finds the same labels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from seg3d.inference.precision import PrecisionChoice, boundary_band, check_precision, compare_precisions, label_maps
from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.keyed import keyed
from seg3d.models import ReducedUNet
from seg3d.preparation import Recipe
from seg3d.volume import Grid, Volume


def numbers(*shape: int) -> torch.Tensor:
    return torch.from_numpy(keyed(7, "test", *shape).standard_normal(shape, dtype=np.float32))


class Step(nn.Module):
    """Logits that are the image and its negative; in bf16 (or what stands for it) ``wrong`` voxels are turned."""

    def __init__(self, wrong: int = 0, value: float = -1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))  # tells the device
        self.wrong = wrong
        self.value = value

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = image.clone()
        if self.wrong and torch.is_autocast_enabled("cpu"):
            found[0, 0, 9, : self.wrong] *= self.value  # beside the boundary between x = 9 and 10
        return torch.cat([-found, found], dim=1)


def halves() -> torch.Tensor:
    """A scan of 20 x 250 x 1 voxels: background below x = 10, foreground above; its band is 4 x 250 voxels."""
    scan = torch.ones(1, 20, 250, 1)
    scan[:, :10] = -1
    return scan


def checked(network: nn.Module, scan: torch.Tensor, activation: str = "softmax") -> PrecisionChoice:
    window = SlidingWindow((20, 250, 1), tiling="blended", precision="bf16", activation=activation)
    label = label_maps(window.probabilities(network, scan, [0.0]), activation)
    return check_precision(window, network, scan, [0.0], label)


def test_the_band_is_two_voxels_on_each_side_of_a_boundary() -> None:
    label = torch.zeros(1, 12, 5, 1, dtype=torch.long)
    label[:, 6:] = 3
    found = boundary_band(label)[0, :, :, 0]
    assert found[4:8].all()
    assert not found[:4].any()
    assert not found[8:].any()
    assert not boundary_band(torch.ones_like(label)).any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_bf16_is_taken_where_at_most_one_in_a_thousand_of_the_band_differs(activation: str) -> None:
    chosen = checked(Step(wrong=1), halves(), activation)
    maps = 2 if activation == "sigmoid" else 1  # both outputs are regions of their own
    assert (chosen.precision, chosen.agreement, chosen.band_voxels) == ("bf16", 0.999, 1000 * maps)
    refused = checked(Step(wrong=2), halves(), activation)
    assert (refused.precision, refused.agreement) == ("fp32", 0.998)
    assert "99.8000% of" in refused.reason


def test_a_scan_without_a_boundary_is_no_evidence() -> None:
    chosen = checked(Step(), torch.ones(1, 20, 8, 1))
    assert (chosen.precision, chosen.band_voxels) == ("fp32", 0)
    assert "no boundary" in chosen.reason


def test_probabilities_that_are_not_finite_are_refused() -> None:
    good = torch.full((2, 4, 4, 4), 0.5)
    bad = good.clone()
    bad[0, 1, 1, 1] = torch.nan
    chosen = compare_precisions(good, bad, activation="softmax", threshold=0.999)
    assert chosen.precision == "fp32"
    assert "not finite" in chosen.reason


def test_the_check_looks_where_the_boundary_is() -> None:
    scan = -torch.ones(1, 60, 12, 12)
    scan[:, 40:44, 4:8, 4:8] = 1
    window = SlidingWindow((8, 8, 8), tiling="blended", precision="bf16")
    network = Step()
    label = label_maps(window.probabilities(network, scan, [0.0]), "softmax")
    chosen = check_precision(window, network, scan, [0.0], label)
    assert chosen.precision == "bf16"
    assert chosen.band_voxels > 100


@pytest.mark.parametrize("threshold", [0.0, 1.01])
def test_an_answer_is_that_of_the_precision_that_passed(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = ReducedUNet(1, 2, features=(4, 8), norm="batch").eval()
    volume = Volume(numbers(1, 24, 24, 24).numpy(), Grid((24, 24, 24), np.eye(4)))
    window = SlidingWindow((16, 16, 16), precision="bf16")
    predictor = Predictor(network, window, Recipe(), ("CT",), (0, 1), torch.device("cpu"))
    scan = torch.from_numpy(predictor.prepare([volume]).image)
    check = partial(check_precision, threshold=threshold)
    monkeypatch.setattr("seg3d.inference.predictor.check_precision", check)
    found = predictor.predict([volume], probabilities=True)
    assert found.precision is not None
    assert found.precision.agreement is not None
    taken, other = ("bf16", "fp32") if threshold == 0 else ("fp32", "bf16")
    assert found.precision.precision == taken
    whole = replace(window, precision=taken).probabilities(network, scan, [0.0])
    np.testing.assert_array_equal(found.probabilities[1], whole[1].numpy())
    assert not np.array_equal(whole, replace(window, precision=other).probabilities(network, scan, [0.0]))
    single = replace(predictor, window=replace(window, precision="fp32")).predict([volume])
    assert single.precision is None
    several = replace(predictor, others=((network, predictor.window),)).predict([volume])
    assert several.precision is None
    assert (predictor.precision, replace(predictor, others=((network, predictor.window),)).precision) == (
        "bf16",
        "fp32",
    )
    np.testing.assert_array_equal(several.label, single.label)
