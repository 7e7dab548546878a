"""Uploads that are not trusted: whatever comes is an answer or a clear refusal, and nothing stays behind."""

from __future__ import annotations

import errno
import gzip
import io
import pickle
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mutants import fuzz
from PIL import Image
from served import (
    bright,
    client_of,
    files_in,
    finished,
    hand_made,
    nifti_bytes,
    nifti_header,
    nrrd_bytes,
    picture_bytes,
    png_of,
    post,
)
from starlette.testclient import TestClient

from seg3d.serving.inspection import Scan, Wanted, inspect
from seg3d.serving.refusals import Refusal
from seg3d.serving.settings import Limits

MIB = 1 << 20
SMALL = Limits(upload_bytes=2 * MIB, voxels=20_000, waiting=2)


def _nan() -> bytes:
    volume = bright().astype(np.float32)
    volume[0, 0, 0] = np.nan
    return nifti_bytes(volume)


def _bomb(header: bytes) -> bytes:
    """A megabyte of gzip that unpacks to a gigabyte."""
    return gzip.compress(header, 9) + gzip.compress(bytes(16 * MIB), 9) * 64


def _many_chunks() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + (b"\0\0\0\0tEXt" + b"\0\0\0\0") * 140_000


def _dicom() -> bytes:
    return bytes(128) + b"DICM" + bytes(300)


GOOD = nifti_bytes(bright())
BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "0 bytes": (lambda: b"", 400, "empty"),
    "not an image": (lambda: b"Dear Sir or Madam, " * 40, 415, "NIfTI, NRRD, PNG, JPEG"),
    "DICOM": (_dicom, 415, "seg3d convert"),
    "a pickle": (lambda: pickle.dumps({"a": 1}), 415, "NIfTI"),
    "truncated gzip": (lambda: GOOD[: len(GOOD) // 2], 422, "truncated or damaged"),
    "gzip of a letter": (lambda: gzip.compress(b"Dear Sir or Madam, " * 400), 422, "not a NIfTI"),
    "gzip with a wrong check sum": (lambda: GOOD[:-8] + b"\1" * 8, 422, "truncated or damaged"),
    "truncated NIfTI": (lambda: nifti_bytes(bright(), packed=False)[:-5], 422, "smaller than its header"),
    "10^5 cubed": (lambda: gzip.compress(nifti_header((30000, 30000, 30000))), 422, "smaller than its header"),
    "too many voxels": (lambda: nifti_bytes(np.zeros((30, 30, 30), np.int16)), 413, "30x30x30"),
    "gzip bomb": (lambda: _bomb(nifti_header((12, 10, 9))), 413, "unpacks to more"),
    "gzip with an endless name": (lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * MIB, 422, "truncated or damaged"),
    "NaN volume": (_nan, 422, "1 of 1080"),
    "4D series": (lambda: nifti_bytes(np.zeros((6, 6, 6, 20), np.int16)), 422, "series"),
    "JPEG for a CT model": (lambda: picture_bytes("JPEG"), 422, "learnt from"),
    "PNG for a CT model": (lambda: picture_bytes("PNG"), 422, "learnt from"),
    "2 GB, or above the limit": (lambda: bytes(3 * MIB), 413, "too large"),
    "NaN in the NIfTI header": (lambda: GOOD_HEADER(108, np.float32(np.nan).tobytes()), 422, ""),
    "NRRD 10^5 cubed": (lambda: nrrd_bytes(bright(), sizes="100000 100000 100000"), 413, "at most 20000"),
    "NRRD that ends too early": (lambda: nrrd_bytes(bright(), encoding="raw")[:-9], 422, ""),
    "NRRD gzip with too few voxels": (lambda: nrrd_bytes(bright(), sizes="12 10 10"), 422, "truncated or damaged"),
    "NRRD gzip bomb": (lambda: nrrd_bytes(np.zeros((150, 150, 150)), sizes="12 10 9"), 413, "unpacks to more"),
    "NRRD that names a file": (lambda: nrrd_bytes(bright(), data_file="/etc/passwd"), 422, "second file"),
    "NRRD that names a file in capitals": (lambda: nrrd_bytes(bright(), Data_File="/etc/passwd"), 422, "second file"),
    "NRRD that skips": (lambda: nrrd_bytes(bright(), byte_skip="-1"), 422, "field that cannot be used"),
    "NRRD with a hidden line": (lambda: nrrd_bytes(bright(), content="a\rdata file: /etc/passwd"), 422, "line"),
    "NRRD in another encoding": (lambda: nrrd_bytes(bright(), encoding="bzip2"), 422, "encoding"),
    "NRRD without end": (lambda: b"NRRD0004\n# " + b"x" * 70_000, 422, "no end"),
}


def GOOD_HEADER(offset: int, content: bytes) -> bytes:  # noqa: N802
    """A NIfTI file with other bytes in its header."""
    raw = bytearray(nifti_bytes(bright(), packed=False))
    raw[offset : offset + len(content)] = content
    return bytes(raw)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    """The app of a model of CT volumes, and its folder."""
    folder = tmp_path_factory.mktemp("volumes")
    with client_of(hand_made(), folder, SMALL) as client:
        yield client, folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    """The app of a model of grey pictures, and its folder."""
    folder = tmp_path_factory.mktemp("pictures")
    with client_of(hand_made(pictures=True, channels=("",)), folder, SMALL) as client:
        yield client, folder


def assert_refused(served: tuple[TestClient, Path], make: Callable[[], Any], status: int, words: str) -> None:
    client, folder = served
    answer = post(client, make())
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert str(folder) not in answer.text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_refused_clearly_and_leaves_nothing(volumes: tuple[TestClient, Path], name: str) -> None:
    assert_refused(volumes, *BAD[name])


def test_after_all_of_them_a_good_one_is_answered(volumes: tuple[TestClient, Path]) -> None:
    client, folder = volumes
    for make, status, _ in BAD.values():
        assert post(client, make()).status_code == status
    answer = post(client, GOOD)
    assert finished(client, answer)["state"] == "done"
    assert client.delete(answer.headers["location"]).status_code == 204
    assert list(folder.iterdir()) == []


def _many_scans() -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(file, "JPEG", progressive=True)
    raw = file.getvalue()
    start = raw.rindex(b"\xff\xda")
    return raw[:start] + raw[start:-2] * 200 + raw[-2:]


PICTURES = {
    "PNG bomb": (lambda: png_of(30, 20, bytes(40 * MIB)), 413, "unpacks to more"),
    "PNG 10^5 squared": (lambda: png_of(100_000, 100_000, bytes(100)), 422, "smaller than its header"),
    "PNG of many chunks": (_many_chunks, 413, "too many chunks"),
    "JPEG of many scans": (lambda: _many_scans(), 413, "too many scans"),
    "truncated PNG": (lambda: picture_bytes()[:-20], 422, "truncated or damaged"),
    "truncated JPEG": (lambda: picture_bytes("JPEG")[:-60], 422, "truncated or damaged"),
    "colours for a grey model": (lambda: picture_bytes(colour=True), 422, "coloured"),
    "NIfTI for a model of pictures": (lambda: nifti_bytes(bright()), 422, "turned to the patient's axes"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_bad_picture_is_refused_clearly_and_leaves_nothing(pictures: tuple[TestClient, Path], name: str) -> None:
    assert_refused(pictures, *PICTURES[name])


def test_memory_and_time_do_not_follow_a_bomb(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(_bomb(nifti_header((12, 10, 9))))
    before, started = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(Refusal):
        inspect([tmp_path / "0"], hand_made().wanted, SMALL.voxels)
    assert psutil.Process().memory_info().rss - before < 32 * MIB
    assert time.process_time() - started < 2


def test_thick_voxels_of_a_small_file_are_counted_at_the_spacing_of_the_model(tmp_path: Path) -> None:
    model = hand_made(spacing=(1.0, 1.0, 1.0))
    with client_of(model, tmp_path, SMALL) as client:
        assert post(client, nifti_bytes(bright(), spacing=(2, 2, 2))).status_code == 202
        answer = post(client, nifti_bytes(bright(), spacing=(1e6, 1e6, 1e6)))
        assert answer.status_code == 413
        assert "spacing" in answer.json()["detail"]


def test_the_channels_of_a_scan_come_as_one_file_each(tmp_path: Path) -> None:
    with client_of(hand_made(channels=("PET", "CT")), tmp_path, SMALL) as client:
        assert finished(client, post(client, GOOD, GOOD))["state"] == "done"
        assert "wrong number of channels" in post(client, GOOD).json()["detail"]
        other = post(client, GOOD, nifti_bytes(bright(), spacing=(1, 1, 1)))
        assert (other.status_code, "different grids" in other.text) == (422, True)
        assert "too many files" in post(client, GOOD, GOOD, GOOD).json()["detail"]


def test_the_type_is_that_of_the_content_and_the_name_reaches_no_disk_and_no_log(tmp_path: Path) -> None:
    told: list[str] = []
    name = "../../Jane_Doe_1970.exe"
    with client_of(hand_made(), tmp_path, SMALL, told=told) as client:
        assert finished(client, post(client, nrrd_bytes(bright()), name=name))["state"] == "done"
        assert all("Doe" not in file for file in files_in(tmp_path))
        assert any(file.endswith(".nrrd") for file in files_in(tmp_path))
        assert post(client, b"nonsense" * 99, name=name).status_code == 415
    assert told
    assert not [line for line in told if "Doe" in line or str(tmp_path) in line]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "multipart/form-data; boundary=x", 400),
        (b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nabc", "multipart/form-data; boundary=x", 400),
        (b"nonsense", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (b"--x\r\n" + b"A: " + b"b" * 100_000, "multipart/form-data; boundary=x", 400),
        (b"abc", "multipart/form-data", 415),
        (b"abc", "application/json", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
    ],
)
def test_what_is_no_form_is_refused(volumes: tuple[TestClient, Path], content: bytes, kind: str, status: int) -> None:
    client, folder = volumes
    answer = client.post("/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_told_as_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(hand_made(), tmp_path, SMALL) as client:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("seg3d.serving.uploads._Parts._write", full)
            answer = post(client, GOOD)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert list(tmp_path.iterdir()) == []
        assert post(client, GOOD).status_code == 202


# --- mutated headers


def _bases() -> dict[str, tuple[bytes, int]]:
    """Good files and how many of their first bytes are header."""
    raw = nifti_bytes(bright(), packed=False)
    scaled = bytearray(nifti_bytes(bright().astype(np.float32), packed=False))
    scaled[112:120] = np.array([2.0, -1.0], np.float32).tobytes()
    nrrd = nrrd_bytes(bright())
    return {
        "NIfTI": (raw, 352),
        "scaled NIfTI": (bytes(scaled), 352),
        "NRRD": (nrrd, nrrd.index(b"\n\n") + 12),
        "raw NRRD": (nrrd_bytes(bright(), encoding="raw"), nrrd.index(b"\n\n") + 2),
        "PNG": (picture_bytes(), 33),
        "JPEG": (picture_bytes("JPEG"), 400),
    }


BASES = _bases()


def check_mutant(folder: Path, name: str, content: bytes, packed: bool) -> None:
    """Inspect a mutated file: a scan or a refusal comes of it, without much memory or time."""
    for old in folder.iterdir():
        old.unlink()
    (folder / "0").write_bytes(gzip.compress(content, 1) if packed and "NIfTI" in name else content)
    wanted = hand_made(pictures=name in ("PNG", "JPEG"), spacing=(1.0, 1.0, 1.0)).wanted
    resident, started = psutil.Process().memory_info().rss, time.process_time()
    tracemalloc.start()
    found = outcome_of(folder / "0", wanted)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if isinstance(found, Scan):
        assert np.prod(found.header.grid.shape) <= 20_000
    else:
        assert found.status in (400, 413, 415, 422)
        assert str(folder) not in found.detail
    assert peak < 8 * MIB
    assert psutil.Process().memory_info().rss - resident < 64 * MIB
    assert time.process_time() - started < 5


def outcome_of(file: Path, wanted: Wanted) -> Scan | Refusal:
    """What an inspection ends with; anything but these two is a failure of the test."""
    try:
        return inspect([file], wanted, 20_000)
    except Refusal as refusal:
        return refusal


@pytest.mark.parametrize("name", BASES)
def test_a_mutated_header_never_crashes_hangs_or_allocates(tmp_path: Path, name: str) -> None:
    fuzz(partial(check_mutant, tmp_path, name), *BASES[name], 80)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_many_mutated_headers_never_crash_hang_or_allocate(tmp_path: Path, name: str) -> None:
    fuzz(partial(check_mutant, tmp_path, name), *BASES[name], 1500)
