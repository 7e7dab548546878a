"""Pages of the reference that are made from the code whenever the site is built: a hook of MkDocs.

They are never written into this folder, so they cannot be stale.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import typer

import seg3d
from seg3d.cli import app
from seg3d.config import WITHOUT_EFFECT, schema_rows

# what other pages name beside the verbs
BESIDE = (
    "seg3d.volume.Volume",
    "seg3d.volume.Grid",
    "seg3d.io.read_volume",
    "seg3d.io.read_label_map",
    "seg3d.reporting.viewer.viewer_page",
    "seg3d.phantom.PhantomSpec",
    "seg3d.phantom.write_phantom_dataset",
    "seg3d.training.memory.kept_memory",
    "seg3d.training.memory.give_back_memory",
    "seg3d.inference.precision.check_precision",
)


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Name (``config show``), command and context of each command, in the order of ``seg3d --help``."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="seg3d")
    yield from _beneath(root, context, ())


def _beneath(group: Any, context: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "list_commands"):
            yield from _beneath(command, inner, (*names, name))
        else:
            yield " ".join((*names, name)), command, inner


def commands_page() -> str:
    """Markdown of every verb with its arguments and options."""
    parts = [
        "# Commands\n\nMade from the command line itself; `seg3d VERB --help` prints the same. "
        "Exit codes and messages: [errors](../errors.md). The functions of the same names: [Python](python.md)."
    ]
    for name, command, context in commands():
        parts += [f"## seg3d {name}", command.help, f"```text\nseg3d {name} {_usage(command)}\n```"]
        records = (parameter.get_help_record(context) for parameter in command.get_params(context))
        rows = [record for record in records if record is not None and record[0] != "--help"]
        parts.append(table(("argument or option", "meaning"), [(code(what), text(help_)) for what, help_ in rows]))
    return "\n\n".join(parts) + "\n"


def _usage(command: Any) -> str:
    """Arguments in order; what may be left out is in brackets."""
    words = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            optional = not parameter.required and not parameter.metavar.startswith("[")
            words.append(f"[{parameter.metavar}]" if optional else parameter.metavar)
    return " ".join([*words, "[OPTIONS]"])


def settings_page() -> str:
    """Markdown of every config key, a table for each section."""
    parts = [
        "# Config keys\n\nMade from the schema; `seg3d config schema` prints the same. `*` stands for an index or the "
        "name of an item. How keys go together: [settings by subject](../config.md)."
    ]
    rows = schema_rows()
    sections = {row[0].partition(".")[0] for row in rows if "." in row[0]}

    def section_of(row: tuple[str, ...]) -> str:
        top = row[0].partition(".")[0]
        return top if top in sections else "run"

    for section, group in groupby(rows, key=section_of):
        parts += [f"## {section}", table(("key", "type", "default", "meaning"), [_key_cells(*row) for row in group])]
    parts.append(
        "## Without effect on results\n\nLeft out of `config_sha256`, because they change no bit of a result: "
        f"{', '.join(code(key) for key in WITHOUT_EFFECT)}."
    )
    return "\n\n".join(parts) + "\n"


def _key_cells(key: str, kind: str, default: str, meaning: str) -> tuple[str, str, str, str]:
    """A row; keys may be broken at their dots, choices at their bars."""
    return (
        code(key).replace(".", ".<wbr>"),
        text(kind).replace("&#124;", "&#124;<wbr>"),
        code(default) if default else "",
        text(meaning),
    )


def python_page() -> str:
    """Markdown that has mkdocstrings draw each verb's function."""
    parts = [
        "# Python\n\nEvery verb is a function of the package: `import seg3d`, then `seg3d.train(...)`. "
        "What a user has done wrong raises a [`Seg3dError`](../errors.md)."
    ]
    parts += [f"::: seg3d.{name}" for name in seg3d.__all__]
    parts += [f"::: {path}" for path in BESIDE]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: str) -> str:
    """Text in a cell as it is typed; a bar would end the cell."""
    return f"<code>{text(value)}</code>"


def text(value: str) -> str:
    """Text in a cell, none of which is Markdown."""
    return re.sub(r"[|*_\[\]{}`]", lambda sign: f"&#{ord(sign[0])};", html.escape(value, quote=False))


PAGES = {
    "reference/commands.md": commands_page,
    "reference/config.md": settings_page,
    "reference/python.md": python_page,
}


def on_files(files: Any, config: Any) -> Any:
    """Give MkDocs the pages."""
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Docstrings name classes and functions by Sphinx's roles, which Markdown does not know."""
    return re.sub(r":(?:class|func|data|meth|mod):(?=<code)", "", content)
