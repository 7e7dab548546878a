"""Datasets as they lie on disk: which cases there are, what is wrong with them, how they are split."""

from seg3d.cases.case import Case, Dataset
from seg3d.cases.faults import find_faults
from seg3d.cases.layouts import read_dataset
from seg3d.cases.split import Split, split_cases

__all__ = ["Case", "Dataset", "Split", "find_faults", "read_dataset", "split_cases"]
