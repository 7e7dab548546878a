"""The two sides of a comparison: runs of seg3d, or the scores of whatever else has predicted the same cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from seg3d.auditing.scores import ScoredRun
from seg3d.digest import sha256_file
from seg3d.errors import RunError
from seg3d.reporting.run_report.scores import read_evaluation
from seg3d.training.run_folder import MANIFEST, open_run_folder, read_json
from seg3d.verbs.score import score_test_cases


@dataclass(frozen=True)
class Run:
    """A finished run with the scores of its test cases, or scores alone.

    Attributes:
        path: The run folder, or the file of scores.
        weights_sha256: What it is known by; of scores alone the digest of their file.
        data_sha256: Of the data that it has learnt from, where that is known.
        seed: Its seed, where that is known.
        scored: The scores.
    """

    path: Path
    weights_sha256: str
    data_sha256: str | None
    seed: int | None
    scored: ScoredRun


def load_side(name: str, entries: Sequence[Path | str], warnings: list[str], tell: Callable[[str], None]) -> list[Run]:
    """The runs of a side, each of other weights; those that were not scored yet are.

    Args:
        name: What the side is called.
        entries: Run folders, audits, or summaries of scores.
        warnings: What to mind is added here.
        tell: Called with a line for each scan that is scored.

    Raises:
        RunError: There is no run, one has not ended, or a file is no summary.
    """
    paths = list(chain.from_iterable(_runs(Path(entry), warnings) for entry in entries))
    if not paths:
        raise RunError(f"side {name} has no run", fix="Give run folders or audits on either side.")
    for path in paths:  # before any of them is scored, which may take long
        if path.is_file():
            read_evaluation(path)
        elif not open_run_folder(path).result.exists():
            raise RunError("the run has not ended", where=path, fix="Continue it with 'seg3d resume'.")
    runs: dict[str, Run] = {}
    for path in paths:
        weights = sha256_file(path) if path.is_file() else read_json(path / "result.json")["weights_sha256"]
        if weights in runs:
            what = "scores" if path.is_file() else "weights"
            warnings.append(
                f"{name}: {path} has the same {what} as {runs[weights].path} and is not counted: "
                "identical runs are no independent seeds"
            )
        else:
            runs[weights] = _read(path, weights, tell)
    return list(runs.values())


def _read(path: Path, weights: str, tell: Callable[[str], None]) -> Run:
    if path.is_file():
        return Run(path, weights, None, None, ScoredRun(path, read_evaluation(path).summary))
    result = read_json(path / "result.json")
    scored = ScoredRun(path, score_test_cases(path, tell))
    return Run(path, weights, result.get("data_sha256", ""), result.get("seed"), scored)


def _runs(entry: Path, warnings: list[str]) -> Iterator[Path]:
    cells = entry / "cells"
    if entry.is_file() or (entry / MANIFEST).is_file() or not cells.is_dir():
        yield entry  # what is no run folder either is told when it is opened
        return
    found = sorted(path for path in cells.iterdir() if (path / MANIFEST).is_file())
    finished = [path for path in found if (path / "result.json").is_file()]
    if not finished:
        raise RunError("the audit has no finished run", where=entry, fix="Let 'seg3d audit' end first.")
    if len(finished) < len(found):
        warnings.append(f"{entry}: {len(found) - len(finished)} of {len(found)} runs have not ended and do not count")
    yield from finished


def doubts_about_side(name: str, runs: Sequence[Run]) -> list[str]:
    """What a side's number of runs and their seeds leave open."""
    found, seeds = [], [run.seed for run in runs if run.seed is not None]
    if len(runs) == 1:
        found.append(f"seed noise is unknown: {name} has one run only, so the answer holds for its weights alone")
    if len(runs) == 2:
        found.append(f"{name} has two seeds only: the interval may be too narrow; three or more are better")
    if len(set(seeds)) < len(seeds):
        found.append(f"{name} has several runs of one seed: they differ less than seeds do, the interval is too narrow")
    return found


def doubts_about_both(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """What keeps the sides from being independent, or alike."""
    found = []
    if len({run.data_sha256 for run in (*a, *b)} - {None}) > 1:
        found.append("the runs were made from different data (data_sha256); 'seg3d diff' names the files")
    common = {run.weights_sha256 for run in a} & {run.weights_sha256 for run in b}
    if common:
        number = "1 run" if len(common) == 1 else f"{len(common)} runs"
        found.append(f"both sides share {number} with the same weights: they are not independent")
    return found
