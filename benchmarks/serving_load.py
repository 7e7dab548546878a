"""The web app under load: ``python -m benchmarks.serving_load [--clients N] [--seconds S] [RUN ...]``.

Clients on this machine upload phantom scans to one model, each as fast as it is answered, fetch the mask and delete
the job. A client that is told "busy" waits as long as it is told. Anything but an answer or "busy" is an error.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

import seg3d
from benchmarks.table import describe_machine
from seg3d.phantom import PhantomSpec, write_phantom_dataset

STUDY = """
name: load
data:
  source: {folder}/data
  store: {folder}/store
  split: {{kind: share, val_share: 0.2, test_share: 0.2}}
output_dir: {folder}/runs
prepare: {{normalise: [{{kind: zscore}}], workers: 1}}
sampling: {{patch_size: [32, 32, 32], patches_per_epoch: 8, patches_per_visit: 2, queue_length: 4}}
model: {{features: [8, 16, 32], norm: batch}}
train: {{max_epochs: 1, batch_size: 2, accelerator: cpu, progress: false}}
tracking: {{enabled: false}}
"""
MIB = 1 << 20


@dataclass
class Tally:
    """What all clients have seen."""

    status: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, status: str, seconds: float) -> None:
        with self.lock:
            self.status[f"{what} {status}"] += 1
            self.seconds.setdefault(what, []).append(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="instead of a small network that is trained first")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--voxels", type=int, default=48, help="along each axis of a scan")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = chosen.runs or [train(Path(folder))]
        measure(runs, Path(folder), min(chosen.clients, 200), min(chosen.seconds, 600.0), chosen.voxels)


def train(folder: Path) -> Path:
    """A run of a small network; how good it is does not matter here."""
    write_phantom_dataset(folder / "data", PhantomSpec(cases=5, kind="blobs", shape=(48, 48, 48)))
    config = folder / "load.yaml"
    config.write_text(STUDY.format(folder=folder))
    return seg3d.train(config, tell=lambda _: None)


def measure(runs: list[Path], folder: Path, clients: int, seconds: float, voxels: int) -> None:
    """Serve the runs in a process of their own, let the clients loose and print what they saw."""
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "seg3d.cli", "serve", *map(str, runs), "--port=0", f"--scratch={scratch}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = port_of(server)
            scan = phantom(voxels)
            warm_up(port, scan)
            report(server.pid, port, scan, clients, seconds, voxels)
        finally:
            server.terminate()
            server.wait(timeout=30)
    print(f"files left: {sum(path.is_file() for path in scratch.rglob('*'))}")


def port_of(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found:
            # nobody reads the rest, which must not fill the pipe
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return int(found[1])
    raise SystemExit("the server did not start")


def phantom(voxels: int) -> bytes:
    """A form with a NIfTI file of a bright ball."""
    axis = np.linspace(-1, 1, voxels)
    ball = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2 < 0.4) * 500
    raw = gzip.compress(nib.Nifti1Image(ball.astype(np.int16), np.eye(4)).to_bytes(), 1)
    return b'--x\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n' + raw + b"\r\n--x--\r\n"


def warm_up(port: int, scan: bytes) -> None:
    tally = Tally()
    for _ in range(5):
        one_job(http.client.HTTPConnection("127.0.0.1", port, timeout=120), scan, tally)


def report(process: int, port: int, scan: bytes, clients: int, seconds: float, voxels: int) -> None:
    tally, stop = Tally(), threading.Event()
    threads = [threading.Thread(target=client, args=(port, scan, tally, stop)) for _ in range(clients)]
    memory = [resident(process)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1)
        memory.append(resident(process))
    stop.set()
    for thread in threads:
        thread.join(timeout=120)
    time.sleep(2)
    memory.append(resident(process))
    print(f"{describe_machine(['torch', 'fastapi', 'uvicorn'])}")
    print(f"{clients} clients, {seconds:g} s, scans of {voxels}^3 ({len(scan)} bytes), one model\n")
    print("| | count | p50 s | p95 s | max s |\n| --- | ---: | ---: | ---: | ---: |")
    for what, found in tally.seconds.items():
        print(
            f"| {what} | {len(found)} | " + " | ".join(f"{np.percentile(found, q):.3f}" for q in (50, 95, 100)) + " |"
        )
    quarter = max(1, len(memory) // 4)
    first, last = (float(np.median(part)) for part in (memory[1 : 1 + quarter], memory[-1 - quarter : -1]))
    print(f"\nanswers: {dict(sorted(tally.status.items()))}")
    print(
        f"resident MiB: before {memory[0]:.0f}, median of the first quarter {first:.0f} and of the last {last:.0f}, ",
        end="",
    )
    print(f"most {max(memory):.0f}, afterwards {memory[-1]:.0f}")
    faults = {
        key: count for key, count in tally.status.items() if key.split()[1] not in ("200", "202", "204", "503", "done")
    }
    print(f"errors: {faults or 'none'}")


def resident(process: int) -> float:
    return float(psutil.Process(process).memory_info().rss / MIB)


def client(port: int, scan: bytes, tally: Tally, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while not stop.is_set():
        wait = one_job(connection, scan, tally)
        stop.wait(wait)


def one_job(connection: http.client.HTTPConnection, scan: bytes, tally: Tally) -> float:
    """Upload, wait, fetch, delete; seconds to wait before the next one."""
    began = time.monotonic()
    status, headers, body = ask(connection, "POST", "/predict", tally, scan)
    if status != 202:
        connection.close()  # the server would close it while nothing is asked
        return float(headers.get("retry-after", 1))
    state: dict[str, Any] = json.loads(body)
    link = state["links"]["self"]
    while state["state"] in ("queued", "running"):
        time.sleep(0.1)
        state = json.loads(ask(connection, "GET", link, tally)[2])
    tally.note("job", state["state"], time.monotonic() - began)
    if state["state"] == "done":
        ask(connection, "GET", state["links"]["mask"], tally, what="mask")
    ask(connection, "DELETE", link, tally)
    return 0.0


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    tally: Tally,
    body: bytes | None = None,
    what: str = "",
) -> tuple[int, dict[str, str], bytes]:
    headers = {"content-type": "multipart/form-data; boundary=x"} if body else {}
    began = time.monotonic()
    name = what or {"POST": "upload", "GET": "state", "DELETE": "delete"}[method]
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
    except OSError as error:
        tally.note(name, type(error).__name__, time.monotonic() - began)
        connection.close()
        return 0, {}, b'{"state": "lost"}'
    kind = "refused" if answer.status == 503 else name
    tally.note(kind, str(answer.status), time.monotonic() - began)
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, content


if __name__ == "__main__":
    main()
