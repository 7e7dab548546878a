"""``seg3d convert``: DICOM series and MetaImage files to NIfTI, which the other commands read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seg3d.errors import DataError, Fault, FaultsError
from seg3d.io import dicom, metaimage, read_volume
from seg3d.io.below import files_below
from seg3d.io.nifti import write_nifti
from seg3d.volume import Volume


@dataclass(frozen=True)
class _Found:
    """A volume that is to be written; ``number`` tells series of one folder apart."""

    name: str
    where: Path
    number: str
    what: str
    read: Callable[[], tuple[Volume, bool]]


def convert(
    inputs: Sequence[Path | str], output: Path | str, *, tell: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Write each DICOM series and MetaImage file as ``NAME.nii.gz`` on its own grid, and return the files.

    Nothing of a DICOM header but the geometry is copied. What is no volume (a localiser, a report, a single image) is
    told and left out.

    Args:
        inputs: Folders, which are searched to the bottom, and ``.mha`` or ``.mhd`` files.
        output: Folder of the answers. A volume is called as its file, or as its folder below the one that is given;
            several of one folder are told apart by the numbers of their series.
        tell: Is given a line for each.

    Raises:
        DataError: There is no volume.
        FaultsError: Some could not be converted, would have the same name, or that of another volume; the others are.
    """
    target = Path(output)
    if target.exists() and not target.is_dir():
        raise DataError("the volumes need a folder", where="--output", got=target, expected="a folder, or none yet")
    found, faults = _find([Path(path) for path in inputs], tell)
    named, alike = _named(found)
    faults += alike
    written = []
    for one in named:
        try:
            volume, placed = one.read()
            _refuse_other(target / one.name, volume)
            write_nifti(target / one.name, volume.data[0], volume.grid)
        except DataError as error:
            faults.append(_fault(error))
            tell(f"{one.name}: failed")
            continue
        written.append(target / one.name)
        tell(f"{one.name}: {one.what}{_described(volume, placed)}")
    if faults:
        raise FaultsError(f"{len(written)} volumes converted, these not", faults)
    if not written:
        raise DataError("there is nothing to convert", where=", ".join(map(str, inputs)), expected="DICOM or MetaImage")
    return written


def _refuse_other(path: Path, volume: Volume) -> None:
    """Refuse to put a volume where another one is; the same one again gives the same bytes."""
    if not path.exists():
        return
    there = read_volume(path)
    if not (there.grid.same_as(volume.grid) and np.array_equal(there.data, volume.data, equal_nan=True)):
        raise DataError(
            "another volume has this name already",
            where=path,
            fix="Give another --output, or an input further up, whose folders tell them apart; or remove the file.",
        )


def _fault(error: DataError) -> Fault:
    got, expected = ("" if value is None else str(value) for value in (error.got, error.expected))
    return Fault(str(error.where), "not_converted", error.what, got, expected, error.fix or "")


def _find(inputs: Sequence[Path], tell: Callable[[str], None]) -> tuple[list[_Found], list[Fault]]:
    found, faults = [], []
    for path in inputs:
        if path.is_dir():
            more, errors = _in_folder(path, tell)
            found += more
            faults += [_fault(error) for error in errors]
        elif path.name.lower().endswith(metaimage.SUFFIXES) or not path.exists():
            found.append(_metaimage(path, path.stem))
        else:
            raise DataError(
                "the input cannot be converted", where=path, expected="a folder with DICOM files, .mha or .mhd"
            )
    return found, faults


def _in_folder(folder: Path, tell: Callable[[str], None]) -> tuple[list[_Found], list[DataError]]:
    found = [
        _metaimage(file, "_".join(file.relative_to(folder).with_suffix("").parts))
        for _, files in files_below(folder, lambda _: None)  # what cannot be listed is told with the series
        for file in files
        # a Mac leaves a file of its own beside each on foreign discs
        if file.name.lower().endswith(metaimage.SUFFIXES) and not file.name.startswith("._")
    ]
    series, errors = dicom.find_series(folder)
    for one in series:
        why = dicom.why_no_volume(one)
        if why:
            tell(f"left out: {one.folder}, series {one.number or 'without a number'}: {why}")
            continue
        name = "_".join(one.folder.relative_to(folder).parts) or folder.resolve().name
        number = re.sub("[^0-9]", "", one.number)  # it comes to stand in a file name
        found.append(_Found(name, one.folder, number, f"{one.modality}, ", _reading(one)))
    return found, errors


def _reading(series: dicom.Series) -> Callable[[], tuple[Volume, bool]]:
    return lambda: (dicom.read_series(series), True)


def _metaimage(path: Path, name: str) -> _Found:
    return _Found(name, path, "", "", lambda: metaimage.read_metaimage(path))


def _named(found: Sequence[_Found]) -> tuple[list[_Found], list[Fault]]:
    """Those that can be told apart with the names of their files, and the faults of the others."""
    count = Counter(one.name for one in found)
    named = [
        replace(one, name=f"{one.name}{f'_{one.number}' if count[one.name] > 1 and one.number else ''}.nii.gz")
        for one in found
    ]
    times = Counter(one.name for one in named)
    faults = [
        Fault(
            where=name,
            kind="same_name",
            what="several volumes would have the same name",
            got=", ".join(str(one.where) for one in named if one.name == name),
            fix="Put each into a folder of its own.",
        )
        for name in sorted(times)
        if times[name] > 1
    ]
    return [one for one in named if times[one.name] == 1], faults


def _described(volume: Volume, placed: bool) -> str:
    grid = volume.grid
    sizes, spacing = (" x ".join(f"{n:.4g}" for n in numbers) for numbers in (grid.shape, grid.spacing_mm))
    remark = "; the axes are not at right angles, as after gantry tilt" if grid.is_sheared else ""
    remark += "" if placed else "; the file does not say how the patient lies: taken to the left, back and head"
    return f"{sizes} voxels of {spacing} mm{remark}"
