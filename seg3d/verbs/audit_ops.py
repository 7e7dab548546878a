"""``seg3d audit CONFIG --ops``: operators of a study that are not deterministic on CUDA, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seg3d.auditing.ops import Finding, watch
from seg3d.build import training as build
from seg3d.build.prediction import build_reproducibility, build_window
from seg3d.build.settings import counted_labels
from seg3d.config import Config, as_config
from seg3d.store import StoredVolume
from seg3d.verbs.prepare import prepare


@dataclass(frozen=True)
class OperatorReport:
    """What a training step and a prediction call.

    Attributes:
        torch: Version of torch that was looked at.
        calls: Operators called.
        findings: Those that are not deterministic on CUDA.
    """

    torch: str
    calls: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether deterministic mode raises nowhere on CUDA."""
        return all(finding.slow for finding in self.findings)


def audit_operators(config: Config | Path | str, overrides: Sequence[str] = ()) -> OperatorReport:
    """The operators of one training step and one prediction of a study, computed on the CPU.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.

    Raises:
        Seg3dError: The config or the data cannot be used.
    """
    settings = ["train.accelerator=cpu", "train.precision=fp32", "data.num_workers=0", *overrides]
    config = build.resolve(as_config(config, settings))
    store = prepare(config)
    split = build.build_split(config, store.labelled, store.groups)
    counted = counted_labels(store.labels, store.ignore_label)
    build_reproducibility(config).apply(config.seed)
    data = build.build_data(config, store.select(split.train), store.select(split.val), counted)
    module = build.build_module(
        config, len(store.channels), counted, store.ignore_label, steps=1, seed=None, regions=store.regions
    )
    batch = next(iter(data.train_dataloader()))
    optimizer = module.configure_optimizers()["optimizer"]
    with watch("training") as training:
        module.training_step(batch, 0).backward()
        optimizer.step()
    case = store.select(split.train)[0]
    image = torch.from_numpy(StoredVolume(case).image)
    with watch("prediction") as prediction:
        build_window(config, store.regions).probabilities(module.network, image, case.minimum)
    findings = sorted([*training.findings, *prediction.findings])
    return OperatorReport(torch.__version__, training.calls + prediction.calls, tuple(findings))


def format_operators(report: OperatorReport) -> str:
    """The report for people."""
    lines = [f"torch {report.torch}: {report.calls} operators called in a training step and a prediction"]
    for found in report.findings:
        effect = "slow in deterministic mode" if found.slow else "RAISES in deterministic mode"
        place = f"{found.line}, module {found.module or '(none)'}"
        lines.append(f"  {found.phase}: {found.operator} at {place}: {effect} on CUDA; use {found.instead}")
    verdict = "none lacks a deterministic implementation on CUDA" if report.clean else "not deterministic on CUDA"
    return "\n".join([*lines, verdict])
