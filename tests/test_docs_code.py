"""What the documents tell people to type: commands, settings and code are run, or at least checked."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import seg3d
from seg3d.cli import app
from seg3d.config import Config, load_config
from seg3d.config.document import dump, parse
from seg3d.config.keys import split_key, unknown_at
from seg3d.errors import Seg3dError
from seg3d.phantom import PhantomSpec, write_phantom_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"bash", "console", "python", "yaml", "text"}
QUICK = ["README.md", "docs/own-data.md", "docs/inference.md", "docs/viewer.md"]
LONGER = [
    f"docs/{name}.md" for name in ("start", "running", "predicting", "many-runs", "reproducibility", "run-report")
]
# the other verbs take long, and are run by tests of their own
RUN = ("check", "config", "predict", "evaluate", "view", "report", "figure", "verify", "diff", "compare")
SMALL = (
    "tracking.enabled=false",
    "data.split.seed=0",
    "model.features=[4,8]",
    "train.max_epochs=1",
    "sampling.patches_per_epoch=2",
    "data.num_workers=0",
    "prepare.workers=1",
    "model.dropout=0.1",
    "train.progress=false",
    "sampling.patch_size=[16,16,16]",
    "predict.tile_size=[32,32,32]",
)
STUDY = (*SMALL, "data.source=Task04_Hippocampus")


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
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
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


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which lies, made of phantoms, what the documents name."""
    folder = tmp_path_factory.mktemp("stage")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_phantom_dataset(folder / "Task04_Hippocampus", PhantomSpec(cases=10, kind="hippocampus"))
    blobs = PhantomSpec(cases=5, kind="blobs", labels=("heart",))
    write_phantom_dataset(folder / "Dataset101_Heart", blobs, "nnunet")
    write_phantom_dataset(folder / "sarcoma", PhantomSpec(cases=5, kind="sarcoma", shape=(24, 24, 24)), "folders")
    write_phantom_dataset(folder / "xrays", PhantomSpec(cases=5, kind="xray", shape=(64, 64, 1)))
    names = [path.name for path in sorted((folder / "Dataset101_Heart" / "labelsTr").iterdir())]
    copy_pairs(folder, names)
    fold = {"train": [name.removesuffix(".nii.gz") for name in names[1:]], "val": [names[0].removesuffix(".nii.gz")]}
    (folder / "splits_final.json").write_text(json.dumps([fold]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_run()
    return folder


@pytest.fixture(scope="module")
def full_stage(stage: Path) -> Path:
    """The same with a run of another seed, for pages on several runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(stage)
        other = seg3d.train("configs/hippocampus3d.yaml", [*STUDY, "seed=1"], folder=Path("RUN_2"))
        for name in ("RUN_A2", "RUN_A3", "RUN_B", "RUN_B2", "RUN_3"):
            shutil.copytree(other, name)
    return stage


def copy_pairs(folder: Path, names: Sequence[str]) -> None:
    """The folders and the table that the pages on own data describe."""
    rows = []
    for number, name in enumerate(names, 1):
        source, patient = folder / "Dataset101_Heart", f"patient{number:02}.nii.gz"
        pairs = {"images": source / "imagesTr" / name.replace(".", "_0000.", 1), "masks": source / "labelsTr" / name}
        for part, path in pairs.items():
            copy(path, folder / "mydata" / part / patient)
        rows.append(f"mydata/images/{patient},mydata/masks/{patient}")
    (folder / "cases.csv").write_text("\n".join(["CT,label", *rows]), encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def make_run() -> None:
    """A run under several of the names that the pages give to runs, its answers, and scores."""
    first = seg3d.train("configs/hippocampus3d.yaml", STUDY, folder=Path("runs/hippocampus3d-71e51a90"))
    for name in ("RUN", "RUN_1", "RUN_A", "RUN_A1", "RUN_B1", "demo/runs/demo-1"):
        shutil.copytree(first, name)
    scan, reference = (sorted(Path("Task04_Hippocampus", part).iterdir())[0] for part in ("imagesTr", "labelsTr"))
    for name in ("SCAN.nii.gz", "scan.nii.gz", "scans/case_7.nii.gz", "demo/data/imagesTr/chest_003.nii.gz"):
        copy(scan, Path(name))
    for name in ("REFERENCE.nii.gz", "ANSWER.nii.gz", "RUN/test/case_7.nii.gz", "demo/data/labelsTr/chest_003.nii.gz"):
        copy(reference, Path(name))
    copy(reference, Path("ENTROPY.nii.gz"))
    answers = seg3d.predict(first, split="test", output="scored")
    assert answers
    seg3d.evaluate("scored", "Task04_Hippocampus", "scores.json", subset=True)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONGER)])
def test_what_a_page_tells_to_do_works(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom: configs are saved under their names, quick commands and code are run."""
    here = tmp_path / "here"
    shutil.copytree(request.getfixturevalue("full_stage" if name in LONGER else "stage"), here, symlinks=True)
    monkeypatch.chdir(here)
    for block in blocks_of(ROOT / name):
        if block.language == "yaml" and block.text.startswith("name: "):
            study = block.text.split()[1]
            path = here / f"{study}.yaml"
            path.write_text(block.text, encoding="utf-8")
            assert [fault for fault in seg3d.check(path) if not fault.note] == [], block.name
        elif block.language == "python":
            exec(compile(block.text, block.name, "exec"), {})
        elif block.language == "bash":
            for words in commands_in(block):
                do(words, block.name)


def test_every_file_of_a_run_is_explained(stage: Path) -> None:
    text = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    told = {re.sub(r"-STEP-DIGEST", "-*", name) for name in re.findall(r"`([\w./-]+)`", text)}
    run = stage / "runs" / "hippocampus3d-71e51a90"
    files = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if not any(path.match(name) for name in told)] == []


def do(words: Sequence[str], where: str) -> None:
    """Run a command, if it is quick; else its settings are looked at."""
    if words[0] == "mkdir":
        Path(words[-1]).mkdir(parents=True, exist_ok=True)
    if words[0] != "seg3d" or "AUDIT_A" in words:  # an audit takes long
        return
    spread = [path for word in words[1:] for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    verb, _ = parsed(spread)
    if verb == "train":
        spread += SMALL
    elif verb not in RUN:
        return
    result = CliRunner().invoke(app, spread)
    assert result.exit_code in ((0, 1) if verb == "diff" else (0,)), (where, words, result.output, result.exception)


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
