"""The web app: routes from requests to jobs and from jobs to answers."""

from __future__ import annotations

import asyncio
import errno
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from seg3d import __version__
from seg3d.serving import answers, pages
from seg3d.serving.access import COOKIE, VIEWER_POLICY, Access, Guard
from seg3d.serving.documents import Cards, Health, JobState, Session, Volumes, job_state, volumes_of
from seg3d.serving.inspection import Scan, inspect
from seg3d.serving.jobs import Job, JobQueue
from seg3d.serving.model import ServedModel
from seg3d.serving.refusals import Refusal
from seg3d.serving.settings import Limits
from seg3d.serving.uploads import FIELD, receive_files
from seg3d.training.memory import give_back_memory, kept_memory

T = TypeVar("T")

_STATIC = Path(__file__).parent / "static"
_PIECE = 1 << 18
_RENDERING = 8  # requests for results that may wait for one another
_MOST_SESSION_BYTES = 4096
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "One file with all channels, or one for each in the model's order.",
                        }
                    },
                }
            }
        },
    }
}
_REFUSED = {
    400: {"description": "Empty, no image, or no form"},
    408: {"description": "The upload stopped or took too long"},
    413: {"description": "Too many bytes or voxels"},
    415: {"description": "Not an image that can be read"},
    422: {"description": "Damaged, or not what the model has learnt from"},
    503: {"description": "Busy; Retry-After says when to come back"},
}
_ABSENT: dict[int | str, dict[str, Any]] = {404: {"description": "No such job, or deleted"}}
_NOT_DONE = _ABSENT | {409: {"description": "Not done yet"}, 503: {"description": "Busy with the results of others"}}
Threshold = Annotated[
    float | None,
    Query(ge=0, lt=1, description="Instead of the most probable label: a foreground probability above this."),
]
Download = Annotated[bool, Query(description="Save it instead of showing it; its own threshold can then be moved.")]


def create_app(
    model: ServedModel,
    folder: Path,
    limits: Limits | None = None,
    access: Access | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> ASGIApp:
    """The app of a model, to be run by an ASGI server.

    Args:
        model: The one model that is served.
        folder: Where uploads and results lie; see :func:`seg3d.serving.storage.private_folder`.
        limits: What clients may ask for.
        access: Who may ask; anybody if ``None``.
        tell: Called with lines for the log; none tells anything of a scan but the time it took.
    """
    desk = _Desk(model, folder, limits or Limits(), tell)
    access = access or Access()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # what is there now stays: else each search for garbage after a job would look through all of torch
        gc.freeze()
        desk.queue.start()
        yield
        await asyncio.to_thread(desk.queue.close)
        gc.unfreeze()

    app = FastAPI(
        title="seg3d",
        version=__version__,
        description=f"Segmentation by {model.card['id']}. {model.card['disclaimer']}",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(Refusal, _answer_refusal)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_failure)
    _add_pages(app, desk, access)
    _add_jobs(app, desk)
    _add_results(app, desk)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    return Guard(app, access, tell)


class _Desk:
    """What the routes share."""

    def __init__(self, model: ServedModel, folder: Path, limits: Limits, tell: Callable[[str], None]) -> None:
        self.model, self.limits = model, limits
        self.queue = JobQueue(folder, limits, self._predict, tell=tell)
        self._inspecting, self._rendering = asyncio.Lock(), asyncio.Lock()
        self._renderings = 0

    def _predict(self, job: Job) -> answers.Answer:
        with kept_memory():
            return answers.predict_job(self.model, job)

    def _inspect(self, files: list[Path]) -> Scan:
        try:
            return inspect(files, self.model.wanted, self.limits.voxels)
        finally:
            give_back_memory()

    async def take_in(self, request: Request) -> Job:
        """The job of an upload."""
        with self.queue.place() as place:
            most = max(1, len(self.model.wanted.channels))
            try:
                files = await receive_files(request, place.folder, self.limits, most)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise Refusal(503, "busy: there is no room for the upload", retry_after_s=60) from error
            async with self._inspecting:  # one at a time: it reads the scan in full
                scan = await asyncio.to_thread(self._inspect, files)
            return self.queue.submit(place, scan)

    async def render(self, job_id: str, make: Callable[[Job], T]) -> T:
        """What ``make`` makes of a job that is done, one at a time."""
        job = self.queue.find(job_id)
        if job.state != "done":
            raise Refusal(409, f"the job is {job.state}", expected="done")
        if self._renderings >= _RENDERING:
            raise Refusal(503, "busy: others wait for their results", retry_after_s=2)
        self._renderings += 1
        try:
            async with self._rendering:
                return await asyncio.to_thread(_locked, job, make)
        finally:
            self._renderings -= 1


def _locked(job: Job, make: Callable[[Job], T]) -> T:
    with job.lock:
        try:
            return make(job)
        except FileNotFoundError as error:  # deleted since it was found
            raise Refusal(404, "there is no such job", fix="Results are deleted after a time.") from error
        finally:
            give_back_memory()


def _add_pages(app: FastAPI, desk: _Desk, access: Access) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return pages.index_page(desk.model, desk.limits)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return pages.docs_page(app.openapi())

    @app.get("/login", response_class=HTMLResponse, include_in_schema=False)
    async def login() -> str:
        return pages.login_page()

    @app.post("/session", status_code=204, include_in_schema=False)
    async def session(request: Request) -> Response:
        try:
            given = Session.model_validate_json(await _small_body(request)).token.get_secret_value()
        except ValidationError as error:
            raise Refusal(400, "there is no token in the request") from error
        if not access.knows(given):
            raise Refusal(401, "this is not the token")
        response = Response(status_code=204)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, access.session, httponly=True, samesite="strict", secure=secure)
        return response

    @app.get("/health")
    async def health() -> Health:
        """Whether scans are being answered; needs no token."""
        if not desk.queue.alive:
            raise Refusal(503, "the worker has stopped", retry_after_s=60)
        return Health(status="ok")

    @app.get("/models")
    async def models() -> Cards:
        """The card of the model that is served."""
        return Cards(models=[dict(desk.model.card)])


def _add_jobs(app: FastAPI, desk: _Desk) -> None:
    @app.post("/predict", status_code=202, openapi_extra=_FORM, responses=_REFUSED)  # type: ignore[arg-type]
    async def predict(request: Request, response: Response) -> JobState:
        """Take in a scan and queue it; it has been read in full when this is answered with 202."""
        job = await desk.take_in(request)
        response.headers["location"] = f"/jobs/{job.id}"
        return job_state(desk.queue, job)

    @app.get("/jobs/{job_id}", responses=_ABSENT)
    async def job(job_id: str) -> JobState:
        """How far a job has come, and what was found."""
        return job_state(desk.queue, desk.queue.find(job_id))

    @app.delete("/jobs/{job_id}", status_code=204, responses=_ABSENT)
    async def cancel(job_id: str) -> Response:
        """Cancel a job that has not ended; delete the scan and everything made from it."""
        await asyncio.to_thread(desk.queue.remove, desk.queue.find(job_id))
        return Response(status_code=204)


def _add_results(app: FastAPI, desk: _Desk) -> None:
    model = desk.model

    @app.get("/jobs/{job_id}/volumes", responses=_NOT_DONE)
    async def volumes(job_id: str, threshold: Threshold = None) -> Volumes:
        """Voxels and millilitres of each label."""
        found = await desk.render(job_id, partial(answers.measure_at, model, threshold=threshold))
        return volumes_of(found)

    @app.get("/jobs/{job_id}/mask", response_class=Response, responses=_NOT_DONE)
    async def mask(job_id: str, threshold: Threshold = None) -> Response:
        """The mask on the scan's own grid: NIfTI, NRRD, or PNG for a picture."""
        file = await desk.render(job_id, lambda job: _open_once(answers.write_mask(model, job, threshold)))
        return _download(file)

    @app.get("/jobs/{job_id}/probability/{key}", response_class=Response, responses=_NOT_DONE)
    async def probability(job_id: str, key: str) -> Response:
        """The probability of a label (by value) or region (by name); TIFF for a picture."""
        file = await desk.render(job_id, lambda job: _open_map(job, job.answer.probabilities, key))
        return _download(file)

    @app.get("/jobs/{job_id}/uncertainty/{kind}", response_class=Response, responses=_NOT_DONE)
    async def uncertainty(job_id: str, kind: str) -> Response:
        """Where several runs are served: ``entropy``, ``mutual_information`` or ``sd``."""
        file = await desk.render(job_id, lambda job: _open_map(job, job.answer.uncertainty, kind))
        return _download(file)

    @app.get("/jobs/{job_id}/page", response_class=HTMLResponse, responses=_NOT_DONE)
    async def page(job_id: str, threshold: Threshold = None, download: Download = False) -> Response:
        """Image and answer in one HTML document."""
        make = partial(answers.case_page, model, threshold=threshold, adjustable=download)
        headers = {"content-security-policy": VIEWER_POLICY}
        if download:
            headers["content-disposition"] = 'attachment; filename="segmentation.html"'
        return HTMLResponse(await desk.render(job_id, make), headers=headers)


def _open_map(job: Job, maps: Mapping[str, Path], key: str) -> BinaryIO:
    if key not in maps:
        raise Refusal(404, "there is no such map", expected=", ".join(maps) or "none, because one run is served")
    return _open_once(answers.write_map(job, maps[key]))


def _open_once(path: Path) -> BinaryIO:
    """A file that is gone as soon as it is closed."""
    file = path.open("rb")
    path.unlink()
    return file


def _download(file: BinaryIO) -> Response:
    size = file.seek(0, 2)
    file.seek(0)

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(_PIECE):
                yield piece

    # without a name: the page knows the scan's, which the server was never told
    headers = {"content-disposition": "attachment", "content-length": str(size)}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


async def _small_body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_SESSION_BYTES:
            raise Refusal(413, "the request is too large")
    return body


async def _answer_refusal(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    headers = {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
    return JSONResponse({"detail": refusal.detail}, refusal.status, headers)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # the client has gone


async def _answer_failure(_: Request, __: Exception) -> Response:
    return JSONResponse({"detail": "an unexpected failure"}, 500)
