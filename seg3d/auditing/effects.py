"""What of a difference between two sides is chance: effects of seeds, of cases and of their interplay.

Each side is a matrix of scores, one row per seed and one column per case; the columns of both sides are the same cases,
the rows are independent of each other. A score of a side is its mean + seed + case + rest, all but the mean by chance
(two-way random effects, one score per cell). What both sides share of a case cancels in the difference A - B, so five
levels are left: seeds of A, seeds of B, the cases' differences, and the rest of either side (interplay and noise).
Columns must be independent of each other, too: several scans of a patient are made one by :func:`mean_within_groups`.

Sources: Searle, Casella and McCulloch, Variance components (1992), section 4.3, for the estimates by analysis of
variance; Owen, The pigeonhole bootstrap (Annals of Applied Statistics 1, 2007), for resampling rows and columns apart,
and for why resampled scores count the rest more than once; Carpenter, Goldstein and Rasbash, A novel bootstrap
procedure for assessing the relationship between class size and achievement (Applied Statistics 52, 2003), for the
remedy: resample estimated effects, level by level, after scaling each to its unbiased variance.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]

MOST = 100_000  # seeds or cases beyond which nobody will train or collect
_ROUNDING = 1e-12  # relative to the largest score: below it a difference is arithmetic, not an effect
_BLOCK = 1_000_000  # values that are resampled at a time
_POWER = 0.8  # share of studies that see a true difference; 80 % is what studies are usually planned for
_AIM = "half of the difference with a power of 80 %"


@dataclass(frozen=True)
class Level:
    """One source of chance.

    Attributes:
        effects: What it added to the difference A - B, once for each of its units (a seed, a case, a cell), scaled so
            that the mean square is the unbiased variance, or 0 where that is negative.
        df: Degrees of freedom of the variance; 0 where it cannot be estimated.
    """

    effects: Array
    df: int

    @property
    def variance(self) -> float:
        """Variance of one unit."""
        return float(np.mean(self.effects**2))

    @property
    def variance_of_mean(self) -> float:
        """What it adds to the variance of the difference of means."""
        return self.variance / self.effects.size


@dataclass(frozen=True)
class Effects:
    """Two sides taken apart: the difference of means A - B, and the levels of chance in it."""

    difference: float
    seeds_a: Level
    seeds_b: Level
    cases: Level
    rest_a: Level
    rest_b: Level

    @property
    def levels(self) -> tuple[Level, ...]:
        """All of them."""
        return self.seeds_a, self.seeds_b, self.cases, self.rest_a, self.rest_b

    @property
    def seed_noise_known(self) -> bool:
        """Whether both sides have several seeds."""
        return bool(self.seeds_a.df and self.seeds_b.df)


@dataclass(frozen=True)
class Estimate:
    """The difference A - B of means and how sure it is; ``df`` is ``None`` where nothing varies."""

    difference: float
    standard_error: float
    df: float | None
    ci95: tuple[float, float]

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on that side of 0, else 0."""
        low, high = self.ci95
        return int(low > 0) - int(high < 0)


@dataclass(frozen=True)
class Needed:
    """What it takes to see half the difference in 80 % of studies: seeds per side, or else cases; a clause says so."""

    seeds: int | None
    cases: int | None
    why: str


def mean_over_labels(values: Array) -> Array:
    """Scores (runs, cases) from scores (runs, cases, labels); ``nan`` for a case without a label that counts.

    A label counts in a case where its score is finite in every run, so that all runs are measured by the same labels.
    """
    usable = np.asarray(np.isfinite(values).all(axis=0))
    number = usable.sum(axis=1)
    total = np.where(usable, values, 0.0).sum(axis=2)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def mean_within_groups(scores: Array, groups: Sequence[Hashable]) -> Array:
    """Scores (runs, groups) from finite scores (runs, cases): means over the cases of each group, in order.

    Several scans of a patient are no independent cases: an interval that takes them for such is far too narrow. Means
    of patients are independent, whatever the scans of one have in common.

    Args:
        scores: One row per run.
        groups: By case, what is equal for cases of one group only.
    """
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    of_case = np.array([number[group] for group in groups])
    return np.stack([scores[:, of_case == i].mean(axis=1) for i in number.values()], axis=1)


def decompose(a: Array, b: Array) -> Effects:
    """The effects in two matrices of scores.

    With one seed on a side its seed effect is unknown (``df`` 0), and what it adds to single cases is held to be the
    cases': the answer is then about these very weights.

    Args:
        a: Scores (seeds, cases) of side A, finite.
        b: Scores of side B on the same cases.

    Raises:
        ValueError: The matrices do not fit each other, have fewer than two cases, or hold a value that is not finite.

    Source: Searle, Casella and McCulloch (1992), section 4.3; a negative variance is taken as 0.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2 or not len(a) or not len(b):
        raise ValueError(f"expected (seeds, cases) of the same two or more cases, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores must be finite")
    rounding = _ROUNDING * float(max(np.abs(a).max(), np.abs(b).max()))
    seeds_a, rest_a = _side(a, rounding)
    seeds_b, rest_b = _side(-b, rounding)  # what raises B lowers the difference
    of_case = a.mean(axis=0) - b.mean(axis=0)
    difference = float(_settled(of_case.mean(), rounding))
    raw = _settled(of_case - of_case.mean(), rounding)
    noise = rest_a.variance / len(a) + rest_b.variance / len(b)
    cases = _level(raw, float(np.sum(raw**2)) / (raw.size - 1) - noise, raw.size - 1)
    return Effects(difference, seeds_a, seeds_b, cases, rest_a, rest_b)


def estimate(effects: Effects, generator: np.random.Generator, resamples: int) -> Estimate:
    """The difference with a 95 % interval: standard error by bootstrap over all levels, times a quantile.

    A handful of seeds tells their variance badly, so the quantile is one of Student's t, calibrated: the variances
    found are taken for true, studies are drawn from them, and the level is chosen that covers 95 % of these. With three
    or more seeds and ten or more cases the interval then covers the truth in 93 to 97 % of simulated studies, also
    where some levels carry nothing (``tests/test_compare.py``). It covers less where the two seeds of one side carry
    nearly all of the variance (91 %), and where a dozen cases' differences are as skewed as an exponential (90 %).

    Args:
        effects: Two sides taken apart.
        generator: Draws the resamples.
        resamples: Number of them.

    Raises:
        ValueError: There is no resample.

    Source: Carpenter, Goldstein and Rasbash (2003) for the bootstrap; Satterthwaite, An approximate distribution of
        estimates of variance components (Biometrics Bulletin 2, 1946), for the degrees of freedom; Beran, Prepivoting
        to reduce level error of confidence sets (Biometrika 74, 1987), for the calibration.
    """
    if resamples < 1:
        raise ValueError(f"expected one resample or more, got {resamples}")
    means = sum(_resampled_means(level.effects, generator, resamples) for level in effects.levels)
    error = float(np.sqrt(np.mean(np.square(means))))  # around 0, which the effects are centred on
    if error == 0:
        return Estimate(effects.difference, 0.0, None, (effects.difference, effects.difference))
    df = float(_satterthwaite([(level.variance_of_mean, max(level.df, 1)) for level in effects.levels]))
    half = float(special.stdtrit(df, 1 - _calibrated_level(effects, generator, 5 * resamples) / 2)) * error
    return Estimate(effects.difference, error, df, (effects.difference - half, effects.difference + half))


def variance_shares(effects: Effects) -> dict[str, float | None]:
    """Shares of the variance of one score of A minus one of B, both with new seeds, on a new case; they add up to 1.

    ``interplay`` is what belongs to a seed and a case together, chance noise included. ``None`` where seed noise is
    unknown, or where nothing varies.
    """
    parts = {
        "seeds": effects.seeds_a.variance + effects.seeds_b.variance,
        "cases": effects.cases.variance,
        "interplay": effects.rest_a.variance + effects.rest_b.variance,
    }
    total = sum(parts.values())
    known = effects.seed_noise_known and total > 0
    return {name: part / total if known else None for name, part in parts.items()}


def superiority(
    effects: Effects, generator: np.random.Generator, *, higher_is_better: bool = True, draws: int = 20_000
) -> float:
    """Probability that a new seed of A does better on a new case than a new seed of B; a tie counts half.

    Args:
        effects: Two sides taken apart.
        generator: Draws one effect of each level at a time.
        higher_is_better: Whether a positive difference is in favour of A.
        draws: Number of differences drawn.

    Source: Vargha and Delaney, A critique and improvement of the CL common language effect size statistics (Journal of
        Educational and Behavioral Statistics 25, 2000), equation 3, for the ties.
    """
    drawn = np.full(draws, effects.difference)
    for level in effects.levels:
        drawn += level.effects[generator.integers(level.effects.size, size=draws)]
    scale = abs(effects.difference) + sum(np.sqrt(level.variance) for level in effects.levels)
    gain = _settled(drawn if higher_is_better else -drawn, 1e-9 * float(scale))
    return float(np.mean(gain > 0) + np.mean(gain == 0) / 2)


def needed_for_half(effects: Effects, unit: str = "cases") -> Needed:
    """What would show half of the difference found with a power of 80 %: in four of five studies of that size.

    A study shows a difference when its 95 % interval leaves out 0. An interval that is just as wide as the difference
    is large would do so in half of the studies only. The variances are taken as found, so with few seeds the answer is
    rough. Seeds are per side, with as many cases as there are; where no number of them suffices, the cases that would
    do with seeds without end.

    Args:
        effects: Two sides taken apart.
        unit: What to call the columns of the scores.

    Source: Snedecor and Cochran, Statistical methods, on the size of a sample: the smallest difference seen is
    (t of 0.975 + t of the power) times the standard error.
    """
    if effects.difference == 0:
        return Needed(None, None, "there is no difference of which to see half")
    if not effects.seed_noise_known:
        return Needed(None, None, "seed noise is unknown, so the seeds needed are too")
    target, cases = abs(effects.difference) / 2, effects.cases.effects.size
    seeds = _first(lambda numbers: smallest_seen(*planned_error(effects, numbers)) < target)
    if seeds is not None:
        return Needed(seeds, None, f"{seeds} seeds per side are needed to see {_AIM}")
    # beyond every number of seeds, the cases are the only level left
    enough = _first(lambda numbers: smallest_seen(np.sqrt(effects.cases.variance / numbers), numbers - 1.0) < target)
    if enough is not None and enough <= cases:
        return Needed(None, None, f"more than {MOST} seeds per side are needed to see {_AIM}")
    about = f"more than {MOST}" if enough is None else f"about {enough}"
    why = f"with these {cases} {unit} no number of seeds suffices to see {_AIM}: {about} {unit} are needed"
    return Needed(None, enough, why)


def smallest_seen(standard_error: Any, df: Any) -> Array:
    """The true difference that 80 % of studies see, given the standard error of theirs and its degrees of freedom."""
    return np.asarray((special.stdtrit(df, 0.975) + special.stdtrit(df, _POWER)) * standard_error)


def planned_error(effects: Effects, seeds: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Standard error, and its degrees of freedom, for each number of seeds per side with the cases there are.

    By Satterthwaite's approximation alone: the interval planned so is within some percent of what :func:`estimate`
    would find.

    Args:
        effects: Two sides taken apart; both have several seeds.
        seeds: Numbers of seeds, from 2 on.
    """
    cases = effects.cases.effects.size
    parts: list[tuple[Any, Any]] = [(effects.cases.variance / cases, cases - 1)]
    for of_seeds, rest in ((effects.seeds_a, effects.rest_a), (effects.seeds_b, effects.rest_b)):
        parts.append((of_seeds.variance / seeds, seeds - 1))
        parts.append((rest.variance / (seeds * cases), (seeds - 1) * (cases - 1)))
    total = np.asarray(sum(part for part, _ in parts), dtype=np.float64)
    return np.sqrt(total), np.asarray(_satterthwaite(parts))


def _side(scores: Array, rounding: float) -> tuple[Level, Level]:
    """Seeds and rest of one side."""
    seeds, cases = scores.shape
    if seeds == 1:
        return Level(np.zeros(1), 0), Level(np.zeros(1), 0)
    mean, of_seed, of_case = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    raw = _settled(of_seed - mean, rounding)
    rest = _settled((scores - of_seed[:, None] - of_case[None, :] + mean).ravel(), rounding)
    rest_variance = float(np.sum(rest**2)) / ((seeds - 1) * (cases - 1))
    seed_variance = float(np.sum(raw**2)) / (seeds - 1) - rest_variance / cases
    return _level(raw, seed_variance, seeds - 1), _level(rest, rest_variance, (seeds - 1) * (cases - 1))


def _level(raw: Array, variance: float, df: int) -> Level:
    found = float(np.mean(raw**2))
    return Level(raw * np.sqrt(max(variance, 0.0) / found) if found > 0 else raw, df)


def _settled(values: Any, rounding: float) -> Array:
    """Values with those that are rounding errors set to 0."""
    return np.where(np.abs(values) <= rounding, 0.0, values)


def _resampled_means(effects: Array, generator: np.random.Generator, resamples: int) -> Array:
    if not effects.any():
        return np.zeros(resamples)
    size = effects.size
    block = max(1, _BLOCK // size)
    counts = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate(
        [effects[generator.integers(size, size=(count, size), dtype=np.int32)].mean(axis=1) for count in counts]
    )


def _calibrated_level(effects: Effects, generator: np.random.Generator, draws: int) -> float:
    """The level at which Satterthwaite's interval misses 5 % of normal studies with the variances found."""
    dfs = [max(level.df, 1) for level in effects.levels]  # a level that is unknown has no variance either
    seeds_a, seeds_b, cases, rest_a, rest_b = (level.variance_of_mean for level in effects.levels)
    expected = (seeds_a + rest_a, seeds_b + rest_b, cases + rest_a + rest_b, rest_a, rest_b)
    drawn = [mean * generator.chisquare(df, draws) / df for mean, df in zip(expected, dfs, strict=True)]
    of_seeds_a, of_seeds_b, of_cases, of_rest_a, of_rest_b = drawn
    parts = [
        np.maximum(of_seeds_a - of_rest_a, 0),
        np.maximum(of_seeds_b - of_rest_b, 0),
        np.maximum(of_cases - of_rest_a - of_rest_b, 0),
        of_rest_a,
        of_rest_b,
    ]
    true = seeds_a + seeds_b + cases + rest_a + rest_b
    errors = np.abs(generator.normal(0, np.sqrt(true), draws)) / np.sqrt(sum(parts))
    missed_up_to = 2 * special.stdtr(_satterthwaite(list(zip(parts, dfs, strict=True))), -errors)
    return float(np.quantile(missed_up_to, 0.05))


def _satterthwaite(parts: list[tuple[Any, Any]]) -> Any:
    """Degrees of freedom of a sum of independent variance estimates, given with their own; at least 1."""
    total = sum(part for part, _ in parts)
    uncertainty = sum(np.square(part) / df for part, df in parts)
    return np.maximum(np.divide(np.square(total), uncertainty, out=np.ones_like(total), where=uncertainty > 0), 1.0)


def _first(suffices: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]) -> int | None:
    """The smallest number from 2 to :data:`MOST` that suffices."""
    numbers = np.arange(2, MOST + 1)
    found = np.flatnonzero(suffices(numbers))
    return int(numbers[found[0]]) if found.size else None
