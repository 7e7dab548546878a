"""What the API answers, as documents with a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field, SecretStr

from seg3d.serving.jobs import Job, JobQueue, State


class Health(BaseModel):
    """Whether the server answers."""

    status: str


class Cards(BaseModel):
    """Cards of the models that are served: one."""

    models: list[dict[str, Any]]


class Session(BaseModel):
    """What a browser shows once."""

    token: SecretStr


class LabelVolume(BaseModel):
    """How much of a label was found."""

    name: str
    value: int
    voxels: int
    volume_ml: float | None = Field(description="null for a picture, whose pixels have no known size")
    mean_sd: float | None = Field(description="mean over its voxels of the SD over runs of its probability")


class Volumes(BaseModel):
    """How much of each label was found."""

    volumes: list[LabelVolume]


class JobState(BaseModel):
    """How far a job has come."""

    id: str
    state: State
    position: int = Field(description="place in the queue; 0 if it does not wait")
    progress: float = Field(description="share of the work that is done, 0 to 1")
    error: str | None
    kept_s: float | None = Field(description="seconds until it is deleted; null until it has ended")
    volumes: list[LabelVolume] | None
    links: dict[str, str] = Field(description="where its results are, by name")
    suffixes: dict[str, str] = Field(description="of the files behind them: of the mask, and of the maps")


def job_state(queue: JobQueue, job: Job) -> JobState:
    """The document of a job."""
    return JobState(
        id=job.id,
        state=job.state,
        position=queue.position(job),
        progress=job.progress,
        error=job.error,
        kept_s=queue.kept_s(job),
        volumes=volumes_of(job.answer.volumes).volumes if job.state == "done" else None,
        links=_links(job),
        suffixes={"mask": job.scan.answer_suffix(real=False), "maps": job.scan.answer_suffix(real=True)},
    )


def volumes_of(found: Sequence[Mapping[str, Any]]) -> Volumes:
    """The document of what :func:`seg3d.serving.answers.measure` gives."""
    return Volumes(volumes=[LabelVolume(**each) for each in found])


def _links(job: Job) -> dict[str, str]:
    here = f"/jobs/{job.id}"
    if job.state != "done":
        return {"self": here}
    maps = {f"probability_{key}": f"{here}/probability/{quote(key, safe='')}" for key in job.answer.probabilities}
    maps |= {kind: f"{here}/uncertainty/{kind}" for kind in job.answer.uncertainty}
    return {"self": here, "page": f"{here}/page", "mask": f"{here}/mask", "volumes": f"{here}/volumes"} | maps
