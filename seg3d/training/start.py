"""Weights that a training begins with: those of another run, and what these have seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seg3d.digest import sha256_tensors
from seg3d.errors import ConfigError, RunError
from seg3d.training.outcome import read_weights
from seg3d.training.run_folder import INITIAL_WEIGHTS, RunFolder, open_run_folder, read_json

KEY = "train.initial_weights"
_OUTPUTS = ("labels", "ignore_label", "regions")  # of model.json
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Start:
    """The weights of a run and where they come from.

    Attributes:
        run: Its name.
        sha256: Of the weights.
        weights: State dict of its network, those that it predicts with.
        meaning: What its channels and outputs are: ``model.json``.
        seen: SHA-256 of the files of the images that the weights were trained (``"train"``) or chosen (``"val"``) on,
            by this run and those before it.
    """

    run: str
    sha256: str
    weights: Mapping[str, torch.Tensor]
    meaning: Mapping[str, Any]
    seen: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """What the next run keeps of it."""
        return {"run": self.run, "sha256": self.sha256, "seen": dict(self.seen)}


def read_start(path: Path) -> Start:
    """The weights of a run folder.

    Raises:
        RunError: There is no such run, or it is damaged or has no checkpoint yet.
    """
    folder = open_run_folder(path)
    folder.check()
    weights, meaning = read_weights(folder), read_json(folder.path / "model.json")
    return Start(folder.path.resolve().name, sha256_tensors(weights), weights, meaning, _seen(folder))


def read_same_start(path: Path, recorded: Mapping[str, Any]) -> Start:
    """The weights of a run folder, which are those that another run began with.

    Raises:
        RunError: They are not, or :func:`read_start`.
    """
    found = read_start(path)
    if found.sha256 != recorded["sha256"]:
        raise RunError(
            "the weights that the run began with have changed",
            where=path,
            got=found.sha256[:16],
            expected=str(recorded["sha256"])[:16],
            fix="Restore that run, or train anew.",
        )
    return found


def initial_state(network: nn.Module, start: Start, meaning: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict that a network begins with: all of the start's, but for its last layer where labels differ.

    Args:
        network: The network; tensors without values do.
        start: The weights.
        meaning: What its outputs are, likewise.

    Raises:
        ConfigError: It is of another architecture.
    """
    own = network.state_dict()
    new_head = not keeps_head(start, meaning)
    found = {name: value for name, value in start.weights.items() if not (new_head and _is_head(name))}
    wanted = {name: tuple(value.shape) for name, value in own.items() if not (new_head and _is_head(name))}
    given = {name: tuple(value.shape) for name, value in found.items()}
    if given != wanted:
        names = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
        raise ConfigError(
            "the weights are those of another network",
            where=KEY,
            got=_shapes(names, given),
            expected=_shapes(names, wanted),
            fix=f"Choose model and channels as in {start.run}.",
        )
    return found


def keeps_head(start: Start, meaning: Mapping[str, Any]) -> bool:
    """Whether the last layer is taken, too."""
    return all((start.meaning.get(key) or None) == (meaning.get(key) or None) for key in _OUTPUTS)


def seen_before(record: Mapping[str, Any], images: Mapping[str, Collection[str]]) -> dict[str, str]:
    """What the initial weights know of cases: ``"train"`` or ``"val"`` by case; others are left out.

    Args:
        record: As :meth:`Start.record` gives it.
        images: SHA-256 of a case's image files, by case.
    """
    found = {case: {record["seen"].get(digest) for digest in digests} - {None} for case, digests in images.items()}
    return {case: "train" if "train" in parts else "val" for case, parts in found.items() if parts}


def _is_head(name: str) -> bool:
    return "head" in name.split(".")


def _seen(folder: RunFolder) -> dict[str, str]:
    splits, data = read_json(folder.splits), read_json(folder.data)
    found: dict[str, str] = dict(data.get(INITIAL_WEIGHTS, {}).get("seen", {}))
    for part in ("val", "train"):  # what was trained on at any time counts as that
        for case in splits.get(part, ()):
            sources = data["cases"].get(case, {}).get("sources", {})
            found |= {digest: part for digest in sources.values() if found.get(digest) != "train"}
    return dict(sorted(found.items()))


def _shapes(names: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    told = [f"{name} {shapes.get(name, 'absent')}" for name in list(names)[:_SHOWN]]
    return ", ".join(told) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
