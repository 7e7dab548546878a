"""What is told of a predicted scan: masks, volumes, maps, and the page that shows them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import Seg3dError
from seg3d.inference.cleanup import clean_up
from seg3d.inference.predictor import Predictor
from seg3d.io import is_picture, read_header, read_image, write_like
from seg3d.serving.cards import DISCLAIMER
from seg3d.serving.jobs import Job
from seg3d.serving.model import ServedModel, watched
from seg3d.serving.refusals import Refusal, told
from seg3d.volume import Volume

_UNCERTAINTY = "standard deviation over the runs of the shown label's probability"


@dataclass(frozen=True, eq=False)
class Answer:
    """The arrays of a prediction, kept beside the scan.

    Attributes:
        label: File of the label map ``(x, y, z)`` as ``seg3d predict`` gives it.
        probabilities: Files of ``(x, y, z)`` float32 by label value or name of the region.
        uncertainty: Files of ``(x, y, z)`` float32 by kind; empty where one run is served.
        volumes: See :func:`measure`.
    """

    label: Path
    probabilities: Mapping[str, Path]
    uncertainty: Mapping[str, Path]
    volumes: Sequence[Mapping[str, Any]]


def predict_job(model: ServedModel, job: Job) -> Answer:
    """The answer to a job's scan, written into its folder.

    Raises:
        Refusal: The scan cannot be prepared.
        CancelledError: Nobody wants it any more.
    """
    job.advance(0.0)
    try:
        volumes = read_image(job.scan.images, len(model.wanted.channels))
        with watched(replace(model.predictor, scratch=job.folder), job.advance) as predictor:
            found = predictor.predict(volumes, probabilities=True)
    except Seg3dError as error:
        raise Refusal(422, told(error, job.folder)) from error
    job.advance(0.95)
    grid = volumes[0].grid
    del volumes
    return Answer(
        _keep(job.folder / "label.npy", found.label),
        {str(key): _keep(job.folder / f"p{n}.npy", v) for n, (key, v) in enumerate(found.probabilities.items())},
        {kind: _keep(job.folder / f"{kind}.npy", values) for kind, values in found.uncertainty.items()},
        measure(model, found.label, _voxel_ml(job, grid.voxel_volume_ml), found.uncertainty.get("sd")),
    )


def measure(
    model: ServedModel, label: NDArray[Any], voxel_ml: float | None, sd: NDArray[np.float32] | None
) -> list[dict[str, Any]]:
    """Of each label or region its ``name``, ``value``, ``voxels``, ``volume_ml`` and ``mean_sd``.

    ``volume_ml`` is ``None`` for a picture, whose pixels have no known size; ``mean_sd`` is the mean over its voxels of
    the standard deviation over runs of its probability, ``None`` where one run is served or it has no voxel.

    Args:
        model: Whose labels they are.
        label: ``(x, y, z)``.
        voxel_ml: Volume of a voxel in millilitres.
        sd: ``(x, y, z)``, see :class:`seg3d.inference.predictor.Prediction`.
    """
    members = {region.label: region.values for region in model.predictor.regions}
    found = []
    for value, name in sorted(model.names.items()):
        inside = np.isin(label, members.get(value, (value,)))
        voxels = int(np.count_nonzero(inside))
        found.append(
            {
                "name": name,
                "value": value,
                "voxels": voxels,
                "volume_ml": None if voxel_ml is None else voxels * voxel_ml,
                "mean_sd": float(sd[inside].mean()) if sd is not None and voxels else None,
            }
        )
    return found


def measure_at(model: ServedModel, job: Job, threshold: float | None) -> Sequence[Mapping[str, Any]]:
    """The volumes at a threshold; see :func:`measure` and :func:`label_at`."""
    answer: Answer = job.answer
    if threshold is None:
        return answer.volumes
    sd = answer.uncertainty.get("sd")
    label = label_at(model.predictor, answer, threshold, job.scan.header.grid.voxel_volume_ml)
    voxel_ml = _voxel_ml(job, job.scan.header.grid.voxel_volume_ml)
    return measure(model, label, voxel_ml, None if sd is None else np.load(sd))


def label_at(predictor: Predictor, answer: Answer, threshold: float | None, voxel_ml: float) -> NDArray[Any]:
    """The label map ``(x, y, z)``, or another one with a threshold.

    With a threshold a voxel gets its most probable foreground label if that one's probability is above it; a region
    stands where its own is. At 0.5 this is the prediction itself where there is one label, or regions, and the
    scan is not resampled; with several labels a prediction may also choose one of less than a half. What the
    run's config cleans up is cleaned up after it.

    Args:
        predictor: Whose labels they are.
        answer: Its answer.
        threshold: 0 to 1, or ``None`` for the prediction as it is.
        voxel_ml: Volume of a voxel in millilitres.
    """
    label: NDArray[Any] = np.load(answer.label)
    if threshold is None:
        return label
    label[:] = 0
    shown = [region.label for region in predictor.regions] or [v for v in predictor.labels if v != 0]
    best = np.full(label.shape, threshold, dtype=np.float32)
    for value, path in zip(shown, answer.probabilities.values(), strict=True):
        found = np.load(path, mmap_mode="r")
        won = found > (threshold if predictor.regions else best)
        label[won] = value
        best[won] = found[won]
    return clean_up(label, voxel_ml, keep_largest=predictor.keep_largest, min_size_ml=predictor.min_size_ml)


def write_mask(model: ServedModel, job: Job, threshold: float | None) -> Path:
    """A new file in the job's folder with the mask on the scan's own grid, as ``seg3d predict`` writes it."""
    header = read_header(job.scan.images[0])
    label = label_at(model.predictor, job.answer, threshold, header.grid.voxel_volume_ml)
    path = _new(job, real=False)
    write_like(path, label, header, binary=model.predictor.labels == (0, 1))
    return path


def write_map(job: Job, values: Path) -> Path:
    """A new file in the job's folder with a map of real numbers on the scan's own grid."""
    path = _new(job, real=True)
    write_like(path, np.load(values), read_header(job.scan.images[0]))
    return path


def case_page(model: ServedModel, job: Job, threshold: float | None, *, adjustable: bool) -> str:
    """One HTML document with image, answer and uncertainty, which needs no network.

    Args:
        model: Whose answer it is.
        job: A job that is done.
        threshold: See :func:`label_at`.
        adjustable: The page itself can change the threshold, where there is but one label.
    """
    from seg3d.reporting.viewer import SHOWN_TURNED, viewer_page

    answer: Answer = job.answer
    volumes = read_image(job.scan.images, len(model.wanted.channels))
    grid = volumes[0].grid
    image = volumes[0] if len(volumes) == 1 else Volume(np.concatenate([volume.data for volume in volumes]), grid)
    label = label_at(model.predictor, answer, threshold, grid.voxel_volume_ml)
    single = adjustable and len(answer.probabilities) == 1 and not model.predictor.regions
    return viewer_page(
        "scan",  # not its file's name
        image,
        prediction=Volume(label[None], grid),
        uncertainty=_volume(answer.uncertainty.get("sd"), image),
        probability=_volume(next(iter(answer.probabilities.values())), image) if single else None,
        names=model.names,
        picture=is_picture(job.scan.images[0]),
        notes=(*_notes(model, threshold), *([SHOWN_TURNED] if job.scan.header.shown_turned else []), DISCLAIMER),
    )


def _notes(model: ServedModel, threshold: float | None) -> list[str]:
    notes = [f"Predicted by {model.card['id']} (seg3d {model.card['seg3d']})."]
    if threshold is not None:
        notes.append(f"Shown with a threshold of {threshold:g} instead of the most probable label.")
    if model.predictor.others:
        notes.append(f"Uncertainty: {_UNCERTAINTY}.")
    return notes


def _volume(path: Path | None, image: Volume) -> Volume | None:
    return None if path is None else Volume(np.load(path)[None], image.grid)


def _voxel_ml(job: Job, voxel_ml: float) -> float | None:
    return None if is_picture(job.scan.images[0]) else voxel_ml


def _keep(path: Path, values: NDArray[Any]) -> Path:
    np.save(path, values, allow_pickle=False)
    return path


def _new(job: Job, *, real: bool) -> Path:
    """A path that nothing has yet, with the suffix of the answer's format."""
    return job.folder / f"{secrets.token_hex(8)}{job.scan.answer_suffix(real=real)}"
