"""Runs as members of a prediction: which are meant, whether they go together, and their networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seg3d.auditing.differences import differences
from seg3d.build.dataset import build_recipe, classes, outputs
from seg3d.build.prediction import build_margin, build_network, build_window, device_type
from seg3d.build.settings import build_clean_up
from seg3d.cases import Region
from seg3d.config import WITHOUT_EFFECT, Config, load_config
from seg3d.digest import sha256_file, sha256_tensors
from seg3d.errors import RunError
from seg3d.inference.backends import compiled
from seg3d.inference.ensemble import McDropout
from seg3d.inference.predictor import Predictor
from seg3d.io import is_picture
from seg3d.training.checkpoints import chosen_checkpoint
from seg3d.training.outcome import predicting_weights, read_checkpoint
from seg3d.training.run_folder import MANIFEST as RUN_MANIFEST
from seg3d.training.run_folder import RunFolder, open_run_folder, read_json

# of the config: what a network is and how its scans are prepared
_DECISIVE = ("prepare.", "model.", "sampling.patch_size", "sampling.neighbours", "sampling.border")
# of model.json: without these no mean makes sense
_AGREED = ("channels", "labels", "ignore_label", "recipe_sha256", "regions")


@dataclass(frozen=True, eq=False)
class Member:
    """A run whose network takes part in a prediction.

    Attributes:
        folder: The run.
        network: Its network with the weights that it predicts with, on the CPU.
        config: Its config, with the settings on top of it.
        weights: SHA-256 of the checkpoint that they come from; a run that is training may have another one by now.
    """

    folder: RunFolder
    network: nn.Module
    config: Config
    weights: str

    @property
    def identity(self) -> dict[str, str]:
        """What it is known by: the name of its run, and the digest of its weights."""
        return {"run": self.folder.path.name, "weights": self.weights}


def part_runs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run and audit folders among the arguments of a command, and the other arguments, both in their order.

    The first argument is a run whatever it holds, so that a wrong one is told.
    """
    runs = [path for number, path in enumerate(paths) if number == 0 or _is_run(path)]
    return runs, [path for path in paths[1:] if not _is_run(path)]


def open_runs(paths: Sequence[Path | str]) -> list[RunFolder]:
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
    for folder in found:
        _refuse_changed(folder)
    return found


def _refuse_changed(folder: RunFolder) -> None:
    """Refuse a run whose network would be built, or its scans prepared, in another way than it was trained.

    Documents that predicting does not need may be missing. Changes that the run was continued with are its own.
    """
    now = load_config(folder.config).model_dump(mode="json")
    began = Config.model_validate(folder.recorded_config()).model_dump(mode="json")  # older ones lack newer settings
    lines = [
        f"config {key}: {was} -> {is_now}"
        for key, (was, is_now) in differences(began, now).items()
        if key.startswith(_DECISIVE) and not key.startswith(WITHOUT_EFFECT)
    ]
    changed = sorted(set(lines) - set(folder.changes())) if lines else []
    if changed:
        raise RunError(
            "the config is not the one that the run was trained with",
            where=folder.config,
            got="; ".join(changed),
            fix="Restore it; settings of a prediction are given with --set.",
        )


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
    network = build_network(config, len(model["channels"]), given)
    checkpoint = chosen_checkpoint(folder)
    weights = sha256_file(checkpoint.path)
    try:
        network.load_state_dict(predicting_weights(read_checkpoint(checkpoint)))
    except RuntimeError as error:
        raise RunError("the weights do not fit the network of the config", where=folder.path, got=error) from error
    return Member(folder, network.eval(), config, weights)


def read_model(folder: RunFolder) -> dict[str, Any]:
    """``model.json`` of a run: what its network was trained with; ``regions`` as :class:`seg3d.cases.Region`."""
    model: dict[str, Any] = read_json(folder.path / "model.json")
    return model | {"regions": tuple(map(Region.from_dict, model.get("regions", [])))}  # none in older runs


def learnt_from_pictures(folder: RunFolder) -> bool | None:
    """Whether all files of a run's cases were pictures; ``None`` where some were, or the run does not tell."""
    cases = read_json(folder.data).get("cases", {}) if folder.data.is_file() else {}
    kinds = {is_picture(Path(name)) for case in cases.values() for name in case.get("sources", {})}
    return kinds.pop() if len(kinds) == 1 else None


def build_predictor(members: Sequence[Member], config: Config, mc_dropout: int | None = None) -> Predictor:
    """The members' networks, ready to predict.

    Args:
        members: Runs that agree on channels, labels and preparation.
        config: The first one's config, perhaps with other ``predict`` settings.
        mc_dropout: Passes of each network with dropout active.
    """
    model = read_model(members[0].folder)
    labels: dict[str, int] = model["labels"]
    device = torch.device(device_type(config))
    # how far a network sees beyond its answer is its own; how scans are predicted is as the first run says
    configs = [config, *(m.config.model_copy(update={"predict": config.predict}) for m in members[1:])]
    (network, window), *others = (
        (_compiled(member.network.to(device), own, len(model["channels"]), device), build_window(own, model["regions"]))
        for member, own in zip(members, configs, strict=True)
    )
    keep_largest, min_size_ml = build_clean_up(config, labels)
    return Predictor(
        network,
        window,
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


def _compiled(network: nn.Module, config: Config, channels: int, device: torch.device) -> nn.Module:
    """The network, or what another engine makes of it for tiles of the size of its patches."""
    size = (n + 2 * m for n, m in zip(config.sampling.patch_size, build_margin(config), strict=True))
    return compiled(network, config.predict.backend, torch.zeros(1, channels, *size, device=device))


def refuse_disagreement(folders: Sequence[RunFolder], split: str | None) -> None:
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
        if split is not None and (unshared := set(part_of_split(first, split)) ^ set(part_of_split(folder, split))):
            raise RunError(
                f"the run does not go with {first.path.name}: other {split} cases",
                where=folder.path,
                got=f"in one of them only: {', '.join(sorted(unshared))}",
                fix="Give scans that none of the runs was trained with.",
            )


def refuse_other_preparation(folder: RunFolder, config: Config) -> None:
    """Refuse settings that would prepare scans in another way than those that the network has learnt from."""
    channels = len(read_model(folder)["channels"])
    trained = build_recipe(load_config(folder.config), channels).as_dict()
    changed = differences(trained, build_recipe(config, channels).as_dict())
    if changed:
        raise RunError(
            "these settings would prepare scans in another way than the run has learnt from",
            where=folder.path,
            got="; ".join(f"{key}: {was} -> {now}" for key, (was, now) in changed.items()),
            fix="Leave the settings under prepare as they are, or train again.",
        )


def refuse_without_dropout(passes: int, folders: Sequence[RunFolder], overrides: Sequence[str]) -> None:
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


def distinct(members: Sequence[Member], tell: Callable[[str], None]) -> list[Member]:
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


def part_of_split(folder: RunFolder, split: str) -> list[str]:
    """Cases of a part of a run's split.

    Raises:
        RunError: There is no such part.
    """
    if split not in ("train", "val", "test"):
        raise RunError("unknown part of the split", where="--split", got=split, expected="train, val or test")
    return sorted(read_json(folder.splits)[split])


def _is_run(path: Path) -> bool:
    return (path / RUN_MANIFEST).is_file() or any(path.glob(f"cells/*/{RUN_MANIFEST}"))
