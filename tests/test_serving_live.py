"""The web app behind a real server, with clients that are many, gone, silent or without end."""

from __future__ import annotations

import http.client
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import psutil
from served import bright, finished, hand_made, live, nifti_bytes, post

from seg3d.serving.settings import Limits

MIB = 1 << 20
SMALL = Limits(upload_bytes=4 * MIB, voxels=1 << 20, waiting=3, silence_s=0.5)
GOOD = nifti_bytes(bright())
HEAD = "POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n{more}\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="Jane_Doe"\r\n\r\n'


def connected(address: str, more: str) -> socket.socket:
    """A connection on which the head of an upload has been sent."""
    host = address.removeprefix("http://")
    name, port = host.split(":")
    found = socket.create_connection((name, int(port)), timeout=20)
    found.sendall(HEAD.format(host=host, more=more).encode())
    return found


def status_of(connection: socket.socket) -> int:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_goes_away_in_mid_upload_leaves_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    with live(hand_made(), tmp_path, SMALL) as address, httpx2.Client(base_url=address, timeout=30) as client:
        for _ in range(SMALL.waiting + 3):  # more than there are places
            with connected(address, f"Content-Length: {2 * MIB}\r\n") as connection:
                connection.sendall(PART + bytes(MIB))
                until(lambda: any(tmp_path.rglob("0")))
            until(lambda: not list(tmp_path.iterdir()))
        assert finished(client, post(client, GOOD))["state"] == "done"


def test_a_silent_client_and_one_without_end_are_sent_away(tmp_path: Path) -> None:
    with live(hand_made(), tmp_path, SMALL) as address:
        with connected(address, f"Content-Length: {2 * MIB}\r\n") as silent:
            silent.sendall(PART)
            assert status_of(silent) == 408
        with connected(address, f"Content-Length: {2 << 30}\r\n") as large:
            assert status_of(large) == 413  # before anything of it is sent
        with connected(address, "Transfer-Encoding: chunked\r\n") as endless:
            chunk = PART + bytes(MIB)
            for _ in range(5):
                endless.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                chunk = bytes(MIB)
            assert status_of(endless) == 413
        assert list(tmp_path.iterdir()) == []


def test_of_two_hundred_at_once_each_is_taken_or_told_to_come_back(tmp_path: Path) -> None:
    def send(_: int) -> int:
        answer = post(client, GOOD)
        assert answer.status_code == 202 or int(answer.headers["retry-after"]) >= 1
        if answer.status_code == 202:
            assert finished(client, answer)["state"] == "done"
            assert client.delete(answer.headers["location"]).status_code == 204
        return int(answer.status_code)

    with live(hand_made(), tmp_path, SMALL) as address:
        bounds = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
        with httpx2.Client(base_url=address, timeout=60, limits=bounds) as client:
            with ThreadPoolExecutor(200) as pool:
                found = Counter(pool.map(send, range(200)))
            assert set(found) <= {202, 503}
            assert found[202] >= 1
            assert client.get("/health").status_code == 200
        assert list(tmp_path.iterdir()) == []


def test_memory_returns_to_its_level(tmp_path: Path) -> None:
    volume = nifti_bytes(np.zeros((100, 100, 80), np.float32))
    refused = nifti_bytes(np.full((100, 100, 80), np.nan, np.float32))
    model = hand_made(tile=(64, 64, 64))
    with live(model, tmp_path, SMALL) as address, httpx2.Client(base_url=address, timeout=60) as client:

        def level() -> int:
            answer = post(client, volume)
            assert finished(client, answer)["state"] == "done"
            client.delete(answer.headers["location"])
            assert post(client, refused).status_code == 422
            return int(psutil.Process().memory_info().rss)

        first = [level() for _ in range(2)][-1]
        last = [level() for _ in range(5)][-1]
    assert last - first < 16 * MIB  # one such scan takes more while it is predicted
