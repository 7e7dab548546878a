"""``seg3d figure``: predictions to look at: contours, outcome maps, contact sheets, sweeps through slices."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seg3d.atomic import publish, remove_leftovers, temporary_name, write_json
from seg3d.cases import Region
from seg3d.errors import ConfigError, DataError
from seg3d.reporting.contact_sheet import Thumbnail, contact_sheets, thumbnail_of
from seg3d.reporting.figures import FigureCase, case_figure, worst_median_best, worst_median_best_figure
from seg3d.reporting.loading import CaseFiles, load_case, undeclared
from seg3d.reporting.outcome import Tally, claims_of, outcome_words, tally_case
from seg3d.reporting.outcome_figure import outcome_figure
from seg3d.reporting.panels import PLANES, Plane
from seg3d.reporting.raster import save_pixels
from seg3d.reporting.sweep import KINDS, has_sweep, save_gif, save_mp4
from seg3d.verbs.figure_cases import (
    LabelNames,
    gather_cases,
    names_that_differ,
    refuse_misfits,
    refuse_overwriting_inputs,
)
from seg3d.verbs.region_scores import drawn_as_shown, shown_names, unseen_names

CLAIMS = "figures.json"
MOVIES: Mapping[str, tuple[str, ...]] = {"gif": ("gif",), "mp4": ("mp4",), "both": KINDS, "none": ()}
_BY_NAME = {plane.name: plane for plane in PLANES}
_SHEET = re.compile(r"(worst_median_best|cases(_[0-9]+)?)\.png")
_OF_CASE = re.compile(r"(overlay|outcome|sweep)/[^/]+\.(png|gif|mp4)")


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What is kept of a case whose figures are drawn."""

    files: CaseFiles
    tally: Tally | None
    thumbnail: Thumbnail
    words: Mapping[int, str]
    claims: Mapping[str, Any]

    @property
    def score(self) -> float | None:
        return None if self.tally is None else self.tally.mean_dice


def figure(
    predictions: Path | str,
    images: Path | str,
    labels: Path | str | None = None,
    output: Path | str = "figures",
    *,
    cases: Sequence[str] = (),
    plane: str = "axial",
    movie: str = "both",
    window: tuple[float, float] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """The files written: sheets of all cases, then the figures of each case, and ``figures.json`` with their numbers.

    ``overlay/CASE.png`` has contours (reference solid, prediction dashed), ``outcome/CASE.png`` true positives, false
    positives and false negatives in colour, ``sweep/CASE.gif`` and ``.mp4`` go through the slices;
    ``worst_median_best.png`` and ``cases.png`` show all cases by Dice. Either all of them are written or none. Figures
    of an earlier call into the folder go, so that all that are there are of one.

    Args:
        predictions: A label map or a folder of them.
        images: What was predicted: a file, a folder with the same names, a dataset, or a config that names one.
        labels: The reference, given in the same ways; without it the predictions alone are drawn.
        output: Folder of the figures.
        cases: Names of the cases to draw; all where empty.
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"``: of outcome maps and sweeps. Overlays show all three.
        movie: ``"gif"``, ``"mp4"``, ``"both"`` or ``"none"``; a picture of one slice has no sweep.
        window: Grey values drawn black and white; percentiles of each image where ``None``.
        tell: Called with a line for each case.

    Raises:
        FaultsError: Cases lack a partner, or lie on another grid than it; nothing is written.
        DataError: There is nothing to draw, or a file cannot be read; nothing is written.
        ConfigError: An unknown plane or kind of movie.
    """
    _refuse_unknown("--plane", plane, _BY_NAME)
    _refuse_unknown("--movie", movie, MOVIES)
    found, target = Path(predictions), Path(output)
    sources = [Path(path) for path in (images, labels) if path is not None]
    refuse_overwriting_inputs([found, *sources], target)
    files, meanings = gather_cases(found, sources[0], sources[1] if len(sources) == 2 else None, cases)
    refuse_misfits(files)
    for line in names_that_differ(found, meanings):
        tell(f"NOTE: {line}")
    for name in unseen_names(meanings.names or {}, meanings.regions):
        tell(f"NOTE: {name} is not drawn, because it is in no region")
    with _staged(target) as draft:
        drawn = []
        for number, one in enumerate(files, start=1):
            drawn.append(_draw_case(one, meanings, draft, _BY_NAME[plane], MOVIES[movie], window))
            tell(f"{number}/{len(files)} {format_claim(drawn[-1].claims)}")
        _draw_sheets(drawn, meanings, draft, window)
        content = {"plane": plane, "slices_count_from": "1: left, posterior, inferior"}
        write_json(draft / CLAIMS, content | {"cases": [one.claims for one in drawn]})
    names = [CLAIMS, *(path for one in drawn for path in one.claims["files"])]
    sheets = sorted(path.name for path in target.glob("*.png") if _is_sheet(path.name))
    return [target / name for name in (*sheets, *names)]


def format_claim(claims: Mapping[str, Any]) -> str:
    """What the figures of a case say, in a line.

    Args:
        claims: An entry of ``cases`` in ``figures.json``.
    """
    tally = claims["whole_case"]
    if tally is None:
        return f"{claims['case']}: no reference"
    dice = "undefined" if tally["mean_dice"] is None else f"{tally['mean_dice']:.4f}"
    counts = ", ".join(f"{tally[key]} {word}" for key, word in claims["words"].items())
    return f"{claims['case']}: Dice {dice}; {counts}"


def _refuse_unknown(where: str, got: str, known: Mapping[str, Any]) -> None:
    if got not in known:
        raise ConfigError("unknown choice", where=where, got=got, expected=" or ".join(known))


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder whose files move to ``target`` when the block ends without an error, and vanish when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    draft = temporary_name(target)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        files = sorted(path.relative_to(draft) for path in draft.rglob("*") if path.is_file())
        target.mkdir(exist_ok=True)
        for old in _earlier_figures(target):
            old.unlink(missing_ok=True)
        for name in files:
            (target / name).parent.mkdir(exist_ok=True)
            publish(draft / name, target / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _earlier_figures(target: Path) -> list[Path]:
    """Figures of an earlier call, which may have had other predictions, more cases or a reference."""
    sheets = [path for path in target.glob("*.png") if _is_sheet(path.name)]
    try:
        cases = json.loads((target / CLAIMS).read_text(encoding="utf-8"))["cases"]
        listed = [str(name) for case in cases for name in case["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sheets  # no earlier call, or somebody else's file
    return sheets + [target / name for name in listed if _OF_CASE.fullmatch(name)]


def _is_sheet(name: str) -> bool:
    return _SHEET.fullmatch(name) is not None


def _draw_case(
    files: CaseFiles,
    labels: LabelNames,
    folder: Path,
    plane: Plane,
    movies: Sequence[str],
    window: tuple[float, float] | None,
) -> _Drawn:
    case = _load(files, labels, window)
    tally = tally_case(case)
    if tally is not None:
        case = replace(case, score=tally.mean_dice)
    chosen = plane if plane in case.planes else case.planes[0]
    written = [case_figure(case, folder / "overlay" / f"{case.name}.png")]
    claims = claims_of(case, chosen)
    if claims:
        written.append(save_pixels(outcome_figure(case, chosen), folder / "outcome" / f"{case.name}.png"))
    for kind in movies if has_sweep(case, chosen) else ():
        save = save_gif if kind == "gif" else save_mp4
        written.append(save(case, chosen, folder / "sweep" / f"{case.name}.{kind}"))
    words = outcome_words(case)
    content = {
        "case": case.name,
        "files": [path.relative_to(folder).as_posix() for path in written],
        "words": dict(zip(("correct", "wrong", "missed"), words.values(), strict=True)),
        "whole_case": None if tally is None else tally.as_dict(),
        "slices": [
            {"plane": claim.plane.name, "slice": claim.index + 1, "why": claim.why} | claim.tally.as_dict()
            for claim in claims
        ],
    }
    return _Drawn(files, tally, thumbnail_of(case, chosen, case.score), words, content)


def _load(files: CaseFiles, labels: LabelNames, window: tuple[float, float] | None) -> FigureCase:
    case = load_case(files, labels.names, ignore_label=labels.ignore_label, window=window)
    unknown = undeclared(case)
    if unknown:
        raise DataError(
            "label maps hold values that nothing declares",
            where=files.name,
            got=unknown,
            expected=dict(case.label_names),
            fix="Compare with the reference that the labels belong to.",
        )
    return _as_scored(case, labels.regions) if labels.regions else case


def _as_scored(case: FigureCase, regions: Sequence[Region]) -> FigureCase:
    """The case with labels that the network does not tell apart as one, as ``seg3d evaluate`` scores them."""
    reference, prediction = (
        None if labels is None else drawn_as_shown(labels, regions, case.label_names)
        for labels in (case.reference, case.prediction)
    )
    names = shown_names(case.label_names, regions)
    return replace(case, reference=reference, prediction=prediction, label_names=names)


def _draw_sheets(drawn: Sequence[_Drawn], labels: LabelNames, folder: Path, window: tuple[float, float] | None) -> None:
    """Sheets of several cases; one case has figures enough."""
    if len(drawn) < 2:
        return
    by_name = {one.files.name: one for one in drawn}
    chosen = worst_median_best({name: one.score for name, one in by_name.items()})
    if len(chosen) > 1:
        cases = [replace(_load(by_name[name].files, labels, window), score=by_name[name].score) for _, name in chosen]
        worst_median_best_figure(cases, folder / "worst_median_best.png")
    words = max((one.words for one in drawn), key=lambda known: len(str(known)))
    for page, image in enumerate(contact_sheets([one.thumbnail for one in drawn], words), start=1):
        save_pixels(image, folder / ("cases.png" if page == 1 else f"cases_{page}.png"))
