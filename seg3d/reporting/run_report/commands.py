"""The commands that repeat a run, score it, or bring it to its end."""

from __future__ import annotations

import shlex
from pathlib import Path

from seg3d.reporting.run_report.pieces import Pieces
from seg3d.training.run_folder import RunFolder

Command = tuple[str, str]  # what it does, the line


def commands_to_score(folder: RunFolder) -> list[Command]:
    """How a run gets its scores."""
    run, answers = folder.path, folder.path / "test"
    summary = folder.test_scores
    return [
        ("predict its test cases", f"seg3d predict {_q(run)} --split test --output {_q(answers)}"),
        (
            "score them; this page is then made anew",
            f"seg3d evaluate {_q(answers)} {_q(folder.config)} --output {_q(summary)} --subset",
        ),
    ]


def command_to_end(folder: RunFolder) -> str:
    """How a run that was stopped goes on."""
    return f"seg3d resume {_q(folder.path)}"


def commands_to_repeat(pieces: Pieces) -> list[Command]:
    """How a run is had again."""
    folder = pieces.folder
    run, code = _q(folder.path), pieces.environment.get("code", {})
    found: list[Command] = []
    if commit := code.get("commit"):
        patch = f" && git apply {_q((folder.path / 'code.patch').absolute())}" if code.get("dirty") else ""
        found.append(("the code as it was, in a checkout", f"git checkout {_q(commit)}{patch}"))
    if not pieces.ended:
        found.append(("go on to its end", command_to_end(folder)))
    else:
        found.append(("compute it again and compare every bit", f"seg3d verify {run}"))
    found.append(("train another run of the same config", f"seg3d train {_q(folder.config)}"))
    found.append(("make this page again", f"seg3d report {run}"))
    return found


def _q(path: Path | str) -> str:
    return shlex.quote(str(path))
