"""Regions: sets of labels that may overlap, each of which is one output of the network.

A label map shows one value a voxel; so regions are written into it one after the other, and each label tells the
regions that it belongs to. What a label map could not tell apart is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import Fault


@dataclass(frozen=True)
class Region:
    """A set of labels that is predicted as one mask.

    Attributes:
        name: Its name.
        values: Its label values, sorted.
        label: The value that the label map shows where this region is found and no later one.
    """

    name: str
    values: tuple[int, ...]
    label: int

    def as_dict(self) -> dict[str, Any]:
        """JSON of the region."""
        return {"name": self.name, "values": list(self.values), "label": self.label}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Region:
        """The region of its JSON."""
        return cls(str(value["name"]), tuple(value["values"]), int(value["label"]))


@dataclass(frozen=True)
class DeclaredRegion:
    """A region as a config or a dataset declares it: labels by name or value.

    Attributes:
        name: Its name.
        labels: What belongs to it.
        label: The label that it is shown as; ``None``: the smallest of its own that is in no later region.
    """

    name: str
    labels: tuple[str | int, ...]
    label: str | int | None = None


def find_regions(
    declared: Sequence[DeclaredRegion], labels: Mapping[str, int], ignore_label: int | None, where: str
) -> tuple[tuple[Region, ...], list[Fault]]:
    """The regions, in their order, and what is wrong with them; faulty ones are given as far as they are known.

    Args:
        declared: The regions; a later one is written over an earlier one.
        labels: Label values by name.
        ignore_label: Label value that counts nowhere, or ``None``.
        where: Where they are declared.
    """
    faults: list[Fault] = []
    values: dict[str, tuple[int, ...]] = {}
    for region in declared:
        place = f"{where} region {region.name!r}"
        found, wrong = _values(region, labels, ignore_label, place)
        faults += [*wrong, *_name_faults(region.name, found, labels, values, place)]
        values.setdefault(region.name, found)
    shown = {region.name: region.label for region in declared}
    regions = tuple(
        Region(name, held, _shown_value(shown[name], held, list(values.values())[number + 1 :], labels))
        for number, (name, held) in enumerate(values.items())
        if held
    )
    for region in declared:
        if region.label is not None and _value(region.label, labels) not in values[region.name]:
            what, expected = "the label that it is shown as is not one of its own", f"{list(values[region.name])}"
            faults.append(Fault(f"{where} region {region.name!r}", "region_label", what, str(region.label), expected))
    return regions, faults or _order_faults(regions, where)


def nnunet_regions(content: Mapping[str, Any], where: str) -> tuple[dict[str, int], list[DeclaredRegion], list[Fault]]:
    """Labels and regions of nnU-Net's ``dataset.json``, and what is wrong with them.

    As soon as one label is a list of several values, each label but background and ``ignore`` is a region, in the
    order of the file; ``regions_class_order`` says what each is shown as. Values without a name of their own are called
    ``label 1`` and so on.

    Args:
        content: ``dataset.json``.
        where: Its path.
    """
    lists: dict[str, tuple[int, ...]] = {}
    faults = []
    for name, value in content["labels"].items():
        values = value if isinstance(value, list) and name != "ignore" else [value]
        if values and all(type(each) is int for each in values):
            lists[str(name)] = tuple(sorted(set(values)))
        else:
            expected = "a whole number or, for a region, a list of them"
            faults.append(Fault(where, "label_not_a_number", f"label {name!r} cannot be read", str(value), expected))
    labels = {name: values[0] for name, values in lists.items() if len(values) == 1}
    if len(labels) == len(lists):
        return labels, [], faults
    named = set(labels.values())
    every = sorted({value for values in lists.values() for value in values})
    labels |= {f"label {value}": value for value in every if value not in named}
    held = {name: values for name, values in lists.items() if name != "ignore" and values != (0,)}
    order: Any = content.get("regions_class_order", [None] * len(held))
    if not isinstance(order, list) or len(order) != len(held):
        what, expected = "regions_class_order has not one label for each region", f"{len(held)}: {', '.join(held)}"
        faults.append(Fault(where, "region_order", what, str(order), expected))
        order = [None] * len(held)
    return labels, [DeclaredRegion(n, held[n], label) for n, label in zip(held, order, strict=True)], faults


def assemble_regions(probabilities: Iterable[NDArray[Any]], regions: Sequence[Region]) -> NDArray[Any]:
    """The label map of regions' probabilities, in the smallest unsigned integer type.

    Each region's label stands where its probability is above a half; a later region is written over an earlier one.

    Args:
        probabilities: Of each region, arrays of one shape; they are looked at one after the other.
        regions: The regions, at least one.

    Source: Isensee et al., nnU-Net for brain tumor segmentation (BrainLes 2020), region-based training.
    """
    label: NDArray[Any] | None = None
    for found, region in zip(probabilities, regions, strict=True):
        if label is None:
            label = np.zeros(found.shape, np.min_scalar_type(max(each.label for each in regions)))
        label[found > 0.5] = region.label
    if label is None:
        raise ValueError("there is at least one region")
    return label


def as_region_map(label: NDArray[Any], region: Region, ignore_label: int | None = None) -> NDArray[Any]:
    """A label map of one region alone: the region's label in it, what is ignored stays ignored, 0 elsewhere.

    Args:
        label: Label map of any shape.
        region: The region.
        ignore_label: Label value that counts nowhere.
    """
    kind = np.min_scalar_type(max(region.label, ignore_label or 0))
    found = np.where(np.isin(label, region.values), region.label, 0).astype(kind)
    if ignore_label is not None:
        found[label == ignore_label] = ignore_label
    return found


def _values(
    region: DeclaredRegion, labels: Mapping[str, int], ignore_label: int | None, place: str
) -> tuple[tuple[int, ...], list[Fault]]:
    """Label values of a region, those that it cannot have left out, and the faults of these."""
    found, faults = set(), []
    for label in region.labels:
        value = _value(label, labels)
        if value is None:
            faults.append(Fault(place, "region_labels", "unknown label", str(label), ", ".join(labels)))
        elif value in (0, ignore_label):
            kind = "background" if value == 0 else "the ignored label"
            faults.append(Fault(place, "region_labels", f"{kind} is in no region", str(label)))
        else:
            found.add(value)
    if not region.labels:
        faults.append(Fault(place, "region_labels", "the region has no labels", "[]", ", ".join(labels)))
    return tuple(sorted(found)), faults


def _value(label: str | int, labels: Mapping[str, int]) -> int | None:
    """Value of a label given by name or value, ``None`` where it is not declared."""
    if label in labels:
        return labels[str(label)]
    text = str(label)
    return int(text) if text.isdecimal() and int(text) in labels.values() else None


def _name_faults(
    name: str, values: tuple[int, ...], labels: Mapping[str, int], known: Mapping[str, object], place: str
) -> list[Fault]:
    faults = []
    if name in known:
        faults.append(Fault(place, "region_name", "several regions have the same name", name))
    if not name.strip() or {"/", "\\"} & set(name):
        faults.append(Fault(place, "region_name", "the name cannot be part of a file name", name))
    if name in labels and values != (labels[name],):
        what, expected = "a label has the same name and is something else", f"{name} alone"
        faults.append(Fault(place, "region_name", what, f"{list(values)}", expected, "Rename the region."))
    return faults


def _shown_value(
    wanted: str | int | None, values: tuple[int, ...], later: Sequence[tuple[int, ...]], labels: Mapping[str, int]
) -> int:
    value = None if wanted is None else _value(wanted, labels)
    if value is not None:
        return value
    hidden = {each for held in later for each in held}
    return next((each for each in values if each not in hidden), values[0])


def _order_faults(regions: Sequence[Region], where: str) -> list[Fault]:
    """What a label map could not tell: a region shown as a later one, a label shown as one of other regions."""
    members = {value: _regions_of(value, regions) for region in regions for value in region.values}
    faults = []
    for number, region in enumerate(regions):
        later = members[region.label][-1]
        if later != number:
            what = f"shown as a label of the later region {regions[later].name!r}"
            fix = "Order regions from the outermost to the innermost, each with a label that no later one has."
            faults.append(
                Fault(f"{where} region {region.name!r}", "region_order", what, f"label {region.label}", fix=fix)
            )
    if faults:
        return faults
    for value, held in sorted(members.items()):
        shown = regions[held[-1]].label
        if members[shown] != held:
            what = f"label {value} would be shown as label {shown}, which is in other regions"
            got, expected = (str([regions[number].name for number in each]) for each in (members[shown], held))
            fix = "Give the labels that regions share a region of their own."
            faults.append(Fault(where, "region_order", what, got, expected, fix))
    return faults


def _regions_of(value: int, regions: Sequence[Region]) -> tuple[int, ...]:
    return tuple(number for number, region in enumerate(regions) if value in region.values)
