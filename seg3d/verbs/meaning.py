"""What the label values of predictions and references mean, and whether both agree on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg3d.cases import Region, refuse_grey_levels
from seg3d.errors import DataError
from seg3d.io import count_labels, read_label_map
from seg3d.verbs.references import References


@dataclass(frozen=True)
class Meaning:
    """What label values mean.

    Attributes:
        names: Names of the foreground labels by value.
        ignore_label: Label value that counts nowhere, or ``None``.
        regions: Overlapping labels, where there are any.
        declared: Whether anything says so; the names are else of the values that were found.
    """

    names: Mapping[int, str]
    ignore_label: int | None = None
    regions: tuple[Region, ...] = ()
    declared: bool = True

    def known(self, *, reference: bool) -> set[int | None]:
        """Values that a file may hold; none where nothing says so. A prediction never holds the ignored label."""
        return {0, *self.names, *([self.ignore_label] if reference else [])} if self.declared else set()


def meaning_of(manifest: Mapping[str, Any], references: References, pairs: Mapping[str, tuple[Path, Path]]) -> Meaning:
    """Labels as the dataset or the predictions say, else as found.

    Raises:
        DataError: Both say it and contradict each other, or a picture holds grey levels.
    """
    regions = references.regions or tuple(map(Region.from_dict, manifest.get("regions", [])))
    labels, ignore_label = references.labels, references.ignore_label
    if labels and manifest:
        refuse_contradiction(manifest["labels"], labels)
    if not labels and manifest:
        labels, ignore_label = manifest["labels"], manifest["ignore_label"]
    if labels:
        names = {value: name for name, value in labels.items() if value not in (0, ignore_label)}
        return Meaning(names, ignore_label, regions)
    values: set[int] = set()
    for case, pair in pairs.items():
        for path in pair[: 1 if case in references.negatives else 2]:
            found = read_label_map(path).data
            refuse_grey_levels(found, path)
            values |= set(count_labels(found))
    return Meaning({value: f"label {value}" for value in sorted(values - {0})}, regions=regions, declared=False)


def refuse_contradiction(predicted: Mapping[str, int], declared: Mapping[str, int]) -> None:
    """Raise where a label of one name has two values.

    Raises:
        DataError: It has.
    """
    contradicting = [name for name in declared if predicted.get(name, declared[name]) != declared[name]]
    if contradicting:
        raise DataError(
            "predictions and references give a label different values",
            got=", ".join(f"{name}: {predicted[name]}" for name in contradicting),
            expected=", ".join(f"{name}: {declared[name]}" for name in contradicting),
            fix="Score against references with the labels that the run has learnt from.",
        )


def doubts_about_names(manifest: Mapping[str, Any], references: References) -> list[dict[str, str]]:
    """Values that predictions and references call by different names, and regions that differ."""
    predicted, declared = manifest.get("labels", {}), references.labels
    by_value = {value: name for name, value in predicted.items() if value}
    other = [
        f"{value} is {by_value[value]} there and {name} here"
        for name, value in declared.items()
        if value and by_value.get(value, name) != name
    ]
    found = []
    if other:
        text = f"the predictions' record and the references name labels differently: {'; '.join(other)}"
        found.append({"kind": "other_names", "text": text})
    regions = [Region.from_dict(region) for region in manifest.get("regions", [])]
    if regions and references.regions and tuple(regions) != references.regions:
        text = "the predictions were made for other regions than those of the references, by which they are scored"
        found.append({"kind": "other_regions", "text": text})
    return found
