"""What ``seg3d predict`` writes down beside its answers, and what that says about those that are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic's own choice up to Python 3.11

from seg3d.atomic import write_json
from seg3d.errors import RunError
from seg3d.io import image_stem
from seg3d.training.run_folder import INITIAL_WEIGHTS, RunFolder, read_json

MANIFEST = "predictions.json"
SEVERAL_MODELS, UNKNOWN_MAKER = "several_models", "unknown_maker"  # kinds of doubts
PARTS = ("train", "val", "test")  # a scan that members know as several is what flatters most


class _Answers(TypedDict):
    scans: NotRequired[list[str]]
    parts: NotRequired[dict[str, str]]
    run: NotRequired[str]
    weights: NotRequired[str]
    members: NotRequired[list[dict[str, Any]]]


class _Manifest(_Answers):
    labels: dict[str, int]
    ignore_label: int | None
    regions: NotRequired[list[dict[str, Any]]]
    probabilities: NotRequired[bool]
    earlier: NotRequired[list[_Answers]]


_SHAPE = TypeAdapter(_Manifest)


def read_manifest(predictions: Path) -> dict[str, Any]:
    """Labels, regions and more of answers; empty where nothing is written down.

    Args:
        predictions: A folder of answers, or one of them.

    Raises:
        RunError: It is there and cannot be read, or another program wrote it.
    """
    path = (predictions if predictions.is_dir() else predictions.parent) / MANIFEST
    if not path.is_file():
        return {}
    content: dict[str, Any] = read_json(path)
    try:
        _SHAPE.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RunError(
            "this is no record of predictions by seg3d",
            where=path,
            got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            fix="Rename or remove it if another program wrote it; else predict again.",
        ) from error
    return content


def earlier_answers(target: Path, scans: Sequence[str]) -> list[dict[str, Any]]:
    """Who made the answers that lie in a folder from former predictions and are not among ``scans``.

    A record of another program is as none.
    """
    try:
        former = read_manifest(target)
    except RunError:
        return []
    found = []
    for answers in _all_answers(former):
        left = [name for name in answers.get("scans", []) if name not in scans and (target / name).is_file()]
        parts = {name: part for name, part in answers.get("parts", {}).items() if name in left}
        if left:
            found.append({key: answers[key] for key in _Answers.__annotations__ if key in answers})
            found[-1] |= {"scans": left, "parts": parts}
    return found


def withdraw(target: Path, scan: str) -> None:
    """Take an answer that is about to be replaced out of the record of a folder.

    Whoever is stopped before the new record is written leaves an answer of unknown origin, not one of another model.
    """
    try:
        former = read_manifest(target)
    except RunError:
        return
    found = [answers for answers in _all_answers(former) if scan in answers.get("scans", [])]
    for answers in found:
        answers["scans"].remove(scan)
        answers.get("parts", {}).pop(scan, None)
    if found:
        write_json(target / MANIFEST, former)


def parts_of_scans(folders: Sequence[RunFolder], sources: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What scans were to runs: ``"train"``, ``"val"`` or ``"test"``, by name; others are left out.

    A scan is known by the name of its case, or by the bytes of its files; those count, too, that a run's initial
    weights were trained or chosen on.

    Args:
        folders: The runs.
        sources: SHA-256 by file name, by name of the scan.
    """
    found: dict[str, set[str]] = {name: set() for name in sources}
    for folder in folders:
        splits, data = (read_json(path) if path.is_file() else {} for path in (folder.splits, folder.data))
        by_case = {case: part for part in PARTS for case in splits.get(part, ())}
        digests = {
            digest: by_case[case]
            for case in sorted(by_case)
            for digest in data.get("cases", {}).get(case, {}).get("sources", {}).values()
        }
        before = data.get(INITIAL_WEIGHTS, {}).get("seen", {})
        for name, files in sources.items():
            known = [by_case.get(image_stem(Path(name)))]
            known += [what.get(digest) for digest in files.values() for what in (digests, before)]
            found[name] |= {part for part in known if part}
    return {name: next(part for part in PARTS if part in parts) for name, parts in found.items() if parts}


def doubts_about(manifest: Mapping[str, Any], files: Sequence[Path]) -> list[dict[str, str]]:
    """What to mind about predictions that are scored, as far as their record says: ``kind`` and ``text`` of each.

    Args:
        manifest: As :func:`read_manifest` gives it.
        files: The predictions.
    """
    if "scans" not in manifest:
        return []
    names = {file.name for file in files}
    by_maker: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for answers in _all_answers(manifest):
        scored = names & set(answers.get("scans", []))
        names -= scored
        by_maker[_maker(answers)] += len(scored)
        parts.update(answers.get("parts", {}).get(name, "") for name in scored)
    makers = [maker for maker, count in by_maker.items() if count]
    found = []
    if names:
        text = f"{_of(names, files)} not told of in {MANIFEST}: {_named(sorted(names))}; who made them is not known"
        found.append((UNKNOWN_MAKER, text))
    if len(makers) > 1:
        found.append((SEVERAL_MODELS, f"these predictions were made by several models: {_named(makers)}"))
    if parts["train"]:
        found.append(("trained_on", f"{parts['train']} of {len(files)} cases were trained on: these scores flatter"))
    if parts["val"]:
        text = f"{parts['val']} of {len(files)} cases chose the checkpoint: these scores flatter a little"
        found.append(("chosen_on", text))
    return [{"kind": kind, "text": text} for kind, text in found]


def _all_answers(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [manifest, *manifest.get("earlier", [])] if manifest else []


def _maker(answers: Mapping[str, Any]) -> str:
    members = answers.get("members") or [answers]
    return " + ".join(f"{member.get('run', '?')} ({member.get('weights', '?')[:8]})" for member in members)


def _of(names: set[str], files: Sequence[Path]) -> str:
    return f"{len(names)} of {len(files)} predictions {'is' if len(names) == 1 else 'are'}"


def _named(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
