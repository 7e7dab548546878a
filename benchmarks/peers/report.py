"""``docs/benchmark.md``, written from the rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.peers.harness import TUNED
from benchmarks.peers.results import Row
from benchmarks.peers.targets import OURS, Verdict, verdicts

MACHINE = "machine"  # the row of a subject that says where and when it was measured
HEAD = """# Benchmark beside other toolkits

Written by `make bench` from `benchmarks/results.json`; not to be edited. Every measurement is a process of its own;
tools take turns, repetition after repetition, with the same number of threads. Given is the median, and the smallest
and the largest value where there are several. "{tuned}": with the allocator setting that seg3d makes by itself (glibc
keeps freed memory); the others are as installed. Peak memory is the largest resident size of the process, mapped files
included. A ratio above 1 says that seg3d is ahead of that row by so much.
"""
NOTES = {
    "1 prediction": """The same network (32, 64, 128 features) with the same random weights, float32, from the image in
memory to the label map in memory. Peers take tiles of 96^3 with half overlap. Agreement is the share of voxels with the
label of one pass over the whole volume, computed apart from all tools in slabs that overlap by more than the network
looks; at borders: of the voxels beside another label of it. Random weights give many borders, so that agreement is a
hard test. With instance norm every tile has statistics of its own: there is no one pass to agree with. `LUNG1-001` is a
chest CT of 512 x 512 x 134 voxels without its last two slices, so that its size is a multiple of the network's stride
and no tool has to surround it. nnU-Net spreads its tiles evenly: along 256 voxels they begin at multiples of that
stride, along 512 beside it (0, 46, 92, 139, ...), where the coarse features are others; with these random
weights that shows in every third label.""",
    "2 patch supply": """Image and label patches of 96^3, half of them centred on the tumour. TorchIO: stock queue and
label sampler on uncompressed NIfTI, transforms on the whole volume as the queue has them, or patch by patch where the
row says so. MONAI: all volumes cached in memory, with the places of the classes. nnU-Net: its own files and loader,
each of its transforms on each patch. Augmentation has like, not the same, parameters. Peak memory is that of the main
process.""",
    "3 training step": """seg3d trains by `seg3d train`, with its patch supply, trace and checkpoints; the others take a
batch from memory. nnU-Net: `train_step` with its loss and optimiser.""",
    "4 accuracy": """Hippocampus, mean Dice over labels and held-out cases, which had no part in training or in choosing
settings. nnU-Net: its own plan, network, augmentation and schedule, stopped at the budget; neither mirrors when it
predicts. Its published curve on all data: 0.805 (pseudo-Dice) after 250 iterations, 0.885 after 5,000, flat afterwards,
0.8904 at the end in cross-validation; the column `steps` tells how many iterations it comes to here: far fewer than it
is made for, and 0 means that it predicts background. seg3d's settings were chosen for these budgets on validation
cases, the first by a few trials, the others by guess. One training each.""",
    "5 preparing": """Reading, z-score, resampling where said, storing, one case after the other in one process; nnU-Net
by a plan that it had made for these scans.""",
    "6 start-up": """Programs started anew. Predicting: a model of the tool's own kind, from file to file, no
mirroring.""",
    "7 limit": """The rate of a float32 matrix product is what convolutions can hope for; below, which share of it each
tool reaches.""",
}
RATIOLESS = ("agreement", "agreement at borders", "Dice", "steps")


def write_report(rows: Sequence[Row]) -> str:
    """The page: targets first, then a table per case."""
    parts = [HEAD.format(tuned=TUNED.removeprefix(", ")), *_targets(verdicts(rows))]
    for subject in dict.fromkeys(row.subject for row in rows):
        parts += _subject(subject, [row for row in rows if row.subject == subject])
    parts += _limits(rows)
    return "\n".join(parts) + "\n"


def _targets(found: Sequence[Verdict]) -> Iterable[str]:
    yield "## Targets\n\n| subject | target | case | ratio | ours to theirs | verdict |"
    yield "| --- | --- | --- | ---: | --- | --- |"
    for v in found:
        word = {True: "met", False: "**missed**", None: "not measured"}[v.met]
        ratio = "" if math.isnan(v.ratio) else f"{v.ratio:.2f}"
        yield f"| {v.subject} | {v.target} | {v.case} | {ratio} | {v.detail} | {word} |"
    yield ""


def _subject(subject: str, rows: Sequence[Row]) -> Iterable[str]:
    yield f"## {subject}\n"
    yield from (f"{row.case}.\n" for row in rows if row.metric == MACHINE)
    if subject in NOTES:
        yield NOTES[subject] + "\n"
    measured = [row for row in rows if row.metric != MACHINE]
    for case in dict.fromkeys(row.case for row in measured):
        yield from _table(case, [row for row in measured if row.case == case])


def _table(case: str, rows: Sequence[Row]) -> Iterable[str]:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    units = {row.metric: row.unit for row in rows}
    heads = [f"{metric}{', ' + units[metric] if units[metric] else ''}" for metric in metrics]
    yield f"### {case}\n\n| | {' | '.join(heads)} |\n| --- |{' ---: |' * len(metrics)}"
    ours = {row.metric: row for row in reversed(rows) if row.tool.startswith(OURS)}
    for tool in dict.fromkeys(row.tool for row in rows):
        mine = {row.metric: row for row in rows if row.tool == tool}
        version = next(iter(mine.values())).version
        cells = [_cell(mine.get(metric), ours.get(metric)) for metric in metrics]
        yield f"| {tool}{' (' + version + ')' if version else ''} | {' | '.join(cells)} |"
    yield ""


def _cell(row: Row | None, ours: Row | None) -> str:
    if row is None:
        return ""
    text = f"{row.median:.4g}"
    if row.low != row.high:
        text += f" ({row.low:.4g}..{row.high:.4g})"
    if ours is None or row.tool.startswith(OURS) or row.metric in RATIOLESS:
        return text
    more, less = (ours.median, row.median) if row.metric == "patches" else (row.median, ours.median)
    return f"{text}; {more / less:.2f}x" if less else text


def _limits(rows: Sequence[Row]) -> Iterable[str]:
    """Share of the matrix product's rate that each prediction reaches, by the operations that one pass needs."""
    values = {row.metric: row.median for row in rows if row.subject == "7 limit"}
    if not {"matrix product", "network"} <= set(values):
        return
    measured = [row for row in rows if row.subject == "1 prediction" and row.metric == "wall"]
    yield "### Share of the limit\n\n| | voxels | least s by arithmetic | s | share |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for row in measured:
        voxels = _voxels(row.case)
        least = values["network"] * voxels / 1e6 / values["matrix product"]
        share = 100 * least / row.median
        yield f"| {row.case}: {row.tool} | {voxels:,} | {least:.1f} | {row.median:.1f} | {share:.0f} % |"
    yield ""
    if "bandwidth" in values:
        # read once as float16 and uint8, written once as float32 and uint8
        bytes_per_patch = 96**3 * (2 + 1 + 4 + 1)
        most = values["bandwidth"] * 1e9 / bytes_per_patch
        yield f"A raw patch moves at least {bytes_per_patch / 1e6:.1f} MB: at most {most:,.0f} a second by bandwidth.\n"


def _voxels(case: str) -> int:
    size = case.split(",")[0]
    return 512 * 512 * 132 if size.startswith("LUNG1") else math.prod(int(n) for n in size.split(" x "))
