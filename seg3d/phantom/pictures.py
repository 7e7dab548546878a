"""Phantoms of pictures: volumes of one thin axis in memory, PNG files in the folders of well-known sets on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg3d.atomic import atomic_path
from seg3d.phantom.cells import cells_picture
from seg3d.phantom.mip import mip_picture
from seg3d.phantom.spec import PhantomSpec, Truth, Tumour
from seg3d.phantom.xray import site_of, xray_picture
from seg3d.volume import Grid, Volume


def make_picture(spec: PhantomSpec, index: int) -> tuple[Volume, Volume, Truth]:
    """Picture ``(1, columns, rows, 1)`` of 8-bit grey, label map of the same shape, and what is true of the case.

    Cases from ``spec.cases`` on are the controls; their label maps are all 0.
    """
    shape, _ = spec.grid_of(index)
    name = picture_case_id(spec, index)
    tumours: tuple[Tumour, ...] = ()
    cells = 0
    if spec.kind == "xray":
        image, label = xray_picture(shape, spec.seed, index)
    elif spec.kind == "cells":
        image, label, cells = cells_picture(shape, spec.seed, index)
    else:
        control = index >= spec.cases
        number = index - spec.cases if control else index
        image, label, spots = mip_picture(shape, spec.seed, number, control)
        tumours = tuple(Tumour((*spot.centre, 0.0), spot.radius, spot.place) for spot in spots)
    # one pixel is one millimetre: a picture knows of no other unit
    grid = Grid(shape, np.eye(4))
    return Volume(image[None], grid), Volume(label[None], grid), Truth(name, "RAS", tumours, cells)


def picture_case_id(spec: PhantomSpec, index: int) -> str:
    """Name of a case, as in the file names of its kind: ``siteB_006``, ``patient_000``, ``control_000``, ``7``."""
    if spec.kind == "cells":
        return str(index)
    if spec.kind == "xray":
        return f"{site_of(index)}_{index:0{_digits(spec.cases)}d}"
    if index >= spec.cases:
        return f"control_{index - spec.cases:0{_digits(spec.negatives)}d}"
    return f"patient_{index:0{_digits(spec.cases)}d}"


def write_picture_case(folder: Path, spec: PhantomSpec, index: int) -> None:
    """Write the PNG files of one case, each atomically.

    ``xray``: ``CXR_png/NAME.png`` and ``masks/NAME_mask.png``. ``cells``: ``image/7.png`` and ``label/7.png``.
    ``mip``: ``patients/imgs/patient_000.png`` and ``patients/labels/segmentation_000.png``, both RGBA of one grey
    and alpha 255, and for a control ``controls/imgs/control_000.png``, grey and without a mask. Masks are 0 and 255.
    """
    image, label, truth = make_picture(spec, index)
    _WRITERS[spec.kind](folder, truth.case_id, image.data[0, :, :, 0], label.data[0, :, :, 0] * np.uint8(255))


def _write_xray(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    _write_png(folder / "CXR_png" / f"{name}.png", image)
    _write_png(folder / "masks" / f"{name}_mask.png", mask)


def _write_cells(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    _write_png(folder / "image" / f"{name}.png", image)
    _write_png(folder / "label" / f"{name}.png", mask)


def _write_mip(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    if name.startswith("control"):
        _write_png(folder / "controls" / "imgs" / f"{name}.png", image)
        return
    segmentation = f"{name.replace('patient', 'segmentation')}.png"
    _write_png(folder / "patients" / "imgs" / f"{name}.png", _opaque(image))
    _write_png(folder / "patients" / "labels" / segmentation, _opaque(mask))


_WRITERS: dict[str, Callable[[Path, str, NDArray[Any], NDArray[Any]], None]] = {
    "xray": _write_xray,
    "mip": _write_mip,
    "cells": _write_cells,
}


def _opaque(grey: NDArray[Any]) -> NDArray[Any]:
    """RGBA of a grey picture, nowhere transparent."""
    return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    # files hold rows first
    picture = Image.fromarray(np.ascontiguousarray(np.swapaxes(pixels, 0, 1)))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=1)


def _digits(count: int) -> int:
    return max(3, len(str(count - 1)))
