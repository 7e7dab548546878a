"""Some cases prepared for ``seg3d plan``, in a process of its own, and deleted again; torch is not needed here."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np

from seg3d.cases import Dataset
from seg3d.errors import Seg3dError
from seg3d.forecast.sizes import CaseSize, Sampled
from seg3d.forecast.usage import Seconds, now, peak_bytes, timed
from seg3d.preparation import Recipe, WayBack, restore_probability
from seg3d.store import read_info
from seg3d.verbs.prepare import prepare_jobs
from seg3d.verbs.prepare_cases import PrepareJob, end_with_parent, prepare_case

Argument = TypeVar("Argument")
Result = TypeVar("Result")
_ENDED = 128 + signal.SIGTERM


def in_process(work: Callable[[Argument], Result], argument: Argument) -> Result:
    """What a fresh process makes of it: its peak memory is that of the work.

    It ends with this process, even if that is killed, and removes its temporary folders.

    Raises:
        Seg3dError: The work raised one, or its process was ended.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work_for, args=(sender, work, argument))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        result: Result | Seg3dError = receiver.recv()
    except EOFError:
        process.join()
        raise Seg3dError(
            "the process that measures was ended", got=f"exit code {process.exitcode}", fix="Is there enough memory?"
        ) from None
    process.join()
    if isinstance(result, Seg3dError):
        raise result
    return result


def _work_for(sender: Connection, work: Callable[[Argument], Result], argument: Argument) -> None:
    # an exception unwinds the stack, which removes temporary folders; a signal alone does not
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ENDED))
    end_with_parent()
    try:
        sender.send(work(argument))
    except Seg3dError as error:
        sender.send(Seg3dError(str(error)))  # some cannot be sent to another process as they are


def sample(task: tuple[Dataset, Recipe, tuple[CaseSize, ...]]) -> list[Sampled]:
    """Prepare some cases in a temporary folder, the smallest first, so that each has its own peak."""
    dataset, recipe, sizes = task
    rest, found = peak_bytes(), []
    with tempfile.TemporaryDirectory(prefix="seg3d_plan_") as folder:
        for number, size in enumerate(reversed(sizes)):
            # a folder for each: the digests of the source files are part of the work
            target = Path(folder) / str(number)
            started = now()
            (job,) = prepare_jobs(replace(dataset, cases=(size.case,)), recipe, target)
            found.append(_prepared(job, size, started, rest))
            shutil.rmtree(target)
    return found[::-1]


def _prepared(job: PrepareJob, size: CaseSize, started: Seconds, rest: int) -> Sampled:
    error = prepare_case(job)
    if error is not None:
        raise error
    seconds = now() - started
    info = read_info(job.path)
    way_back = WayBack.from_dict(info.way_back)
    x, y, z = (a / b for a, b in zip(way_back.cropped, size.grid.shape, strict=True))
    restore = timed(lambda: restore_probability(np.zeros(info.grid.shape, np.float32), way_back, 0.0))
    stored = job.path.stat().st_size
    return Sampled(size.case.case_id, (x, y, z), info.grid.shape, stored, seconds, restore, rest, peak_bytes())
