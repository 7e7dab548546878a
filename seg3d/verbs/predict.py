"""``seg3d predict``: label maps on the grids of the scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from numpy.typing import NDArray

from seg3d import __version__
from seg3d.atomic import write_json
from seg3d.build.dataset import build_dataset
from seg3d.build.prediction import prediction_settings
from seg3d.config import Config, load_config
from seg3d.errors import DataError, Fault, FaultsError
from seg3d.inference.backends import CompiledNetwork
from seg3d.inference.inputs import Scan, find_scans
from seg3d.inference.pipeline import overlapped
from seg3d.inference.predictor import Prediction, Predictor
from seg3d.io import answer_name, image_stem, read_header
from seg3d.preparation import Prepared
from seg3d.training.memory import kept_memory
from seg3d.training.reproducibility import configured
from seg3d.training.run_folder import RunFolder
from seg3d.verbs.manifest import MANIFEST, earlier_answers, parts_of_scans
from seg3d.verbs.members import (
    Member,
    build_predictor,
    distinct,
    learnt_from_pictures,
    load_member,
    open_runs,
    part_of_split,
    read_model,
    refuse_disagreement,
    refuse_other_preparation,
    refuse_without_dropout,
)
from seg3d.verbs.scans import (
    Progress,
    digests,
    read_scan,
    refuse_other_kind,
    refuse_overwriting_inputs,
    suffix,
    write_answer,
)
from seg3d.volume import Volume


@overload
def predict(
    run: Path | str | Sequence[Path | str],
    inputs: Volume,
    *,
    overrides: Sequence[str] = (),
    mc_dropout: int | None = None,
    tell: Callable[[str], None] = ...,
) -> NDArray[Any]: ...


@overload
def predict(
    run: Path | str | Sequence[Path | str],
    inputs: Sequence[Path | str] = (),
    output: Path | str = "predictions",
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    mc_dropout: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]: ...


def predict(
    run: Path | str | Sequence[Path | str],
    inputs: Sequence[Path | str] | Volume = (),
    output: Path | str = "predictions",
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    mc_dropout: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path] | NDArray[Any]:
    """The label maps written, one per scan, under the scan's own file name; or the label map of a scan in memory.

    Reading, preparing, predicting and writing of successive scans overlap. A prediction that was stopped goes on with
    the scans that it has not answered to when it is called again in the same way.

    Several runs, or several passes of dropout, are an ensemble: their probabilities are averaged, and maps of how
    uncertain the mean is and how far they disagree are written to ``uncertainty`` in the folder of the answers.

    Args:
        run: A run folder, or several whose probabilities are averaged; an audit folder stands for its finished runs.
            The ``predict`` settings are the first run's; patches and what lies around them are each run's own. Each
            network is loaded once and kept.
        inputs: Image files and folders of them; or a :class:`seg3d.volume.Volume` with all channels, whose label map
            ``(x, y, z)`` is returned and nothing is written.
        output: Folder of the answers.
        split: Instead of ``inputs``: predict the run's own ``"test"``, ``"val"`` or ``"train"`` cases, read from the
            dataset that its config names.
        overrides: ``path=value`` settings on top of each run's config, such as ``predict.mirror=[x]``.
        mc_dropout: Passes of each network with its dropout active, at least 2; its masks are keyed by the first run's
            seed, the scan's name and the pass.
        tell: Called with a line for each scan.

    Raises:
        FaultsError: Some scans could not be predicted; the others are written.
        Seg3dError: The runs or the inputs cannot be used.
    """
    folders = open_runs([run] if isinstance(run, (Path, str)) else run)
    refuse_disagreement(folders, split)
    if split is not None and not isinstance(inputs, Volume) and inputs:
        raise DataError("give scans or a part of the split, not both", where="--split", got=", ".join(map(str, inputs)))
    if mc_dropout is not None:
        refuse_without_dropout(mc_dropout, folders, overrides)
    config = load_config(folders[0].config, overrides)
    refuse_other_preparation(folders[0], config)
    members = distinct([load_member(folder, overrides) for folder in folders], tell)
    with (
        configured(prediction_settings(config, overrides)),
        kept_memory(config.reproducibility.keep_memory),
    ):
        predictor = build_predictor(members, config, mc_dropout)
        chosen = predictor.choice
        tell(f"{chosen.tiling} tiles: {chosen.why}")
        if isinstance(inputs, Volume):
            return predictor.predict([inputs]).label
        scans = (
            find_scans([Path(path) for path in inputs], len(predictor.channels))
            if split is None
            else _scans_of_split(folders[0], config, split)
        )
        target = Path(output)
        _refuse_place(scans, target)
        refuse_other_kind(scans, learnt_from_pictures(folders[0]))
        return _predict_scans(replace(predictor, scratch=_disk_of(target)), members, config, scans, target, tell)


def _refuse_place(scans: Sequence[Scan], target: Path) -> None:
    """Refuse to predict nothing, and to write where no folder of answers can be."""
    if not scans:
        raise DataError("there is nothing to predict", fix="Give files or folders, or --split test.")
    if target.exists() and not target.is_dir():
        raise DataError("the answers need a folder", where="--output", got=target, expected="a folder, or none yet")
    refuse_overwriting_inputs(scans, target)


def _disk_of(target: Path) -> Path:
    """The folder of the answers, or the one that it will be made in: it has room for large files, as /tmp may not."""
    return next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.is_dir())


def _predict_scans(
    predictor: Predictor,
    members: Sequence[Member],
    config: Config,
    scans: Sequence[Scan],
    target: Path,
    tell: Callable[[str], None],
) -> list[Path]:
    """Answer to each scan that has no answer yet; what fails is told, and the others go on."""
    made_by = {"seg3d": __version__, "members": [member.identity for member in members]}
    # patches and borders count as tiles do; how much memory there is does not
    settings = config.model_dump(mode="json", exclude={"predict": {"memory_gib"}})
    dropout = None if predictor.mc_dropout is None else vars(predictor.mc_dropout)
    progress = Progress(target, made_by | {"config": settings, "mc_dropout": dropout})
    numbers = {scan.name: f"{number}/{len(scans)} {scan.name}" for number, scan in enumerate(scans, start=1)}
    left = [scan for scan in scans if not progress.has(scan)]
    for scan in scans:
        if scan not in left:
            tell(f"{numbers[scan.name]}: answered to before")

    def answer(scan: Scan, prepared: Prepared) -> Prediction:
        name = image_stem(target / scan.name)
        found = predictor.answer(prepared, probabilities=config.predict.probabilities, name=name)
        progress.note(scan, found.precision)
        return found

    def write(scan: Scan, found: Prediction) -> None:
        progress.write(scan, lambda: write_answer(predictor, scan, target, found))

    faults: dict[str, Fault] = {}
    for scan, error in overlapped(
        left,
        lambda scan: read_scan(predictor, scan),
        answer,
        write,
        # a limit is for one scan at a time
        ahead=config.predict.memory_gib is None,
    ):
        if error is None:
            progress.add(scan)
            _tell_turned(scan, tell)
        else:
            faults[scan.name] = Fault(scan.name, "not_predicted", str(error))
        tell(numbers[scan.name] if error is None else f"{numbers[scan.name]}: failed")
    faults |= {scan.name: _replaced(scan) for scan in scans if scan.name not in faults and not progress.has_own(scan)}
    answered = [scan for scan in scans if scan.name not in faults]
    _write_manifest(target, members, predictor, answered, progress.precision(answered), config.predict.probabilities)
    if faults:
        raise FaultsError(f"{len(faults)} of {len(scans)} scans could not be predicted", list(faults.values()))
    progress.finish()
    return [target / scan.name for scan in answered]


def _tell_turned(scan: Scan, tell: Callable[[str], None]) -> None:
    """A network that has learnt from upright pictures may have seen this one lying on its side."""
    if any(read_header(path).shown_turned for path in scan.images):
        tell(f"NOTE: {scan.name}: viewers are told to show the picture turned; it was predicted as it is stored")


def _replaced(scan: Scan) -> Fault:
    fix = "Predict into one folder at a time, or into several."
    return Fault(scan.name, "not_predicted", "another process has replaced the answer meanwhile", fix=fix)


def _scans_of_split(folder: RunFolder, config: Config, split: str) -> list[Scan]:
    wanted = set(part_of_split(folder, split))
    cases = [case for case in build_dataset(config).cases if case.case_id in wanted]
    absent = wanted - {case.case_id for case in cases}
    if absent:
        raise DataError("cases of the split are not in the dataset", where=config.data.source, got=sorted(absent))
    return [Scan(f"{case.case_id}{suffix(answer_name(case.images[0]))}", case.images) for case in cases]


def _write_manifest(
    target: Path,
    members: Sequence[Member],
    predictor: Predictor,
    scans: Sequence[Scan],
    precision: Mapping[str, Any],
    probabilities: bool,
) -> None:
    """What was predicted by which runs, so that an evaluation can tell what it scores."""
    if not scans:
        return
    mc_dropout, chosen = predictor.mc_dropout, predictor.choice
    model = read_model(members[0].folder)
    content: dict[str, Any] = {
        "labels": model["labels"],
        "ignore_label": model["ignore_label"],
        "scans": [scan.name for scan in scans],
        "parts": parts_of_scans([member.folder for member in members], {scan.name: digests(scan) for scan in scans}),
        "probabilities": probabilities,
        "tiling": {"kind": chosen.tiling, "why": chosen.why},
        "precision": predictor.precision,
    }
    if precision:
        content["precision_of_scans"] = dict(precision)
    if engines := _engines(predictor):
        content["engines"] = engines
    if model["regions"]:
        content["regions"] = [region.as_dict() for region in model["regions"]]
    if len(members) == 1:
        content |= members[0].identity
    if len(members) > 1 or mc_dropout is not None:
        content["members"] = [member.identity | {"dropout": member.config.model.dropout} for member in members]
        content["mc_dropout"] = None if mc_dropout is None else vars(mc_dropout)
    if earlier := earlier_answers(target, content["scans"]):
        content["earlier"] = earlier
    write_json(target / MANIFEST, content)


def _engines(predictor: Predictor) -> list[dict[str, Any]]:
    """How another engine than torch compared with it: of each network and size of tile."""
    networks = (predictor.network, *(network for network, _ in predictor.others))
    compiled = (network for network in networks if isinstance(network, CompiledNetwork))
    return [vars(check) for network in compiled for check in network.checks.values()]
