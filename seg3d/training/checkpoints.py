"""Checkpoints on disk: whole or absent, each named by its own digest, the last two kept.

A file is called ``last-00000400-0123456789abcdef.ckpt``: kind, optimiser steps done, start of the SHA-256 of its
bytes. The name comes with the rename that makes the file appear, so there is no second file that could disagree with
it, and a torn or changed file is noticed by whoever reads it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seg3d.atomic import publish, temporary_name
from seg3d.digest import sha256_file
from seg3d.errors import RunError
from seg3d.training.run_folder import RunFolder

Kind = Literal["last", "best"]

KEPT: Mapping[Kind, int] = {"last": 2, "best": 1}
_DIGITS = 16
_NAME = re.compile(rf"(last|best)-(\d{{8}})-([0-9a-f]{{{_DIGITS}}})\.ckpt")


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint file.

    Attributes:
        step: Optimiser steps done.
        path: The file.
        sha256: First 16 digits of the SHA-256 that its bytes should have.
    """

    step: int
    path: Path
    sha256: str

    @property
    def sound(self) -> bool:
        """Whether the file has the digest that its name says."""
        return sha256_file(self.path).startswith(self.sha256)


def save_checkpoint(folder: Path, kind: Kind, step: int, write: Callable[[Path], None]) -> Path:
    """Write a checkpoint and remove those of its kind that are too many.

    Args:
        folder: Folder of the checkpoints.
        kind: ``"last"`` or ``"best"``.
        step: Optimiser steps done.
        write: Writes the file at the path that it is given.
    """
    draft = temporary_name(folder / f"{kind}.ckpt")
    try:
        write(draft)
        path = folder / f"{kind}-{step:08d}-{sha256_file(draft)[:_DIGITS]}.ckpt"
        publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    for stale in list_checkpoints(folder, kind)[: -KEPT[kind]]:
        stale.path.unlink(missing_ok=True)
    return path


def copy_as_best(last: Path) -> None:
    """Keep a copy of a checkpoint as the best one."""
    _, step, _ = _parts(last)
    save_checkpoint(last.parent, "best", step, lambda target: _copy(last, target))


def list_checkpoints(folder: Path, kind: Kind) -> list[Checkpoint]:
    """The checkpoints of a kind that lie in a folder, oldest first, whether sound or not."""
    found = []
    for path in folder.glob(f"{kind}-*.ckpt"):
        if _NAME.fullmatch(path.name):
            _, step, digest = _parts(path)
            found.append(Checkpoint(step, path, digest))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.path.name))


def chosen_checkpoint(folder: RunFolder) -> Checkpoint:
    """The checkpoint that a run predicts with: the best one, or the last one where nothing was validated.

    Raises:
        RunError: There is none.
    """
    for kind in ("best", "last"):
        found = list_checkpoints(folder.checkpoints, kind)
        if found:
            return found[-1]
    raise RunError(
        "the run has no checkpoint", where=folder.path, fix="Continue it with 'seg3d resume', or train again."
    )


def newest_sound(folder: Path, kind: Kind) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """The newest sound checkpoint of a kind, ``None`` if there is none, and the damaged ones that are newer."""
    damaged: list[Checkpoint] = []
    for checkpoint in reversed(list_checkpoints(folder, kind)):
        if checkpoint.sound:
            return checkpoint, damaged
        damaged.append(checkpoint)
    return None, damaged


def _parts(path: Path) -> tuple[str, int, str]:
    found = _NAME.fullmatch(path.name)
    assert found is not None, path
    return found[1], int(found[2]), found[3]


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
