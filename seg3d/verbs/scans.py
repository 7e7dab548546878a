"""Scans to be predicted and answers to be written: names, formats, and how far a prediction has come."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic's own choice up to Python 3.11

from seg3d.atomic import remove_leftovers, write_json
from seg3d.digest import sha256_file
from seg3d.errors import DataError
from seg3d.inference.inputs import Scan
from seg3d.inference.precision import PrecisionChoice
from seg3d.inference.predictor import Prediction, Predictor
from seg3d.io import answer_name, image_stem, is_picture, read_header, read_image, write_like
from seg3d.preparation import Prepared
from seg3d.verbs.manifest import withdraw

PROGRESS = "predictions.unfinished.json"


class _Done(TypedDict):
    files: list[list[Any]]
    answer: str


class _Former(TypedDict):
    made_by: dict[str, Any]
    done: dict[str, _Done]
    precision: dict[str, Any]


_SHAPE = TypeAdapter(_Former)
_MAPS = ("probabilities", "uncertainty", "attention")  # folders beside the label maps
_NAMED = 5  # files in a message


def read_scan(predictor: Predictor, scan: Scan) -> Prepared:
    """A scan from its files, ready for the network."""
    return predictor.prepare(read_image(scan.images, len(predictor.channels)))


def digests(scan: Scan) -> dict[str, str]:
    """SHA-256 of a scan's files by name; those that are gone are left out."""
    return {path.name: sha256_file(path) for path in scan.images if path.is_file()}


def write_answer(predictor: Predictor, scan: Scan, target: Path, found: Prediction) -> Path:
    """Write the maps of a scan, the label map last: where it is, all of them are."""
    header = read_header(scan.images[0])
    path = target / scan.name
    real = suffix(answer_name(path, real=True))
    for value, values in found.probabilities.items():
        name = f"{image_stem(path)}_probability_{value}{real}"
        write_like(target / "probabilities" / name, values, header)
    for kind, values in found.uncertainty.items():
        write_like(target / "uncertainty" / f"{image_stem(path)}_{kind}{real}", values, header)
    for number, values in enumerate(found.attention, start=1):  # 1 is the finest
        write_like(target / "attention" / f"{image_stem(path)}_gate_{number}{real}", values, header)
    target.mkdir(parents=True, exist_ok=True)
    write_like(path, found.label, header, binary=predictor.labels == (0, 1))
    return path


class Progress:
    """Which scans of a prediction are done, kept in its folder until all are, so that it goes on after an end.

    What a killed prediction was writing is removed. A scan counts as done only if the same members with the same
    settings have answered to the same files, and the answer is the one that they gave.

    Args:
        target: Folder of the answers.
        made_by: What decides an answer beside the scan.
    """

    def __init__(self, target: Path, made_by: Mapping[str, Any]) -> None:
        for folder in (target, *(target / name for name in _MAPS)):
            remove_leftovers(folder)
        self._path = target / PROGRESS
        self._target = target
        self._made_by = json.loads(json.dumps(made_by))
        self._answers: dict[str, str] = {}
        self._done: dict[str, Any] = {}
        self._precision: dict[str, Any] = {}
        former = _read(self._path)
        if former.get("made_by") == self._made_by:
            self._done, self._precision = former["done"], former["precision"]

    def has(self, scan: Scan) -> bool:
        """Whether a scan has its answer already."""
        done = self._done.get(scan.name, {})
        return done.get("files") == _files(scan) and self.has_own(scan)

    def has_own(self, scan: Scan) -> bool:
        """Whether the answer that lies there is the one that was given here, not that of another process."""
        answer = self._target / scan.name
        return scan.name in self._done and answer.is_file() and self._done[scan.name]["answer"] == sha256_file(answer)

    def write(self, scan: Scan, write: Callable[[], Path]) -> None:
        """Write the answer to a scan; who answers is written down before the first one.

        What another model had done in this folder does not count from then on.
        """
        if not self._answers:
            self._save()
        withdraw(self._target, scan.name)
        self._answers[scan.name] = sha256_file(write())

    def note(self, scan: Scan, precision: PrecisionChoice | None) -> None:
        """Remember in which precision a scan was answered, where that was checked."""
        self._precision.pop(scan.name, None)
        if precision is not None:
            self._precision[scan.name] = vars(precision)

    def add(self, scan: Scan) -> None:
        """A scan has its answer now."""
        self._done[scan.name] = {"files": _files(scan), "answer": self._answers[scan.name]}
        self._save()

    def _save(self) -> None:
        write_json(self._path, {"made_by": self._made_by, "done": self._done, "precision": self._precision})

    def precision(self, scans: Sequence[Scan]) -> dict[str, Any]:
        """What was noted of scans, by name."""
        return {scan.name: self._precision[scan.name] for scan in scans if scan.name in self._precision}

    def finish(self) -> None:
        """All scans have theirs: what is predicted next begins anew."""
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """A record of progress; one that is damaged or of another version is as none, which costs time, nothing else."""
    try:
        return dict(_SHAPE.validate_json(path.read_bytes()))
    except (OSError, ValidationError):
        return {}


def _files(scan: Scan) -> list[list[Any]]:
    """Where the files of a scan are, and by what a change of one shows; those that are gone are left out."""
    there = [path for path in scan.images if path.is_file()]
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in there]


def refuse_overwriting_inputs(scans: Sequence[Scan], target: Path) -> None:
    """Refuse to write answers over what they answer to.

    Raises:
        DataError: An answer would have the place of a scan.
    """
    clash = [scan.name for scan in scans if _overwrites(target / scan.name, scan)]
    if clash:
        raise DataError(
            "the answers would overwrite the scans", where=target, got=", ".join(clash), fix="Give another --output."
        )


def refuse_other_kind(scans: Sequence[Scan], pictures: bool | None) -> None:
    """Refuse pictures for a network of volumes, and volumes for one of pictures.

    Args:
        scans: What is to be predicted.
        pictures: Whether the network has learnt from pictures alone or from volumes alone; ``None``: neither.

    Raises:
        DataError: A scan is of the other kind.
    """
    other = [path for scan in scans for path in scan.images if pictures is not None and is_picture(path) != pictures]
    if not other:
        return
    got = ", ".join(path.name for path in other[:_NAMED]) + (f" and {len(other) - _NAMED} more" * (len(other) > _NAMED))
    if pictures:
        what = "a volume is turned to the patient's axes, which the pictures that this run has learnt from do not have"
        expected, fix = "PNG, TIFF or JPEG", "Export it as the pictures were, or leave it out."
    else:
        what = "a picture does not hold the grey values that this run has learnt from"
        expected, fix = "volumes, as NIfTI or NRRD", "Predict the scan itself, not a picture of it, or leave it out."
    raise DataError(what, where=other[0].parent, got=got, expected=expected, fix=fix)


def _overwrites(answer: Path, scan: Scan) -> bool:
    """Whether an answer would replace a scan, or a file beside a scan whose answer is of another format."""
    beside = any(image.resolve().parent == answer.resolve().parent for image in scan.images)
    renamed = beside and answer.exists() and suffix(scan.name) != suffix(scan.images[0].name)
    return renamed or answer.resolve() in {image.resolve() for image in scan.images}


def suffix(name: str) -> str:
    """What follows the stem of a file's name, such as ``.nii.gz``."""
    return name[len(image_stem(Path(name))) :]
