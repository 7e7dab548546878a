"""Dockerfile and compose.yaml: what they say is there, and the commands that they run work in an environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from served import hand_made, live
from study import make_study

import seg3d

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "a-token-of-more-than-sixteen"


def instructions() -> list[tuple[str, str]]:
    """Keyword and text of each instruction of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(keyword, value) for keyword, value in found]


def services() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return content


def of(keyword: str) -> list[str]:
    return [value for name, value in instructions() if name == keyword]


def filled(text: str) -> str:
    """A value of compose.yaml with its variables filled in."""
    return re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", lambda found: {"RUN": "run", "SEG3D_TOKEN": TOKEN}[found[1]], text)


def test_the_image_has_two_stages_a_user_without_rights_and_a_health_check() -> None:
    known = {"FROM", "ARG", "WORKDIR", "RUN", "ENV", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known
    assert [re.search(r"slim", stage) is not None for stage in of("FROM")] == [True, True]
    last = max(number for number, (name, _) in enumerate(instructions()) if name == "FROM")
    names = [name for name, _ in instructions()[last:]]
    assert of("USER") == ["seg3d"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "TORCH=cpu" in of("ARG")
    assert "whl/${TORCH}" in " ".join(of("RUN"))
    assert "--from=build" in of("COPY")[-1]
    assert len(of("HEALTHCHECK")) == 1


def test_what_is_copied_is_there_and_not_kept_from_the_build() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    for line in of("COPY")[:-1]:
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in kept
    assert (ROOT / "pyproject.toml").read_text().count("\nserve = [") == 1  # the extra that is installed


def test_the_entry_point_is_a_command_and_what_it_is_given_are_its_options() -> None:
    (entry,) = map(json.loads, of("ENTRYPOINT"))
    assert entry == ["seg3d"]
    app = services()["app"]
    assert "entrypoint" not in app
    told = help_of([sys.executable, "-m", "seg3d.cli", *json.loads(of("CMD")[0])])
    check_options(app["command"], told)


def test_the_commands_of_mlflow_are_its_own() -> None:
    server = services()["mlflow"]
    told = help_of([str(Path(sys.executable).parent / server["entrypoint"][0]), server["command"][0], "--help"])
    check_options(server["command"], told)
    assert "sqlite:////mlflow/mlflow.db" in " ".join(server["command"])
    assert server["volumes"] == ["mlflow:/mlflow"]


def test_both_services_are_reached_from_this_machine_only_and_the_app_demands_a_token() -> None:
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
    assert services()["app"]["environment"]["SEG3D_TOKEN"].startswith("${SEG3D_TOKEN:?")
    assert services()["app"]["read_only"] is True


def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(tmp_path: Path) -> None:
    command = health_check()
    with live(hand_made(), tmp_path) as address:
        assert ask(command, address).returncode == 0
    assert ask(command, address).returncode != 0


@pytest.mark.slow
def test_the_commands_work_in_a_clean_environment(tmp_path: Path) -> None:
    """The image's own steps in a virtual environment, because there may be no engine to build it."""
    bin_ = install(tmp_path)
    run = seg3d.train(make_study(tmp_path), ["train.max_epochs=1"], tell=lambda _: None)
    run.rename(tmp_path / "run")
    app = [str(bin_ / "seg3d"), *map(filled, services()["app"]["command"])]
    (tmp_path / "scratch").mkdir()
    check_service(app, tmp_path, "8000", {"/runs": str(tmp_path), "/scratch": str(tmp_path / "scratch")})
    assert list((tmp_path / "scratch").iterdir()) == []  # a server that is told to end leaves nothing
    server = [str(bin_ / services()["mlflow"]["entrypoint"][0]), *services()["mlflow"]["command"]]
    (tmp_path / "mlflow").mkdir()
    check_service(server, tmp_path, "5000", {"/mlflow": str(tmp_path / "mlflow")})
    assert (tmp_path / "mlflow" / "mlflow.db").is_file()


def help_of(command: list[str]) -> str:
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=wide).stdout


def check_options(command: list[str], told: str) -> None:
    options = [word.partition("=")[0] for word in command if word.startswith("--")]
    assert len(options) >= 4
    assert [option for option in options if not re.search(rf"{re.escape(option)}\b", told)] == []


def health_check() -> list[str]:
    command: list[str] = json.loads(of("HEALTHCHECK")[0].partition("CMD")[2])
    return command


def ask(command: list[str], address: str) -> subprocess.CompletedProcess[bytes]:
    there = [word.replace("http://127.0.0.1:8000", address) for word in command]
    return subprocess.run([sys.executable, *there[1:]], check=False, capture_output=True)


def install(folder: Path) -> Path:
    """The folder of the commands of a new virtual environment with what the image's first stage installs."""
    context, bin_ = folder / "context", folder / "venv" / "bin"
    context.mkdir()
    for line in of("COPY")[:-1]:
        for source in line.split()[:-1]:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, context / source)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    for step in of("RUN"):
        if not step.startswith("pip install"):
            continue
        # the indexes of this machine instead of the image's
        words = shlex.split(re.sub(r"--(extra-)?index-url \S+", "", step))
        done = subprocess.run([bin_ / "python", "-m", *words], cwd=context, check=False, capture_output=True, text=True)
        if "connection" in done.stderr.lower() and done.returncode:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr[-2000:]
    return bin_


def check_service(command: list[str], folder: Path, port: str, places: dict[str, str]) -> None:
    """Run a service's command with other places and a free port until it is healthy, and stop it."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = str(found.getsockname()[1])
    words = [word.replace("0.0.0.0", "127.0.0.1").replace(f"--port={port}", f"--port={free}") for word in command]
    for old, new in places.items():
        words = [words[0], *(re.sub(rf"(?<!\w){old}(?=/|$)", new, word) for word in words[1:])]
    environment = {**os.environ, "SEG3D_TOKEN": TOKEN}
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            until_healthy(f"http://127.0.0.1:{free}/health", process)
        finally:
            process.terminate()
    assert process.returncode is not None


def until_healthy(address: str, process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
