"""The sampling certificate: what an epoch's patches were really centred on, against what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seg3d.sampling.plan import SamplingPlan
from seg3d.store import StoredVolume
from seg3d.volume import Shape


class Certifier:
    """Counts the centres of the patches that were delivered and compares them with the plan.

    The class and lesion of a centre are read again from the store at the delivered position: the certificate does not
    repeat what the plan intended. Centres are those before augmentation, which may move what was drawn out of the
    patch: patches that were left without a voxel of their class are counted by themselves.

    Args:
        plan: The sampling plan.
        label_names: Names by label value.
    """

    def __init__(self, plan: SamplingPlan, label_names: Mapping[int, str]) -> None:
        self._plan = plan
        self._names = label_names
        self._cases = {case.case_id: case for case in plan.cases}
        self._lesions = {(c.case_id, x.number): x for c in plan.cases for x in c.lesions}
        self._never = set(self._lesions)

    def go_on(self, certificate: Mapping[str, Any]) -> None:
        """Continue after an earlier certificate of the same run."""
        self._never = {(entry["case"], entry["lesion"]) for entry in certificate["lesions_never_drawn"]}

    def certify(
        self, epoch: int, centres: Iterable[tuple[str, Shape]], moved_out: Iterable[tuple[str, Shape]] = ()
    ) -> dict[str, Any]:
        """The certificate of an epoch.

        Args:
            epoch: Its number.
            centres: Case and centre of every patch delivered on any rank.
            moved_out: Those of them whose class augmentation moved out of the patch.
        """
        by_case = _by_case(centres)
        classes: Counter[int] = Counter()
        drawn: set[tuple[str, int]] = set()
        for case_id in sorted(by_case):
            values, components = self._look_up(case_id, by_case[case_id])
            classes.update(values)
            drawn |= {(case_id, number) for number in components if number}
        self._never -= drawn
        total = sum(classes.values())
        lost = Counter(
            value for case_id, lost in _by_case(moved_out).items() for value in self._look_up(case_id, lost)[0]
        )
        return {
            "epoch": epoch,
            "patches": total,
            "cases": len(by_case),
            "classes": self._shares(epoch, classes, lost),
            "lesions": len(self._lesions),
            "lesions_not_drawn": self._describe(set(self._lesions) - drawn),
            "lesions_never_drawn": self._describe(self._never),
        }

    def _look_up(self, case_id: str, centres: Sequence[Shape]) -> tuple[list[int], list[int]]:
        volume = StoredVolume(self._cases[case_id])
        assert volume.label is not None
        values = [int(volume.label[centre]) for centre in centres]
        components = [
            int(volume.components(c, (c[0] + 1, c[1] + 1, c[2] + 1)).item())
            for c, value in zip(centres, values, strict=True)
            if value
        ]
        return values, components

    def _shares(self, epoch: int, classes: Counter[int], lost: Counter[int]) -> dict[str, dict[str, float]]:
        """By class: the share that the weights ask for, that in this epoch's whole patches, and that of those drawn."""
        total = sum(classes.values())
        shares, quotas = self._plan.shares, self._plan.quotas(epoch)
        asked = sum(quotas.values())
        return {
            self._names.get(value, str(value)): {
                "expected": shares.get(value, 0.0),
                "planned": quotas.get(value, 0) / asked,
                "realised": classes[value] / total if total else 0.0,
                "drawn_but_moved_out": lost[value],
            }
            for value in sorted(set(quotas) | set(classes))
        }

    def _describe(self, lesions: set[tuple[str, int]]) -> list[dict[str, Any]]:
        return [
            {
                "case": case_id,
                "lesion": number,
                "label": self._names.get(self._lesions[case_id, number].class_value, "?"),
                "voxels": self._lesions[case_id, number].size,
            }
            for case_id, number in sorted(lesions)
        ]


def _by_case(centres: Iterable[tuple[str, Shape]]) -> dict[str, list[Shape]]:
    found: dict[str, list[Shape]] = {}
    for case_id, centre in centres:
        found.setdefault(case_id, []).append(centre)
    return found
