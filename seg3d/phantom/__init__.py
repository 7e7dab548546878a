"""Phantoms: made-up scans with answers known by construction, for the demo and for tests.

>>> image, label, truth = make_phantom(PhantomSpec(shape=(56, 48, 32)), index=0)
>>> image.data.dtype.name, image.grid.same_as(label.grid)
('int16', True)

Pictures are volumes of one thin axis:

>>> image, label, truth = make_phantom(PhantomSpec(kind="cells", shape=(64, 48, 1)), index=7)
>>> image.data.shape, truth.case_id
((1, 64, 48, 1), '7')
"""

from seg3d.phantom.dataset import LAYOUTS, make_phantom, phantom_case_id, write_phantom_dataset
from seg3d.phantom.spec import KINDS, Kind, PhantomSpec, Truth, Tumour

__all__ = [
    "KINDS",
    "LAYOUTS",
    "Kind",
    "PhantomSpec",
    "Truth",
    "Tumour",
    "make_phantom",
    "phantom_case_id",
    "write_phantom_dataset",
]
