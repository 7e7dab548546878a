"""Can the run be had again bit for bit, and has anybody tried?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg3d.reporting.run_report.pieces import Pieces, Record

# what each mode promises
MODES = {
    "random": "nothing was seeded; it can be repeated but not to the same bits",
    "seeded": "same seed, same data stream; operators that are not deterministic may change the last bits",
    "deterministic": "the same bits each time on the same machine and versions",
}
DIGESTS = {
    "identity_sha256": "run (config + data + split + seed)",
    "config_sha256": "config, without what cannot change the result",
    "data_sha256": "data",
    "split_sha256": "split",
    "initial_weights_sha256": "weights that the training began with",
    "weights_sha256": "weights after the last step",
    "optimizer_sha256": "optimiser after the last step",
    "trace_sha256": "trace (every step's loss, batch and learning rate)",
}


@dataclass(frozen=True)
class Badge:
    """How far a run is proved to be reproducible.

    Attributes:
        level: ``"good"``, ``"plain"`` or ``"bad"``.
        words: A few words.
        meaning: A sentence.
        mode: The set-up.
        promise: What the set-up promises.
        seed: The seed.
        digests: Digests by what they are of.
        attempts: A line for each time that the run was computed again.
    """

    level: str
    words: str
    meaning: str
    mode: str
    promise: str
    seed: Any
    digests: Mapping[str, str]
    attempts: Sequence[str]


def badge_of(pieces: Pieces) -> Badge:
    """The badge of a run."""
    mode = str(pieces.config.get("reproducibility", {}).get("mode", "unknown"))
    level, words, meaning = _verdict(pieces)
    known = {**pieces.manifest.get("identity", {}), **pieces.result}
    return Badge(
        level,
        words,
        meaning,
        mode,
        MODES.get(mode, ""),
        known.get("seed", pieces.config.get("seed")),
        {words: str(known[key]) for key, words in DIGESTS.items() if key in known},
        [_attempt(record) for record in pieces.verified],
    )


def _verdict(pieces: Pieces) -> tuple[str, str, str]:
    if _tampered(pieces):
        return "bad", "records do not fit", "The run's own records contradict each other; see the warnings."
    hashes = {record["hash"] for record in pieces.trace if "hash" in record}
    valid = [record for record in pieces.verified if record.get("trace_sha256") in hashes]
    if not valid:
        earlier = " It was before it went on." if pieces.verified else ""
        return "plain", "not verified", f"Nobody has computed this run again yet.{earlier}"
    failed = [number for number, record in enumerate(valid) if not record["identical"]]
    since = valid[failed[-1] + 1 :] if failed else valid
    epochs = max((record["epochs"] for record in since), default=0)
    # fewer epochs than those that were not the same prove nothing of them
    if failed and (not since or epochs < valid[failed[-1]]["epochs"]):
        return "bad", "NOT identical", "Computed again it did not have the same bits."
    total = pieces.epochs_done
    if pieces.ended and epochs >= total:
        return "good", "verified", f"Computed again, all {total} epochs had the same bits."
    return "good", f"verified: {epochs} of {total} epochs", f"The first {epochs} epochs were computed again: same bits."


def _tampered(pieces: Pieces) -> bool:
    """Whether documents were changed, or the trace is not the one that the result names."""
    if any("was changed" in fault or fault.startswith("trace.jsonl is damaged") for fault in pieces.faults):
        return pieces.ended or any("was changed" in fault for fault in pieces.faults)
    last = pieces.trace[-1].get("hash") if pieces.trace else None
    return bool(last) and pieces.ended and pieces.result.get("trace_sha256") not in (None, last)


def _attempt(record: Record) -> str:
    verdict = "identical" if record.get("identical") else "NOT identical"
    changed = record.get("changed") or []
    other = record.get("environment") or []
    notes = [f"{len(changed)} allowed changes"] * bool(changed) + [f"other {', '.join(other)}"] * bool(other)
    counts = f"{record.get('epochs', '?')} epochs, {record.get('steps', '?')} steps"
    return f"{str(record.get('when', ''))[:16].replace('T', ' ')}: {verdict}, {counts}" + (
        f" ({'; '.join(notes)})" if notes else ""
    )
