"""How far a run is: what a checkpoint keeps beside weights, optimiser and Lightning's counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seg3d.training.trace import START


@dataclass
class Progress:
    """Where a run goes on.

    Attributes:
        epoch: The epoch that is under way or comes next, from 0.
        batches: Batches of it that are done.
        losses: Their losses.
        centres: Case, voxel and whether its class was moved out, of every patch in them.
        epoch_seconds: Time spent on them.
        waited_seconds: How much of it was waiting for data.
        seconds: Time spent on the epochs before.
        best_score: Best validation Dice so far.
        best_step: Optimiser steps done then.
        stale: Validations since then.
        trace_lines: Lines of the trace.
        trace_sha256: Hash of its last line.
    """

    epoch: int = 0
    batches: int = 0
    losses: list[float] = field(default_factory=list)
    centres: list[tuple[Any, ...]] = field(default_factory=list)
    epoch_seconds: float = 0.0
    waited_seconds: float = 0.0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = -1
    stale: int = 0
    trace_lines: int = 0
    trace_sha256: str = START

    def begin(self, epoch: int) -> None:
        """Begin an epoch."""
        self.epoch, self.batches, self.losses, self.centres = epoch, 0, [], []
        self.epoch_seconds, self.waited_seconds = 0.0, 0.0

    def end(self) -> None:
        """End the epoch that is under way."""
        self.seconds += self.epoch_seconds
        self.begin(self.epoch + 1)
