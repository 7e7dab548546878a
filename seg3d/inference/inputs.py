"""Which scans are to be predicted: from files and folders to cases with one file per channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg3d.errors import DataError
from seg3d.io import SUFFIXES, answer_name, image_stem, images_in, is_picture, read_header

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Scan:
    """A scan to be predicted.

    Attributes:
        name: File name of the answer.
        images: One file per channel.
    """

    name: str
    images: tuple[Path, ...]


def find_scans(inputs: Sequence[Path], channels: int) -> list[Scan]:
    """The scans in files and folders, sorted by name.

    A model of one channel takes every image file under its own name. A model of several takes the files
    ``NAME_0000``, ``NAME_0001``, ... of a scan, as nnU-Net names them; the answer is called ``NAME``. A file of another
    name, and a picture that has them all, holds all channels. A folder gives the image files directly in it. The answer
    to a JPEG is a PNG.

    Args:
        inputs: Files and folders.
        channels: Channels of the model.

    Raises:
        DataError: An input does not exist, holds no image, a channel is missing, or two scans have the same name, or
            the same channel two files: those of two folders may be of two patients.
    """
    files = [file for path in inputs for file in _expand(path)]
    scans = [_whole(file) for file in files] if channels == 1 else _group(files, channels)
    scans.sort(key=lambda scan: scan.name)
    stems = [image_stem(Path(scan.name)) for scan in scans]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataError("several scans have the same name", where=", ".join(twice), fix="Predict them separately.")
    return scans


def _whole(file: Path) -> Scan:
    return Scan(answer_name(file), (file,))


def _expand(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError("the input does not exist", where=path)
    if path.is_file():
        return [path]
    files = images_in(path)
    if not files:
        raise DataError(
            "the folder holds no image",
            where=path,
            expected=f"files ending in {', '.join(SUFFIXES)}",
            fix="DICOM and MetaImage: seg3d convert makes NIfTI of them.",
        )
    return files


def _group(files: Sequence[Path], channels: int) -> list[Scan]:
    found: dict[str, dict[int, Path]] = {}
    whole = []
    for file in files:
        stem = image_stem(file)
        match = _CHANNEL.fullmatch(stem)
        # a file with all channels on its fourth axis, or a colour picture whose name ends in a number
        if match is None or (is_picture(file) and read_header(file).channels == channels):
            whole.append(_whole(file))
            continue
        name = answer_name(file.with_name(f"{match['case']}{file.name[len(stem) :]}"))
        parts, channel = found.setdefault(name, {}), int(match["channel"])
        if channel in parts:
            raise DataError(
                f"two files are channel {channel} of one scan",
                where=name,
                got=f"{parts[channel]} and {file}",
                fix="Scans of the same name in several folders: predict one folder at a time, or rename them.",
            )
        parts[channel] = file
    for name, parts in found.items():
        if sorted(parts) != list(range(channels)):
            raise DataError(
                "the scan's channels are not complete",
                where=name,
                got=sorted(parts),
                expected=f"0 to {channels - 1}",
            )
    return [*whole, *(Scan(name, tuple(parts[i] for i in range(channels))) for name, parts in found.items())]
