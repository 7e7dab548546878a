"""Scans that stand in two parts of a split: what was learnt by heart would be scored as if it were new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from seg3d.cases import Split
from seg3d.store import StoredInfo


def shared_images(cases: Sequence[StoredInfo], split: Split) -> list[str]:
    """A line for each image that cases of different parts have, byte for byte; label maps may be alike.

    Args:
        cases: What the stored volumes say of the files that they were made from.
        split: The parts.
    """
    part_of = {case: part for part, members in asdict(split).items() for case in members}
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for case in cases:
        digests = image_digests(case)
        if digests and case.case_id in part_of:
            found[digests].append(case.case_id)
    return [
        " and ".join(f"{case} ({part_of[case]})" for case in same)
        for same in found.values()
        if len({part_of[case] for case in same}) > 1
    ]


def image_digests(case: StoredInfo) -> tuple[str, ...]:
    """SHA-256 of the files that a case's image was made from, in the order of its channels."""
    return tuple(case.source_sha256[name] for role, name in sorted(case.roles.items()) if role != "label")
