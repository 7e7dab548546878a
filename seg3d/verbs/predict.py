"""``seg3d predict``: label maps on the grids of the scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seg3d.atomic import write_json
from seg3d.auditing.differences import differences
from seg3d.build import training as build
from seg3d.build.dataset import build_dataset, build_recipe, classes, outputs
from seg3d.cases import Region
from seg3d.config import Config, load_config
from seg3d.digest import sha256_file, sha256_tensors
from seg3d.errors import DataError, Fault, FaultsError, RunError, Seg3dError
from seg3d.inference.ensemble import McDropout
from seg3d.inference.inputs import Scan, find_scans
from seg3d.inference.predictor import Predictor
from seg3d.io import answer_name, image_stem, read_header, read_image, write_like
from seg3d.training.memory import kept_memory
from seg3d.training.outcome import chosen_checkpoint, read_weights
from seg3d.training.run_folder import MANIFEST as RUN_MANIFEST
from seg3d.training.run_folder import RunFolder, open_run_folder, read_json

MANIFEST = "predictions.json"
# of model.json: without these no mean makes sense
_AGREED = ("channels", "labels", "ignore_label", "recipe_sha256", "regions")


@dataclass(frozen=True, eq=False)
class Member:
    """A run whose network takes part in a prediction.

    Attributes:
        folder: The run.
        network: Its network with the weights that it predicts with, on the CPU.
        dropout: Its dropout rate.
    """

    folder: RunFolder
    network: nn.Module
    dropout: float


def predict(
    run: Path | str | Sequence[Path | str],
    inputs: Sequence[Path | str] = (),
    output: Path | str = "predictions",
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    mc_dropout: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """The label maps written, one per scan, under the scan's own file name.

    Several runs, or several passes of dropout, are an ensemble: their probabilities are averaged, and maps of how
    uncertain the mean is and how far they disagree are written to ``uncertainty`` in the folder of the answers.

    Args:
        run: A run folder, or several whose probabilities are averaged; an audit folder stands for its finished runs.
            How scans are tiled and cleaned up is as the first run says. Each network is loaded once and kept.
        inputs: Image files and folders of them.
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
    folders = _open_runs([run] if isinstance(run, (Path, str)) else run)
    _refuse_disagreement(folders, split)
    if mc_dropout is not None:
        _refuse_without_dropout(mc_dropout, folders, overrides)
    config = load_config(folders[0].config, overrides)
    _refuse_other_preparation(folders[0], config)
    members = _distinct([load_member(folder, overrides) for folder in folders], tell)
    predictor = build_predictor(members, config, mc_dropout)
    if split is not None:
        scans = _scans_of_split(folders[0], config, split)
    else:
        scans = find_scans([Path(path) for path in inputs], len(predictor.channels))
    if not scans:
        raise DataError("there is nothing to predict", fix="Give files or folders, or --split test.")
    target = Path(output)
    _refuse_overwriting_inputs(scans, target)
    written, faults = [], []
    with kept_memory(config.reproducibility.keep_memory):
        for number, scan in enumerate(scans, start=1):
            try:
                written.append(_predict_scan(predictor, scan, target, config.predict.probabilities))
                tell(f"{number}/{len(scans)} {scan.name}")
            except Seg3dError as error:
                faults.append(Fault(scan.name, "not_predicted", str(error)))
                tell(f"{number}/{len(scans)} {scan.name}: failed")
    _write_manifest(target, members, predictor.mc_dropout, [scan for scan in scans if target / scan.name in written])
    if faults:
        raise FaultsError(f"{len(faults)} of {len(scans)} scans could not be predicted", faults)
    return written


def part_runs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run and audit folders among the arguments of a command, and the other arguments, both in their order.

    The first argument is a run whatever it holds, so that a wrong one is told.
    """
    runs = [path for number, path in enumerate(paths) if number == 0 or _is_run(path)]
    return runs, [path for path in paths[1:] if not _is_run(path)]


def load_member(folder: RunFolder, overrides: Sequence[str] = ()) -> Member:
    """A run's network with its best weights.

    Args:
        folder: The run.
        overrides: Settings on top of its config.

    Raises:
        RunError: The checkpoint does not fit the config.
    """
    config, model = load_config(folder.config, overrides), read_model(folder)
    given = outputs(model["labels"], model["ignore_label"], model["regions"])
    network = build.build_network(config, len(model["channels"]), given)
    try:
        network.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise RunError("the weights do not fit the network of the config", where=folder.path, got=error) from error
    return Member(folder, network.eval(), config.model.dropout)


def read_model(folder: RunFolder) -> dict[str, Any]:
    """``model.json`` of a run: what its network was trained with; ``regions`` as :class:`seg3d.cases.Region`."""
    model: dict[str, Any] = read_json(folder.path / "model.json")
    return model | {"regions": tuple(map(Region.from_dict, model.get("regions", [])))}  # none in older runs


def build_predictor(members: Sequence[Member], config: Config, mc_dropout: int | None = None) -> Predictor:
    """The members' networks, ready to predict.

    Args:
        members: Runs that agree on channels, labels and preparation.
        config: The first one's config, perhaps with other ``predict`` settings.
        mc_dropout: Passes of each network with dropout active.
    """
    model = read_model(members[0].folder)
    labels: dict[str, int] = model["labels"]
    device = torch.device(build.device_type(config))
    network, *others = (member.network.to(device) for member in members)
    keep_largest, min_size_ml = build.build_clean_up(config, labels)
    return Predictor(
        network,
        build.build_window(config, model["regions"]),
        build_recipe(config, len(model["channels"])),
        tuple(model["channels"]),
        classes(labels, model["ignore_label"]),
        device,
        keep_largest=keep_largest,
        min_size_ml=min_size_ml,
        others=tuple(others),
        mc_dropout=None if mc_dropout is None else McDropout(mc_dropout, config.seed),
        regions=model["regions"],
        attention=config.predict.attention,
    )


def _is_run(path: Path) -> bool:
    return (path / RUN_MANIFEST).is_file() or any(path.glob(f"cells/*/{RUN_MANIFEST}"))


def _open_runs(paths: Sequence[Path | str]) -> list[RunFolder]:
    """The runs of run and audit folders; those of an audit are its finished ones, by name."""
    found = []
    for path in map(Path, paths):
        if (path / RUN_MANIFEST).is_file() or not (path / "cells").is_dir():
            found.append(open_run_folder(path))
            continue
        finished = [cell for cell in sorted((path / "cells").iterdir()) if RunFolder(cell).result.is_file()]
        if not finished:
            raise RunError("the audit folder holds no finished run", where=path, fix="Let 'seg3d audit' end.")
        found += map(open_run_folder, finished)
    if not found:
        raise RunError("no run was given", expected="one run folder or more")
    return found


def _refuse_disagreement(folders: Sequence[RunFolder], split: str | None) -> None:
    """Refuse runs whose answers cannot be averaged, and a part of the split that one of them may have learnt from."""
    first, *others = folders
    for folder in others:
        ours, theirs = (read_model(each) for each in (first, folder))
        differing = [key for key in _AGREED if ours[key] != theirs[key]]
        if differing:
            raise RunError(
                f"the run does not go with {first.path.name}: another {', '.join(differing)}",
                where=folder.path,
                got={key: theirs[key] for key in differing},
                expected={key: ours[key] for key in differing},
                fix="Average only runs of one dataset, prepared in one way.",
            )
        if split is not None and (unshared := set(_part(first, split)) ^ set(_part(folder, split))):
            raise RunError(
                f"the run does not go with {first.path.name}: other {split} cases",
                where=folder.path,
                got=f"in one of them only: {', '.join(sorted(unshared))}",
                fix="Give scans that none of the runs was trained with.",
            )


def _refuse_other_preparation(folder: RunFolder, config: Config) -> None:
    """Refuse settings that would prepare scans in another way than those that the network has learnt from."""
    channels = len(read_model(folder)["channels"])
    trained = build_recipe(load_config(folder.config), channels).as_dict()
    changed = differences(trained, build_recipe(config, channels).as_dict())
    if changed:
        raise RunError(
            "scans are prepared as the run's were",
            where=folder.path,
            got="; ".join(f"{key}: {was} -> {now}" for key, (was, now) in changed.items()),
            fix="Leave the settings under prepare as they are, or train again.",
        )


def _refuse_without_dropout(passes: int, folders: Sequence[RunFolder], overrides: Sequence[str]) -> None:
    """Refuse a single pass, and runs that were trained or are now built without dropout."""
    if passes < 2:
        raise RunError("too few passes to show a spread", where="--mc-dropout", got=passes, expected="2 passes or more")
    for folder in folders:
        if not all(load_config(folder.config, settings).model.dropout for settings in ((), overrides)):
            raise RunError(
                "there is no dropout to sample",
                where=folder.path,
                got="model.dropout = 0",
                expected="a run trained with dropout",
                fix="Train with model.dropout=0.1, or average several runs.",
            )


def _distinct(members: Sequence[Member], tell: Callable[[str], None]) -> list[Member]:
    """The members without those whose weights are a former one's: to count them twice would feign agreement."""
    if len(members) == 1:
        return list(members)
    kept: dict[str, Member] = {}
    for member in members:
        former = kept.setdefault(sha256_tensors(member.network.state_dict()), member)
        if former is not member:
            tell(f"{member.folder.path}: the same weights as {former.folder.path}, counted once")
    if len(kept) == 1:
        tell("NOTE: all runs have the same weights: this is no ensemble, and there is no uncertainty to map")
    return list(kept.values())


def _part(folder: RunFolder, split: str) -> list[str]:
    """Cases of a part of a run's split.

    Raises:
        RunError: There is no such part.
    """
    if split not in ("train", "val", "test"):
        raise RunError("unknown part of the split", where="--split", got=split, expected="train, val or test")
    return sorted(read_json(folder.splits)[split])


def _scans_of_split(folder: RunFolder, config: Config, split: str) -> list[Scan]:
    wanted = set(_part(folder, split))
    cases = [case for case in build_dataset(config).cases if case.case_id in wanted]
    absent = wanted - {case.case_id for case in cases}
    if absent:
        raise DataError("cases of the split are not in the dataset", where=config.data.source, got=sorted(absent))
    return [Scan(f"{case.case_id}{_suffix(answer_name(case.images[0]))}", case.images) for case in cases]


def _suffix(name: str) -> str:
    return name[len(image_stem(Path(name))) :]


def _refuse_overwriting_inputs(scans: Sequence[Scan], target: Path) -> None:
    clash = [scan.name for scan in scans if _overwrites(target / scan.name, scan)]
    if clash:
        raise DataError(
            "the answers would overwrite the scans", where=target, got=", ".join(clash), fix="Give another --output."
        )


def _overwrites(answer: Path, scan: Scan) -> bool:
    """Whether an answer would replace a scan, or a file beside a scan whose answer is of another format."""
    beside = any(image.resolve().parent == answer.resolve().parent for image in scan.images)
    renamed = beside and answer.exists() and _suffix(scan.name) != _suffix(scan.images[0].name)
    return renamed or answer.resolve() in {image.resolve() for image in scan.images}


def _predict_scan(predictor: Predictor, scan: Scan, target: Path, probabilities: bool) -> Path:
    header = read_header(scan.images[0])
    path = target / scan.name
    volumes = read_image(scan.images, len(predictor.channels))
    found = predictor.predict(volumes, probabilities=probabilities, name=image_stem(path))
    target.mkdir(parents=True, exist_ok=True)
    write_like(path, found.label, header, binary=predictor.labels == (0, 1))
    real = _suffix(answer_name(path, real=True))
    for value, values in found.probabilities.items():
        name = f"{image_stem(path)}_probability_{value}{real}"
        write_like(target / "probabilities" / name, values, header)
    for kind, values in found.uncertainty.items():
        write_like(target / "uncertainty" / f"{image_stem(path)}_{kind}{real}", values, header)
    for number, values in enumerate(found.attention, start=1):  # 1 is the finest
        write_like(target / "attention" / f"{image_stem(path)}_gate_{number}{real}", values, header)
    return path


def _write_manifest(
    target: Path, members: Sequence[Member], mc_dropout: McDropout | None, scans: Sequence[Scan]
) -> None:
    """What was predicted by which runs, so that an evaluation can tell which cases it is about."""
    if not scans:
        return
    runs = [_identity(member) for member in members]
    model = read_model(members[0].folder)
    content: dict[str, Any] = {
        "labels": model["labels"],
        "ignore_label": model["ignore_label"],
        "scans": [scan.name for scan in scans],
    }
    if model["regions"]:
        content["regions"] = [region.as_dict() for region in model["regions"]]
    if len(members) == 1:
        content |= runs[0]
    if len(members) > 1 or mc_dropout is not None:
        content["members"] = [run | {"dropout": member.dropout} for run, member in zip(runs, members, strict=True)]
        content["mc_dropout"] = None if mc_dropout is None else vars(mc_dropout)
    write_json(target / MANIFEST, content)


def _identity(member: Member) -> dict[str, str]:
    return {"run": member.folder.path.name, "weights": sha256_file(chosen_checkpoint(member.folder).path)}
