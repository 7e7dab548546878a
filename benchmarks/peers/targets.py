"""What is aimed at, and whether the rows of a run reach it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.peers.results import Row

OURS = "seg3d"


@dataclass(frozen=True)
class Verdict:
    """One line of the list of targets.

    Attributes:
        subject: Which subject.
        target: What is aimed at.
        case: Where it was measured.
        ratio: How we stand, as the target counts it; ``nan`` where something was not measured.
        met: Whether that is enough; ``None`` where it is not known.
        detail: Both values.
    """

    subject: str
    target: str
    case: str
    ratio: float
    met: bool | None
    detail: str


@dataclass(frozen=True)
class Target:
    """A ratio of two medians of the same case.

    Attributes:
        subject: Which subject.
        text: What is aimed at.
        cases: A part of the name of the cases that count.
        metric: Which metric; of ours and of the peers.
        peer: How the peer's name begins; with several rows the best of them counts.
        least: The ratio that is wanted, better divided by worse: above 1 we are ahead.
        more_is_better: Whether a larger value is the better one.
        ours: How our row's name begins.
    """

    subject: str
    text: str
    cases: str
    metric: str
    peer: str
    least: float
    more_is_better: bool = False
    ours: str = OURS


PREDICTION, SUPPLY, STEP, ACCURACY, PREPARING, START = (
    "1 prediction",
    "2 patch supply",
    "3 training step",
    "4 accuracy",
    "5 preparing",
    "6 start-up",
)
TARGETS = (
    Target(PREDICTION, "CPU time of exact prediction at most 1/4 of MONAI's", "batch norm", "CPU", "MONAI", 4),
    Target(
        PREDICTION, "peak memory of exact prediction no higher than MONAI's", "batch norm", "peak memory", "MONAI", 1
    ),
    *(
        Target(PREDICTION, f"agreement with one pass higher than {peer}'s", "batch norm", "agreement", peer, 1, True)
        for peer in ("MONAI", "TorchIO", "nnU-Net")
    ),
    Target(PREDICTION, "blended prediction at least 1.5 times MONAI's speed", "instance norm", "wall", "MONAI", 1.5),
    Target(SUPPLY, "raw supply at least 5 times stock TorchIO", "raw", "patches", "TorchIO", 5, True),
    Target(SUPPLY, "raw supply at least 2 times MONAI", "raw", "patches", "MONAI", 2, True),
    Target(SUPPLY, "augmented supply at least 3 times stock TorchIO", "augmented", "patches", "TorchIO", 3, True),
    Target(STEP, "within 5 % of the plain loop", "", "CPU per step", "plain", 1 / 1.05),
    Target(STEP, "within 5 % of the plain loop", "", "wall per step", "plain", 1 / 1.05),
    Target(ACCURACY, "ahead of nnU-Net at every budget", "CPU-minutes", "Dice", "nnU-Net", 1, True),
    Target(PREPARING, "ahead of nnU-Net", "", "CPU per case", "nnU-Net", 1),
    Target(PREPARING, "ahead of nnU-Net", "", "wall per case", "nnU-Net", 1),
    Target(PREPARING, "ahead of nnU-Net", "", "peak memory", "nnU-Net", 1),
    *(Target(START, f"ahead of {peer}", "", "wall", peer, 1) for peer in ("nnU-Net", "MONAI", "TorchIO")),
)
GROWTH = 1.1  # peak memory with many cases over that with few, to count as independent of their number


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every target in every case of the rows that it speaks of."""
    found = [verdict for target in TARGETS for verdict in _of_target(target, rows)]
    return sorted([*found, *_memory(rows)], key=lambda verdict: verdict.subject)


def _of_target(target: Target, rows: Sequence[Row]) -> Iterable[Verdict]:
    mine = [row for row in rows if row.subject == target.subject and row.metric == target.metric]
    for case in dict.fromkeys(row.case for row in mine if target.cases in row.case):
        here = [row for row in mine if row.case == case]
        ours, peer = (_best(here, name, target.more_is_better) for name in (target.ours, target.peer))
        if peer is None and any(row.tool.startswith(target.ours) for row in here) and _never(target.peer, mine, case):
            continue
        yield _verdict(target, case, ours, peer)


def _never(peer: str, rows: Sequence[Row], case: str) -> bool:
    """A peer that takes no part in this case, though it does in others."""
    return any(row.tool.startswith(peer) for row in rows if row.case != case)


def _best(rows: Sequence[Row], name: str, more_is_better: bool) -> Row | None:
    choose: Callable[..., Row] = max if more_is_better else min
    mine = [row for row in rows if row.tool.startswith(name)]
    return choose(mine, key=lambda row: row.median) if mine else None


def _verdict(target: Target, case: str, ours: Row | None, peer: Row | None) -> Verdict:
    if ours is None or peer is None:
        return Verdict(target.subject, target.text, case, math.nan, None, "not measured")
    better, worse = (ours, peer) if target.more_is_better else (peer, ours)
    ratio = better.median / worse.median if worse.median else math.inf
    detail = f"{ours.median:.4g} to {peer.median:.4g} {ours.unit} ({target.metric}; {peer.tool})"
    # who is no worse than the best possible is not behind
    met = ratio >= target.least and (target.least != 1 or ratio > 1 or target.metric in ("agreement", "peak memory"))
    return Verdict(target.subject, target.text, case, ratio, met, detail)


def _memory(rows: Sequence[Row]) -> list[Verdict]:
    mine = [row for row in rows if row.subject == SUPPLY and row.case.startswith("memory") and row.tool == OURS]
    if len(mine) != 2:
        return []
    few, many = sorted(mine, key=lambda row: int(row.case.split()[1]))
    ratio = many.median / few.median
    text = f"memory independent of the number of cases (at most {GROWTH} times)"
    detail = f"{few.median:.3g} to {many.median:.3g} {few.unit}"
    return [Verdict(SUPPLY, text, f"{few.case} and {many.case}", ratio, ratio <= GROWTH, detail)]
