"""What the operators of our networks give on torch's ``meta`` device: an empty tensor of the right size and layout.

Torch's own functions for that device answer for every operator, but the first of them loads torch's compiler and a
computer algebra system: 1.5 s and 80 MiB.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

_Rule = Callable[..., torch.Tensor | None]
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_aten = torch.ops.aten


def outlined(operator: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> torch.Tensor | None:
    """What an operator gives for tensors on ``meta``; ``None`` where torch itself is to be asked."""
    rule = _RULES.get(operator)
    return None if rule is None else rule(*arguments, **named)


def _like(image: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | None:
    return _laid(image, image.shape)


def _normalised(image: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return image.new_empty(image.shape)


def _cloned(image: torch.Tensor, memory_format: torch.memory_format | None = None) -> torch.Tensor | None:
    return _like(image) if memory_format in (None, torch.preserve_format) else None


def _combined(first: torch.Tensor, second: Any) -> torch.Tensor | None:
    """A sum or product that has the first one's size."""
    if not isinstance(second, torch.Tensor) or (second.ndim, second.dtype) != (first.ndim, first.dtype):
        return None
    fits = all(m in (1, n) for n, m in zip(first.shape, second.shape, strict=True))
    return _like(first) if fits else None


def _convolved(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> torch.Tensor | None:
    if set(dilation) != {1}:
        return None
    sizes = _sizes(image, weight.shape[2:], stride, padding)
    return _channels_last(image, (len(image), len(weight), *sizes))


def _enlarged(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> torch.Tensor | None:
    if groups != 1 or any(output_padding) or set(dilation) != {1}:
        return None
    steps, rims = (_each(image, given) for given in (stride, padding))
    parts = zip(image.shape[2:], weight.shape[2:], steps, rims, strict=True)
    return _channels_last(image, (len(image), weight.shape[1], *((n - 1) * s - 2 * p + k for n, k, s, p in parts)))


def _pooled(
    image: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> torch.Tensor | None:
    if ceil_mode or set(dilation) != {1}:
        return None
    sizes = _sizes(image, _each(image, kernel), stride or kernel, padding)
    return _laid(image, (*image.shape[:2], *sizes))


def _repeated(image: torch.Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> torch.Tensor | None:
    if factors is None:
        return None
    return _laid(image, (*image.shape[:2], *(int(n * f) for n, f in zip(image.shape[2:], factors, strict=True))))


def _joined(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor | None:
    first = parts[0]
    layouts = {_layout(part) for part in parts}
    if None in layouts or len({(part.dtype, part.ndim) for part in parts}) != 1:
        return None
    sizes = list(first.shape)
    sizes[dim] = sum(part.shape[dim] for part in parts)
    return _laid(first, sizes) if len(layouts) == 1 else first.new_empty(sizes)


def _channels_last(image: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """What the kernels of a convolution make, whatever they are given."""
    return torch.empty(sizes, dtype=image.dtype, device=image.device, memory_format=_LAST[image.ndim])


def _laid(image: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor | None:
    """Of the sizes, laid out in memory as an image is."""
    layout = _layout(image)
    if layout is None:
        return None
    return torch.empty(sizes, dtype=image.dtype, device=image.device, memory_format=layout)


def _layout(image: torch.Tensor) -> torch.memory_format | None:
    """Whether channels or the last axis of space lie side by side, in a part of an image too; ``None``: neither."""
    last = _LAST.get(image.ndim)
    if image.is_contiguous():
        return torch.contiguous_format
    if last is not None and image.is_contiguous(memory_format=last):
        return last
    if _descending(image.stride()):
        return torch.contiguous_format
    return last if last is not None and _descending(image.movedim(1, -1).stride()) else None


def _descending(strides: Sequence[int]) -> bool:
    return all(a >= b for a, b in itertools.pairwise(strides))


def _sizes(image: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Voxels along each axis after a window has moved over an image."""
    steps, rims = (_each(image, given) for given in (stride, padding))
    return [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(image.shape[2:], kernel, steps, rims, strict=True)]


def _each(image: torch.Tensor, given: Sequence[int]) -> Sequence[int]:
    """A number for each axis of space; torch takes one for all."""
    return list(given) * (image.ndim - 2) if len(given) == 1 else given


_RULES: dict[Any, _Rule] = {
    _aten.relu.default: _like,
    _aten.leaky_relu.default: _like,
    _aten.sigmoid.default: _like,
    _aten.dropout.default: _like,
    _aten.feature_dropout.default: _like,
    _aten.batch_norm.default: _like,
    _aten.instance_norm.default: _normalised,
    _aten.clone.default: _cloned,
    _aten.add.Tensor: _combined,
    _aten.mul.Tensor: _combined,
    _aten.conv2d.default: _convolved,
    _aten.conv3d.default: _convolved,
    _aten.conv_transpose2d.input: _enlarged,
    _aten.conv_transpose3d.input: _enlarged,
    _aten.max_pool2d.default: _pooled,
    _aten.max_pool3d.default: _pooled,
    _aten.upsample_nearest2d.vec: _repeated,
    _aten.upsample_nearest3d.vec: _repeated,
    _aten.cat.default: _joined,
}
