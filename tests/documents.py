"""The pages of the documentation, and the blocks of commands, settings and code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from seg3d.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks_in(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.name) for block in BLOCKS if block.language in languages]


def commands_in(block: Block) -> list[list[str]]:
    """Words of each command, without comments; a backslash goes on in the next line."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Verb and parameters of a ``seg3d`` command as the command line understands them.

    Raises:
        Exception: What the command line says of an unknown verb, option or missing argument.
    """
    group: Any = typer.main.get_command(app)
    context: Any = typer.Context(group, info_name="seg3d")
    names, rest = [], list(words)
    while hasattr(group, "list_commands"):
        if rest == ["--version"]:
            return "", {}
        name, group, rest = group.resolve_command(context, rest)
        names.append(name)
    return names[0], group.make_context(names[-1], list(rest), parent=context).params
