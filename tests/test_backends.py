"""Other engines answer as torch does or are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seg3d.errors import ConfigError
from seg3d.inference import backends
from seg3d.inference.backends import CompiledNetwork, Tolerance, Verified, compiled
from seg3d.inference.reach import geometry
from seg3d.keyed import keyed
from seg3d.models import AttentionUNet, ReducedUNet, UNet, take_channels_last
from seg3d.models.planar import Planar

ENGINES = ("openvino", "onnxruntime")


def numbers(*shape: int) -> torch.Tensor:
    return torch.from_numpy(keyed(7, "test", *shape).standard_normal(shape, dtype=np.float32))


def planar() -> nn.Module:
    network = UNet(3, 2, features=(4, 8), padding="same", upsampling="nearest", norm="batch")
    take_channels_last(network)
    return Planar(network, axis=2)


# every network, 2 and 3 axes, every normalisation, odd sizes, a batch of more than one
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "reduced": (lambda: ReducedUNet(2, 3, features=(4, 8, 8), norm="instance", dropout=0.3), (2, 2, 8, 12, 16)),
    "valid": (lambda: UNet(1, 2, dims=3, features=(4, 8), norm="none", dropout=0.3), (1, 1, 20, 22, 24)),
    "attention": (lambda: AttentionUNet(1, 1, dims=2, features=(4, 8), norm="batch", dropout=0.3), (3, 1, 16, 24)),
    "planar": (planar, (2, 1, 16, 24, 3)),
}


def trained(network: nn.Module) -> nn.Module:
    """As after training: statistics of batch norm are not those of a fresh network."""
    for number, module in enumerate(network.modules()):
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            draw = keyed(3, "statistics", number)
            module.running_mean.copy_(torch.from_numpy(draw.normal(size=len(module.running_mean))))
            module.running_var.copy_(torch.from_numpy(draw.uniform(0.5, 2, size=len(module.running_var))))
    return network


@pytest.fixture
def network() -> nn.Module:
    return ReducedUNet(1, 2, dims=2, features=(4,), norm="none", dropout=0.5).eval()


def fake(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> list[tuple[int, ...]]:
    """An engine that computes a change of torch's answer; the sizes that it was made for, in their order."""
    made: list[tuple[int, ...]] = []

    def export(network: nn.Module, tile: torch.Tensor, backend: str) -> nn.Module:
        made.append(tuple(tile.shape))
        return network

    def engine(package: Any, network: Any, threads: int) -> backends.Engine:
        def run(tile: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return change(network(torch.from_numpy(tile))).numpy()

        return run

    monkeypatch.setattr(backends, "_onnx", export)
    monkeypatch.setitem(backends._ENGINES, "openvino", engine)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_as_in_torch_whatever_mode_torch_is_in(name: str, backend: Any) -> None:
    make, shape = NETWORKS[name]
    network = trained(make()).eval()
    example = numbers(*shape)
    found = CompiledNetwork(network, backend, threads=1)
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):  # which has three digits
            answer = found(example)
        expected = network(example)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-4)
    (checked,) = found.checks.values()
    assert checked.size == shape[2:]
    assert 0 < checked.difference < 1e-4  # exactly 0 would be torch compared with itself
    assert checked.agreement > 0.999


def test_torch_is_the_network_itself(network: nn.Module) -> None:
    assert compiled(network.train(), "torch", numbers(1, 1, 8, 8)) is network
    assert not network.training


def test_sampled_dropout_is_computed_by_torch(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda logits: logits)
    found = compiled(network, "openvino", numbers(1, 1, 8, 8))
    example = numbers(1, 1, 8, 8)
    with torch.no_grad():
        still = found(example)
        found.train()
        assert not torch.equal(found(example), still)


def test_why_tiles_are_blended_names_the_engine(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda logits: logits)
    assert geometry(compiled(network, "openvino", numbers(1, 1, 8, 8))) == "openvino takes tiles as a whole"


def test_a_size_is_compiled_once_and_the_last_two_are_kept(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fake(monkeypatch, lambda logits: logits)
    found = compiled(network, "openvino", numbers(2, 1, 8, 8))
    for size in (8, 10, 8, 12, 8, 10):
        assert found(numbers(3, 1, size, size)).shape == (3, 2, size, size)
    assert made == [(1, 1, n, n) for n in (8, 10, 12, 10)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda logits: logits * 1.01, "100.0000% of the labels the same"),
        (lambda logits: logits.flip(1), "of the labels the same"),
        (lambda logits: logits * float("nan"), "differ by nan"),
    ],
)
def test_an_engine_that_answers_otherwise_is_refused(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor], told: str
) -> None:
    fake(monkeypatch, change)
    with pytest.raises(ConfigError, match=r"predict\.backend: openvino .* does not answer as torch") as caught:
        compiled(network, "openvino", numbers(1, 1, 8, 8))
    assert told in str(caught.value)
    assert "8x8 voxels" in str(caught.value)


def test_the_tolerance_is_a_share_of_large_logits_and_the_labels_count_too() -> None:
    good = Verified("openvino", "1", (8, 8), difference=0.0005, scale=10.0, agreement=0.9995)
    assert good.within(Tolerance())
    assert not replace(good, difference=0.0011).within(Tolerance())
    assert not replace(good, scale=0.1).within(Tolerance())
    assert not replace(good, agreement=0.998).within(Tolerance())
    assert replace(good, agreement=0.998).within(Tolerance(labels=0.99))


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("onnxruntime", "onnxruntime", "onnx"),
        ("openvino", "onnxscript", "openvino"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, backend: backends.Backend, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        compiled(network, backend, numbers(1, 1, 8, 8))
    assert f"pip install 'seg3d[{extra}]'" in str(caught.value)


def test_a_size_that_the_network_does_not_take_is_told_as_by_the_network() -> None:
    with pytest.raises(ValueError, match="divisible by 2"):
        compiled(ReducedUNet(1, 2, dims=2, features=(4, 8)), "onnxruntime", numbers(1, 1, 8, 9))


class Branching(nn.Module):
    """Goes another way for other values, which no graph of operations can."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * 2 if float(image.sum()) > 0 else image


def test_a_network_that_cannot_be_handed_over_is_refused() -> None:
    with pytest.raises(ConfigError, match="onnxruntime cannot take this network") as caught:
        compiled(Branching(), "onnxruntime", numbers(1, 1, 8, 8))
    assert "data-dependent" in str(caught.value)


def test_tiles_on_another_device_are_refused(network: nn.Module) -> None:
    with pytest.raises(ConfigError, match="on the CPU"):
        compiled(network, "openvino", torch.empty((1, 1, 8, 8), device="meta"))


def test_no_engine_is_called_by_an_unknown_name(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="openvino, onnxruntime"):
        CompiledNetwork(network, "tensorrt")


@pytest.mark.slow
def test_nothing_is_written_or_sent(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    code = (
        "import sys, torch; from seg3d.models import ReducedUNet; from seg3d.inference.backends import compiled\n"
        "net = ReducedUNet(1, 2, dims=2, features=(4,))\n"
        "[compiled(net, name, torch.zeros(1, 1, 8, 8), threads=1) for name in ('openvino', 'onnxruntime')]\n"
        "assert 'openvino_telemetry' not in sys.modules"
    )
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(scratch)}
    for silent in ("CI", "ORT_DISABLE_TELEMETRY"):  # with these the engines are silent of themselves
        environment.pop(silent, None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scratch, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert list(scratch.rglob("*")) == []
