"""Exact tiling, its memory, and answers that come slab by slab."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from seg3d.errors import ConfigError
from seg3d.inference import budget, exact
from seg3d.inference.exact import aligned_ranges
from seg3d.inference.lean import lean
from seg3d.inference.reach import Geometry, geometry, receptive_field
from seg3d.inference.sliding import SlidingWindow, ran_out_of_memory
from seg3d.inference.source import Source
from seg3d.inference.streaming import stream
from seg3d.models import AttentionUNet, ReducedUNet, UNet, fitting_size
from seg3d.models.planar import Planar
from seg3d.preparation import SlabResampler
from seg3d.preparation.resample import resample_probability

OUTSIDE = [-3.0, -2.0]
FEATURES = st.sampled_from([(3,), (3, 4), (3, 4, 5)])
KINDS = st.sampled_from(["reduced", "same nearest", "same transposed"])
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def with_statistics(network: nn.Module) -> Any:
    """The network in evaluation mode, with norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return network.eval()


def make_network(kind: str, dims: int, features: tuple[int, ...], norm: str = "batch") -> Any:
    torch.manual_seed(0)
    if kind == "reduced":
        return with_statistics(ReducedUNet(2, 3, dims=dims, features=features, norm=norm))
    padding, upsampling = kind.split()
    network = UNet(2, 3, dims=dims, features=features, norm=norm, padding=padding, upsampling=upsampling)
    return with_statistics(network)


def one_pass(network: nn.Module, image: torch.Tensor, patch: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
    """The network on the whole volume, surrounded to the size of a patch and to a multiple of the stride."""
    shape = image.shape[1:]
    size = [-(-max(n, p) // s) * s for n, p, s in zip(shape, patch, strides, strict=True)]
    inside = tuple(slice((m - n) // 2, (m - n) // 2 + n) for m, n in zip(size, shape, strict=True))
    larger = torch.tensor(OUTSIDE).reshape(2, 1, 1, 1).expand(2, *size).clone()
    larger[(slice(None), *inside)] = image
    if isinstance(network, Planar):
        axis = network.axis
        slices = [network(larger[None].narrow(axis + 2, i, 1)) for i in range(size[axis])]
        logits = torch.cat(slices, dim=axis + 2)
    else:
        logits = network(larger[None])
    found: torch.Tensor = torch.softmax(logits, dim=1)[0][(slice(None), *inside)]
    return found


@FEW
@given(KINDS, FEATURES, st.tuples(*[st.integers(1, 30)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
@torch.inference_mode()
def test_exact_tiles_of_any_size_give_the_answer_of_one_pass_over_the_volume(
    kind: str, features: tuple[int, ...], shape: tuple[int, int, int], tile: tuple[int, int, int]
) -> None:
    network = make_network(kind, 3, features)
    stride = network.stride
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    patch = (2 * stride,) * 3
    x, y, z = (n * stride for n in tile)
    expected = one_pass(network, image, patch, (stride,) * 3)
    for size in (None, (x, y, z)):
        found = SlidingWindow(patch, size, tiling="exact").probabilities(network, image, OUTSIDE)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@FEW
@given(KINDS, FEATURES, st.integers(0, 2), st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(1, 6))
@torch.inference_mode()
def test_exact_tiles_of_slices_give_the_answer_of_whole_slices(
    kind: str, features: tuple[int, ...], axis: int, plane: tuple[int, int], tile: int
) -> None:
    inner = make_network(kind, 2, features)
    network, stride = Planar(inner, axis), inner.stride
    shape, patch, strides, size = ([*plane], [2 * stride] * 2, [stride] * 2, [tile * stride] * 2)
    for sizes, across in ((shape, 4), (patch, 1), (strides, 1), (size, 1)):
        sizes.insert(axis, across)
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    expected = one_pass(network, image, patch, strides)
    for chosen in (None, tuple(size)):
        found = SlidingWindow(tuple(patch), chosen, tiling="exact").probabilities(network, image, OUTSIDE)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("mirror", [(0,), (1, 2), (0, 1, 2)])
@torch.inference_mode()
def test_mirrored_views_are_those_of_the_whole_volume(mirror: tuple[int, ...]) -> None:
    network = make_network("reduced", 3, (3, 4))
    image = torch.randn(2, 13, 9, 11, generator=torch.Generator().manual_seed(0))
    window = SlidingWindow((4, 4, 4), mirror=mirror)
    size = (14, 10, 12)
    larger = torch.tensor(OUTSIDE).reshape(2, 1, 1, 1).expand(2, *size).clone()
    larger[:, :13, :9, :11] = image
    views = [c for n in range(len(mirror) + 1) for c in itertools.combinations([a + 1 for a in mirror], n)]
    answers = [torch.softmax(network(larger.flip(v)[None]), 1)[0].flip(v) for v in views]
    expected = torch.stack(answers).mean(dim=0)[:, :13, :9, :11]
    for tile in (None, (4, 6, 4)):
        found = replace(window, tile_size=tile).probabilities(network, image, OUTSIDE)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 8, 40])
@pytest.mark.parametrize("kind", ["reduced", "same transposed", "same nearest", "valid nearest", "valid transposed"])
@torch.inference_mode()
def test_planes_that_run_through_the_network_give_the_answer_of_one_pass(kind: str, chunk: int) -> None:
    network = make_network(kind, 3, (3, 4, 5))
    x, y, z = (fitting_size(2 * network.margin + n, network.stride, network.margin) for n in (13, 5, 9))
    image = torch.randn(2, 2, x, y, z, generator=torch.Generator().manual_seed(0))
    parts = (image[:, :, a : a + chunk] for a in range(0, x, chunk))
    found = torch.cat(list(stream(lean(network.stages()), parts, x, chunk)), dim=2)
    np.testing.assert_allclose(found.numpy(), network(image).numpy(), atol=5e-5)


@pytest.mark.parametrize("kind", ["reduced", "same nearest", "same transposed"])
@pytest.mark.parametrize("features", [(3,), (3, 4), (3, 4, 5)])
def test_the_receptive_field_is_what_a_gradient_reaches(kind: str, features: tuple[int, ...]) -> None:
    network = make_network(kind, 2, features, norm="none")
    for module in network.modules():
        if hasattr(module, "weight"):
            nn.init.constant_(module.weight, 0.1)  # nothing cancels, nothing is cut off
    found = geometry(network)
    assert isinstance(found, Geometry)
    stride, reach = network.stride, found.reach[0]
    size, middle = 2 * (reach + 3 * stride) // stride * stride + stride, (reach + 3 * stride) // stride * stride
    image = torch.ones(1, 2, size, stride * 4, requires_grad=True)
    network(image)[..., middle : middle + stride, :].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad.abs().sum(dim=(0, 1, 3)))[:, 0]
    before, after = middle - int(seen.min()), int(seen.max()) - (middle + stride - 1)
    # max pooling passes the gradient of one voxel of its block only
    slack = 0 if kind == "reduced" else stride - 1
    assert reach - slack <= max(before, after) <= reach


def test_the_receptive_field_of_the_reduced_network_is_the_one_counted_by_hand() -> None:
    # two convolutions a level: 2 + 2 voxels at stride 1, 2 + 2 at stride 2, and the strided one between them sees
    # one voxel more in front
    assert receptive_field(ReducedUNet(1, 2, features=(4, 8)).stages(), 2) == 9
    assert receptive_field(ReducedUNet(1, 2, features=(4,)).stages(), 1) == 2


@given(st.integers(1, 200), st.integers(1, 64), st.sampled_from([1, 2, 4, 8]))
@settings(derandomize=True, deadline=None)
def test_ranges_cover_an_axis_once_and_begin_at_multiples_of_the_stride(size: int, tile: int, stride: int) -> None:
    ranges = aligned_ranges(size, max(tile, stride), stride)
    assert [v for a, b in ranges for v in range(a, b)] == list(range(size))
    assert all(a % stride == 0 and b - a <= max(tile, stride) for a, b in ranges)


@FEW
@given(
    st.tuples(*[st.integers(1, 24)] * 3), st.tuples(*[st.integers(1, 12)] * 3), st.floats(0.2, 1.0), st.integers(1, 5)
)
def test_blended_weights_sum_to_one_everywhere_and_every_plane_comes_once(
    shape: tuple[int, int, int], tile: tuple[int, int, int], step: float, batch_size: int
) -> None:
    class Index(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image

    image = torch.arange(float(np.prod(shape))).reshape(1, *shape)
    window = SlidingWindow(tile, step=step, batch_size=batch_size, activation="none")
    planes = list(window.slabs(Index(), image, [0.0]))
    assert [a for a, values in planes for a in range(a, a + values.shape[1])] == list(range(shape[0]))
    np.testing.assert_allclose(torch.cat([values for _, values in planes], dim=1), image, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (ReducedUNet(2, 3, features=(3, 4), norm="instance"), "instance norm"),
        (AttentionUNet(2, 3, features=(3, 4)), "AttentionUNet"),
    ],
)
def test_exact_is_refused_with_the_reason_and_auto_blends(network: nn.Module, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SlidingWindow((8, 8, 8), tiling="exact").probabilities(network, torch.zeros(2, 8, 8, 8), OUTSIDE)
    choice = SlidingWindow((8, 8, 8)).choose(network)
    assert choice.tiling == "blended"
    assert reason in choice.why


def test_a_budget_too_small_says_what_would_do_and_that_does() -> None:
    network = make_network("reduced", 3, (3, 4, 5))
    image = torch.zeros(2, 32, 64, 64)
    window = SlidingWindow((8, 8, 8))
    tiny, missing = available(window, 1000), 0.0
    with pytest.raises(ConfigError, match=r"the memory is too small.*Allow (\S+) GiB more") as error:
        tiny.probabilities(network, image, OUTSIDE)
    missing = float(str(error.value).rsplit("Allow ", 1)[1].split()[0])
    available(window, int((missing + 0.01) * 2**30)).probabilities(network, image, OUTSIDE)


def available(window: SlidingWindow, left: int) -> SlidingWindow:
    """The window with so many bytes left for tiles now."""
    held = -budget.available_bytes(torch.device("cpu"), 0)
    return replace(window, memory_bytes=held + left)


@torch.inference_mode()
def test_a_smaller_budget_gives_smaller_tiles_and_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("reduced", 3, (3, 4, 5))
    image = torch.randn(2, 24, 136, 120, generator=torch.Generator().manual_seed(0))
    cut: list[exact.ExactTiles] = []
    plan = budget.plan_exact
    monkeypatch.setattr("seg3d.inference.sliding.plan_exact", lambda *args: cut.append(plan(*args)) or cut[-1])
    whole = SlidingWindow((8, 8, 8)).probabilities(network, image, OUTSIDE)
    tight = available(SlidingWindow((8, 8, 8)), 8 << 20).probabilities(network, image, OUTSIDE)
    assert len(cut[0].ranges[1]) * len(cut[0].ranges[2]) == 1
    assert len(cut[1].ranges[1]) * len(cut[1].ranges[2]) > 1
    np.testing.assert_allclose(tight.numpy(), whole.numpy(), atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@torch.inference_mode()
def test_tiles_shrink_when_memory_runs_out_and_the_prediction_goes_on(
    norm: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = make_network("reduced", 3, (3, 4), norm)
    image = torch.randn(2, 24, 16, 16, generator=torch.Generator().manual_seed(0))
    window = SlidingWindow((16, 16, 16))
    expected = window.probabilities(network, image, OUTSIDE)
    calls = itertools.count()
    cut = Source.cut

    def fail_once(source: Any, *box: Any) -> torch.Tensor:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("no more")
        return cut(source, *box)

    monkeypatch.setattr(Source, "cut", fail_once)
    with caplog.at_level(logging.WARNING):
        found = window.probabilities(network, image, OUTSIDE)
    assert "memory ran out (no more)" in caplog.text
    assert found.shape == expected.shape
    if norm == "batch":
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_memory_that_the_processor_cannot_give_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46, dtype=torch.uint8)
    assert ran_out_of_memory(caught.value)
    assert not ran_out_of_memory(RuntimeError("the shapes do not fit"))


@pytest.mark.parametrize("border", ["mirror", "constant"])
@pytest.mark.parametrize("axis", [None, 0, 2])
@torch.inference_mode()
def test_mirrored_views_of_valid_convolutions_do_not_depend_on_tiles(axis: int | None, border: Any) -> None:
    network = make_network("valid nearest", 3 if axis is None else 2, (3, 4))
    shape, patch, margin, tiles = [21, 17, 13], [8] * 3, [network.margin] * 3, [[8, 8, 8], [4, 6, 8]]
    if axis is not None:
        network = Planar(network, axis)
        for sizes, size in ((shape, 5), (patch, 1), (margin, 0), *((tile, 1) for tile in tiles)):
            sizes[axis] = size
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    window = SlidingWindow(tuple(patch), mirror=(0, 1, 2), margin=tuple(margin), border=border)
    whole = window.probabilities(network, image, OUTSIDE)
    for tile in tiles:
        found = replace(window, tile_size=tuple(tile)).probabilities(network, image, OUTSIDE)
        np.testing.assert_allclose(found.numpy(), whole.numpy(), atol=1e-5)


@torch.inference_mode()
def test_a_tile_that_the_network_does_not_take_is_refused() -> None:
    network, image = make_network("reduced", 3, (3, 4, 5), "instance"), torch.zeros(2, 24, 24, 24)
    with pytest.raises(ConfigError, match="takes no tiles of this size"):
        SlidingWindow((18, 16, 16)).probabilities(network, image, OUTSIDE)


@FEW
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(1, 30)] * 3), st.integers(1, 7))
def test_maps_resampled_slab_by_slab_are_those_resampled_at_once(
    old: tuple[int, int, int], new: tuple[int, int, int], chunk: int
) -> None:
    values = torch.rand(2, *old, generator=torch.Generator().manual_seed(0)).numpy()
    resampler = SlabResampler(old, new)
    found = np.concatenate([resampler.feed(values[:, a : a + chunk]) for a in range(0, old[0], chunk)], axis=1)
    for one, expected in zip(found, values, strict=True):
        np.testing.assert_allclose(one, resample_probability(expected, new), atol=1e-6)
