"""The operator check: finds what is called, where, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from study import make_study
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from seg3d.auditing.ops import RULES, Finding, watch
from seg3d.cli import app
from seg3d.losses import LossTerm, build_loss
from seg3d.models import ReducedUNet


def findings(network: nn.Module, loss: nn.Module, size: tuple[int, ...] = (8, 8, 8)) -> list[Finding]:
    image, label = torch.zeros(2, 1, *size), torch.zeros(2, *size, dtype=torch.long)
    with watch("training") as found:
        loss(network(image), label).backward()
    return list(found.findings)


class Pooled(nn.Module):
    """A network with a bad pool, a slow upsampling and a clean one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 2, 3, padding=1)
        self.pool = nn.Sequential(nn.AvgPool3d(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.pool(self.first(image))
        found = functional.interpolate(found, scale_factor=2.0, mode="nearest")
        return functional.interpolate(found[..., ::2, ::2, ::2], scale_factor=2.0, mode="trilinear")


class OwnCrossEntropy(nn.Module):
    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, label, reduction=self.reduction).mean()


def test_a_bad_pool_is_found_with_its_module_and_line_and_nearest_upsampling_is_not() -> None:
    found = {finding.operator: finding for finding in findings(Pooled(), OwnCrossEntropy("none"))}
    assert set(found) == {"avg_pool3d_backward", "upsample_trilinear3d_backward"}
    pool, trilinear = found["avg_pool3d_backward"], found["upsample_trilinear3d_backward"]
    assert not pool.slow
    assert trilinear.slow
    source = Path(__file__).read_text().splitlines()
    for finding, text in ((pool, "self.pool(self.first(image))"), (trilinear, 'mode="trilinear"')):
        file, line = finding.line.rsplit(":", 1)
        assert file == "tests/test_ops.py"
        assert text in source[int(line) - 1]
    assert pool.module.endswith("pool.0")


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", {"nll_loss2d_forward"}), ("sum", {"nll_loss2d_forward"}), ("none", set())]
)
def test_cross_entropy_is_found_where_it_reduces(reduction: str, expected: set[str]) -> None:
    network = nn.Conv3d(1, 2, 1)
    assert {finding.operator for finding in findings(network, OwnCrossEntropy(reduction))} == expected


@pytest.mark.parametrize("kind", ["cross_entropy", "dice", "generalised_dice", "focal", "tversky"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_everything_that_a_config_can_choose_is_clean(kind: str, dims: int, norm: str) -> None:
    network = ReducedUNet(1, 2, dims=dims, features=(2, 4), norm=norm, dropout=0.2)
    loss = build_loss([LossTerm(kind=kind)], class_weights=[1.0, 2.0], ignore_label=7, values=(0, 1))
    assert findings(network, loss, (8,) * dims) == []


def test_the_table_covers_what_the_installed_torch_documents() -> None:
    text = torch.use_deterministic_algorithms.__doc__ or ""
    raising = text[text.index(":class:`RuntimeError` when ``mode=True``") : text.index("In addition, several")]
    documented = set(re.findall(r"\* :(?:class|func):`torch\.(?:[\w.]+\.)?(\w+)`", raising))
    assert len(documented) > 15
    # resize_ of quantised tensors is no part of segmentation; unpooling in 1D is computed in 2D
    assert documented - {rule.documented for rule in RULES.values()} == {"resize_", "MaxUnpool1d"}
    for name in RULES:
        assert hasattr(torch.ops.aten, name), name


def test_a_study_is_checked_from_the_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(make_study(tmp_path)), "--ops"])
    assert done.exit_code == 0, done.output
    assert "none lacks a deterministic implementation on CUDA" in done.stdout
    calls = re.search(r"(\d+) operators called", done.stdout)
    assert calls is not None
    assert int(calls[1]) > 100
