"""A U-Net prepared for prediction: the same answers with fewer operations.

Batch normalisation is folded into the convolution before it. A convolution of concatenated features is the sum of two
convolutions, so that nothing is concatenated; and one of nearest-upsampled features is a transposed convolution of the
coarse features, which needs 8 of 27 products in 3D and never makes the large array. All of it is the same sum in
another order: answers differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from seg3d.models.stages import Modules, Stages

Finish = Callable[[torch.Tensor], torch.Tensor]
_CONVOLVE = {2: nn.functional.conv2d, 3: nn.functional.conv3d}
_TRANSPOSE = {2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}
_POOL = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_POOLS = (nn.MaxPool2d, nn.MaxPool3d)
_BATCH = (nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE = (nn.InstanceNorm2d, nn.InstanceNorm3d)
# kernel taps of which each tap of the transposed kernel is the sum: output o = 2 i + t - 1 of coarse voxel i
_TAPS = ((2,), (1, 2), (0, 1), (0,))


@dataclass(frozen=True, eq=False)
class Window:
    """A convolution or a pooling and what follows it voxel by voxel.

    Attributes:
        kernel: Taps along each axis.
        stride: Step along each axis.
        padding: Zeros on each side of each axis.
        weight: Of a convolution; ``None``: max pooling.
        bias: Of a convolution.
        finish: Computed in place on what comes out.
    """

    kernel: int
    stride: int
    padding: int
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    finish: tuple[Finish, ...] = ()

    def apply(self, image: torch.Tensor, first_axis_padding: int) -> torch.Tensor:
        """What comes out, with another padding along the first axis of space."""
        dims = image.ndim - 2
        if self.weight is None:
            return _POOL[dims](image, self.kernel, self.stride)
        padding = [first_axis_padding, *[self.padding] * (dims - 1)]
        if _takes_onednn(image):
            stride, dilation = [self.stride] * dims, [1] * dims
            return torch.mkldnn_convolution(image, self.weight, self.bias, padding, stride, dilation, 1)
        found: torch.Tensor = _CONVOLVE[dims](image, self.weight, self.bias, self.stride, padding)
        return found

    def finished(self, found: torch.Tensor) -> torch.Tensor:
        """What follows, in place."""
        for step in self.finish:
            found = step(found)
        return found


@dataclass(frozen=True, eq=False)
class Growth:
    """Coarse features brought to twice their size, each coarse voxel filling its own block.

    Attributes:
        before: Convolutions of one voxel on the coarse grid.
        weight: Of a transposed convolution with kernel and stride 2; ``None``: nearest upsampling.
        bias: Of the transposed convolution.
    """

    before: tuple[Window, ...] = ()
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def channels(self, coarse: int) -> int:
        """Channels of the fine features for ``coarse`` channels."""
        if self.weight is not None:
            return self.weight.shape[1]
        return _outputs(self.before) if self.before else coarse

    def __call__(self, coarse: torch.Tensor) -> torch.Tensor:
        """The fine features."""
        for step in self.before:
            coarse = step.finished(step.apply(coarse, 0))
        if self.weight is None:
            return nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        found: torch.Tensor = _TRANSPOSE[coarse.ndim - 2](coarse, self.weight, self.bias, 2)
        return found


@dataclass(frozen=True, eq=False)
class Join:
    """A convolution of a skip connection and of coarser features, added up.

    Attributes:
        skip: The part that looks at the skip connection; ``finish`` of both.
        growth: How the coarser features are enlarged.
        grown: The part that looks at them on the fine grid; ``None`` where ``fused`` does all.
        fused: Weight of the transposed convolution (kernel 4, stride 2) that enlarges and convolves in one.
    """

    skip: Window
    growth: Growth
    grown: Window | None
    fused: torch.Tensor | None

    def fuse(self, coarse: torch.Tensor, first_axis_padding: int) -> torch.Tensor:
        """The coarse features' share by the fused kernel."""
        dims = coarse.ndim - 2
        for step in self.growth.before:
            coarse = step.finished(step.apply(coarse, 0))
        padding = [first_axis_padding, *[1] * (dims - 1)]
        assert self.fused is not None
        found: torch.Tensor = _TRANSPOSE[dims](coarse, self.fused, None, 2, padding)
        return found


@dataclass(frozen=True, eq=False)
class LeanUNet:
    """The steps of a U-Net in evaluation mode.

    Attributes:
        down: Steps of each level on the way down, the finest first.
        joins: How each level begins on the way up, the coarsest first.
        up: The further steps of each level on the way up.
        head: Steps that make logits.
    """

    down: tuple[tuple[Window, ...], ...]
    joins: tuple[Join, ...]
    up: tuple[tuple[Window, ...], ...]
    head: tuple[Window, ...]


def lean(stages: Stages) -> LeanUNet:
    """The steps of a network in evaluation mode, with the weights that it has now.

    Args:
        stages: Convolutions, batch or instance norm, dropout (left out), (leaky) ReLU, max pooling, transposed
            convolutions with kernel and stride 2, and nearest upsampling by 2.

    Raises:
        TypeError: There is another module.
    """
    with torch.no_grad():
        down = tuple(map(_windows, stages.down))
        coarse = _outputs(down[-1])
        joins, up = [], []
        for enlarge, level in zip(stages.enlarge, stages.up, strict=True):
            first, *others = _windows(level)
            joins.append(_join(first, _growth(enlarge), coarse))
            up.append(tuple(others))
            coarse = _outputs([first, *others])
        return LeanUNet(down, tuple(joins), tuple(up), _windows(stages.head))


def _takes_onednn(image: torch.Tensor) -> bool:
    """Whether oneDNN computes a convolution of an image.

    By itself torch takes it for large images only, by the product of batch, channels and the first two axes. A chunk of
    planes with few channels goes to a kernel that copies 27 values for each and is many times slower.
    """
    here = image.device.type == "cpu" and image.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return here and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _outputs(steps: Sequence[Window]) -> int:
    """Channels that come out."""
    return next(len(step.weight) for step in reversed(steps) if step.weight is not None)


def _windows(modules: Modules) -> tuple[Window, ...]:
    return tuple(_window(group) for group in _groups(modules))


def _groups(modules: Modules) -> Iterator[list[nn.Module]]:
    """Each convolution or pooling with what follows it."""
    group: list[nn.Module] = []
    for module in modules:
        if isinstance(module, (*_CONVOLUTIONS, *_POOLS)) and group:
            yield group
            group = []
        group.append(module)
    yield group


def _window(group: Sequence[nn.Module]) -> Window:
    first: Any = group[0]
    others = [module for module in group[1:] if not isinstance(module, (nn.Dropout, nn.Dropout2d, nn.Dropout3d))]
    if isinstance(first, _POOLS):
        size = int(first.kernel_size)  # type: ignore[arg-type]  # our pools are made with one number
        return Window(size, size, 0, finish=tuple(map(_finish, others)))
    if not isinstance(first, _CONVOLUTIONS):
        raise TypeError(f"a level begins with a convolution or a pooling, got {type(first).__name__}")
    weight, bias = first.weight.double(), None if first.bias is None else first.bias.double()
    if others and isinstance(others[0], _BATCH):
        weight, bias = _folded(weight, bias, others.pop(0))
    size, stride, padding = first.kernel_size[0], first.stride[0], int(first.padding[0])
    return Window(
        size, stride, padding, _laid(weight), None if bias is None else bias.float(), tuple(map(_finish, others))
    )


def _folded(weight: torch.Tensor, bias: torch.Tensor | None, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with the batch norm after it.

    Source: Jacob et al., Quantization and training of neural networks (CVPR 2018), section 3.2.
    """
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    folded = shift if bias is None else bias * scale + shift
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), folded


def _finish(module: Any) -> Finish:
    if isinstance(module, nn.LeakyReLU):
        return lambda found: nn.functional.leaky_relu_(found, module.negative_slope)
    if isinstance(module, nn.ReLU):
        return nn.functional.relu_
    if isinstance(module, _INSTANCE):
        weight, bias = module.weight.detach(), module.bias.detach()
        return lambda found: _normalised(found, weight, bias, module.eps)
    raise TypeError(f"it is not known how to compute a {type(module).__name__}")


def _normalised(found: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Instance norm: batch norm of one image, whose kernel takes the channels last as they lie."""
    kind = _LAST[found.ndim]
    parts = [
        nn.functional.batch_norm(one, None, None, weight, bias, training=True, eps=eps)
        for one in found.contiguous(memory_format=kind).split(1)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _join(first: Window, growth: Growth, coarse: int) -> Join:
    """A level's first convolution split into its share of the skip connection and of ``coarse`` enlarged channels."""
    assert first.weight is not None
    grown = growth.channels(coarse)
    kept, others = (part.double() for part in first.weight.split([first.weight.shape[1] - grown, grown], dim=1))
    skip = replace(first, weight=_laid(kept))
    if growth.weight is None and (first.kernel, first.padding) == (3, 1):
        return Join(skip, growth, None, _laid(_fused(others)))
    return Join(skip, growth, Window(first.kernel, first.stride, first.padding, _laid(others)), None)


def _growth(enlarge: Modules) -> Growth:
    last: Any = enlarge[-1]
    before = _windows(enlarge[:-1]) if len(enlarge) > 1 else ()
    if isinstance(last, nn.Upsample):
        return Growth(before)
    if isinstance(last, _TRANSPOSED):
        return Growth(before, _laid(last.weight.double()), None if last.bias is None else last.bias.detach())
    raise TypeError(f"it is not known how a {type(last).__name__} enlarges")


def _fused(weight: torch.Tensor) -> torch.Tensor:
    """Kernel ``(inputs, outputs, 4...)`` of the transposed convolution that is nearest upsampling and then ``weight``.

    Along an axis, output ``o`` takes tap ``k`` from fine voxel ``o + k - 1``, which is coarse voxel
    ``(o + k - 1) // 2``: with ``o = 2 i + t - 1`` these are the taps of ``_TAPS[t]``.
    """
    for axis in range(2, weight.ndim):
        taps = weight.unbind(axis)
        weight = torch.stack([sum((taps[k] for k in chosen[1:]), taps[chosen[0]]) for chosen in _TAPS], dim=axis)
    return weight.transpose(0, 1)


def _laid(weight: torch.Tensor) -> torch.Tensor:
    """Float32 weights with the channels last in memory, as the features are."""
    return weight.float().contiguous(memory_format=_LAST[weight.ndim])
