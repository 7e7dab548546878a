"""The contract that every network keeps, and what is particular to each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from seg3d.auditing.ops import watch
from seg3d.config.method import ModelSection
from seg3d.losses import LossTerm, build_loss
from seg3d.models import AttentionUNet, ReducedUNet, UNet, expect_little, fitting_size, take_channels_last

KINDS: dict[str, Callable[..., nn.Module]] = {
    "reduced": ReducedUNet,
    "attention": AttentionUNet,
    "unet valid transposed": partial(UNet, padding="valid"),
    "unet valid nearest": partial(UNet, padding="valid", upsampling="nearest"),
    "unet same transposed": partial(UNet, padding="same"),
    "unet same nearest": partial(UNet, padding="same", upsampling="nearest"),
}
DEPTHS = [(4,), (4, 6), (4, 6, 8)]
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}

every_kind = pytest.mark.parametrize("kind", KINDS)
both_dims = pytest.mark.parametrize("dims", [2, 3])


def network(kind: str, seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    return KINDS[kind](2, 3, **{"features": (4, 6, 8), **settings})


def image_for(model: nn.Module, *least: int, batch: int = 2) -> torch.Tensor:
    """Noise of the smallest size that the network takes."""
    size = [fitting_size(n, model.stride, model.margin) for n in (least or (16, 24, 8))[: model.dims]]
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1))


def window(data: torch.Tensor, starts: tuple[int, ...], size: tuple[int, ...]) -> torch.Tensor:
    return data[(..., *(slice(a, a + n) for a, n in zip(starts, size, strict=True)))]


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@every_kind
@both_dims
@pytest.mark.parametrize("features", DEPTHS)
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_logits_have_the_size_of_the_input_less_the_margin_and_every_parameter_a_gradient(
    kind: str, dims: int, features: tuple[int, ...], norm: str
) -> None:
    model = network(kind, dims=dims, features=features, norm=norm, activation="leaky_relu")
    image = image_for(model)
    logits = model(image)
    assert model.dims == dims
    assert model.stride == 2 ** (len(features) - 1)
    assert model.margin == (6 * model.stride - 4 if "valid" in kind else 0)
    assert logits.shape == (2, 3, *(n - 2 * model.margin for n in image.shape[2:]))
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_kind
@pytest.mark.parametrize(("dims", "features"), [(2, (4,)), (2, (4, 6)), (2, (4, 6, 8)), (3, (4, 6))])
@pytest.mark.parametrize("norm", ["batch", pytest.param("none", marks=pytest.mark.slow)])
def test_a_window_at_a_multiple_of_the_stride_gives_what_the_whole_gives_there(
    kind: str, dims: int, features: tuple[int, ...], norm: str
) -> None:
    model = network(kind, dims=dims, features=features, norm=norm).eval()
    stride, margin = model.stride, model.margin
    unlike = 0 if margin else 8 * stride  # padding with zeros is felt no farther than this
    small = fitting_size(2 * unlike + 2 * stride, stride, margin)
    image = image_for(model, *(small + 4 * stride,) * dims, batch=1)
    compared = (small - 2 * margin - 2 * unlike,) * dims
    assert min(compared) > 0

    def difference(starts: tuple[int, ...]) -> float:
        with torch.no_grad():
            whole, part = model(image), model(window(image, starts, (small,) * dims))
        expected = window(whole, tuple(n + unlike for n in starts), compared)
        return float((window(part, (unlike,) * dims, compared) - expected).abs().max())

    for starts in [(stride, 0, 3 * stride), (2 * stride, stride, 4 * stride)]:
        assert difference(starts[:dims]) < 1e-5
    for axis in range(dims if stride > 1 else 0):  # the stride is no larger than it needs to be
        assert difference(tuple(stride // 2 if i == axis else 0 for i in range(dims))) > 1e-3


@every_kind
def test_a_prior_is_the_first_answer(kind: str) -> None:
    model = network(kind)
    expect_little(model, 0.01)
    assert model.head.bias.sigmoid().allclose(torch.tensor(0.01))


@every_kind
@both_dims
def test_the_order_in_memory_changes_no_more_than_rounding(kind: str, dims: int) -> None:
    plain, ordered = (network(kind, dims=dims, norm="batch").eval() for _ in range(2))
    take_channels_last(ordered)
    seen: list[torch.Tensor] = []
    ordered.down[1].register_forward_pre_hook(lambda _m, inputs: seen.extend(inputs))
    image = image_for(plain)
    with torch.no_grad():
        assert torch.allclose(ordered(image), plain(image), atol=1e-5)
    assert seen[0].is_contiguous(memory_format=CHANNELS_LAST[dims])


def centred(weights: torch.Tensor, like: torch.Tensor, kind: nn.Module) -> torch.Tensor:
    """Weights of a 2D layer as those of a 3D one that looks at each slice by itself."""
    if like.ndim == weights.ndim:
        return weights
    if isinstance(kind, nn.ConvTranspose3d):  # every slice is doubled
        return weights.unsqueeze(-1).expand_as(like).contiguous()
    found = torch.zeros_like(like)
    found[..., like.shape[-1] // 2] = weights
    return found


@every_kind
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_two_dimensions_equal_three_where_all_slices_are_the_same(kind: str, norm: str) -> None:
    flat = network(kind, dims=2, norm=norm).eval()
    solid = network(kind, dims=3, norm=norm, seed=1).eval()
    layers, state = dict(solid.named_modules()), solid.state_dict()
    solid.load_state_dict(
        {
            name: centred(value, state[name], layers[name.rpartition(".")[0]])
            for name, value in flat.state_dict().items()
        }
    )
    image = image_for(flat)
    depth = fitting_size(16, flat.stride, flat.margin)
    found = solid(image.unsqueeze(-1).expand(*image.shape, depth).contiguous())
    expected = flat(image).unsqueeze(-1).expand_as(found)
    inner = slice(None) if not flat.margin else slice(found.shape[-1] // 2, found.shape[-1] // 2 + 1)
    assert torch.allclose(found[..., inner], expected[..., inner], atol=1e-5)


@every_kind
@both_dims
def test_logits_are_not_squashed(kind: str, dims: int) -> None:
    model = network(kind, dims=dims).eval()
    image = image_for(model)
    with torch.no_grad():
        before = model(image)
        model.head.bias += torch.tensor([-500.0, 0.0, 500.0])
        moved = model(image) - before
    assert torch.allclose(moved.mean(dim=tuple(range(2, dims + 2))), torch.tensor([-500.0, 0.0, 500.0]), atol=1e-2)


@every_kind
@both_dims
@pytest.mark.parametrize("features", DEPTHS)
def test_the_raw_input_is_never_dropped(kind: str, dims: int, features: tuple[int, ...]) -> None:
    model = network(kind, dims=dims, features=features, dropout=0.5)
    seen: list[torch.Tensor] = []
    first = next(m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = image_for(model)
    one, two = model.train()(image), model(image)
    assert torch.equal(seen[0], image)
    assert not torch.equal(one, two)  # dropout there is
    model.eval()
    assert torch.equal(model(image), model(image))


@every_kind
@both_dims
def test_an_input_of_another_size_is_refused_with_the_nearest_ones(kind: str, dims: int) -> None:
    model = network(kind, dims=dims)
    good = image_for(model, *(60,) * dims).shape[-1]
    image = torch.zeros(1, 2, *(good,) * (dims - 1), good + 1)
    with pytest.raises(ValueError, match=f"next to {good + 1} are {good} and {good + 4}"):
        model(image)
    with pytest.raises(ValueError, match=f"{dims} axes"):
        model(image[..., 0])
    model(image[..., :-1])


@every_kind
@both_dims
def test_a_state_dict_gives_the_same_network(kind: str, dims: int) -> None:
    one, two = (network(kind, seed, dims=dims, norm="batch").eval() for seed in (0, 1))
    image = image_for(one)
    assert not torch.equal(one(image), two(image))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(image), two(image))


@every_kind
@both_dims
def test_the_same_seed_gives_the_same_weights_and_gradients(kind: str, dims: int) -> None:
    def gradients() -> list[torch.Tensor]:
        model = network(kind, dims=dims, dropout=0.5)
        model(image_for(model)).square().mean().backward()
        return [parameter.grad for parameter in model.parameters()]

    with deterministic():
        assert all(torch.equal(one, two) for one, two in zip(gradients(), gradients(), strict=True))


@every_kind
@both_dims
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_bf16_and_channels_last_train_and_answer_alike(kind: str, dims: int, norm: str) -> None:
    model = network(kind, dims=dims, norm=norm)
    image = image_for(model)
    expected = model(image).detach()
    model = model.to(memory_format=CHANNELS_LAST[dims])
    image = image.to(memory_format=CHANNELS_LAST[dims])
    assert torch.allclose(model(image), expected, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(image)
    assert logits.dtype == torch.bfloat16
    assert float((logits.detach().float() - expected).abs().mean() / expected.std()) < 0.05
    logits.float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@every_kind
@both_dims
def test_a_training_step_calls_nothing_that_cuda_cannot_repeat(kind: str, dims: int) -> None:
    model = network(kind, dims=dims, norm="batch", dropout=0.2)
    loss = build_loss([LossTerm(kind="cross_entropy")], class_weights=[1.0] * 3, ignore_label=7, values=(0, 1, 2))
    image = image_for(model)
    label = torch.zeros(2, *(n - 2 * model.margin for n in image.shape[2:]), dtype=torch.long)
    with watch("training") as found:
        loss(model(image), label).backward()
    pools = dims == 3 and kind != "reduced"
    expected = {("max_pool3d_with_indices_backward", True)} if pools else set()  # True: slow, but repeatable
    assert {(finding.operator, finding.slow) for finding in found.findings} == expected


@every_kind
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 1}, "dims is 2 or 3, got 1"),
        ({"features": ()}, "one level or more"),
        ({"features": (4, 0)}, "one level or more"),
        ({"norm": "layer"}, "norm is instance, batch or none, got 'layer'"),
        ({"activation": "gelu"}, "activation is relu or leaky_relu, got 'gelu'"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_settings_that_no_network_has_are_refused(kind: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(kind, **settings)


@pytest.mark.parametrize(
    ("setting", "message"), [("padding", "valid or same"), ("upsampling", "transposed or nearest")]
)
def test_settings_that_the_unet_lacks_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(1, 2, **{setting: "bilinear"})


@every_kind
def test_weights_have_the_variance_of_he(kind: str) -> None:
    model = network(kind, dims=2, features=(64, 128, 256))
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.weight.numel() > 10_000:
            inputs = module.in_channels * (1 if isinstance(module, nn.ConvTranspose2d) else module.kernel_size[0] ** 2)
            assert float(module.weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.03), name
        if getattr(module, "bias", None) is not None and not list(module.children()):
            assert not module.bias.any(), name


def halves(size: int, levels: int) -> int | None:
    """Output of a network with two valid convolutions a level, by walking through it; ``None`` where a size breaks."""
    for _ in range(levels - 1):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(levels - 1):
        size = 2 * size - 4
    return size if size > 0 else None


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_fitting_sizes_are_those_that_valid_convolutions_leave_whole(levels: int) -> None:
    stride = 2 ** (levels - 1)
    margin = 6 * stride - 4
    walked = {size: out for size in range(1, 600) if (out := halves(size, levels)) is not None}
    assert sorted(walked) == [n for n in range(1, 600) if fitting_size(n, stride, margin) == n]
    assert {size - out for size, out in walked.items()} == {2 * margin}
    assert all((out + 4 * (stride - 1)) % stride == 0 for out in walked.values())
    for size in range(1, 500):
        assert fitting_size(size, stride, margin) == min(n for n in walked if n >= size)


@pytest.mark.parametrize("kind", ["reduced_unet", "attention_unet", "unet"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6])
def test_a_config_knows_the_sizes_of_its_network(kind: str, padding: str, levels: int) -> None:
    if kind != "unet" and padding == "valid":
        return
    section = ModelSection(kind=kind, padding=padding, features=(2,) * levels)
    kinds = {"reduced_unet": ReducedUNet, "attention_unet": AttentionUNet, "unet": partial(UNet, padding=padding)}
    model = kinds[kind](1, 2, dims=2, features=(2,) * levels)
    assert (section.stride, section.margin) == (model.stride, model.margin)
    # what it may answer for: a tile that can lie at multiples of the stride
    answers = [
        n
        for n in range(model.stride, 700)
        if fitting_size(n + 2 * model.margin, model.stride, model.margin) == n + 2 * model.margin
    ]
    for length in range(1, 600):
        nearest = min(answers, key=lambda n: (abs(n - length), -n))
        assert section.nearest_size(length) == nearest


def test_fitting_sizes_without_margin_are_multiples_of_the_stride() -> None:
    assert [fitting_size(n, 8) for n in (1, 8, 9, 16)] == [8, 8, 16, 16]


def test_the_default_unet_is_the_papers() -> None:
    with torch.device("meta"):
        model = UNet(1, 2)
        assert model(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 23
    assert (model.stride, model.margin) == (16, 92)
    with pytest.raises(ValueError, match="next to 570 are 556 and 572"):
        model(torch.empty(1, 1, 572, 570, device="meta"))
    with pytest.raises(ValueError, match="next to 64 is 188"):
        model(torch.empty(1, 1, 64, 64, device="meta"))


def test_the_default_unet_has_the_parameters_of_the_paper() -> None:
    down = [(9 * a * b + b) + (9 * b * b + b) for a, b in itertools.pairwise((1, 64, 128, 256, 512, 1024))]
    up = [
        (4 * 2 * n * n + n) + (9 * 2 * n * n + n) + (9 * n * n + n)  # up-convolution, two convolutions
        for n in (512, 256, 128, 64)
    ]
    assert sum(down) + sum(up) + 2 * 64 + 2 == 31_030_658
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(1, 2).parameters()) == 31_030_658


def test_parameters_of_small_networks_counted_by_hand() -> None:
    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    encoder = (9 * 1 * 2 + 2) + (9 * 2 * 2 + 2) + (9 * 2 * 4 + 4) + (9 * 4 * 4 + 4)
    head = 2 * 2 + 2
    decoder = (9 * 6 * 2 + 2) + (9 * 2 * 2 + 2)  # 2 channels of the skip connection and 4 from below
    gate = 4 * 2 * 2 + (4 * 2 + 2) + (2 * 1 + 1)
    small = {"dims": 2, "features": (2, 4), "norm": "none"}
    strided = 9 * 4 * 4 + 4  # in the place of pooling
    assert count(ReducedUNet(1, 2, **small)) == encoder + strided + decoder + head == 584
    assert count(AttentionUNet(1, 2, **small)) == encoder + gate + decoder + head == 465
    assert count(AttentionUNet(1, 2, **small, gate_finest=False)) == encoder + decoder + head == 436
    halved = (9 * 4 * 2 + 2) + (9 * 2 * 2 + 2)  # 2 of the skip connection and 2 from the up-convolution
    assert count(UNet(1, 2, **small)) == encoder + (4 * 4 * 2 + 2) + halved + head
    assert count(UNet(1, 2, **small, upsampling="nearest")) == encoder + (4 * 2 + 2) + halved + head


@both_dims
@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_valid_convolutions_give_what_padded_ones_give_far_from_the_border(dims: int, upsampling: str) -> None:
    valid, same = (network(f"unet {padding} {upsampling}", dims=dims, features=(4, 6)) for padding in ("valid", "same"))
    same.load_state_dict(valid.state_dict())
    start, size = 18, 22  # the grids of pooling agree from 2 after a multiple of the stride
    image = torch.randn(1, 2, *(60,) * dims)
    with torch.no_grad():
        found, padded = valid(window(image, (start,) * dims, (size,) * dims)), same(image)
    assert found.shape[-1] == size - 2 * valid.margin
    expected = window(padded, (start + valid.margin,) * dims, tuple(found.shape[2:]))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("features", [*DEPTHS, (4, 4, 4, 4, 4)])
def test_the_unet_drops_elements_at_the_end_of_its_last_two_contracting_levels(features: tuple[int, ...]) -> None:
    model = UNet(1, 2, features=features, dropout=0.5)
    last = [[type(m) for m in level][-1] for level in model.down]
    assert last == [nn.Sequential] * (len(features) - 2) + [nn.Dropout] * min(2, len(features))
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == min(2, len(features))


def test_up_and_down_of_the_reduced_network_are_nearest_and_strided_convolutions() -> None:
    kinds = {type(module) for module in network("reduced").modules()}
    assert not kinds & {nn.MaxPool3d, nn.ConvTranspose3d, nn.AvgPool3d}
    strided = [m for m in network("reduced").modules() if isinstance(m, nn.Conv3d) and m.stride == (2, 2, 2)]
    assert len(strided) == 2


@both_dims
@pytest.mark.parametrize(("kind", "convolutions"), [("reduced", 12), ("attention", 10)])
def test_dropout_follows_every_normalisation(kind: str, convolutions: int, dims: int) -> None:
    model = network(kind, dims=dims, dropout=0.5, norm="batch")
    kinds = [type(module).__name__ for module in model.modules() if not list(module.children())]
    dropouts = [i for i, name in enumerate(kinds) if name.startswith("Dropout")]
    assert len(dropouts) == sum(name.startswith("BatchNorm") for name in kinds) == convolutions
    assert {kinds[i] for i in dropouts} == {f"Dropout{dims}d"}
    assert {kinds[i - 1] for i in dropouts} == {f"BatchNorm{dims}d"}


@both_dims
def test_attention_is_on_the_grid_of_the_image_the_finest_first(dims: int) -> None:
    model = network("attention", dims=dims, features=(4, 6, 8)).eval()
    image = image_for(model)
    maps = model.attention(image)
    assert [found.shape for found in maps] == [(2, 1, *image.shape[2:])] * 2
    assert all(0 <= float(found.min()) < float(found.max()) <= 1 for found in maps)
    assert not any(found.requires_grad for found in maps)
    for found, block in zip(maps, (2, 4), strict=True):  # a gate decides on the grid of the level below it
        coarse = found[(..., *(slice(None, None, block),) * dims)]
        again = nn.functional.interpolate(coarse, scale_factor=float(block))
        assert torch.equal(found, again)
        coarser = found[(..., *(slice(None, None, 2 * block),) * dims)]
        assert not torch.equal(found, nn.functional.interpolate(coarser, scale_factor=2.0 * block))
    assert len(network("attention", dims=dims, gate_finest=False).eval().attention(image)) == 1
    assert network("attention", dims=dims, features=(4,)).eval().attention(image) == []


def test_attention_of_a_network_in_training_is_refused() -> None:
    model = network("attention", dims=2)
    with pytest.raises(ValueError, match=r"eval\(\)"):
        model.attention(image_for(model))


def test_a_gate_computed_by_hand() -> None:
    model = AttentionUNet(1, 1, dims=2, features=(1, 1))
    gate = model.gates[0]
    with torch.no_grad():
        gate.theta.weight.fill_(0.25)  # the mean of a block
        gate.phi.weight.fill_(2.0)
        gate.psi.weight.fill_(1.0)
        gate.psi.bias.fill_(-1.0)
        skip = torch.tensor([[1.0, 3.0, 0.0, 0.0], [5.0, 7.0, 0.0, 0.0]]).reshape(1, 1, 2, 4)
        found = gate(skip, torch.tensor([[0.5, -3.0]]).reshape(1, 1, 1, 2))
    open_, closed = 1 / (1 + 2.718281828459045**-4), 1 / (1 + 2.718281828459045)  # of 4 + 2 * 0.5 - 1 and of 0 - 1
    expected = torch.tensor([[open_, open_, closed, closed]] * 2).reshape(1, 1, 2, 4)
    assert torch.allclose(found, expected)


@both_dims
def test_a_closed_gate_lets_nothing_of_the_skip_connection_through(dims: int) -> None:
    model = network("attention", dims=dims, features=(4, 6), norm="none").eval()
    image = image_for(model)
    with torch.no_grad():
        opened = model(image)
        model.gates[0].psi.bias.fill_(-1e4)
        assert not any(found.any() for found in model.attention(image))
        closed = model(image)
        model.up[0][0][0].weight[:, :4] = 0.0  # what the first of its convolutions makes of the skip connection
        assert torch.equal(closed, model(image))
    assert not torch.allclose(closed, opened, atol=1e-3)
