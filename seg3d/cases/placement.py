"""What is to be known about where a scan lies, though nothing is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from seg3d.errors import Fault
from seg3d.io import ImageHeader

_UNPLACED = {  # what is found, and what to do about it
    "nifti": (
        "sform and qform code 0",
        "Its axes are taken to run to the left, front and head: if they do not, set its sform.",
    ),
    "nrrd": (
        "no space that names the patient's sides, or no space directions",
        "Its coordinates are taken to run to the left, back and head: if they do not, set both.",
    ),
}


def placement_notes(case_id: str, header: ImageHeader) -> Iterator[Fault]:
    """Notes on a scan whose header leaves its place open, gives two, or is not in mm, or whose axes are sheared.

    Args:
        case_id: The case, for the notes.
        header: Of its image.
    """
    where, placement, grid = f"{case_id} {header.path}", header.placement, header.grid
    if not placement.placed:
        got, fix = _UNPLACED[header.format]
        yield Fault(where, "no_orientation", "the header does not say how the patient lies", got, fix=fix, note=True)
    if placement.unit != "mm":
        what, got = "the header's lengths are not in mm", f"{placement.unit}, voxels of {_spacing(grid.spacing_mm)} mm"
        fix = "They are converted; answers have the header's unit. If it is wrong, correct it (NIfTI: xyzt_units)."
        yield Fault(where, "unit", what, got, fix=fix, note=True)
    if placement.disagreement:
        what = "the header's two orientations, sform and qform, differ"
        fix = "seg3d takes the sform, as nibabel does; other software, such as SimpleITK, may take the qform."
        yield Fault(where, "two_orientations", what, placement.disagreement, fix=fix, note=True)
    if grid.is_sheared:
        what = "the axes are not at right angles, as after gantry tilt"
        fix = "Distances and resampling assume right angles: resample the scan if they matter."
        yield Fault(where, "sheared", what, fix=fix, note=True)


def _spacing(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{mm:.4g}" for mm in spacing_mm)
