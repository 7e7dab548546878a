"""What the documents tell people to type: commands, options and settings exist, and errors are as shown."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from documents import BLOCKS, PAGES, ROOT, Block, blocks_in, commands_in, parsed
from typer.testing import CliRunner

from seg3d.cli import app
from seg3d.config import Config, load_config
from seg3d.config.document import dump, parse
from seg3d.config.keys import split_key, unknown_at
from seg3d.errors import Seg3dError

LANGUAGES = {"bash", "console", "python", "yaml", "text"}


def test_every_block_says_what_it_is() -> None:
    fences = sum(page.read_text(encoding="utf-8").count("\n```") for page in PAGES)
    assert fences == 2 * len(BLOCKS)
    assert {block.name: block.language for block in BLOCKS if block.language not in LANGUAGES} == {}


@pytest.mark.parametrize("block", blocks_in("bash"))
def test_every_command_exists(block: Block) -> None:
    """Verbs, options, targets of make, modules and extras; nothing is run."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands_in(block):
        first, *rest = [word for word in words if not re.match(r"[A-Z0-9_]+=", word)]  # variables before a command
        if first == "seg3d":
            parsed(rest)
        elif first == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest[0]
        elif first == "pip":
            assert set(re.findall(r"seg3d\[(.*)\]", " ".join(rest))) <= set(extras)
        elif first == "python":
            assert rest[0] == "-m"
            assert importlib.util.find_spec(rest[1]), rest[1]
        else:
            assert first in ("curl", "docker", "mkdir", "mlflow", "."), first


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_named_in_passing_exists(page: Path) -> None:
    """Commands, options, settings and config keys in running text and tables."""
    text = re.sub(r"^```(.*\n)*?```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    verbs = typer.main.get_command(app).commands
    for span in re.findall(r"`([^`\n]+)`", text):
        if found := re.match(r"seg3d (\w+)", span):
            assert found[1] in verbs, span
            known = {name for parameter in verbs[found[1]].params for name in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", span)) - known <= {"--help", "--version"}, span
        for key in re.findall(r"(?:^|\s)([a-z_]+(?:\.[a-z_0-9*]+)+)(?==|: |$)", span):
            if key.split(".")[0] in Config.model_fields and key.rpartition(".")[2] not in (
                "json",
                "jsonl",
                "yaml",
                "csv",
            ):
                parts = [re.sub(r"^\*$", "0", part) for part in split_key(Config, key)]
                assert key.endswith(".*") or unknown_at(Config, parts) is None, span


def test_every_kind_of_fault_that_check_tells_is_explained() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "seg3d" / "cases").glob("*.py"), *(ROOT / "seg3d" / "config").glob("*.py")]
    kinds = set()
    for path in [*sources, ROOT / "seg3d" / "verbs" / "check.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Fault", "_fault_of"):
                kinds |= {node.args[1].value} if isinstance(node.args[1], ast.Constant) else set()
    assert len(kinds) > 20
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in text] == []


@pytest.mark.parametrize("block", blocks_in("yaml"))
def test_every_setting_is_one(block: Block, tmp_path: Path) -> None:
    """A whole config loads; a part of one does with what every config needs."""
    content, faults = parse(block.text)
    assert faults == []
    whole = {"name": "part"} | content
    whole["data"] = {"source": "scans", "store": "store"} | content.get("data", {})
    path = tmp_path / "config.yaml"
    path.write_text(block.text if "name" in content else dump(whole), encoding="utf-8")
    load_config(path)


@pytest.mark.parametrize("block", blocks_in("console"))
def test_every_answer_is_given(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, _, answer = block.text.partition("\n")
    assert command.startswith("$ seg3d ")
    result = CliRunner().invoke(app, shlex.split(command)[2:])
    assert isinstance(result.exception, Seg3dError)
    assert answer == f"seg3d: {result.exception}\n"


@pytest.mark.parametrize("block", blocks_in("bash"))
def test_every_setting_of_a_command_is_one(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands_in(block):
        if words[0] == "seg3d":
            _, chosen = parsed(words[1:])
            load_config(config_of(chosen), chosen.get("overrides") or chosen.get("settings") or ())


def config_of(chosen: dict[str, Any]) -> Path:
    """The config that a command names, or that its run was made with, if the name tells; else some config."""
    named = chosen.get("config") or chosen.get("source") or Path()
    study = Path("configs", f"{Path(chosen.get('run') or '').name.partition('-')[0]}.yaml")
    return next(path for path in (named, study, Path("configs/demo.yaml")) if path.is_file())
