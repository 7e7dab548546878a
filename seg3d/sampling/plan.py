"""The plan of an epoch: how many patches of which class from which case, before any voxel is read.

Class shares are exact over the epochs, and to less than a patch in each (:mod:`seg3d.sampling.apportion`). Within a
class the items (cases or lesions) are gone through in keyed permutations, one after the other without a gap between
epochs, so that after n draws every item was drawn ``n // items`` or ``n // items + 1`` times. A plan is a pure function
of seed and epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from seg3d.errors import DataError
from seg3d.keyed import keyed
from seg3d.sampling.apportion import Apportionment
from seg3d.store import StoredInfo

Balance = Literal["case", "class", "lesion", "slice"]


@dataclass(frozen=True)
class Draw:
    """One patch to be drawn.

    Attributes:
        case: Index of the case.
        number: Counts the draws of this case within the epoch, from 0; part of the patch's key.
        class_value: Label value at the patch's centre.
        lesion: Component number at the centre, or 0 for any voxel of the class.
        slice: Axis that the slice of the centre lies across, and its number; ``None`` for any slice.
    """

    case: int
    number: int
    class_value: int
    lesion: int = 0
    slice: tuple[int, int] | None = None


@dataclass(frozen=True)
class Visit:
    """Draws of one case that are read together."""

    case: int
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class EpochPlan:
    """What one rank reads in one epoch, in order."""

    epoch: int
    visits: tuple[Visit, ...]

    @cached_property
    def patches(self) -> int:
        """Number of patches."""
        return sum(len(visit.draws) for visit in self.visits)


class SamplingPlan:
    """Plans the epochs of a training run.

    Args:
        cases: The training cases, in a fixed order.
        class_weights: Weight of each label value; zero leaves a class out. Only ratios count.
        patches_per_epoch: Over all ranks.
        patches_per_visit: Of one case, read together.
        balance: ``"case"``: draws of a class are spread evenly over the cases that hold it; ``"lesion"``: evenly over
            its connected components (background: over cases); ``"class"``: every voxel of the class is as likely;
            ``"slice"``: evenly over all slices that hold the class (background: that hold nothing else).
        seed: The run's seed.
        slice_axis: Axis (0, 1, 2) that slices lie across, for ``"slice"``.

    Raises:
        DataError: No case holds a class that has a weight.
        ValueError: No weight is positive, or a count is not.
    """

    def __init__(
        self,
        cases: Sequence[StoredInfo],
        class_weights: Mapping[int, float],
        *,
        patches_per_epoch: int,
        patches_per_visit: int,
        balance: Balance,
        seed: int,
        slice_axis: int = 2,
    ) -> None:
        if patches_per_epoch < 1 or patches_per_visit < 1:
            raise ValueError("patches_per_epoch and patches_per_visit are at least 1")
        self.cases = tuple(cases)
        self.balance = balance
        self.seed = seed
        self.patches_per_visit = patches_per_visit
        self._slice_axis = slice_axis
        self._patches = patches_per_epoch
        self._classes = Apportionment(class_weights, patches_per_epoch)
        self._items = {value: self._items_of(value) for value in self.shares}

    @property
    def shares(self) -> dict[int, float]:
        """Share of each class that is drawn; their sum is 1."""
        return {value: float(share) for value, share in self._classes.shares.items()}

    def quotas(self, epoch: int) -> dict[int, int]:
        """Patches of each class in an epoch, over all ranks."""
        return self._classes.of_epoch(epoch)

    def epoch(self, epoch: int, rank: int = 0, ranks: int = 1) -> EpochPlan:
        """The plan of one rank: the ranks' plans are of equal length and together hold every draw once.

        Raises:
            ValueError: ``patches_per_epoch`` is no multiple of ``ranks``.
        """
        total = self._patches
        if total % ranks:
            raise ValueError(f"patches_per_epoch is a multiple of the {ranks} ranks, got {total}")
        draws = self._draws(epoch)
        # case by case in a keyed order, so that a cut into equal shares splits at most ranks - 1 cases
        order = keyed(self.seed, "shard", epoch).permutation(len(self.cases))
        draws.sort(key=lambda draw: (order[draw.case], draw.number))
        share = total // ranks
        visits = self._group(draws[rank * share : (rank + 1) * share])
        shuffled = keyed(self.seed, "visits", epoch, rank).permutation(len(visits))
        return EpochPlan(epoch, tuple(visits[i] for i in shuffled))

    def _draws(self, epoch: int) -> list[Draw]:
        picked: list[tuple[int, int, int]] = []
        begun = self._classes.before(epoch)
        for value, quota in self.quotas(epoch).items():
            picked += [(case, value, part) for case, part in self._pick(value, quota, epoch, begun[value])]
        # the number within a case follows a keyed order: consecutive patches of a case mix the classes
        mixed = keyed(self.seed, "mix", epoch).permutation(len(picked))
        seen = [0] * len(self.cases)
        draws = []
        for index in mixed:
            case, value, part = picked[index]
            draws.append(self._draw(case, seen[case], value, part))
            seen[case] += 1
        return draws

    def _draw(self, case: int, number: int, value: int, part: int) -> Draw:
        if self.balance == "slice":
            return Draw(case, number, value, slice=(self._slice_axis, part))
        return Draw(case, number, value, part)

    def _pick(self, value: int, quota: int, epoch: int, begun: int) -> list[tuple[int, int]]:
        if quota == 0:
            return []
        items = self._items[value]
        if self.balance == "class":
            counts = np.array([self.cases[case].class_counts[value] for case, _ in items], dtype=np.float64)
            chosen = keyed(self.seed, "cases", epoch, value).choice(len(items), quota, p=counts / counts.sum())
            return [items[i] for i in chosen]
        cycles = range(begun // len(items), (begun + quota - 1) // len(items) + 1)
        order = [i for cycle in cycles for i in keyed(self.seed, "cycle", value, cycle).permutation(len(items))]
        skipped = begun % len(items)
        return [items[i] for i in order[skipped : skipped + quota]]

    def _items_of(self, value: int) -> list[tuple[int, int]]:
        """The (case, lesion or slice) pairs among which draws of a class are spread; lesion 0 is the whole class."""
        if self.balance == "slice":
            items = [(i, n) for i, case in enumerate(self.cases) for n in slices_of(case, value, self._slice_axis)]
        elif self.balance == "lesion" and value != 0:
            items = [(i, x.number) for i, case in enumerate(self.cases) for x in case.lesions if x.class_value == value]
        else:
            items = [(i, 0) for i, case in enumerate(self.cases) if case.class_counts.get(value, 0) > 0]
        if not items:
            raise DataError(
                "no training case holds this label, so no patch can be centred on it"
                if value or self.balance != "slice"
                else "no training slice is without foreground, so none can be drawn for the background",
                where=f"label {value}",
                fix="Set its weight in sampling.class_weights to 0 or choose another split.",
            )
        return items

    def _group(self, draws: Sequence[Draw]) -> list[Visit]:
        visits: list[Visit] = []
        for draw in draws:
            if visits and visits[-1].case == draw.case and len(visits[-1].draws) < self.patches_per_visit:
                visits[-1] = Visit(draw.case, (*visits[-1].draws, draw))
            else:
                visits.append(Visit(draw.case, (draw,)))
        return visits


def slices_of(case: StoredInfo, value: int, axis: int) -> list[int]:
    """Numbers of the slices across an axis that hold a class; for the background those that hold no other."""
    counts = case.slice_counts(axis)
    if value not in counts:
        return []
    chosen = counts[value] > 0
    if value == 0:
        for other in set(counts) - {0}:
            chosen &= counts[other] == 0
    return [int(n) for n in np.flatnonzero(chosen)]
