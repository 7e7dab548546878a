"""Dataset layouts, read in place: Medical Segmentation Decathlon, nnU-Net v2, table, pairs of folders."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seg3d.cases.case import Case, Dataset
from seg3d.cases.folders import read_folders
from seg3d.cases.regions import DeclaredRegion, Region, find_regions, nnunet_regions
from seg3d.cases.tables import read_table
from seg3d.errors import ConfigError, DataError, Fault
from seg3d.io import SUFFIXES, image_stem, is_picture

LAYOUTS = ("auto", "msd", "nnunet", "table", "folders")


def read_dataset(
    source: Path,
    *,
    layout: str = "auto",
    folders_images: Sequence[str] = (),
    folders_label: str | None = None,
    folders_negatives: Sequence[str] = (),
    channels: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    ignore_label: int | None = None,
    group_pattern: str | None = None,
    groups: Mapping[str, str] | None = None,
    regions: Sequence[DeclaredRegion] | None = None,
) -> Dataset:
    """The dataset at ``source``; its files are listed, not opened.

    Args:
        source: Dataset folder, its ``dataset.json``, or a CSV or TSV table.
        layout: One of :data:`LAYOUTS`; ``"auto"`` looks.
        folders_images: For ``"folders"``: a path pattern per channel, relative to ``source``, with ``{case}``.
        folders_label: The pattern of the label maps.
        folders_negatives: Patterns of images that hold no foreground by declaration and need no label map.
        channels: Names of the channels; else as the dataset says.
        labels: Label values by name; else as the dataset says.
        ignore_label: Label value that counts nowhere; else as the dataset says.
        group_pattern: Regular expression whose first group, found in a case name, is its patient.
        groups: Groups by case name; they go before ``group_pattern``. A name that no case has is a fault, unless every
            case has a group here, so that none can have been meant: then it is a note.
        regions: Sets of labels that are predicted instead of single labels; else as the dataset says.

    Raises:
        DataError: The source does not exist or is of no known layout.
        ConfigError: A setting does not fit the layout.
    """
    kind = _find_layout(source, layout, bool(folders_images))
    if kind == "table":
        found = read_table(source)
    elif kind == "folders":
        found = read_folders(source, folders_images, folders_label, folders_negatives)
    else:
        found = _read_json(source, kind)
    cases = sorted((_grouped(c, group_pattern, groups or {}) for c in found.cases), key=lambda c: (c.case_id, c.images))
    chosen = found.labels if labels is None else dict(labels)
    ignored = found.ignore_label if ignore_label is None else ignore_label
    masks, faults = _regions(source, found, regions, chosen, ignored)
    return replace(
        found,
        cases=tuple(cases),
        channels=found.channels if channels is None else tuple(channels),
        labels=dict(sorted(chosen.items(), key=lambda item: (item[1], item[0]))),
        ignore_label=ignored,
        faults=tuple(
            sorted({*faults, *_duplicates(cases), *_label_faults(source, chosen), *_group_faults(cases, groups or {})})
        ),
        regions=masks,
    )


def _find_layout(source: Path, layout: str, has_patterns: bool) -> str:
    if not source.exists():
        raise DataError("the dataset does not exist", where=source, fix="Check data.source.")
    if layout not in LAYOUTS:
        raise ConfigError("unknown layout", where="data.layout", got=layout, expected=", ".join(LAYOUTS))
    if layout == "folders" or (layout == "auto" and has_patterns):
        if not has_patterns:
            raise ConfigError("the layout needs patterns", where="data.folders", fix="Give data.folders.images.")
        return "folders"
    if source.is_file() and source.suffix.lower() in (".csv", ".tsv"):
        return "table"
    described = _json_file(source)
    if layout == "table" or described.suffix.lower() != ".json" or not described.is_file():
        raise DataError(
            "no dataset of a known layout here",
            where=source,
            expected="dataset.json (Medical Segmentation Decathlon, nnU-Net), a .csv or .tsv table, or data.folders",
        )
    return layout


def _regions(
    source: Path,
    found: Dataset,
    declared: Sequence[DeclaredRegion] | None,
    labels: Mapping[str, int],
    ignore_label: int | None,
) -> tuple[tuple[Region, ...], list[Fault]]:
    """The declared regions, or the dataset's where none are, and the faults of the dataset with theirs."""
    if declared is not None:
        regions, faults = find_regions(declared, labels, ignore_label, "data.regions")
        return regions, [*(fault for fault in found.faults if not fault.kind.startswith("region_")), *faults]
    own = [DeclaredRegion(region.name, region.values, region.label) for region in found.regions]
    regions, faults = find_regions(own, labels, ignore_label, str(_json_file(source)))
    return regions, [*found.faults, *faults]


def _json_file(source: Path) -> Path:
    return source if source.is_file() else source / "dataset.json"


def _read_json(source: Path, layout: str) -> Dataset:
    path = _json_file(source)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a byte order mark first
    except (OSError, ValueError) as error:
        raise DataError("dataset.json cannot be read", where=path, got=error) from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise DataError("dataset.json has no labels", where=path, expected='{"labels": {...}, ...}')
    if layout == "auto":
        layout = "nnunet" if "channel_names" in content or "file_ending" in content else "msd"
    return (_read_nnunet if layout == "nnunet" else _read_msd)(path, content)


def _read_msd(path: Path, content: dict[str, Any]) -> Dataset:
    cases, faults = [], []
    entries = content.get("training", [])
    if not isinstance(entries, list):
        raise DataError(
            "training of dataset.json is no list", where=path, got=entries, expected='[{"image": ...}, ...]'
        )
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not _is_label(entry):
            faults.append(_entry_fault(path, f"training[{number}]", entry, '{"image": ..., "label": ...}'))
            continue
        image = path.parent / entry["image"]
        label = path.parent / entry["label"] if entry.get("label") else None
        cases.append(Case(image_stem(image), (image,), label, ""))
    try:
        labels = {str(name): int(value) for value, name in content["labels"].items()}
        channels = _channel_names(content.get("modality", {"0": "image"}))
    except (ValueError, AttributeError) as error:
        raise DataError("labels or modality of dataset.json cannot be read", where=path, got=error) from error
    return Dataset(
        str(content.get("name", path.parent.name)), tuple(cases), channels, labels, None, path.parent, tuple(faults)
    )


def _read_nnunet(path: Path, content: dict[str, Any]) -> Dataset:
    names = content.get("channel_names", content.get("modality", {"0": "image"}))
    try:
        channels = _channel_names(names)
    except AttributeError as error:
        raise DataError(
            "channel_names of dataset.json cannot be read", where=path, got=names, expected='{"0": "CT", ...}'
        ) from error
    labels, declared, faults = nnunet_regions(content, str(path))
    ignore = labels.get("ignore")
    regions, wrong = find_regions(declared, labels, ignore, str(path))
    ending = str(content.get("file_ending", ".nii.gz"))
    if not ending.lower().endswith(SUFFIXES):
        raise DataError("the file ending is not supported", where=path, got=ending, expected=", ".join(SUFFIXES))
    cases, more = _nnunet_cases(path.parent, content, ending, len(channels))
    name = str(content.get("name", path.parent.name))
    return Dataset(name, tuple(cases), channels, labels, ignore, path.parent, (*faults, *wrong, *more), regions)


def _nnunet_cases(root: Path, content: dict[str, Any], ending: str, channels: int) -> tuple[list[Case], list[Fault]]:
    if isinstance(content.get("dataset"), dict):  # explicit paths instead of the folders
        return _explicit_cases(root, content["dataset"])
    found: dict[str, set[int]] = {}
    faults = []
    for file in sorted((root / "imagesTr").glob(f"[!.]*{ending}")):
        match = re.fullmatch(r"(.+)_(\d{4})", file.name.removesuffix(ending))
        if match is None:
            faults.append(_entry_fault(file, "file name", file.name, f"NAME_0000{ending}"))
        else:
            found.setdefault(match[1], set()).add(int(match[2]))
    for case, numbers in sorted(found.items()):
        beyond = sorted(number for number in numbers if number >= channels)
        if beyond:
            faults.append(Fault(case, "channels", "more channels than declared", str(beyond), f"0 to {channels - 1}"))
    labelled = {file.name.removesuffix(ending) for file in (root / "labelsTr").glob(f"[!.]*{ending}")}
    faults += [
        Fault(case, "missing_file", "a label map without image", fix="Add the image or remove the label map.")
        for case in sorted(labelled - set(found))
    ]
    cases = [
        Case(
            case,
            tuple(
                root / "imagesTr" / f"{case}_{number:04d}{ending}"
                for number in range(_file_count(numbers, ending, channels))
            ),
            root / "labelsTr" / f"{case}{ending}" if case in labelled else None,
            "",
        )
        for case, numbers in sorted(found.items())
    ]
    return cases, faults


def _file_count(numbers: set[int], ending: str, channels: int) -> int:
    """Files of a case: a colour picture may hold all channels in the file of the first."""
    return 1 if numbers == {0} and is_picture(Path(ending)) else channels


def _explicit_cases(root: Path, entries: dict[str, Any]) -> tuple[list[Case], list[Fault]]:
    cases, faults = [], []
    for case, entry in sorted(entries.items()):
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or not _is_label(entry):
            faults.append(
                _entry_fault(root / "dataset.json", f"dataset.{case}", entry, '{"images": [...], "label": ...}')
            )
            continue
        label = root / entry["label"] if entry.get("label") else None
        cases.append(Case(case, tuple(root / str(image) for image in entry["images"]), label, ""))
    return cases, faults


def _grouped(case: Case, pattern: str | None, groups: Mapping[str, str]) -> Case:
    group = groups.get(case.case_id, case.group)
    if not group and pattern is not None:
        match = re.search(pattern, case.case_id)
        if match is None or not match.groups():
            raise ConfigError(
                "the pattern finds no patient in the case name",
                where="data.group_pattern",
                got=case.case_id,
                expected=pattern,
            )
        group = match[1]
    return replace(case, group=group or case.case_id)


def _group_faults(cases: Sequence[Case], groups: Mapping[str, str]) -> list[Fault]:
    """Names in ``data.groups`` that no case has: a patient whose scan was meant would part between train and test."""
    names = {case.case_id for case in cases}
    without = {name.lower(): name for name in sorted(names - set(groups))}
    faults = []
    for key in sorted(set(groups) - names):
        meant = difflib.get_close_matches(key.lower(), without, n=1)
        fix = f"Did you mean {without[meant[0]]}?" if meant else "Correct or remove it."
        what, got = "no case has this name", f"group {groups[key]}"
        faults.append(Fault(f"data.groups.{key}", "unknown_case", what, got, fix=fix, note=not without))
    return faults


def _duplicates(cases: Sequence[Case]) -> list[Fault]:
    files: dict[str, list[str]] = {}
    for case in cases:
        files.setdefault(case.case_id, []).append(str(case.images[0]))
    fix = "Rename them, or let {case} of a pattern take in more of the file name."
    return [
        Fault(case, "duplicate_case", "several cases have the same name", ", ".join(same), "one case", fix)
        for case, same in sorted(files.items())
        if len(same) > 1
    ]


def _label_faults(source: Path, labels: Mapping[str, int]) -> list[Fault]:
    if not labels:
        return []
    counts = Counter(labels.values())
    faults = [
        Fault(str(source), "label_values", "several labels have the same value", str(value))
        for value, count in sorted(counts.items())
        if count > 1
    ]
    if 0 not in counts:
        faults.append(
            Fault(str(source), "label_values", "no label has the value 0", str(dict(labels)), "background: 0")
        )
    return faults


def _entry_fault(path: Path, place: str, got: object, expected: str) -> Fault:
    return Fault(f"{path} {place}", "bad_entry", "the entry cannot be read", str(got), expected)


def _is_label(entry: Mapping[str, Any]) -> bool:
    """Whether an entry's label map is a path or left out."""
    return not entry.get("label") or isinstance(entry["label"], str)


def _channel_names(names: Any) -> tuple[str, ...]:
    """Names of channels in the order of their numbers, from ``{"0": "CT", ...}``."""
    return tuple(str(name) for _, name in sorted(names.items(), key=_number))


def _number(item: tuple[str, Any]) -> tuple[int, str]:
    return (int(item[0]) if item[0].isdigit() else 1 << 30, item[0])
