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
    names = ("class_weights", "ignore_label", "values", "regions")
    outer = {k: settings.pop(k) for k in names if k in settings}
    return build_loss([LossTerm(kind, **settings)], **({} if "regions" in outer else {"values": VALUES}) | outer)


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


@pytest.mark.parametrize("include", [False, True])
def test_generalised_dice_is_monais(include: bool) -> None:
    logits, label = example()
    reference = monai.losses.GeneralizedDiceLoss(
        include_background=include, to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0
    )
    ours = loss("generalised_dice", include_background=include)(logits, label)
    torch.testing.assert_close(ours, reference(logits, label[:, None]))


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


# --- regions: a sigmoid each, overlapping

REGIONS = ((1, 2, 3), (2, 3), (3,))


def region_example(ignored: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, label values, and the masks of the regions."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, 3, 6, 5, 4, generator=generator)
    label = torch.randint(0, 4, (2, 6, 5, 4), generator=generator, dtype=torch.uint8)
    masks = torch.stack([label >= 1, label >= 2, label >= 3], dim=1).float()
    if ignored:
        label[:, :2] = 9
    return logits.requires_grad_(), label, masks


def test_cross_entropy_of_regions_is_torchs_binary_one() -> None:
    logits, label, masks = region_example()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    ours = loss("cross_entropy", regions=REGIONS)(logits, label)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_one_region_is_one_output() -> None:
    logits, label, masks = region_example()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, :1], masks[:, :1])
    torch.testing.assert_close(loss("cross_entropy", regions=[(1, 2, 3)])(logits[:, :1], label), expected)


def test_cross_entropy_of_regions_weighs_regions() -> None:
    logits, label, masks = region_example()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=(0, 2, 3, 4))
    expected = (each * torch.tensor([1.0, 2.0, 5.0])).sum() / 8
    torch.testing.assert_close(
        loss("cross_entropy", regions=REGIONS, class_weights=[1.0, 2.0, 5.0])(logits, label), expected
    )


@pytest.mark.parametrize("batch", [False, True])
def test_dice_of_regions_is_monais(batch: bool) -> None:
    logits, label, masks = region_example()
    reference = monai.losses.DiceLoss(sigmoid=True, batch=batch, smooth_nr=1e-5, smooth_dr=1e-5)
    torch.testing.assert_close(loss("dice", regions=REGIONS, batch=batch)(logits, label), reference(logits, masks))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_of_regions_is_monais(gamma: float) -> None:
    logits, label, masks = region_example()
    reference = monai.losses.FocalLoss(gamma=gamma)
    torch.testing.assert_close(loss("focal", regions=REGIONS, gamma=gamma)(logits, label), reference(logits, masks))


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_dice_and_focal_of_regions_are_monais(weight: float) -> None:
    logits, label, masks = region_example()
    reference = monai.losses.DiceFocalLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5, lambda_focal=weight)
    ours = build_loss([LossTerm("dice"), LossTerm("focal", weight=weight)], regions=REGIONS)
    torch.testing.assert_close(ours(logits, label), reference(logits, masks))


def test_tversky_and_generalised_dice_of_regions_are_monais() -> None:
    logits, label, masks = region_example()
    tversky = monai.losses.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1e-5, smooth_dr=1e-5)
    torch.testing.assert_close(loss("tversky", regions=REGIONS)(logits, label), tversky(logits, masks))
    generalised = monai.losses.GeneralizedDiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(loss("generalised_dice", regions=REGIONS)(logits, label), generalised(logits, masks))


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_answer_in_regions_costs_nothing_and_a_wrong_one_much(kind: str) -> None:
    _, label, masks = region_example()
    right = 60 * masks - 30
    assert float(loss(kind, regions=REGIONS)(right, label)) == pytest.approx(0.0, abs=1e-4)
    assert float(loss(kind, regions=REGIONS)(-right, label)) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_voxels_change_nothing_in_regions(kind: str) -> None:
    logits, label, _ = region_example(ignored=True)
    function = loss(kind, regions=REGIONS, ignore_label=9)
    value = function(logits, label)
    gradient = torch.autograd.grad(value, logits)[0]
    assert (gradient[:, :, :2] == 0).all()
    torch.testing.assert_close(value, loss(kind, regions=REGIONS)(logits[:, :, 2:], label[:, 2:]))


@pytest.mark.parametrize("kind", KINDS)
def test_regions_stay_finite_with_extreme_logits_and_nothing_to_find(kind: str) -> None:
    logits, label, _ = region_example()
    for labels in (label, torch.zeros_like(label), torch.full_like(label, 9)):
        extreme = (1e4 * logits.detach()).to(torch.bfloat16).requires_grad_()
        value = loss(kind, regions=REGIONS, ignore_label=9)(extreme, labels)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, extreme)[0]).all()


def test_a_wrong_answer_is_never_too_sure_to_be_learnt_from() -> None:
    logits = torch.tensor([[[40.0]]], requires_grad=True)  # 1 - sigmoid(40) is 0 in float32
    value = loss("cross_entropy", regions=[(1,)])(logits, torch.zeros(1, 1, dtype=torch.uint8))
    assert float(value.detach()) == pytest.approx(40.0)
    assert float(torch.autograd.grad(value, logits)[0]) == pytest.approx(1.0)


def test_region_values_above_a_byte_are_not_taken_for_others() -> None:
    label = torch.tensor([[44, 0]], dtype=torch.uint8)  # 300 is 44 in a byte
    logits = torch.full((1, 1, 2), -30.0)
    assert float(loss("cross_entropy", regions=[(300,)])(logits, label)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"values": (0, 1), "regions": [(1,)]}])
def test_outputs_are_either_classes_or_regions(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="either"):
        build_loss([LossTerm("dice")], **settings)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
@pytest.mark.parametrize("outputs", [{}, {"regions": ((1,), (1, 2), (2,))}])
def test_a_weight_of_two_counts_a_voxel_twice(kind: str, outputs: dict[str, object]) -> None:
    logits, label = example()
    weights = 1.0 + torch.randint(0, 3, label.shape, generator=torch.Generator().manual_seed(5))
    function = loss(kind, **outputs)
    total = sum(
        float(function(logits[:, :, x, y, z, None], label[:, x, y, z, None], weights[:, x, y, z, None]).detach())
        for x in range(6)
        for y in range(5)
        for z in range(4)
    )
    # the mean over voxels of each one's weighted loss: the weights' own sum divides nothing
    torch.testing.assert_close(function(logits, label, weights).detach(), torch.tensor(total / 120))
    torch.testing.assert_close(function(logits, label, 3 * weights), 3 * function(logits, label, weights))
    assert torch.equal(function(logits, label, torch.ones_like(weights)), function(logits, label))


def test_the_weighted_cross_entropy_is_the_u_net_papers_up_to_the_number_of_voxels() -> None:
    logits, label = example()
    weights = torch.rand(label.shape, generator=torch.Generator().manual_seed(5))
    p = torch.softmax(logits, dim=1).gather(1, label[:, None])[:, 0]
    expected = -(weights * p.log()).sum() / label.numel()  # eq. 1 has no minus sign and is a sum
    torch.testing.assert_close(loss("cross_entropy")(logits, label, weights), expected)


@pytest.mark.parametrize("kind", ["dice", "generalised_dice", "tversky"])
def test_ratios_know_no_voxel_weights(kind: str) -> None:
    logits, label = example()
    assert torch.equal(loss(kind)(logits, label, torch.full(label.shape, 7.0)), loss(kind)(logits, label))


def test_weights_of_ignored_voxels_count_nowhere() -> None:
    logits, label = example()
    label[:, :2] = 9
    weights = torch.ones(label.shape)
    expected = loss("cross_entropy", ignore_label=9)(logits, label, weights)
    weights[:, :2] = 1e6
    assert torch.equal(loss("cross_entropy", ignore_label=9)(logits, label, weights), expected)


@pytest.mark.parametrize("outputs", [{"values": VALUES}, {"regions": REGIONS}])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 0.99, 1.0, 1.5, 2.0])
def test_focal_has_a_gradient_where_the_network_is_certain_and_where_nothing_counts(
    gamma: float, outputs: dict[str, object]
) -> None:
    logits, label = example()
    sure = (60 * logits).detach().requires_grad_()
    loss("focal", ignore_label=2, gamma=gamma, **outputs)(sure, label).backward()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()
    assert sure.grad.abs().sum() > 0
