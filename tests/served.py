"""Models to be served and uploads to be sent, for tests of the web app."""

from __future__ import annotations

import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from torch import nn

from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.preparation import Normalisation, Recipe
from seg3d.serving.access import Access
from seg3d.serving.app import create_app
from seg3d.serving.inspection import Wanted
from seg3d.serving.model import ServedModel
from seg3d.serving.settings import Limits
from seg3d.volume import Shape, Spacing


class Threshold(nn.Module):
    """A network that finds what is brighter than a half in its first channel."""

    def __init__(self, steepness: float = 20.0) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.steepness * torch.cat([0.5 - image[:, :1], image[:, :1] - 0.5], dim=1)


def hand_made(
    *,
    pictures: bool = False,
    channels: tuple[str, ...] = ("CT",),
    spacing: Spacing | None = None,
    others: tuple[nn.Module, ...] = (),
    tile: Shape | None = None,
) -> ServedModel:
    """A model whose answers are known by hand: what is brighter than 50."""
    recipe = Recipe(spacing_mm=spacing, normalise=(Normalisation("divide", by=100),))
    window = SlidingWindow(tile or ((16, 16, 1) if pictures else (8, 8, 8)), batch_size=1)
    tiled = tuple((network, window) for network in others)
    predictor = Predictor(Threshold(), window, recipe, channels, (0, 1), torch.device("cpu"), others=tiled)
    card = {
        "id": "hand-made",
        "name": "hand-made",
        "disclaimer": "For research use only.",
        "labels": {"bright": 1},
        "channels": list(channels),
        "input": {"formats": ["PNG", "JPEG"] if pictures else ["NIfTI", "NRRD"], "dimensions": 3},
        "network": {"kind": "threshold", "parameters": 0},
        "cases": {"train": 0, "val": 0, "test": 0},
        "members": [],
        "caveats": [],
        "seg3d": "0",
    }
    return ServedModel(predictor, {1: "bright"}, Wanted(channels, recipe, pictures), card)


@contextmanager
def client_of(
    model: ServedModel,
    folder: Path,
    limits: Limits | None = None,
    access: Access | None = None,
    told: list[str] | None = None,
) -> Iterator[TestClient]:
    """A client of an app that runs while the block does; ``told`` collects the lines of its log."""
    lines = [] if told is None else told
    folder.mkdir(exist_ok=True)
    with TestClient(create_app(model, folder, limits, access, lines.append), raise_server_exceptions=False) as client:
        yield client


def post(client: Any, *files: bytes | Path, name: str = "scan") -> Any:
    """The answer to an upload."""
    contents = [file.read_bytes() if isinstance(file, Path) else file for file in files]
    return client.post("/predict", files=[("image", (name, content)) for content in contents])


def finished(client: Any, answer: Any, seconds: float = 30.0) -> dict[str, Any]:
    """The state of an uploaded job once it has ended."""
    assert answer.status_code == 202, answer.text
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state: dict[str, Any] = client.get(answer.headers["location"]).json()
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        time.sleep(0.02)
    raise AssertionError(f"not finished: {state}")


def files_in(folder: Path) -> list[str]:
    """Names of all files in a folder and below it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- scans


def bright(shape: tuple[int, int, int] = (12, 10, 9)) -> np.ndarray:
    """A dark volume with a bright box of 3 x 4 x 2 voxels."""
    image = np.zeros(shape, np.int16)
    image[2:5, 3:7, 4:6] = 100
    return image


def nifti_bytes(data: np.ndarray, *, packed: bool = True, spacing: Spacing = (1.0, 2.0, 5.0)) -> bytes:
    """A NIfTI file."""
    raw: bytes = nib.Nifti1Image(data, np.diag([*spacing, 1.0])).to_bytes()
    return gzip.compress(raw, 1) if packed else raw


def nifti_header(shape: tuple[int, ...], kind: int = 4) -> bytes:
    """The 352 bytes of a NIfTI header that promises ``shape``; ``kind`` is int16."""
    header = nib.Nifti1Header()
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    header["datatype"], header["bitpix"], header["pixdim"] = kind, 16, 1
    header["vox_offset"], header["sform_code"], header["magic"] = 352, 1, b"n+1"
    header["srow_x"], header["srow_y"], header["srow_z"] = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)
    return bytes(header.binaryblock) + bytes(4)


def nrrd_bytes(data: np.ndarray, *, encoding: str = "gzip", **fields: str) -> bytes:
    """A NRRD file of int16; ``fields`` are added or replace those that are there, underscores standing for spaces."""
    lines = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, data.shape)),
        "space directions": "(1,0,0) (0,1,0) (0,0,2)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": encoding,
        "space origin": "(0,0,0)",
    } | {name.replace("_", " "): value for name, value in fields.items()}
    header = "NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"
    voxels = data.astype("<i2").tobytes(order="F")
    return header.encode() + (gzip.compress(voxels) if encoding == "gzip" else voxels)


def picture_bytes(kind: str = "PNG", *, colour: bool = False) -> bytes:
    """A picture of 30 columns and 20 rows with a bright box of 8 columns and 5 rows."""
    rows = np.zeros((20, 30), np.uint8)
    rows[4:9, 6:14] = 200
    pixels = np.stack([rows, rows // 2, rows], axis=-1) if colour else rows
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, quality=95)
    return file.getvalue()


def png_of(width: int, height: int, pixels: bytes, *, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG, grey unless another type of colours is given, whose stream is ``pixels`` packed, whatever it promises."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)))
    packed = b"".join(_chunk(kind, content) for kind, content in (*chunks, (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + packed


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# --- a real server


@contextmanager
def live(
    model: ServedModel,
    folder: Path,
    limits: Limits | None = None,
    access: Access | None = None,
) -> Iterator[str]:
    """The address of an app that uvicorn serves on this machine while the block runs."""
    folder.mkdir(exist_ok=True)
    config = uvicorn.Config(
        create_app(model, folder, limits, access), http="h11", ws="none", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
