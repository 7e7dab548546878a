"""A U-Net as a list of its modules, for those who compute it in another way or ask how far it sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

Modules = tuple[nn.Module, ...]


@dataclass(frozen=True, eq=False)
class Stages:
    """What a U-Net does, in its order, with no module that holds others.

    Going down, the output of each level but the coarsest is kept. Going up, the coarser features are enlarged to the
    size of what was kept, and both are concatenated, what was kept first and cropped centrally to the other's size.

    Attributes:
        down: Modules of each level on the way down, the finest first.
        enlarge: Modules that enlarge the coarser features, the coarsest first.
        up: Modules of each level after the concatenation, the coarsest first.
        head: Modules that make logits.
    """

    down: tuple[Modules, ...]
    enlarge: tuple[Modules, ...]
    up: tuple[Modules, ...]
    head: Modules

    def __iter__(self) -> Iterator[nn.Module]:
        """All modules."""
        for part in (*self.down, *self.enlarge, *self.up, self.head):
            yield from part


def flattened(modules: Iterable[nn.Module]) -> Modules:
    """The modules of nested sequences, in their order."""
    found: list[nn.Module] = []
    for module in modules:
        found += flattened(module) if isinstance(module, nn.Sequential) else [module]
    return tuple(found)
