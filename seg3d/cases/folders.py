"""Pairs of folders: files of a case are found by patterns such as ``imgs/{case}.png``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seg3d.cases.case import Case, Dataset
from seg3d.errors import ConfigError, DataError, Fault
from seg3d.io import image_stem


def read_folders(root: Path, images: Sequence[str], label: str | None, negatives: Sequence[str] = ()) -> Dataset:
    """The dataset of the files that fit the patterns; ``{case}`` is the same part of all names of a case.

    Args:
        root: Folder to which the patterns are relative.
        images: The pattern of each channel.
        label: The pattern of the label maps.
        negatives: Patterns of images that hold no foreground by declaration: one file of all channels each. An image
            that fits ``images``, too, keeps the case name of that pattern.

    Raises:
        ConfigError: A pattern is absolute or lacks ``{case}``.
        DataError: No file fits.
    """
    for pattern in [*images, *([] if label is None else [label]), *negatives]:
        _refuse_unusable(pattern)
    labelled = [] if label is None else _match(root, label)
    names = _match(root, images[0])
    if label is not None:  # masks that lie among the images and fit their pattern
        masks = {_file(root, label, case) for case in labelled if case in set(names)}
        names = [case for case in names if _file(root, images[0], case) not in masks]
    cases = [
        Case(
            case,
            tuple(_file(root, pattern, case) for pattern in images),
            _file(root, label, case) if label is not None and case in set(labelled) else None,
            "",
        )
        for case in names
    ]
    faults = [
        Fault(
            case,
            "missing_file",
            "a label map without image",
            str(label).replace("{case}", case),
            images[0].replace("{case}", case),
        )
        for case in sorted(set(labelled) - set(names))
    ]
    found = _with_negatives(cases, [_negative(root, p, case) for p in negatives for case in _match(root, p)], faults)
    faults += [
        Fault("data.folders.negatives", "no_cases", "no file fits the pattern", pattern)
        for pattern in negatives
        if not _match(root, pattern)
    ]
    if label is not None and not labelled:
        fix = "Correct it, or leave data.folders.label out where nothing is labelled."
        faults.append(Fault("data.folders.label", "no_cases", "no file fits the pattern", label, fix=fix))
    if not found:
        raise DataError("no file fits the pattern", where=root, got=images[0])
    channels = tuple(image_stem(Path(pattern.replace("{case}", ""))).strip("_-") for pattern in images)
    return Dataset(root.resolve().name, tuple(found), channels, {}, None, root, tuple(faults))


def _refuse_unusable(pattern: str) -> None:
    if "{case}" not in pattern or Path(pattern).is_absolute():
        raise ConfigError(
            "a pattern is relative and holds {case}",
            where="data.folders",
            got=pattern,
            expected="{case}/image.nii.gz",
        )


def _file(root: Path, pattern: str, case: str) -> Path:
    return root / pattern.replace("{case}", case)


def _negative(root: Path, pattern: str, case: str) -> Case:
    return Case(case, (_file(root, pattern, case),), None, "", negative=True)


def _with_negatives(cases: Sequence[Case], negatives: Sequence[Case], faults: list[Fault]) -> list[Case]:
    """All cases; those that are declared negative are so, and of two entries for one file one is left."""
    found = {case.images: case for case in cases}
    for negative in negatives:
        known = found.get(negative.images)
        if known is None:
            found[negative.images] = negative
        elif known.label is not None:
            what = "the case is declared to hold no foreground, but has a label map"
            fix = "Narrow data.folders.negatives, or remove the label map."
            faults.append(Fault(known.case_id, "negative_with_label", what, str(known.label), fix=fix))
        else:
            found[negative.images] = replace(known, negative=True)
    return list(found.values())


def _match(root: Path, pattern: str) -> list[str]:
    """Case names of the files that fit a pattern, sorted; hidden files are none."""
    parts = [re.escape(part) for part in pattern.split("{case}")]
    expression = re.compile(f"{parts[0]}(?P<case>[^/]+)" + "(?P=case)".join(parts[1:]))
    files = (file.relative_to(root).as_posix() for file in root.glob(pattern.replace("{case}", "*")))
    return sorted(match["case"] for match in map(expression.fullmatch, files) if match and match["case"][0] != ".")
