"""Jobs: each measurement is a process of its own, and tools take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.meter import ANSWER, Measures

TUNED = ", memory kept"  # beside the name of a tool that runs with the allocator setting of seg3d
ROOT = Path(__file__).resolve().parents[2]


class JobError(RuntimeError):
    """A measurement that came to no answer."""


@dataclass(frozen=True, eq=False)
class Job:
    """One thing that one tool does.

    Attributes:
        case: What is done: names a table.
        tool: Who does it: names a row.
        package: Distribution whose version is told.
        function: ``module:name``; called in a process of its own, it gives its measures.
        arguments: Of the function; what JSON can hold.
        tuned: Keep freed memory, as seg3d does.
        most: Largest number of repetitions.
        environment: More variables of the process.
        inputs: Makes what it is measured on; run once, however many jobs name it.
    """

    case: str
    tool: str
    package: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    most: int = 99
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: Job | None = None

    @property
    def name(self) -> str:
        """The tool and whether its allocator was tuned; ours always is."""
        return self.tool + (TUNED if self.tuned and self.package != "seg3d" else "")


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        folder: Where inputs and what tools write may lie.
        data: Folder of the real scans.
        quick: Tiny inputs: shows that everything runs, measures nothing.
    """

    folder: Path
    data: Path
    quick: bool = False


def with_and_without(jobs: Sequence[Job]) -> list[Job]:
    """Each job of a peer as installed and with the allocator setting of seg3d; ours as it always is."""
    found: list[Job] = []
    for job in jobs:
        variants = (True,) if job.package == "seg3d" else (False, True)
        found += [Job(**{**vars(job), "tuned": tuned}) for tuned in variants]
    return found


def run_job(job: Job, timeout: float = 4 * 3600) -> Measures:
    """What a process of its own measured.

    Raises:
        JobError: It failed, was killed or took too long.
    """
    threads = str(os.cpu_count())
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    order = {"function": job.function, "arguments": dict(job.arguments), "tuned": job.tuned}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peers.meter"],
            check=False,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env={**os.environ, **pinned, **job.environment},
        )
    except subprocess.TimeoutExpired as error:
        raise JobError(f"took more than {timeout:.0f} s") from error
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not answers:
        raise JobError(f"exit code {done.returncode}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
    measures: Measures = json.loads(answers[-1].removeprefix(ANSWER))
    return measures


def interleaved(
    jobs: Sequence[Job],
    repeats: int,
    run: Callable[[Job], Measures] = run_job,
    tell: Callable[[str], None] = print,
) -> list[list[Measures]]:
    """For each job what its repetitions gave, tool after tool in each: A B A B, case by case.

    A job that fails is told and not tried again.
    """
    found: list[list[Measures]] = [[] for _ in jobs]
    failed: set[int] = set()
    for inputs in dict.fromkeys(job.inputs for job in jobs):
        if inputs is not None:
            run(inputs)
    for case in dict.fromkeys(job.case for job in jobs):
        for turn in range(repeats):
            for number, job in enumerate(jobs):
                if job.case != case or turn >= job.most or number in failed:
                    continue
                try:
                    measures = run(job)
                except JobError as error:
                    failed.add(number)
                    tell(f"{case}: {job.name} failed, {error}")
                else:
                    found[number].append(measures)
                    tell(f"{case}: {job.name} {_line(measures)}")
    return found


def _line(measures: Measures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
