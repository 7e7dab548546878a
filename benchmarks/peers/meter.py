"""Wall time, CPU time and peak memory of a piece of work, and the process in which one measurement is made."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

Measures = dict[str, float]
ANSWER = "MEASURED "  # the line that holds the answer; tools print much else


class Meter:
    """Measures what happens inside a ``with`` block.

    CPU time is that of this process and its children, user and system, also of workers that live on. Peak memory is the
    largest resident size of this process so far, mapped files included.
    """

    def __init__(self) -> None:
        self.measures: Measures = {}

    def __enter__(self) -> Meter:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.measures = {
            "wall": time.perf_counter() - self._wall,
            "CPU": cpu_seconds() - self._cpu,
            "peak memory": peak_bytes() / 2**30,
        }


def cpu_seconds() -> float:
    """User and system seconds of this process, of its children that ended and of those that live."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = 0.0
    for child in psutil.Process().children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        living += times.user + times.system + times.children_user + times.children_system
    return living + sum(usage.ru_utime + usage.ru_stime for usage in own)


def peak_bytes() -> int:
    """Largest resident size of this process; ``ru_maxrss`` would hold that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Do the job that comes as JSON on the standard input; its measures are the last line that is printed."""
    job: dict[str, Any] = json.load(sys.stdin)
    if job["tuned"]:
        from seg3d.training.memory import keep_freed_memory

        keep_freed_memory()
    module, name = job["function"].split(":")
    found = getattr(import_module(module), name)(**job["arguments"])
    print("\n" + ANSWER + json.dumps(found or {}), flush=True)
    os._exit(0)  # worker processes of some tools do not end by themselves


if __name__ == "__main__":
    main()
