"""What the documents tell people to type is typed: page by page, from top to bottom, on phantoms.

Trainings are made small, audits have two runs of each set-up. Not run are ``make``, ``pip``, ``docker`` and ``mlflow``,
which :mod:`test_serving_container` and the set-up of a clone go through.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from dicom_files import values, write_series
from documents import PAGES, ROOT, blocks_of, commands_in, parsed
from studies import STUDIES
from typer.testing import CliRunner

import seg3d
from seg3d.cli import app
from seg3d.config import load_config, to_yaml
from seg3d.phantom import PhantomSpec, write_phantom_dataset

QUICK = ("README.md", "docs/own-data.md", "docs/inference.md", "docs/viewer.md")
ELSEWHERE = ("make", "pip", "docker", "mlflow", ".", "curl")  # curl: see the test of the app
SYSTEMS = [page for page in PAGES if page.parent.name == "systems"]
OTHERS = [page for page in PAGES if page not in SYSTEMS and "```bash" in page.read_text(encoding="utf-8")]
PLAIN = (
    "tracking.enabled=false",
    "data.split.seed=0",
    "data.num_workers=0",
    "prepare.workers=1",
    "train.progress=false",
)
SMALL = (
    *PLAIN,
    "model.features=[4,8]",
    "model.dropout=0.1",
    "train.max_epochs=2",
    "train.schedule.warmup_steps=1",
    "sampling.patches_per_epoch=2",
    "sampling.patch_size=[16,16,16]",
    "predict.tile_size=[32,32,32]",
)
STUDY = (*SMALL, "data.source=Task04_Hippocampus")
HIPPOCAMPUS = "configs/hippocampus3d.yaml"
FIRST = "runs/hippocampus3d-71e51a90"


def where(page: Path) -> str:
    return str(page.relative_to(ROOT))


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
    write_series(folder / "archive" / "patient01" / "CT", values())
    fold = {"train": [name.removesuffix(".nii.gz") for name in names[1:]], "val": [names[0].removesuffix(".nii.gz")]}
    (folder / "splits_final.json").write_text(json.dumps([fold]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_run()
    return folder


@pytest.fixture(scope="module")
def full_stage(stage: Path) -> Path:
    """The same with a run of another seed, one that was stopped, and audits: for pages on several runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(stage)
        other = seg3d.train(HIPPOCAMPUS, [*STUDY, "seed=1"], folder=Path("RUN_2"))
        for name in ("RUN_A2", "RUN_A3", "RUN_B", "RUN_B2", "RUN_3"):
            shutil.copytree(other, name)
        stop_a_run(Path("STOPPED"))
        Path("CONFIG").write_text(to_yaml(load_config(Path(HIPPOCAMPUS), STUDY)), encoding="utf-8")
        for name, changed in {"AUDIT_A": [], "AUDIT_B": ["model.features=[4,6]"]}.items():
            settings = [*STUDY, "data.split.seed=null", *changed]
            seg3d.audit(HIPPOCAMPUS, settings, runs=2, setups=["deterministic"], vary="seed", output=name)
        shutil.copytree("AUDIT_A", "runs/audit-seeds")
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
    first = seg3d.train(HIPPOCAMPUS, STUDY, folder=Path(FIRST))
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


def stop_a_run(folder: Path) -> None:
    """A run that was stopped after two of its three epochs."""

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises((SystemExit, KeyboardInterrupt)):  # the former is what Lightning makes of it
        seg3d.train(HIPPOCAMPUS, [*STUDY, "train.max_epochs=3"], folder=folder, tell=stop)
    assert not (folder / "result.json").exists()


def smaller(words: list[str]) -> list[str]:
    """The same with a network and a training that take seconds."""
    return [*words, *SMALL]


def audit(words: list[str]) -> list[str]:
    """The same with two runs of each set-up."""
    fewer = smaller(words)
    if "--runs" in words:
        fewer[words.index("--runs") + 1] = "2"
    return fewer


def resume(words: list[str]) -> list[str]:
    """The same, of a run that was really stopped."""
    folder = Path(words[-1])
    shutil.rmtree(folder)
    shutil.copytree("STOPPED", folder)
    return words


def demo(words: list[str]) -> list[str]:
    """The same, without the run that other pages are given."""
    shutil.rmtree("demo")
    return [*smaller(words), "sampling.patches_per_epoch=4"]


MADE_SMALL: dict[str, Callable[[list[str]], list[str]]] = {
    "train": smaller,
    "plan": smaller,
    "audit": audit,
    "resume": resume,
    "demo": demo,
}


def type_in(words: Sequence[str], place: str) -> None:
    """Run a command."""
    if words[0] == "mkdir":
        Path(words[-1]).mkdir(parents=True, exist_ok=True)
        return
    if words[0] != "seg3d":
        assert words[0] in ELSEWHERE or "=" in words[0], (place, words)
        return
    spread = [path for word in words[1:] for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    verb, _ = parsed(spread)
    if verb == "serve":  # see the test of the app
        return
    result = CliRunner().invoke(app, MADE_SMALL.get(verb, list)(spread))
    assert result.exit_code in ((0, 1) if verb == "diff" else (0,)), (place, words, result.output, result.exception)
    if verb == "resume":
        assert (Path(words[-1]) / "result.json").exists()


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=where(p), marks=() if where(p) in QUICK else pytest.mark.slow) for p in OTHERS]
)
def test_what_a_page_tells_to_do_works(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom: configs are saved under their names, commands and code are run."""
    here = tmp_path / "here"
    shutil.copytree(request.getfixturevalue("stage" if where(page) in QUICK else "full_stage"), here, symlinks=True)
    monkeypatch.chdir(here)
    for block in blocks_of(page):
        if block.language == "yaml" and block.text.startswith("name: "):
            path = here / f"{block.text.split()[1]}.yaml"
            path.write_text(block.text, encoding="utf-8")
            assert [fault for fault in seg3d.check(path) if not fault.note] == [], block.name
        elif block.language == "python":
            exec(compile(block.text, block.name, "exec"), {})
        elif block.language == "bash":
            for words in commands_in(block):
                type_in(words, block.name)


def test_every_file_of_a_run_is_explained(stage: Path) -> None:
    text = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    told = {re.sub(r"-STEP-DIGEST", "-*", name) for name in re.findall(r"`([\w./-]+)`", text)}
    run = stage / FIRST
    files = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if not any(path.match(name) for name in told)] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", SYSTEMS, ids=where)
def test_what_the_page_of_a_system_tells_to_do_works(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On phantoms under the name that the page gives to the data."""
    spec, layout, small = STUDIES[page.stem]
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    (block,) = (block for block in blocks_of(page) if block.language == "bash")
    commands = commands_in(block)
    name = re.findall(r"data\.source=(\S+)", " ".join(commands[0]))[0]
    write_phantom_dataset(Path(name), spec, layout)
    if page.stem == "cxr2d":
        of_two_sites(Path(name))
    pictures = sorted(path for path in Path(name).rglob("*.png") if not {"labels", "masks", "label"} & {*path.parts})
    for picture in pictures[:1]:
        copy(picture, Path("X-RAY.png"))
        copy(picture, Path("PICTURE.png"))
    shorter = [*PLAIN, "train.max_epochs=1", "train.validate_every=1", *small]
    folds = [] if "folds" in block.text else ["data.split.folds=4"]
    for words in commands:
        if words[1] == "train":
            batch = load_config(Path(words[2])).train.batch_size
            result = CliRunner().invoke(
                app, [*words[1:], *shorter, *folds, f"sampling.patches_per_epoch={batch}", "train.precision=fp32"]
            )
            assert result.exit_code == 0, (result.output, result.exception)
            (run,) = Path("runs").iterdir()
            run.rename(f"runs/{page.stem}-XXXXXXXX")
        else:
            type_in(words, block.name)


def of_two_sites(folder: Path) -> None:
    """Give chest X-rays the names that those of two hospitals have."""
    for path in sorted(folder.rglob("*.png")):
        number = int(re.findall(r"_(\d+)", path.name)[0])
        site = "CHNCXR" if number % 2 else "MCUCXR"
        path.rename(path.with_name(re.sub(r"^[^_]*", site, path.name)))


@contextmanager
def serving(words: Sequence[str]) -> Iterator[str]:
    """The address of the app that a command starts, on a free port."""
    command = [str(Path(sys.executable).with_name("seg3d")), *words[1:], "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            lines = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stdout)
            yield next(found[0] for found in lines if found)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def answer_of(address: str) -> dict[str, Any]:
    with urlopen(address, timeout=60) as response:
        found: dict[str, Any] = json.load(response)
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
def test_the_app_is_started_and_asked_as_its_page_tells(
    full_stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/serving.md, with the port and the job's number filled in."""
    here = Path(shutil.copytree(full_stage, tmp_path / "here", symlinks=True))
    monkeypatch.chdir(here)
    commands = [
        words
        for block in blocks_of(ROOT / "docs" / "serving.md")
        if block.language == "bash"
        for words in commands_in(block)
    ]
    first, *others = (words for words in commands if words[:2] == ["seg3d", "serve"])
    with serving(first) as address:
        job = ""
        for words in (words for words in commands if words[0] == "curl"):
            filled = [word.replace("http://127.0.0.1:8000", address).replace("ID", job) for word in words]
            done = subprocess.run([*filled, "--silent", "--fail"], check=True, capture_output=True, text=True)
            job = job or json.loads(done.stdout)["id"]
            deadline = time.monotonic() + 60
            while "-X" not in words and answer_of(f"{address}/jobs/{job}")["state"] not in ("done", "failed"):
                assert time.monotonic() < deadline
                time.sleep(0.1)
    expected = seg3d.predict(FIRST, ["scan.nii.gz"], output="expected")
    assert Path("mask.nii.gz").read_bytes() == Path(expected[0]).read_bytes()
    assert others
    for words in others:
        with serving(words) as address:
            assert len(answer_of(f"{address}/models")) >= 1
