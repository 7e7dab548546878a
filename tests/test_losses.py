"""Losses against MONAI and torch, by hand, and their common contract."""

from __future__ import annotations

import math

import monai.losses
import pytest
import torch

from seg3d.losses import LossTerm, build_loss

VALUES = (0, 1, 2)
KINDS = ("cross_entropy", "dice", "generalised_dice", "focal", "tversky")


def example(classes: int = 3, dims: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, classes, *(6, 5, 4)[:dims], generator=generator)
    return logits.requires_grad_(), torch.randint(0, classes, (2, *(6, 5, 4)[:dims]), generator=generator)


def loss(kind: str, **settings: object) -> torch.nn.Module:
    outer = {k: settings.pop(k) for k in ("class_weights", "ignore_label", "values") if k in settings}
    return build_loss([LossTerm(kind, **settings)], **{"values": VALUES, **outer})


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_dice_is_monais(batch: bool, include: bool) -> None:
    logits, label = example()
    reference = monai.losses.DiceLoss(
        include_background=include, to_onehot_y=True, softmax=True, batch=batch, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = loss("dice", batch=batch, include_background=include)(logits, label)
    torch.testing.assert_close(ours, reference(logits, label[:, None]))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_is_monais(gamma: float) -> None:
    logits, label = example()
    reference = monai.losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma, reduction="none")
    # MONAI averages over voxels and classes, of which all but the true one are 0
    expected = reference(logits, label[:, None]).sum(dim=1).mean()
    torch.testing.assert_close(loss("focal", gamma=gamma)(logits, label), expected)


def test_tversky_is_monais() -> None:
    logits, label = example()
    reference = monai.losses.TverskyLoss(
        to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7, smooth_nr=1e-5, smooth_dr=1e-5, include_background=False
    )
    torch.testing.assert_close(loss("tversky", alpha=0.3, beta=0.7)(logits, label), reference(logits, label[:, None]))


def test_generalised_dice_is_monais() -> None:
    logits, label = example()
    reference = monai.losses.GeneralizedDiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0
    )
    torch.testing.assert_close(loss("generalised_dice")(logits, label), reference(logits, label[:, None]))


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
def test_cross_entropy_is_torchs(weights: list[float] | None) -> None:
    logits, label = example()
    expected = torch.nn.functional.cross_entropy(logits, label, None if weights is None else torch.tensor(weights))
    torch.testing.assert_close(loss("cross_entropy", class_weights=weights)(logits, label), expected)


def test_a_sum_is_weighted() -> None:
    logits, label = example()
    total = build_loss([LossTerm("dice", weight=1.0), LossTerm("focal", weight=10.0)], values=VALUES)
    parts = loss("dice")(logits, label) + 10 * loss("focal")(logits, label)
    torch.testing.assert_close(total(logits, label), parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_perfect_answer_costs_nothing_and_a_wrong_one_much(kind: str, dims: int) -> None:
    _, label = example(dims=dims)
    right = 30.0 * torch.stack([(label == value).float() for value in VALUES], dim=1)
    wrong = right.roll(1, dims=1)
    assert float(loss(kind)(right, label)) == pytest.approx(0.0, abs=1e-4)
    assert float(loss(kind)(wrong, label)) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_voxels_change_nothing(kind: str) -> None:
    logits, label = example()
    label[:, :2] = 9
    changed = logits.detach().clone()
    changed[:, :, :2] = 17.0
    function = loss(kind, ignore_label=9)
    torch.testing.assert_close(function(logits, label), function(changed, label))
    gradient = torch.autograd.grad(function(logits, label), logits)[0]
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_all_voxels_ignored_gives_a_finite_loss_without_gradient(kind: str) -> None:
    logits, label = example()
    value = loss(kind, ignore_label=9)(logits, torch.full_like(label, 9))
    assert math.isfinite(float(value.detach()))
    assert (torch.autograd.grad(value, logits)[0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_label_values_need_not_be_consecutive(kind: str) -> None:
    logits, label = example()
    other = torch.tensor([0, 7, 300])[label]
    expected = loss(kind)(logits, label)
    torch.testing.assert_close(loss(kind, values=(0, 7, 300))(logits, other), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_class_gives_a_finite_gradient(kind: str) -> None:
    logits, label = example()
    value = loss(kind)(logits, torch.zeros_like(label))
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_in_half_precision_stay_finite(kind: str) -> None:
    logits, label = example()
    value = loss(kind)((1e4 * logits).to(torch.bfloat16), label)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right(kind: str) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 3, 2, 2, 2, generator=generator, requires_grad=True)
    label = torch.tensor([0, 1, 2, 0, 1, 2, 1, 1]).reshape(1, 2, 2, 2)
    function = loss(kind)
    ours = torch.autograd.grad(function(logits, label), logits)[0]
    step = 1e-2
    for index in ((0, 0, 0, 0, 0), (0, 1, 1, 0, 1), (0, 2, 1, 1, 1)):
        moved = [logits.detach().clone() for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        slope = (function(moved[0], label) - function(moved[1], label)) / (2 * step)
        assert float(ours[index]) == pytest.approx(float(slope), abs=2e-3)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="hinge"):
        loss("hinge")
