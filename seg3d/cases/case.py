"""A case and a dataset: paths and names, no voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seg3d.cases.regions import Region
from seg3d.errors import Fault


@dataclass(frozen=True)
class Case:
    """One scan of a patient with its label map.

    Attributes:
        case_id: Its name.
        images: One file per channel, or one file with all channels.
        label: The label map, or ``None``.
        group: Patient or group; cases of one group are never split apart.
        negative: It holds no foreground by declaration: its label map is all background and needs no file.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None
    group: str
    negative: bool = False

    @property
    def labelled(self) -> bool:
        """Whether it is known where its foreground is."""
        return self.negative or self.label is not None


@dataclass(frozen=True)
class Dataset:
    """The cases of a source, sorted by name.

    Attributes:
        name: Name of the dataset.
        cases: The cases.
        channels: Names of the channels.
        labels: Label values by name, sorted by value; background is 0. Empty where nothing declares them.
        ignore_label: Label value that counts nowhere, or ``None``.
        source: Folder or table that was read.
        faults: What is wrong with the layout itself; such a dataset is not to be used.
        regions: Sets of labels that are predicted instead of single labels, in their order; empty: labels are.
    """

    name: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    labels: dict[str, int]
    ignore_label: int | None
    source: Path
    faults: tuple[Fault, ...] = ()
    regions: tuple[Region, ...] = ()
