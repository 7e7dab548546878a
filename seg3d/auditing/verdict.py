"""What an audit found, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCORE = {"label": "foreground Dice", "region": "region Dice"}  # as seg3d evaluate calls them


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence on an audit: which set-ups gave the same bits, and how far the others spread.

    Args:
        found: What :func:`seg3d.auditing.gather.gather` collected.
    """
    parts = [_of_setup(setup, of, found) for setup, of in found["setups"].items()]
    return "; ".join(parts) + "."


def is_reproducible(found: Mapping[str, Any]) -> bool:
    """Whether deterministic runs of one seed, where there are any, gave the same bits."""
    deterministic = found["setups"].get("deterministic")
    return deterministic is None or found["vary"] == "seed" or _is_one(deterministic)


def _of_setup(setup: str, of: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    runs = sum(run["setup"] == setup for run in found["runs"])
    dice, over = of["scores"]["mean"]["Dice"], _over(found)
    if _is_one(of):
        return f"{runs} {setup} runs gave the same bits (Dice {_number(dice['mean'])}, SD 0{over})"
    place = of.get("parts_at")
    if of["distinct_weights"] == of["distinct_predictions"] == 1 and place is not None:
        text = f"{runs} {setup} runs gave the same weights and predictions, but part in epoch {place['epoch'] + 1}"
        return f"NOT REPRODUCIBLE: {text}" if _must_be_one(setup, found) else text
    seeds = ", each with its own seed," if found["vary"] == "seed" and setup != "random" else ""
    text = (
        f"{runs} {setup} runs{seeds} gave {of['distinct_weights']} different networks and "
        f"{of['distinct_predictions']} different predictions: {_SCORE[found['scored']]} "
        f"{_number(dice['mean'])}, SD {_number(dice['sd'])}, from {_number(dice['low'])} to {_number(dice['high'])}"
        f"{over}"
    )
    return f"NOT REPRODUCIBLE: {text}" if _must_be_one(setup, found) else text


def _over(found: Mapping[str, Any]) -> str:
    """Over how many test cases the mean is, where some do not count."""
    counted, cases = found["scored_cases"]["mean"], len(found["test_cases"])
    return "" if counted == cases else f", over the {counted} of {cases} test cases with a score in every run"


def _is_one(of: Mapping[str, Any]) -> bool:
    """Whether steps, weights and predictions are the same in all runs."""
    same = of["distinct_weights"] == 1 and of["distinct_predictions"] == 1
    return bool(same and of.get("parts_at") is None)


def _must_be_one(setup: str, found: Mapping[str, Any]) -> bool:
    return setup == "deterministic" and found["vary"] == "nothing"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
