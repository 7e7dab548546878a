"""Phantoms: what they claim is true, and the same spec gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.cases import find_faults, read_dataset
from seg3d.phantom import KINDS, PhantomSpec, make_phantom, write_phantom_dataset


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_case_has_its_channels_and_labels(kind: str) -> None:
    spec = PhantomSpec(cases=2, kind=kind, tumour_free_share=0.0)
    image, label, _ = make_phantom(spec, 0)
    assert image.data.shape[0] == len(spec.channel_names)
    assert image.grid.same_as(label.grid)
    assert set(np.unique(label.data)) == set(range(len(spec.label_names) + 1))
    assert np.isfinite(image.data).all()


def test_a_case_depends_on_its_index_alone() -> None:
    few, many = (make_phantom(PhantomSpec(cases=n), 1) for n in (2, 30))
    np.testing.assert_array_equal(few[0].data, many[0].data)
    np.testing.assert_array_equal(few[1].data, many[1].data)


def test_the_chest_is_in_hounsfield_units() -> None:
    image, label, _ = make_phantom(PhantomSpec(cases=1, tumour_free_share=0.0), 0)
    assert image.data.dtype == np.int16
    tumour = image.data[label.data > 0]
    assert -100 < tumour.mean() < 100  # soft tissue
    assert (image.data < -900).mean() > 0.1  # air
    assert (image.data > 300).any()  # bone


def test_tumours_lie_where_the_truth_says() -> None:
    for index in range(6):
        _, label, truth = make_phantom(PhantomSpec(cases=6), index)
        to_index = np.linalg.inv(label.grid.affine)
        for tumour in truth.tumours:
            place = np.round((to_index @ (*tumour.centre_mm, 1))[:3]).astype(int)
            assert label.data[0][tuple(place)] == 1


def test_orientations_differ_and_the_anatomy_does_not() -> None:
    spec = PhantomSpec(cases=1, orientations=("RAS",))
    straight = make_phantom(spec, 0)[0]
    turned = make_phantom(PhantomSpec(cases=1, orientations=("PSR",)), 0)[0]
    assert nib.aff2axcodes(turned.grid.affine) == ("P", "S", "R")
    again = nib.as_closest_canonical(nib.Nifti1Image(turned.data[0], turned.grid.affine))
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), straight.data[0])
    np.testing.assert_allclose(again.affine, straight.grid.affine, atol=1e-4)


def test_the_share_of_cases_without_a_tumour_is_exact() -> None:
    spec = PhantomSpec(cases=40, tumour_free_share=0.25)
    assert sum(spec.is_tumour_free(index) for index in range(40)) == 10


@pytest.mark.parametrize("layout", ["msd", "nnunet"])
def test_the_same_spec_gives_the_same_bytes_without_faults(tmp_path: Path, layout: str) -> None:
    spec = PhantomSpec(cases=3, kind="heart")
    for name in ("a", "b"):
        write_phantom_dataset(tmp_path / name, spec, layout)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert [(tmp_path / "a" / f).read_bytes() for f in files] == [(tmp_path / "b" / f).read_bytes() for f in files]
    assert [fault for fault in find_faults(read_dataset(tmp_path / "a")) if not fault.note] == []


@pytest.mark.parametrize(
    "settings", [{"kind": "moon"}, {"cases": 0}, {"shape": (8, 8, 8)}, {"orientations": ("XYZ",)}, {"channels": 2}]
)
def test_a_spec_that_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        PhantomSpec(**settings)
