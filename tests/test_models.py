"""The contract that every network keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seg3d.models import ReducedUNet


def network(**settings: object) -> ReducedUNet:
    torch.manual_seed(0)
    return ReducedUNet(2, 3, **{"features": (4, 8, 16), **settings})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [(4,), (4, 6), (4, 6, 8, 10)])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_logits_have_the_size_of_the_input(dims: int, features: tuple[int, ...], norm: str) -> None:
    model = network(dims=dims, features=features, norm=norm)
    size = (16, 24, 8)[:dims]
    assert model(torch.randn(2, 2, *size)).shape == (2, 3, *size)
    assert model.stride == 2 ** (len(features) - 1)


def test_every_parameter_has_a_gradient() -> None:
    model = network()
    model(torch.randn(2, 2, 16, 16, 16)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_logits_are_not_squashed() -> None:
    logits = 100 * network()(torch.randn(1, 2, 16, 16, 16))
    assert logits.min() < -1
    assert logits.max() > 1


def test_an_input_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        network()(torch.randn(1, 2, 16, 16, 18))


def test_up_and_down_are_nearest_and_strided_convolutions() -> None:
    kinds = {type(module) for module in network().modules()}
    assert not kinds & {nn.MaxPool3d, nn.ConvTranspose3d, nn.AvgPool3d}
    strided = [m for m in network().modules() if isinstance(m, nn.Conv3d) and m.stride == (2, 2, 2)]
    assert len(strided) == 2


@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_follows_every_normalisation_and_never_the_raw_input(dims: int) -> None:
    model = network(dims=dims, dropout=0.5, norm="batch")
    kinds = [type(module).__name__ for module in model.modules() if not list(module.children())]
    dropouts = [i for i, kind in enumerate(kinds) if kind.startswith("Dropout")]
    convolutions = [kind for kind in kinds if kind.startswith("Conv")]
    assert len(dropouts) == len(convolutions) - 1  # all but the head
    assert {kinds[i - 1] for i in dropouts} == {f"BatchNorm{dims}d"}
    seen: list[torch.Tensor] = []
    first = next(m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 2, *(8,) * dims)
    model.train()(image)
    assert torch.equal(seen[0], image)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = network().state_dict(), network().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
