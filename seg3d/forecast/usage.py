"""Time as it passes and as the processor spends it, and memory at its peak."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Seconds:
    """A duration: by the clock, and spent by the processor, all of the process's threads together."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(self.wall * factor, self.cpu * factor)

    def as_dict(self) -> dict[str, float]:
        """JSON."""
        return {"wall": self.wall, "cpu": self.cpu}


def now() -> Seconds:
    """The clocks."""
    return Seconds(time.perf_counter(), time.process_time())


def timed(work: Callable[[], object]) -> Seconds:
    """How long some work takes."""
    started = now()
    work()
    return now() - started


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    if _STATUS.exists():  # getrusage begins with that of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in _STATUS.open() if line.startswith("VmHWM"))
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024  # Linux counts KiB
