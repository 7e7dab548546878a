"""Which cases train, which choose the model, which are only scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seg3d.digest import sha256_json
from seg3d.errors import ConfigError, Fault, FaultsError
from seg3d.keyed import keyed

Member = tuple[str, str, bool]  # case, group, whether it holds the rare class


@dataclass(frozen=True)
class Split:
    """Case names by use, each sorted.

    Attributes:
        train: The network is trained on these.
        val: Checkpoints are chosen by these.
        test: Nothing is trained or chosen by these.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON of the split."""
        return {name: list(cases) for name, cases in asdict(self).items()}

    @classmethod
    def from_dict(cls, parts: Mapping[str, Sequence[str]]) -> Split:
        """The split of :meth:`as_dict`."""
        return cls(tuple(parts["train"]), tuple(parts["val"]), tuple(parts["test"]))

    @property
    def digest(self) -> str:
        """SHA-256 of the split."""
        return sha256_json(self.as_dict())


def split_cases(
    members: Sequence[Member],
    *,
    kind: str,
    folds: int = 5,
    fold: int = 0,
    val_share: float = 0.1,
    test_share: float = 0.2,
    file: Path | None = None,
    seed: int = 0,
) -> Split:
    """A split by group, stratified by whether a group holds the rare class.

    ``kfold``: one fold is the test part, ``val_share`` of the rest chooses the checkpoint. ``share``: shares are of
    all cases. ``file``: nnU-Net's ``splits_final.json``, whose ``val`` is the test part here, because scores are
    reported on it, and ``val_share`` of its ``train`` chooses the checkpoint; or the ``splits.json`` of a run.

    Args:
        members: Case, group, and whether the case holds the rare class.
        kind: ``"kfold"``, ``"share"`` or ``"file"``.
        folds: Number of folds.
        fold: Which fold is the test part, from 0.
        val_share: Share of validation cases.
        test_share: Share of test cases, for ``"share"``.
        file: The file, for ``"file"``.
        seed: Key of the shuffle.

    Raises:
        ConfigError: There are fewer groups than folds, or the file cannot be used.
        FaultsError: The file leaks a group or names unknown cases.
    """
    if kind == "file":
        return _from_file(members, file, fold, val_share, seed)
    order = _interleaved(members, seed)
    if kind == "kfold":
        if len(order) < folds:
            raise ConfigError("fewer patients than folds", where="data.split.folds", got=len(order), expected=folds)
        parts = _cut(order, [1 / folds] * folds)
        test = parts[fold]
        # the rest begins behind the test part, so that every fold has another validation part
        rest = [group for part in (*parts[fold + 1 :], *parts[:fold]) for group in part]
        val, train = _validation(rest, val_share)
    else:
        test, val, train = _cut(order, [test_share, val_share, 1 - test_share - val_share])
    return Split(_names(train), _names(val), _names(test))


def _interleaved(members: Sequence[Member], seed: int) -> list[list[str]]:
    """Groups of cases in a keyed order in which groups with and without the rare class are evenly mixed."""
    groups: dict[str, list[str]] = {}
    rare: dict[str, bool] = {}
    for case, group, holds in sorted(members):
        groups.setdefault(group, []).append(case)
        rare[group] = rare.get(group, False) or holds
    places = []
    for stratum in (True, False):
        names = [group for group in sorted(groups) if rare[group] is stratum]
        shuffled = [names[i] for i in keyed(seed, "split", int(stratum)).permutation(len(names))]
        places += [((i + 0.5) / len(names), not stratum, name) for i, name in enumerate(shuffled)]
    return [groups[name] for _, _, name in sorted(places)]


def _cut(groups: Sequence[list[str]], shares: Sequence[float]) -> list[list[list[str]]]:
    """Neighbouring parts of about these shares of the cases; a part with a share gets a group where there is one."""
    total = sum(len(group) for group in groups)
    parts: list[list[list[str]]] = [[] for _ in shares]
    ends = [sum(shares[: i + 1]) * total for i in range(len(shares))]
    part, done = 0, 0
    for number, group in enumerate(groups):
        while part < len(shares) - 1 and (shares[part] <= 0 or (parts[part] and done + len(group) / 2 > ends[part])):
            part += 1
        left = len(groups) - number
        if parts[part] and left <= sum(share > 0 for share in shares[part + 1 :]):
            part += 1
        parts[part].append(group)
        done += len(group)
    return parts


def _validation(groups: Sequence[list[str]], share: float) -> tuple[list[list[str]], list[list[str]]]:
    val, train = _cut(groups, [share, 1 - share])
    return val, train


def _names(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(sorted(case for group in groups for case in group))


def _from_file(members: Sequence[Member], file: Path | None, fold: int, val_share: float, seed: int) -> Split:
    if file is None:
        raise ConfigError("a split by file needs the file", where="data.split.file", fix="Give splits_final.json.")
    parts = _read_parts(file, fold)
    _refuse_faults(members, file, parts)
    if "test" in parts:
        return Split(*(tuple(sorted(parts[name])) for name in ("train", "val", "test")))
    wanted = set(parts["train"])
    val, train = _validation(_interleaved([m for m in members if m[0] in wanted], seed), val_share)
    return Split(_names(train), _names(val), tuple(sorted(parts["val"])))


def _read_parts(file: Path, fold: int) -> dict[str, list[str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        if fold and isinstance(content, dict):
            fix = "Leave it at 0, or give a list of folds."
            raise ConfigError("the file has a single split", where="data.split.fold", got=fold, expected=0, fix=fix)
        chosen = content[fold] if isinstance(content, list) else content
        names = ("train", "val", "test") if "test" in chosen else ("train", "val")
        return {name: [str(case) for case in chosen[name]] for name in names}
    except IndexError as error:
        raise ConfigError("the file has fewer folds", where=file, got=len(content), expected=fold + 1) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "the split cannot be read", where=file, got=error, expected='[{"train": [...], "val": [...]}, ...]'
        ) from error


def _refuse_faults(members: Sequence[Member], file: Path, parts: dict[str, list[str]]) -> None:
    group_of = {case: group for case, group, _ in members}
    faults = []
    used: dict[str, set[str]] = {}
    for name, cases in parts.items():
        for case in cases:
            if case not in group_of:
                faults.append(Fault(f"{file} {name}", "unknown_case", "the case is not in the dataset", case))
            used.setdefault(group_of.get(case, case), set()).add(name)
        faults += [
            Fault(f"{file} {name}", "duplicate_case", "the case is listed twice", case)
            for case in sorted({case for case in cases if cases.count(case) > 1})
        ]
    faults += [
        Fault(str(file), "leak", f"patient {group!r} is in several parts", ", ".join(sorted(where)), "one part")
        for group, where in sorted(used.items())
        if len(where) > 1
    ]
    if faults:
        raise FaultsError("the split cannot be used", sorted(faults))
