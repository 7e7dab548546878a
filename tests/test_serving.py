"""The web app of a trained model: the same answers as ``seg3d predict``, to whom they are due, for as long as told."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from served import (
    Threshold,
    bright,
    client_of,
    files_in,
    finished,
    hand_made,
    nifti_bytes,
    nrrd_bytes,
    picture_bytes,
    post,
)
from starlette.testclient import TestClient
from study import make_study, rewrite
from typer.testing import CliRunner

import seg3d
from seg3d.cli import app
from seg3d.errors import ConfigError, RunError, Seg3dError
from seg3d.serving import answers
from seg3d.serving.access import COOKIE, POLICY, VIEWER_POLICY, Access
from seg3d.serving.inspection import Scan
from seg3d.serving.jobs import CancelledError, Job, JobQueue
from seg3d.serving.model import load_model, watched
from seg3d.serving.refusals import Refusal
from seg3d.serving.server import serve
from seg3d.serving.settings import Limits, read_token, refuse_open_address
from seg3d.serving.storage import private_folder
from seg3d.volume import Grid, Volume

TOKEN = "a-token-of-more-than-sixteen"
GOOD = nifti_bytes(bright())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def runs(study: Path) -> list[Path]:
    settings = ("train.max_epochs=1", "predict.probabilities=true")
    return [seg3d.train(study, [f"seed={seed}", *settings], tell=lambda _: None) for seed in (0, 1)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The app of a model that finds what is brighter than 50."""
    with client_of(hand_made(), tmp_path_factory.mktemp("desk")) as client:
        yield client


def fetched(client: Any, path: str, file: Path) -> Path:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    file.write_bytes(answer.content)
    return file


# --- answers


@pytest.mark.parametrize("count", [1, 2], ids=["one run", "two runs"])
def test_the_app_answers_what_predict_answers(study: Path, runs: list[Path], tmp_path: Path, count: int) -> None:
    scan = sorted((study.parent / "data" / "imagesTr").iterdir())[0]
    seg3d.predict(runs[:count], [scan], tmp_path / "expected")
    expected = {path.name: path for path in (tmp_path / "expected").rglob("*.nii.gz")}
    with client_of(load_model(runs[:count]), tmp_path / "work") as client:
        state = finished(client, post(client, scan))
        assert state["state"] == "done", state
        for name in ("self", "page", "volumes"):
            state["links"].pop(name)
        assert len(state["links"]) == len(expected) == (2 if count == 1 else 5)
        stem = scan.name.removesuffix(".nii.gz")
        for name, link in state["links"].items():
            given = fetched(client, link, tmp_path / "given.nii.gz").read_bytes()
            like = expected[scan.name if name == "mask" else f"{stem}_{name}.nii.gz"]
            assert given == like.read_bytes(), name


def test_a_nrrd_is_answered_by_a_nrrd_on_its_grid(desk: TestClient, tmp_path: Path) -> None:
    scan = nrrd_bytes(bright(), space_origin="(3,4,5)")
    (tmp_path / "scan.nrrd").write_bytes(scan)
    state = finished(desk, post(desk, scan))
    mask = sitk.ReadImage(str(fetched(desk, state["links"]["mask"], tmp_path / f"mask{state['suffixes']['mask']}")))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask).T, bright() > 50)
    source = sitk.ReadImage(str(tmp_path / "scan.nrrd"))
    assert (mask.GetOrigin(), mask.GetSpacing()) == (source.GetOrigin(), source.GetSpacing())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_is_answered_by_a_png_and_its_probability_by_a_tiff(tmp_path: Path, kind: str) -> None:
    with client_of(hand_made(pictures=True, channels=("",)), tmp_path / "work") as client:
        state = finished(client, post(client, picture_bytes(kind)))
        mask = Image.open(fetched(client, state["links"]["mask"], tmp_path / "mask.png"))
        expected = np.zeros((20, 30), bool)
        expected[4:9, 6:14] = True
        np.testing.assert_array_equal(np.array(mask) == 255, expected)
        assert fetched(client, state["links"]["probability_1"], tmp_path / "p.tif").read_bytes()[:4] == b"II*\0"
        assert (state["volumes"][0]["voxels"], state["volumes"][0]["volume_ml"]) == (40, None)
        assert state["suffixes"] == {"mask": ".png", "maps": ".tif"}


def test_the_page_of_a_picture_tells_that_viewers_show_it_turned(tmp_path: Path) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture_bytes())).save(file, format="JPEG", exif=exif)
    with client_of(hand_made(pictures=True, channels=("",)), tmp_path / "work") as client:
        uploads = (post(client, content) for content in (picture_bytes(), file.getvalue()))
        pages = [finished(client, upload)["links"]["page"] for upload in uploads]
        assert ["told to show this picture turned" in client.get(page).text for page in pages] == [False, True]


def test_volumes_are_in_millilitres(desk: TestClient) -> None:
    state = finished(desk, post(desk, GOOD))  # voxels of 1 x 2 x 5 mm
    expected = {"name": "bright", "value": 1, "voxels": 24, "volume_ml": pytest.approx(0.24), "mean_sd": None}
    assert state["volumes"] == [expected]


def test_a_threshold_changes_mask_and_volumes(tmp_path: Path) -> None:
    image = bright()
    image[8:10, 3:5, 2:4] = 49  # a probability of 0.40 for the network's steepness of 20
    with client_of(hand_made(), tmp_path / "work") as client:
        links = finished(client, post(client, nifti_bytes(image)))["links"]

        def voxels(threshold: str) -> int:
            mask = nib.load(fetched(client, links["mask"] + threshold, tmp_path / "mask.nii.gz"))
            found = client.get(links["volumes"] + threshold).json()["volumes"][0]
            assert found["voxels"] == int(np.asanyarray(mask.dataobj).sum())
            assert found["volume_ml"] == pytest.approx(found["voxels"] / 100)
            return int(found["voxels"])

        assert [voxels(at) for at in ("", "?threshold=0.5", "?threshold=0.35", "?threshold=0.45")] == [24, 24, 32, 24]
        assert client.get(links["mask"] + "?threshold=1.5").status_code == 422


def test_runs_that_disagree_show_it(tmp_path: Path) -> None:
    with client_of(hand_made(others=(Threshold(steepness=0.0),)), tmp_path / "work") as client:
        state = finished(client, post(client, GOOD))
        # the second run says 0.5 everywhere, the first nearly 1 in the box
        assert state["volumes"][0]["mean_sd"] == pytest.approx(0.25, abs=0.01)
        sd = nib.load(fetched(client, state["links"]["sd"], tmp_path / "sd.nii.gz")).get_fdata()
        assert sd[3, 4, 4] == pytest.approx(0.25, abs=0.01)


def test_the_page_of_a_scan_stands_alone_and_may_do_nothing_but_show_it(desk: TestClient) -> None:
    state = finished(desk, post(desk, GOOD))
    answer = desk.get(state["links"]["page"] + "?threshold=0.4")
    assert answer.headers["content-security-policy"] == VIEWER_POLICY
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    for words in ("bright", "For research use only", "threshold of 0.4", "hand-made"):
        assert words in answer.text
    assert 'src="http' not in answer.text
    download = desk.get(state["links"]["page"] + "?download=true")
    assert download.headers["content-disposition"].startswith("attachment")


def test_a_result_leaves_no_copy_of_itself_behind(tmp_path: Path) -> None:
    with client_of(hand_made(), tmp_path) as client:
        links = finished(client, post(client, GOOD))["links"]
        before = files_in(tmp_path)
        for name in ("mask", "probability_1", "page"):
            assert client.get(links[name]).status_code == 200
        assert files_in(tmp_path) == before
        assert client.delete(links["self"]).status_code == 204
        assert list(tmp_path.iterdir()) == []
        assert {client.get(link).status_code for link in links.values()} == {404}
    assert list(tmp_path.iterdir()) == []


# --- the model's card, the API's schema


def test_the_card_tells_what_the_runs_tell_and_names_no_case_and_no_folder(runs: list[Path], tmp_path: Path) -> None:
    with client_of(load_model(runs), tmp_path) as client:
        (card,) = client.get("/models").json()["models"]
        page = client.get("/").text
    assert card["labels"] == {"blob": 1}
    assert card["cases"] == {"train": 3, "val": 1, "test": 1}
    assert [member["run"] for member in card["members"]] == [run.name for run in runs]
    digests = [json.loads((run / "result.json").read_text())["weights_sha256"] for run in runs]
    assert [member["weights_sha256"] for member in card["members"]] == digests
    for text in (json.dumps(card), page):
        assert "not a medical device" in text.lower()
        assert "blobs_0" not in text
        assert str(runs[0].parent) not in text


def test_the_card_knows_scores_of_the_test_cases_wherever_they_were_made(runs: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs[0], tmp_path / "run")

    def scored(split: str) -> dict[str, Any]:
        seg3d.predict(run, output=tmp_path / split, split=split)
        found = seg3d.evaluate(tmp_path / split, run / "config.yaml", tmp_path / f"{split}.json", subset=True, run=run)
        return dict(found["foreground_dice"])

    def told() -> Any:
        return load_model([run]).card["members"][0]["test"]

    assert told() is None
    dice = scored("test")
    expected = {"cases": 1, "dice": dice["mean"], "interval": dice["ci95"]}
    assert told() == expected
    scored("train")  # cases that it was trained on say nothing
    assert told() == expected
    evaluations = (run / "evaluations.jsonl").read_text()
    (run / "evaluations.jsonl").write_text(re.sub(r'"weights": "[0-9a-f]{8}', '"weights": "00000000', evaluations))
    assert told() is None  # scores of other weights
    (tmp_path / "test.json").unlink()
    (run / "evaluations.jsonl").write_text(evaluations)
    assert told() is None


def test_the_api_describes_itself_without_scripts_from_elsewhere(desk: TestClient) -> None:
    schema = desk.get("/openapi.json").json()
    assert {"/predict", "/jobs/{job_id}", "/models", "/health"} <= set(schema["paths"])
    assert "multipart/form-data" in schema["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert {"400", "408", "413", "415", "422", "503"} <= set(schema["paths"]["/predict"]["post"]["responses"])
    docs = desk.get("/docs").text
    assert "<script" not in docs
    assert all(path in docs for path in schema["paths"])


def test_a_model_that_cannot_be_served_is_told(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(RunError):
        load_model([tmp_path])
    other = shutil.copytree(runs[0], tmp_path / "other")
    model = json.loads((other / "model.json").read_text())
    rewrite(other, "model.json", model | {"channels": ["CT"]})
    with pytest.raises(RunError):
        load_model([runs[0], other])


# --- who may ask


def test_every_answer_carries_the_headers(desk: TestClient) -> None:
    for path in ("/", "/docs", "/health", "/static/app.js", "/jobs/x", "/nothing"):
        headers = desk.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


def test_without_the_token_nothing_but_health_is_told(tmp_path: Path) -> None:
    with client_of(hand_made(), tmp_path, access=Access(TOKEN)) as client:
        assert client.get("/health").json() == {"status": "ok"}
        for path in ("/models", "/jobs/x", "/jobs/x/mask", "/openapi.json", "/static/app.js"):
            assert client.get(path).status_code == 401, path
        assert post(client, GOOD).status_code == 401
        assert client.get("/", follow_redirects=False).headers["location"] == "/login"
        for wrong in ("Bearer wrong", f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x"):
            assert client.get("/models", headers={"authorization": wrong}).status_code == 401
        assert client.get("/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_browser_that_has_shown_the_token_keeps_another_secret(tmp_path: Path) -> None:
    with client_of(hand_made(), tmp_path, access=Access(TOKEN)) as client:
        assert client.post("/session", json={"token": "wrong"}).status_code == 401
        assert client.post("/session", content=b"{").status_code == 400
        assert client.post("/session", content=b"x" * 10_000).status_code == 413
        answer = client.post("/session", json={"token": TOKEN})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get("/models").status_code == 200
        client.cookies.set(COOKIE, "guessed")
        assert client.get("/models", headers={"cookie": f"{COOKIE}=guessed"}).status_code == 401


def test_other_sites_cannot_ask_through_a_browser(tmp_path: Path) -> None:
    access = Access(hosts=frozenset({"127.0.0.1", "localhost"}))
    with client_of(hand_made(), tmp_path, access=access) as client:
        client.base_url = "http://127.0.0.1:8000"
        assert client.get("/models").status_code == 200
        assert client.get("/models", headers={"host": "evil.example"}).status_code == 421  # DNS rebinding
        for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            answer = client.post("/predict", files={"image": ("a", GOOD)}, headers=headers)
            assert answer.status_code == 403, headers
        own = client.post("/predict", files={"image": ("a", GOOD)}, headers={"origin": "http://127.0.0.1:8000"})
        assert own.status_code == 202


def test_an_open_address_demands_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEG3D_TOKEN", raising=False)
    for host in ("0.0.0.0", "192.0.2.7", "::"):
        with pytest.raises(ConfigError, match="token"):
            serve([tmp_path], host=host)
    for host in ("127.0.0.1", "localhost", "::1"):
        refuse_open_address(host, None)
    monkeypatch.setenv("SEG3D_TOKEN", "short")
    with pytest.raises(ConfigError, match="16 plain characters"):
        serve([tmp_path], host="0.0.0.0")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN


def test_mistakes_of_the_command_line_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEG3D_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            ([tmp_path, "--host", "0.0.0.0"], "without a token"),
            ([tmp_path, "--port", port], "cannot be listened on"),
            ([tmp_path, "--token-file", tmp_path / "none"], "cannot be read"),
            ([tmp_path / "none", "--port", "0"], "none"),
        ):
            result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
            assert isinstance(result.exception, Seg3dError), result.output
            assert words in str(result.exception)


# --- the queue


class Gate:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.open, self.begun = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        self.begun.set()
        while not self.open.wait(0.01):
            job.advance(0.1)
        return "answer"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    found = Gate()
    monkeypatch.setattr(answers, "predict_job", lambda _, job: found(job))
    return found


def test_one_more_than_may_wait_is_told_to_come_back_and_when(tmp_path: Path, gate: Gate) -> None:
    with client_of(hand_made(), tmp_path, Limits(waiting=1)) as client:
        first, second = post(client, GOOD), post(client, GOOD)
        assert gate.begun.wait(10)
        third = post(client, GOOD)
        assert third.status_code == 503
        assert 1 <= int(third.headers["retry-after"]) <= 60
        assert third.json()["detail"].startswith("busy")
        assert client.get(second.headers["location"]).json()["position"] == 1
        assert client.get(second.headers["location"] + "/mask").status_code == 409
        # a place that is given back is there for the next one
        assert client.delete(second.headers["location"]).status_code == 204
        assert post(client, GOOD).status_code == 202
        gate.open.set()
        assert client.delete(first.headers["location"]).status_code == 204


def test_a_running_job_that_is_cancelled_stops_and_leaves_nothing(tmp_path: Path, gate: Gate) -> None:
    told: list[str] = []
    with client_of(hand_made(), tmp_path, told=told) as client:
        answer = post(client, GOOD)
        assert gate.begun.wait(10)
        assert client.get(answer.headers["location"]).json()["state"] == "running"
        assert client.delete(answer.headers["location"]).status_code == 204
        assert client.get(answer.headers["location"]).status_code == 404
        gate.begun.clear()
        post(client, GOOD)
        assert gate.begun.wait(10)  # the worker is free again
        assert len(list(tmp_path.iterdir())) == 1
        gate.open.set()
    assert told[0].startswith("job cancelled")


def test_a_prediction_ends_where_it_stands_when_nobody_wants_it() -> None:
    model, shares = hand_made(), []

    def advance(share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise CancelledError

    volume = _volume_of(bright((40, 40, 40)))
    with pytest.raises(CancelledError), watched(model.predictor, advance) as predictor:
        predictor.predict([volume])
    assert 0.5 < shares[-1] < 0.9
    assert sorted(shares) == shares


@pytest.mark.parametrize("others", [0, 1, 2])
def test_the_share_that_is_told_comes_to_the_whole_with_each_network(others: int) -> None:
    model, shares = hand_made(others=tuple(Threshold() for _ in range(others))), []
    with watched(model.predictor, shares.append) as predictor:
        predictor.predict([_volume_of(bright((20, 20, 20)))])
    assert shares[-1] == pytest.approx(1)
    assert sorted(shares) == shares


def test_watching_a_prediction_does_not_change_it() -> None:
    model, volume = hand_made(), _volume_of(bright((20, 20, 20)))
    plain = model.predictor.predict([volume], probabilities=True)
    with watched(model.predictor, lambda _: None) as predictor:
        seen = predictor.predict([volume], probabilities=True)
    np.testing.assert_array_equal(seen.probabilities[1], plain.probabilities[1])


def test_an_unexpected_failure_is_told_without_what_it_says_and_the_worker_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def fail(*_: Any) -> None:
        raise RuntimeError("the patient's name is Jane Doe")

    with client_of(hand_made(), tmp_path, told=told) as client:
        with monkeypatch.context() as patch:
            patch.setattr(answers, "predict_job", fail)
            state = finished(client, post(client, GOOD))
        assert state["state"] == "failed"
        assert "unexpected" in state["error"]
        assert files_in(tmp_path) == []
        assert finished(client, post(client, GOOD))["state"] == "done"
        with monkeypatch.context() as patch:
            patch.setattr("seg3d.serving.app.job_state", fail)
            answer = client.get(f"/jobs/{state['id']}")
        assert answer.status_code == 500
    assert "RuntimeError" in told[0]
    assert not [line for line in [*told, json.dumps(state), answer.text] if "Doe" in line]


def test_results_are_deleted_after_a_time(tmp_path: Path) -> None:
    with client_of(hand_made(), tmp_path, Limits(kept_s=0.4)) as client:
        state = finished(client, post(client, GOOD))
        assert 0 < state["kept_s"] <= 0.4
        _until(lambda: not list(tmp_path.iterdir()))
        assert client.get(state["links"]["self"]).status_code == 404


def test_results_that_take_all_room_make_it_busy(tmp_path: Path) -> None:
    with client_of(hand_made(), tmp_path, Limits(stored_bytes=1000)) as client:
        first = finished(client, post(client, GOOD))
        assert post(client, GOOD).status_code == 503
        client.delete(first["links"]["self"])
        assert post(client, GOOD).status_code == 202


def test_a_place_that_is_not_used_is_given_back(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path, Limits(waiting=0), lambda _: None)

    def fail() -> None:
        with queue.place() as place:
            (place.folder / "0").write_text("x")
            raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            fail()
    assert list(tmp_path.iterdir()) == []
    with queue.place(), pytest.raises(Refusal) as refused, queue.place():
        pass
    assert refused.value.status == 503


def test_the_names_of_jobs_cannot_be_guessed(tmp_path: Path) -> None:
    scan = Scan((tmp_path / "0.nii",), None)
    names = {Job(tmp_path, scan).id for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) >= 32
    assert not any(tmp_path.name in name for name in names)


# --- storage


def test_the_folder_goes_with_the_server_and_what_a_killed_one_left_with_the_next(tmp_path: Path) -> None:
    killed = tmp_path / "seg3d-serve-killed"
    killed.mkdir()
    (killed / "scan.nii").write_text("x")
    with private_folder(tmp_path) as folder:
        assert not killed.exists()
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "a").write_text("x")
        with private_folder(tmp_path) as other:  # a second server leaves the first one's alone
            assert (folder / "a").exists()
            assert other != folder
    assert list(tmp_path.iterdir()) == []


def test_no_pickle_is_read_anywhere_in_the_app() -> None:
    sources = list((Path(seg3d.__file__).parent / "serving").rglob("*.py"))
    assert len(sources) > 10
    assert not [path for path in sources if "pickle." in (text := path.read_text()) or "allow_pickle=True" in text]


def _volume_of(data: np.ndarray) -> Any:
    return Volume(data[None], Grid(data.shape, np.eye(4)))


def _until(true: Any, seconds: float = 10.0) -> None:
    event = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if true():
            return
        event.wait(0.05)
    raise AssertionError("it did not come about")
