"""How much memory a computation holds at once, found without computing anything.

Tensors on torch's ``meta`` device have shapes but no values. A network that is run on them allocates, in its own order,
what it would allocate; counting that takes milliseconds for a tile of any size.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seg3d.inference.forward import Forward
from seg3d.inference.outline import outlined


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
        found = outlined(func, args, kwargs or {})
        if found is None:
            found = func(*args, **(kwargs or {}))
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
            for part in forward.parts(read, total, chunk):
                outputs = part.shape[1]
                del part
    return live.peak, outputs
