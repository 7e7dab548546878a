"""Jobs: a bounded queue in front of one worker, and results that are forgotten.

A place is taken before the first byte of an upload is read, so that a hundred clients at once fill neither the disk nor
the memory: those without a place are told to come back. Each job has a folder of its own, and whatever ends the job
removes it.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seg3d.serving.inspection import Scan
from seg3d.serving.refusals import Refusal
from seg3d.serving.settings import Limits
from seg3d.serving.storage import bytes_in

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
_FIRST_GUESS_S = 5.0


class CancelledError(Exception):
    """The job was cancelled while it ran."""


@dataclass(eq=False)
class Job:
    """A scan on its way.

    Attributes:
        folder: Its files; removed with it.
        scan: What is predicted.
        id: What the client knows it by: a secret that nobody can guess.
        state: Where it is.
        progress: Share of the work that is done, 0 to 1.
        error: What went wrong, told to the client.
        answer: What was found, once it is done.
        stored_bytes: Size of its files, once it has ended.
        ended_at: When it ended, on the queue's clock.
        lock: Held while its files are worked with, so that they are not removed meanwhile.
    """

    folder: Path
    scan: Scan
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: State = "queued"
    progress: float = 0.0
    error: str | None = None
    answer: Any = None
    stored_bytes: int = 0
    ended_at: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def advance(self, share: float) -> None:
        """Tell how far the work has come.

        Raises:
            CancelledError: Nobody wants it any more.
        """
        if self.stop.is_set():
            raise CancelledError
        self.progress = min(max(self.progress, share), 0.99)


@dataclass
class Place:
    """A place in the queue that an upload has.

    Attributes:
        folder: An empty folder for its files.
        submitted: Whether a job has taken both over.
    """

    folder: Path
    submitted: bool = False


class JobQueue:
    """The jobs of a server.

    Args:
        root: Folder for the jobs' folders.
        limits: Places, and how long and how much is kept.
        work: Predicts a job; raises :class:`Refusal` where that is the upload's fault.
        clock: Seconds, never going back.
        tell: Called with a line for the log when a job ends.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits,
        work: Callable[[Job], Any],
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._root, self._limits, self._work, self._clock, self._tell = root, limits, work, clock, tell
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._taken = 0  # places of uploads, waiting and running jobs
        self._seconds = _FIRST_GUESS_S  # that a job takes, a running mean
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._sweep)]

    def start(self) -> None:
        """Start the worker and the deletion of old jobs."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop both; the running job is given up at its next tile."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                job.stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)

    @property
    def alive(self) -> bool:
        """Whether jobs are being worked on."""
        return all(thread.is_alive() for thread in self._threads)

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place in the queue for an upload; given back with its folder unless it is submitted in the block.

        Raises:
            Refusal: 503: all places are taken, or too much is stored.
        """
        with self._changed:
            if self._taken >= self._limits.waiting + 1:
                raise self._busy("all places in the queue are taken")
            if sum(job.stored_bytes for job in self._jobs.values()) > self._limits.stored_bytes:
                raise self._busy("the results that others have not fetched take all room")
            self._taken += 1
        place: Place | None = None
        try:
            place = Place(Path(tempfile.mkdtemp(dir=self._root)))
            yield place
        finally:
            if place is None or not place.submitted:
                with self._changed:
                    self._taken -= 1
                if place is not None:
                    shutil.rmtree(place.folder, ignore_errors=True)

    def submit(self, place: Place, scan: Scan) -> Job:
        """The job of an upload that has a place."""
        job = Job(place.folder, scan)
        with self._changed:
            place.submitted = True
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def find(self, job_id: str) -> Job:
        """The job that a client names.

        Raises:
            Refusal: 404: there is none, or none any more.
        """
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None or self._is_old(job):
            raise Refusal(404, "there is no such job", fix="Results are deleted after a time; upload the scan again.")
        return job

    def position(self, job: Job) -> int:
        """Jobs before this one; 0 where it does not wait."""
        with self._changed:
            return 1 + self._waiting.index(job) if job in self._waiting else 0

    def kept_s(self, job: Job) -> float | None:
        """Seconds after which the job is deleted, ``None`` while it has not ended."""
        if job.state not in ENDED:
            return None
        return max(0.0, job.ended_at + self._limits.kept_s - self._clock())

    def remove(self, job: Job) -> None:
        """Cancel a job that has not ended; delete it and its files as soon as nobody works with them."""
        job.stop.set()
        with self._changed:
            self._jobs.pop(job.id, None)
            waited = job in self._waiting
            if waited:
                self._waiting.remove(job)
                self._taken -= 1
            running = job.state == "running"
            job.state = job.state if job.state in ENDED else "cancelled"
        if not running:
            self._clear(job)

    def remove_old(self) -> None:
        """Delete the jobs that have been kept long enough."""
        with self._changed:
            old = [job for job in self._jobs.values() if self._is_old(job)]
        for job in old:
            self.remove(job)

    def _busy(self, what: str) -> Refusal:
        after = round(max(1.0, min(60.0, self._seconds * (1 + len(self._waiting)))))
        return Refusal(503, f"busy: {what}", fix=f"Try again in {after} seconds.", retry_after_s=after)

    def _is_old(self, job: Job) -> bool:
        left = self.kept_s(job)
        return left is not None and left <= 0

    def _clear(self, job: Job) -> None:
        with job.lock:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _sweep(self) -> None:
        pause = min(30.0, max(0.05, self._limits.kept_s / 10))
        while True:
            with self._changed:
                # woken by every job; that only means to look once more
                self._changed.wait_for(lambda: self._closing, timeout=pause)
                if self._closing:
                    return
            self.remove_old()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                job = self._waiting.popleft()
                job.state = "running"
            started = time.monotonic()
            state = self._run(job)
            self._finish(job, state, time.monotonic() - started)

    def _run(self, job: Job) -> State:
        with job.lock:
            try:
                job.answer = self._work(job)
            except CancelledError:
                return "cancelled"
            except Refusal as refusal:
                job.error = refusal.detail
                return "failed"
            except Exception as error:  # noqa: BLE001  # the worker outlives whatever a strange scan brings about
                job.error = "the scan cannot be predicted: an unexpected failure"
                self._tell(f"unexpected {type(error).__name__} at {place_of(error)}")
                return "failed"
        return "done"

    def _finish(self, job: Job, state: State, seconds: float) -> None:
        size = bytes_in(job.folder)
        with self._changed:
            wanted = job.id in self._jobs
            job.stored_bytes, job.ended_at = size, self._clock()
            job.state = state if wanted else "cancelled"
            job.progress = 1.0 if state == "done" else job.progress
            self._taken -= 1
            if state == "done":
                self._seconds += (seconds - self._seconds) / 4
        if not wanted:
            self._clear(job)
        elif state != "done":
            self._empty(job)
        self._tell(f"job {state} after {seconds:.1f} s")

    def _empty(self, job: Job) -> None:
        """Nothing of a failed job is kept but its message."""
        self._clear(job)
        job.stored_bytes = 0


def place_of(error: BaseException) -> str:
    """Where an error arose, as ``module.py:line``: its message might tell what is in a scan."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
