"""Phantoms as volumes in a patient's world, and as dataset folders on disk."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from seg3d.atomic import atomic_path, write_json
from seg3d.keyed import keyed
from seg3d.phantom.blobs import blob_case
from seg3d.phantom.chest import chest_case
from seg3d.phantom.pictures import make_picture, picture_case_id, write_picture_case
from seg3d.phantom.shapes import Frame, frame_of
from seg3d.phantom.spec import PhantomSpec, Truth, Tumour
from seg3d.volume import Grid, Volume

LAYOUTS = ("msd", "nnunet", "folders")
# file names of the sarcoma set; a channel that is not listed is stored under its own name
FOLDER_NAMES = {"PET": "PET_image", "CT": "CT_on_PET", "MR": "MR_T1_on_PET"}
FOLDER_LABEL = "PET_mask"


def make_phantom(spec: PhantomSpec, index: int) -> tuple[Volume, Volume, Truth]:
    """Image ``(channel, x, y, z)``, label map ``(1, x, y, z)`` on the same grid, and what is true of the case.

    The anatomy in world millimetres does not depend on the orientation in which the arrays are stored.

    Args:
        spec: The dataset.
        index: Number of the case, 0 to ``spec.cases - 1``; the controls follow.

    Raises:
        IndexError: There is no such case.
    """
    count = spec.cases + spec.negatives
    if not 0 <= index < count:
        raise IndexError(f"case index is 0 to {count - 1}, got {index}")
    if spec.is_picture:
        return make_picture(spec, index)
    frame = frame_of(*spec.grid_of(index))
    centre_mm = keyed(spec.seed, "phantom", spec.kind, "centre", index).uniform(-60, 60, 3).round(2)
    image, label, tumours = _drawn(spec, index, frame, centre_mm)
    codes = spec.axis_codes[index % len(spec.axis_codes)]
    grid = _ras_grid(frame, centre_mm)
    truth = Truth(phantom_case_id(spec, index), codes, tumours)
    return _turned(image, grid, codes), _turned(label[None], grid, codes), truth


def phantom_case_id(spec: PhantomSpec, index: int) -> str:
    """Name of a case; names of volumes sort in the order of their indices."""
    if spec.is_picture:
        return picture_case_id(spec, index)
    digits = max(3, len(str(spec.cases - 1)))
    return f"{spec.kind.split('_')[0]}_{index:0{digits}d}"


def write_phantom_dataset(folder: Path, spec: PhantomSpec, layout: str | None = None) -> Path:
    """The folder, with every case written as ``.nii.gz`` or, of a picture, PNG; the same spec gives the same bytes.

    Layouts of volumes, ``msd`` unless told:
        ``msd``: ``imagesTr/``, ``labelsTr/`` and ``dataset.json``; several channels are the fourth axis.
        ``nnunet``: the same folders, one file per channel (``_0000``), nnU-Net v2's ``dataset.json``.
        ``folders``: ``CASE/PET_image.nii.gz`` and so on, no ``dataset.json``.

    Pictures have ``folders`` alone, those of the sets they are modelled on: see :func:`write_picture_case`.

    Each file is written atomically and ``dataset.json`` last, so that a folder that has one is complete.

    Raises:
        ValueError: ``layout`` is none of :data:`LAYOUTS`, or not one of the kind.
    """
    layout = layout or ("folders" if spec.is_picture else "msd")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}, got {layout!r}")
    if spec.is_picture:
        if layout != "folders":
            raise ValueError(f"pictures have the layout 'folders', got {layout!r}")
        for index in range(spec.cases + spec.negatives):
            write_picture_case(folder, spec, index)
        return folder
    write_case = _CASE_WRITERS[layout]
    for index in range(spec.cases):
        image, label, truth = make_phantom(spec, index)
        write_case(folder, spec, truth.case_id, image, label)
    if layout != "folders":
        write_json(folder / "dataset.json", (_msd_json if layout == "msd" else _nnunet_json)(spec))
    return folder


def _drawn(
    spec: PhantomSpec, index: int, frame: Frame, centre_mm: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.uint8], tuple[Tumour, ...]]:
    free = spec.is_tumour_free(index)
    if spec.kind == "chest_ct":
        chest, label, lesions = chest_case(frame, spec.seed, index, free)
        tumours = []
        for lesion in lesions:
            x, y, z = (lesion.centre_mm + centre_mm).tolist()
            tumours.append(Tumour((x, y, z), lesion.radius_mm, lesion.place))
        return chest[None], label, tuple(tumours)
    channels, labels = len(spec.channel_names), len(spec.label_names)
    image, label = blob_case(frame, spec.kind, spec.seed, index, free, channels, labels)
    return image, label, ()


def _ras_grid(frame: Frame, centre_mm: NDArray[np.float64]) -> Grid:
    affine = np.diag([*frame.spacing_mm, 1.0])
    affine[:3, 3] = centre_mm + frame.index_to_mm(np.zeros(3))
    return Grid(frame.shape, affine)


def _turned(data: NDArray[Any], grid: Grid, codes: str) -> Volume:
    """The same anatomy with array axes that point towards ``codes``."""
    target = nib.orientations.axcodes2ornt(tuple(codes))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(("R", "A", "S")), target)
    turned = np.stack([nib.orientations.apply_orientation(channel, turn) for channel in data])
    affine = grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape)
    x, y, z = turned.shape[1:]
    return Volume(turned, Grid((x, y, z), affine))


def _write_nifti(path: Path, data: NDArray[Any], grid: Grid) -> None:
    image = nib.Nifti1Image(data, grid.affine)
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    # no time stamp and no file name in the gzip header: the same phantom has the same bytes
    raw = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(raw)


def _write_msd_case(folder: Path, spec: PhantomSpec, case_id: str, image: Volume, label: Volume) -> None:
    data = image.data[0] if len(image.data) == 1 else np.moveaxis(image.data, 0, -1)
    _write_nifti(folder / "imagesTr" / f"{case_id}.nii.gz", data, image.grid)
    _write_nifti(folder / "labelsTr" / f"{case_id}.nii.gz", label.data[0], label.grid)


def _write_nnunet_case(folder: Path, spec: PhantomSpec, case_id: str, image: Volume, label: Volume) -> None:
    for number, channel in enumerate(image.data):
        _write_nifti(folder / "imagesTr" / f"{case_id}_{number:04d}.nii.gz", channel, image.grid)
    _write_nifti(folder / "labelsTr" / f"{case_id}.nii.gz", label.data[0], label.grid)


def _write_folder_case(folder: Path, spec: PhantomSpec, case_id: str, image: Volume, label: Volume) -> None:
    for name, channel in zip(spec.channel_names, image.data, strict=True):
        _write_nifti(folder / case_id / f"{FOLDER_NAMES.get(name, name)}.nii.gz", channel, image.grid)
    _write_nifti(folder / case_id / f"{FOLDER_LABEL}.nii.gz", label.data[0], label.grid)


_CASE_WRITERS: dict[str, Callable[[Path, PhantomSpec, str, Volume, Volume], None]] = {
    "msd": _write_msd_case,
    "nnunet": _write_nnunet_case,
    "folders": _write_folder_case,
}


def _msd_json(spec: PhantomSpec) -> dict[str, Any]:
    names = [f"{phantom_case_id(spec, index)}.nii.gz" for index in range(spec.cases)]
    return {
        "name": f"phantom_{spec.kind}",
        "description": "Phantoms made by seg3d",
        "licence": "CC0-1.0",
        "tensorImageSize": "3D" if len(spec.channel_names) == 1 else "4D",
        "modality": {str(number): name for number, name in enumerate(spec.channel_names)},
        "labels": {"0": "background"} | {str(value): name for value, name in enumerate(spec.label_names, start=1)},
        "numTraining": spec.cases,
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in sorted(names)],
        "test": [],
    }


def _nnunet_json(spec: PhantomSpec) -> dict[str, Any]:
    return {
        "name": f"phantom_{spec.kind}",
        "channel_names": {str(number): name for number, name in enumerate(spec.channel_names)},
        "labels": {"background": 0} | {name: value for value, name in enumerate(spec.label_names, start=1)},
        "numTraining": spec.cases,
        "file_ending": ".nii.gz",
    }
