"""What a reader of a run's scores should know: failures first, then warnings, then notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg3d.reporting.run_report.pieces import Pieces
from seg3d.reporting.run_report.scores import LEARNT_FROM, OTHER, PARTS, Evaluation, part_counts
from seg3d.training.checkpoints import list_checkpoints

LEVELS = {"bad": "failure", "warn": "warning", "note": "note"}
_FEW_CASES = 10
_MOVED_OUT_SLACK = 0.1  # of the patches of a class, that augmentation leaves without it
_SHARE_SLACK = 0.1  # of a class, between what was asked and what was drawn
_NAMED = 5


@dataclass(frozen=True)
class Remark:
    """One thing to know.

    Attributes:
        level: A key of :data:`LEVELS`.
        text: A sentence.
    """

    level: str
    text: str

    @property
    def word(self) -> str:
        """What the level is called."""
        return LEVELS[self.level]


def remarks_of(pieces: Pieces, evaluation: Evaluation | None, more: Iterable[str] = ()) -> list[Remark]:
    """Everything worth knowing, the worst first.

    Args:
        pieces: The run.
        evaluation: Its scores, if there are any.
        more: Further warnings.
    """
    found = [
        *(Remark("bad", fault) for fault in pieces.faults),
        *_of_progress(pieces),
        *_of_training(pieces),
        *_of_origin(pieces),
        *(_of_scores(pieces, evaluation) if evaluation else ()),
        *(Remark("warn", text) for text in more),
    ]
    return sorted(found, key=lambda remark: list(LEVELS).index(remark.level))


def _of_progress(pieces: Pieces) -> Iterator[Remark]:
    done, planned = pieces.epochs_done, pieces.epochs_planned
    if not pieces.ended:
        steps = f" and {beyond} steps of the next" if (beyond := _steps_beyond(pieces)) else ""
        yield Remark(
            "warn",
            f"The run has not ended: it was stopped, or is still training, after {done} of {planned or '?'} epochs"
            f"{steps}. 'seg3d resume' continues it to the same bits.",
        )
    elif planned is not None and done < planned:
        yield Remark("note", f"Training ended after {done} of {planned} epochs: validation Dice rose no more.")
    if pieces.ended and not list_checkpoints(pieces.folder.checkpoints, "last"):
        yield Remark("bad", "The checkpoints are missing: the run cannot predict.")
    best = pieces.result.get("best_epoch")
    if pieces.ended and best is None:
        yield Remark("note", "No epoch was validated: the run predicts with its last weights.")
    elif pieces.ended and done > 1 and best == done - 1:
        yield Remark("note", "The last epoch was the best: a longer training may give more.")


def _of_training(pieces: Pieces) -> Iterator[Remark]:
    broken = next(((epoch, batch) for epoch, batch, loss in pieces.losses if not math.isfinite(loss)), None)
    if broken is not None:
        yield Remark("bad", f"The loss was not finite from epoch {broken[0] + 1}, step {broken[1] + 1} on.")
    if not pieces.certificates:
        return
    last = pieces.certificates[-1]
    never: Sequence[Mapping[str, Any]] = last.get("lesions_never_drawn", ())
    if never:
        names = _named([f"{x['case']} no. {x['lesion']} ({x['label']}, {x['voxels']} voxels)" for x in never])
        yield Remark("warn", f"{len(never)} of {last['lesions']} lesions never were the centre of a patch: {names}.")
    for name, share in last.get("classes", {}).items():
        planned = share.get("planned", share["expected"])  # in whole patches; older runs do not say
        if abs(planned - share["realised"]) > _SHARE_SLACK:
            asked, drawn = f"{planned:.0%}", f"{share['realised']:.0%}"
            yield Remark("warn", f"{name}: {drawn} of the last epoch's patches were centred on it, asked for {asked}.")
        lost, of = share.get("drawn_but_moved_out", 0), round(share["realised"] * last.get("patches", 0))
        if lost > _MOVED_OUT_SLACK * of:
            yield Remark("warn", f"{name}: augmentation moved it out of {lost} of the last epoch's {of} patches of it.")


def _of_origin(pieces: Pieces) -> Iterator[Remark]:
    """Where config, data and code come from."""
    changes = [line for record in pieces.resumed for line in record.get("changed", ())]
    if changes:
        yield Remark("warn", f"Continued although it was no longer what it was: {_named(changes)}.")
    if pieces.resumed:
        places = [
            f"epoch {r['epoch'] + 1} after {r['batches']} batches"
            for r in pieces.resumed
            if {"epoch", "batches"} <= set(r)
        ]
        yield Remark("note", f"Continued {_times(len(pieces.resumed))}: {_named(places)}.")
    others = sorted({key for record in pieces.resumed for key in record.get("environment", ())})
    if others:
        yield Remark("warn", f"Continued in another environment: {_named(others)}.")
    if pieces.environment.get("code", {}).get("dirty"):
        yield Remark("warn", "The code differed from its commit; the difference is kept in code.patch.")
    if shared := pieces.data.get("shared_images"):
        yield Remark("bad", f"The same image is in different parts of the split: {_named(shared)}; scores flatter.")
    if changed := pieces.data.get("changed_files"):
        before = pieces.data.get("compared_with", "the last run")
        yield Remark("note", f"The data are not those of {before}: {_named(changed)}.")


def _of_scores(pieces: Pieces, evaluation: Evaluation) -> Iterator[Remark]:
    counts, total = part_counts(evaluation, pieces.splits), len(evaluation.cases)
    if seen := counts.get(PARTS["train"]):
        yield Remark("bad", f"{seen} of {total} scored cases were trained on: these scores flatter.")
    if chosen := counts.get(PARTS["val"]):
        yield Remark("warn", f"{chosen} of {total} scored cases chose the checkpoint: these scores flatter a little.")
    if other := counts.get(OTHER):
        yield Remark("note", f"{other} of {total} scored cases belong to no part of the run's split.")
    if counts.get(PARTS["test"]):
        absent = sorted(set(pieces.splits.get("test", ())) - set(evaluation.cases))
        if absent:
            yield Remark("warn", f"{len(absent)} test cases were not scored: {_named(absent)}.")
    if _other_weights(pieces, evaluation):
        yield Remark("bad", "The scores are of other weights than those that the run predicts with now.")
    if 1 < evaluation.headline["n"] < _FEW_CASES:
        yield Remark("note", f"Intervals over {evaluation.headline['n']} cases are rough.")
    yield from _of_warnings(evaluation, counts)
    for kind, block in evaluation.blocks:
        for entry in block["per_label"].values():
            yield from _of_empty(f"{kind} {entry['name']}", entry)


def _of_warnings(evaluation: Evaluation, counts: Mapping[str, int]) -> Iterator[Remark]:
    """What the evaluation itself has told; it knows a scan by its bytes, too, where the run's split has its name."""
    for warning in evaluation.warnings:
        kind, text = warning["kind"], warning["text"]
        if kind in LEARNT_FROM and text.startswith(f"{counts.get(LEARNT_FROM[kind], 0)} of "):
            continue  # told by the run's own split
        level = "bad" if kind == "trained_on" else "warn"
        yield Remark(level, f"{text[:1].upper()}{text[1:]}.")


def _of_empty(name: str, entry: Mapping[str, Any]) -> Iterator[Remark]:
    if count := entry.get("prediction_empty"):
        yield Remark("warn", f"{name}: missed altogether in {_cases(count)}.")
    if count := entry.get("reference_empty"):
        yield Remark("warn", f"{name}: found in {_cases(count)} without it.")
    if count := entry.get("both_empty"):
        yield Remark("note", f"{name}: in {_cases(count)} neither there nor found, which gives no score.")


def _other_weights(pieces: Pieces, evaluation: Evaluation) -> bool:
    if evaluation.weights is None:
        return False
    folder = pieces.folder.checkpoints
    kept = list_checkpoints(folder, "best") or list_checkpoints(folder, "last")
    return bool(kept) and not evaluation.weights.startswith(kept[-1].sha256)


def _steps_beyond(pieces: Pieces) -> int:
    """Steps after the last whole epoch."""
    return sum(epoch >= len(pieces.rows) for epoch, _, _ in pieces.losses)


def _named(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"
