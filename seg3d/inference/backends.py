"""Other engines than torch for a network on a CPU, each checked against torch before it is used.

The network is handed over as ONNX, in memory: nothing is written, pickled or downloaded. An engine takes one tile of
one size, for which it plans its memory and chooses its kernels; a batch is taken tile by tile, and another size is
compiled, and checked, when it first appears.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seg3d.errors import ConfigError
from seg3d.keyed import keyed

Backend = Literal["torch", "openvino", "onnxruntime"]
Size = tuple[int, ...]
Engine = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_KEY = "predict.backend"
_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}
_KEPT = 2  # engines at a time: each holds the weights and all activations of a tile


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from torch on random tiles.

    Attributes:
        logits: Largest difference of a logit, as a share of the largest logit where that is above 1.
        labels: Smallest share of voxels with the same class, and of logits with the same sign.
    """

    logits: float = 1e-4
    labels: float = 0.999


@dataclass(frozen=True)
class Verified:
    """What the comparison of an engine with torch gave, for the record.

    Attributes:
        backend: The engine.
        version: Its version.
        size: Size of the tile, in voxels.
        difference: Largest absolute difference of a logit.
        scale: Largest absolute logit of torch.
        agreement: Share of voxels with the same class, or of logits with the same sign where that is smaller.
    """

    backend: str
    version: str
    size: Size
    difference: float
    scale: float
    agreement: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the engine may be used; no answer that is not a number is."""
        return self.difference <= tolerance.logits * max(1.0, self.scale) and self.agreement >= tolerance.labels


def compiled(
    network: nn.Module,
    backend: Backend,
    example: torch.Tensor,
    *,
    threads: int | None = None,
    tolerance: Tolerance | None = None,
) -> nn.Module:
    """The network itself for ``"torch"``, else a :class:`CompiledNetwork` that is ready for tiles like ``example``.

    Args:
        network: Gives logits; it is put into evaluation mode.
        backend: The engine.
        example: ``(batch, channel, *size)`` on the CPU; only its shape is looked at.
        threads: Threads of the engine; as many as torch has unless given.
        tolerance: How far the engine may be from torch.

    Raises:
        ConfigError: The packages of the engine are not installed, it cannot take the network, the example is not on
            the CPU, or the answers differ by more than the tolerance.
    """
    network.eval()
    if backend == "torch":
        return network
    if example.device.type != "cpu":
        raise ConfigError(
            f"{backend} computes on the CPU",
            where=_KEY,
            got=f"tiles on {example.device}",
            fix="Predict on the CPU, or with the backend torch.",
        )
    found = CompiledNetwork(network, backend, threads=threads, tolerance=tolerance)
    found.prepare(tuple(example.shape[1:]))
    return found


class CompiledNetwork(nn.Module):
    """A network whose logits ``(batch, output, *size)`` are computed by another engine, in float32 on the CPU.

    Autocast does not reach the engine. While a part of the network is in training mode, as dropout that is sampled,
    torch computes. It is used by one thread at a time.

    Args:
        network: Gives logits; it is kept and not changed.
        backend: The engine.
        threads: Threads of the engine; as many as torch has unless given.
        tolerance: How far the engine may be from torch.

    Attributes:
        network: The network that torch computes.
        checks: The comparison with torch for each shape ``(channel, *size)`` that was compiled.
    """

    def __init__(
        self,
        network: nn.Module,
        backend: Literal["openvino", "onnxruntime"],
        *,
        threads: int | None = None,
        tolerance: Tolerance | None = None,
    ) -> None:
        super().__init__()
        if backend not in _EXTRAS:
            raise ValueError(f"the backend is one of {', '.join(_EXTRAS)}, got {backend!r}")
        self.network = network
        self.backend = backend
        self.threads = threads or torch.get_num_threads()
        self.tolerance = tolerance or Tolerance()
        self.checks: dict[Size, Verified] = {}
        self._engines: dict[Size, Engine] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch.

        Raises:
            ConfigError: As :func:`compiled`, for a size that is new.
            ValueError: The network does not take the size.
        """
        if any(module.training for module in self.network.modules()):
            logits: torch.Tensor = self.network(image)
            return logits
        engine = self.prepare(tuple(image.shape[1:]))
        tiles = image.detach().float().contiguous().numpy()
        return torch.from_numpy(np.concatenate([engine(tiles[i : i + 1]) for i in range(len(tiles))]))

    def prepare(self, shape: Size) -> Engine:
        """The engine for tiles of a shape ``(channel, *size)``, compiled and compared with torch if it is new."""
        engine = self._engines.pop(shape, None) or self._compile(shape)
        self._engines[shape] = engine  # the last used stands last
        for oldest in list(self._engines)[:-_KEPT]:
            del self._engines[oldest]
        return engine

    def _compile(self, shape: Size) -> Engine:
        package = _packages(self.backend)
        tile = _random_tile(shape)
        with _plain_torch():
            expected = self.network(tile).numpy()  # before the export: it tells what is wrong with a size
            engine = _ENGINES[self.backend](package, _onnx(self.network, tile, self.backend), self.threads)
        found = engine(tile.numpy())
        checked = _compare(self.backend, str(package.__version__), shape[1:], found, expected)
        if not checked.within(self.tolerance):
            raise _too_far(checked, self.tolerance)
        self.checks[shape] = checked
        return engine


def _packages(backend: str) -> ModuleType:
    """The engine's package, where it and what hands it the network are installed."""
    try:
        importlib.import_module("onnxscript")
        with _without_telemetry():
            return importlib.import_module(backend)
    except ImportError as error:
        raise ConfigError(
            f"the backend {backend} needs packages that are not installed",
            where=_KEY,
            got=str(error),
            fix=f"pip install 'seg3d[{_EXTRAS[backend]}]', or use the backend torch.",
        ) from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Imports inside the block tell nobody of what is computed here, as both engines do unless they are kept from it.

    ONNX Runtime reads the variable once, when it is imported. OpenVINO is silent where the package that sends is
    missing, so it is hidden.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    name = "openvino_telemetry"
    known = name in sys.modules
    if not known:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not known:
            del sys.modules[name]


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Neither inference mode, which export does not take, nor gradients, nor autocast of whoever asks."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def _random_tile(shape: Size) -> torch.Tensor:
    numbers = keyed(0, "backend", *shape).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(numbers).unsqueeze(0)


def _onnx(network: nn.Module, tile: torch.Tensor, backend: str) -> bytes:
    """The network for one tile of this size as a serialised ONNX model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of packages that nothing here needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(network, (tile,), dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(
            f"{backend} cannot take this network",
            where=_KEY,
            got=str(error.__cause__ or error).strip().splitlines()[0],
            fix="Use the backend torch.",
        ) from error
    finally:
        logger.setLevel(level)
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


def _openvino(package: Any, model: bytes, threads: int) -> Engine:
    core = package.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",  # it would take bf16 where the processor has it
        "ENABLE_CPU_PINNING": "NO",  # the threads that read the next scan need cores too
    }
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()

    def run(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = request.infer([tile], share_inputs=True)[0]
        return found

    return run


def _onnxruntime(package: Any, model: bytes, threads: int) -> Engine:
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores alone
    session = package.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(None, {name: tile})[0]
        return found

    return run


_ENGINES: dict[str, Callable[[Any, bytes, int], Engine]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}


def _compare(
    backend: str, version: str, size: Size, found: NDArray[np.float32], expected: NDArray[np.float32]
) -> Verified:
    """How far the logits of an engine are from torch's; both ``(1, output, *size)``."""
    assert found.shape == expected.shape
    signs = np.mean((found > 0) == (expected > 0))
    classes = np.mean(found.argmax(axis=1) == expected.argmax(axis=1))
    return Verified(
        backend,
        version,
        size,
        difference=float(np.abs(found - expected).max()),
        scale=float(np.abs(expected).max()),
        agreement=float(min(signs, classes)),
    )


def _too_far(checked: Verified, tolerance: Tolerance) -> ConfigError:
    size = "x".join(str(n) for n in checked.size)
    allowed = tolerance.logits * max(1.0, checked.scale)
    return ConfigError(
        f"{checked.backend} {checked.version} does not answer as torch does on a random tile of {size} voxels",
        where=_KEY,
        got=f"logits that differ by {checked.difference:.2g}, {checked.agreement:.4%} of the labels the same",
        expected=f"at most {allowed:.2g} and at least {tolerance.labels:.4%}",
        fix="Use the backend torch.",
    )
