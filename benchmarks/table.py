"""The table that every benchmark prints: machine, versions, medians, ratios."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def describe_machine(packages: Sequence[str]) -> str:
    """One line: processor, cores, versions, date."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}, {today}"


def rates(work: Callable[[], int], seconds: float, repeats: int) -> list[float]:
    """Items per second in each of several runs; ``work`` does some and says how many."""
    work()  # warm-up: page cache, allocator, compiled kernels
    found = []
    for _ in range(repeats):
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            done += work()
        found.append(done / (time.perf_counter() - started))
    return found


def print_table(title: str, machine: str, rows: Sequence[tuple[str, Sequence[float]]], unit: str) -> None:
    """A markdown table: median, spread, ratio to the first row."""
    first = statistics.median(rows[0][1])
    print(f"\n### {title}\n\n{machine}\n\n| | median {unit} | min..max | first row is |\n| --- | ---: | ---: | ---: |")
    for name, values in rows:
        median = statistics.median(values)
        print(f"| {name} | {median:,.1f} | {min(values):,.1f}..{max(values):,.1f} | {first / median:.1f}x |")
