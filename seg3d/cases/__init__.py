"""Datasets as they lie on disk: which cases there are, what is wrong with them, how they are split."""

from seg3d.cases.case import Case, Dataset
from seg3d.cases.faults import find_faults, refuse_grey_levels, refuse_undeclared
from seg3d.cases.layouts import read_dataset
from seg3d.cases.regions import DeclaredRegion, Region, as_region_map, assemble_regions
from seg3d.cases.split import Split, split_cases

__all__ = [
    "Case",
    "Dataset",
    "DeclaredRegion",
    "Region",
    "Split",
    "as_region_map",
    "assemble_regions",
    "find_faults",
    "read_dataset",
    "refuse_grey_levels",
    "refuse_undeclared",
    "split_cases",
]
