"""How much memory a computation holds at once, found without computing anything.

Tensors on torch's ``meta`` device have shapes but no values. A network that is run on them allocates, in its own order,
what it would allocate; counting that takes milliseconds for a tile of any size. What a U-Net consists of is answered
here, because torch would first import its compiler for it: 1.5 s and 80 MiB.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seg3d.inference.forward import Forward

_aten = torch.ops.aten
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _convolved(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> torch.Tensor:
    """What a convolution makes."""
    axes = zip(image.shape[2:], weight.shape[2:], *_spread(image, stride, padding, dilation), strict=True)
    return _made(image, len(weight), [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes])


def _enlarged(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> torch.Tensor:
    """What a transposed convolution makes."""
    settings = _spread(image, stride, padding, output_padding, dilation)
    axes = zip(image.shape[2:], weight.shape[2:], *settings, strict=True)
    sizes = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, o, d in axes]
    return _made(image, weight.shape[1] * groups, sizes)


def _spread(image: torch.Tensor, *settings: Sequence[int]) -> list[list[int]]:
    """Settings for every axis."""
    return [list(values) * (image.ndim - 2 if len(values) == 1 else 1) for values in settings]


def _made(image: torch.Tensor, channels: int, sizes: Sequence[int]) -> torch.Tensor:
    return image.new_empty((len(image), channels, *sizes)).contiguous(memory_format=_LAST[image.ndim])


def _multiplied(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """What a product with a matrix makes."""
    return image.new_empty((*image.shape[:-1], len(weight)))


def _normed(image: torch.Tensor, *_: Any) -> torch.Tensor:
    return image.new_empty(image.shape)


_SHAPES: dict[Any, Callable[..., torch.Tensor]] = {
    _aten.conv2d.default: _convolved,
    _aten.conv3d.default: _convolved,
    _aten.conv_transpose2d.input: _enlarged,
    _aten.conv_transpose3d.input: _enlarged,
    _aten.linear.default: _multiplied,
    _aten.batch_norm.default: _normed,
}


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors made inside the block that are in use, and the most there have been."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.peak = 0
        self._live = 0
        self._held: dict[int, tuple[int, int]] = {}  # of each storage: bytes, tensors that share it

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch imports it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.endswith("_"):  # in place
            return args[0]
        found = _SHAPES.get(func, func)(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor):
                self._add(value)
        return found

    def _add(self, value: torch.Tensor) -> None:
        storage = value.untyped_storage()
        size, count = self._held.get(storage._cdata, (storage.nbytes(), 0))
        self._held[storage._cdata] = size, count + 1
        if not count:
            self._live += size
            self.peak = max(self.peak, self._live)
        weakref.finalize(value, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        size, count = self._held.pop(key)
        if count > 1:
            self._held[key] = size, count - 1
        else:
            self._live -= size


@torch.inference_mode()
def pass_bytes(forward: Forward, shape: tuple[int, int, int, int], chunk: int | None) -> tuple[int, int]:
    """Bytes that a pass holds at once beside the weights and the volume, and the number of outputs.

    The kernels' own scratch space is not seen.

    Args:
        forward: As :meth:`Forward.without_values` gives it.
        shape: Channels and voxels of the tile that the network is given, the slab axis first.
        chunk: Planes at a time; ``None``: the tile is computed in one piece.
    """
    channels, total, y, z = shape

    def read(start: int, stop: int) -> torch.Tensor:
        return torch.empty((1, channels, stop - start, y, z), device="meta")

    with _Live() as live:
        if chunk is None:
            outputs = forward.tile(read(0, total)).shape[1]
        else:
            for part in forward.parts(
                lambda a, b: torch.empty((1, channels, b - a, y, z), device="meta"), total, chunk
            ):
                outputs = part.shape[1]
                del part
    return live.peak, outputs
