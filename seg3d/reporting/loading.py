"""Cases of figures from files: in canonical orientation, one grey channel, labels by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.cases import refuse_grey_levels
from seg3d.errors import DataError
from seg3d.io import image_stem, images_in, read_header, read_label_map, read_volume
from seg3d.reporting.figures import FigureCase, canonical
from seg3d.volume import Volume

FIRST_CHANNEL = "_0000"
# Source: ITU-R BT.601, luma of red, green and blue
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class CaseFiles:
    """Where a case of a figure lies.

    Attributes:
        name: Case id.
        image: The scan or picture; of several channels the first is drawn, of red, green and blue their brightness.
        prediction: Predicted label map, ``None`` where there is none.
        reference: True label map, ``None`` where there is none.
        negative: It is declared to hold no foreground: its reference is all background and needs no file.
    """

    name: str
    image: Path
    prediction: Path | None
    reference: Path | None
    negative: bool = False


def images_of(folder: Path) -> dict[str, Path]:
    """Image files of a folder by case: by stem, and without nnU-Net's ending of the first channel.

    Raises:
        DataError: Two files differ in their suffix alone.
    """
    files: dict[str, Path] = {}
    for file in images_in(folder):
        former = files.setdefault(image_stem(file), file)
        if former is not file:
            raise DataError("two files have one name", where=file, got=former.name, fix="Keep one of them.")
    channels = {stem.removesuffix(FIRST_CHANNEL): file for stem, file in files.items() if stem.endswith(FIRST_CHANNEL)}
    return channels | files


def image_of(folder: Path, case: str) -> Path:
    """The image of a case in a folder.

    Raises:
        DataError: It is not there.
    """
    found = images_of(folder).get(case)
    if found is None:
        raise DataError("the scan of the case is not there", where=folder, got=case)
    return found


def load_case(
    files: CaseFiles,
    label_names: Mapping[int, str] | None,
    *,
    ignore_label: int | None = None,
    score: float | None = None,
    window: tuple[float, float] | None = None,
) -> FigureCase:
    """The case, read.

    Args:
        files: Where it lies.
        label_names: Label value -> name, without background and the ignored one; as found in the maps where ``None``.
        ignore_label: Value of the reference that counts nowhere.
        score: Dice, where it is known.
        window: Grey values drawn black and white; percentiles of the image where ``None``.

    Raises:
        DataError: A file is broken, its maps lie on another grid than its image, or have grey levels that nothing
            declares.
    """
    picture = read_header(files.image).format == "picture"
    scan = read_volume(files.image)
    image, _ = canonical(Volume(one_channel(scan.data, picture), scan.grid))
    known: tuple[int | None, ...] = () if label_names is None else (0, *label_names)
    prediction = _labels(files.prediction, image, known)  # which never holds the ignored label
    reference = _labels(files.reference, image, (*known, ignore_label) if known else ())
    if files.negative and reference is None:
        reference = np.zeros(image.grid.shape, np.uint8)
    if label_names is None:
        values = {int(v) for m in (reference, prediction) if m is not None for v in np.unique(m)}
        label_names = {value: f"label {value}" for value in sorted(values - {0, ignore_label})}
    return FigureCase(
        files.name, image.data[0], reference, prediction, image.grid.spacing_mm, label_names, score, window,
        picture=picture, ignore_label=ignore_label,
    )  # fmt: skip


def undeclared(case: FigureCase) -> list[int]:
    """Label values of the maps that have no name; a figure would show them in a count and not in a Dice."""
    known = {0, *case.label_names}
    found = {
        int(value)
        for labels, ignored in ((case.reference, case.ignore_label), (case.prediction, None))
        if labels is not None
        for value in np.unique(labels)
        if value != ignored
    }
    return sorted(found - known)


def _labels(path: Path | None, image: Volume, declared: Collection[int | None]) -> NDArray[Any] | None:
    if path is None:
        return None
    found = read_label_map(path, declared)
    if not declared:
        refuse_grey_levels(found.data, path)
    labels, _ = canonical(found)
    if labels.grid.shape != image.grid.shape:
        raise DataError(
            "the label map has another size than its image",
            where=path,
            got=labels.grid.shape,
            expected=image.grid.shape,
        )
    if not labels.grid.same_as(image.grid):  # of one size, it would be drawn where it is not
        raise DataError(
            "the label map lies elsewhere than its image",
            where=path,
            got=labels.grid.affine.round(3).tolist(),
            expected=image.grid.affine.round(3).tolist(),
        )
    data: NDArray[Any] = labels.data[0]
    return data


def one_channel(data: NDArray[Any], picture: bool) -> NDArray[Any]:
    """The channel ``(1, x, y, z)`` that is drawn: the first, and of a picture in colours their brightness."""
    if picture and data.shape[0] == 3:
        brightness: NDArray[Any] = np.einsum("c,cxyz->xyz", _LUMA, data.astype(np.float32))[np.newaxis]
        return brightness
    return data[:1]
