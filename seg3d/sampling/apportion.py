"""How many patches of an epoch each class gets: whole numbers that come to the asked shares over the epochs.

Rounding the shares of each epoch by itself would leave a class whose share is below one patch without any in every
epoch. Here what an epoch's rounding owes a class, a later one gives: after any number of epochs each class has less
than one patch more or fewer than its share of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

_FINEST = 10**9  # shares are taken as fractions with at most this denominator: 0.5 / 3 is then a sixth again


class Apportionment:
    """Patches of each class by epoch; a pure function of its arguments and the epoch.

    Args:
        weights: Weight of each class; only ratios count, zero leaves a class out.
        total: Patches of an epoch.

    Raises:
        ValueError: A weight is negative or not finite, or none is positive.

    Source: Tijdeman, The chairman assignment problem (Discrete Mathematics 1980), for the patches that are left when
    each class has the whole part of its share.
    """

    def __init__(self, weights: Mapping[int, float], total: int) -> None:
        self.shares = exact_shares(weights)
        self._whole = {key: math.floor(share * total) for key, share in self.shares.items()}
        rest = {key: share * total - self._whole[key] for key, share in self.shares.items()}
        self._left = int(sum(rest.values()))
        # the rests as whole numbers of one denominator, so that nothing is rounded however many epochs there are
        unit = math.lcm(*(part.denominator for part in rest.values()))
        self._rest = {key: int(part * unit) for key, part in rest.items() if part}
        self._given: list[dict[int, int]] = [dict.fromkeys(self._rest, 0)]

    def before(self, epoch: int) -> dict[int, int]:
        """Patches of each class in all epochs before one."""
        beyond = self._beyond(epoch)
        return {key: whole * epoch + beyond.get(key, 0) for key, whole in self._whole.items()}

    def of_epoch(self, epoch: int) -> dict[int, int]:
        """Patches of each class in an epoch; their sum is ``total``."""
        first, last = self.before(epoch), self.before(epoch + 1)
        return {key: last[key] - first[key] for key in first}

    def _beyond(self, epochs: int) -> dict[int, int]:
        """What the classes have beyond their whole parts after some epochs; kept, as each goes on from the last."""
        while len(self._given) <= epochs:
            given, done = dict(self._given[-1]), (len(self._given) - 1) * self._left
            for number in range(done + 1, done + self._left + 1):
                given[self._next(given, number)] += 1
            self._given.append(given)
        return self._given[epochs]

    def _next(self, given: Mapping[int, int], number: int) -> int:
        """Who has the n-th patch that is left over: of the classes that are owed enough the one with the least time."""
        one, least = sum(self._rest.values()), 2 * len(self._rest) - 2  # a patch; 1 / least of one is enough
        owed = {key: least * (rest * number - given[key] * one) for key, rest in self._rest.items()}
        time = {key: ((least - 1) * one - owed[key]) / self._rest[key] for key in owed if owed[key] >= one}
        return min(time, key=lambda key: (time[key], key))


def exact_shares(weights: Mapping[int, float]) -> dict[int, Fraction]:
    """Share of each class that has a weight, as fractions whose sum is 1, in the order of the classes.

    Raises:
        ValueError: A weight is negative or not finite, or none is positive.
    """
    if any(not math.isfinite(w) or w < 0 for w in weights.values()) or not any(w > 0 for w in weights.values()):
        raise ValueError(f"weights are non-negative and at least one is positive, got {dict(weights)}")
    total = sum(weights.values())
    given = {key: Fraction(weights[key] / total) for key in sorted(weights) if weights[key] > 0}
    near = {key: share.limit_denominator(_FINEST) or share for key, share in given.items()}
    return {key: share / sum(near.values()) for key, share in near.items()}
