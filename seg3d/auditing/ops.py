"""Which operators of a computation have no deterministic implementation on CUDA, found on the CPU.

The computation is run under a dispatch mode, which sees every operator that is really called, in the backward pass
too. A search through source text cannot: it flags nearest upsampling, which is clean, and misses what
``cross_entropy`` calls.

Source: the lists in the documentation of ``torch.use_deterministic_algorithms`` and the calls of
``alertNotDeterministic`` in torch's CUDA sources, torch 2.13; a test compares this table with the installed torch.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

_Applies = Callable[[Sequence[Any], Mapping[str, Any]], bool]


def _always(_args: Sequence[Any], _kwargs: Mapping[str, Any]) -> bool:
    return True


def _reduces(args: Sequence[Any], _kwargs: Mapping[str, Any]) -> bool:
    return len(args) < 4 or args[3] != 0  # reduction: 0 none, 1 mean, 2 sum


def _floating(args: Sequence[Any], _kwargs: Mapping[str, Any]) -> bool:
    return bool(args[0].is_floating_point() or args[0].is_complex())


def _weighted(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return (args[1] if len(args) > 1 else kwargs.get("weights")) is not None


def _multiplies(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return "prod" in (*args, *kwargs.values())


def _takes_maxima(args: Sequence[Any], _kwargs: Mapping[str, Any]) -> bool:
    return 2 in args[6:9]  # mode of embedding_bag: 0 sum, 1 mean, 2 max


@dataclass(frozen=True)
class Rule:
    """An operator of torch that is not deterministic on CUDA.

    Attributes:
        documented: What the documentation of the installed torch calls it.
        instead: What to use instead.
        applies: Whether these arguments are concerned.
        slow: It has a deterministic path in deterministic mode, which is slow.
    """

    documented: str
    instead: str
    applies: _Applies = _always
    slow: bool = False


_POOL = "strided convolution, or max pooling"
_UPSAMPLE = "nearest upsampling"
_PAD = "constant padding"
_LOSS = "seg3d's losses, or reduction='none' and then .mean()"

RULES: dict[str, Rule] = {
    "nll_loss2d_forward": Rule("NLLLoss", _LOSS, _reduces),
    "avg_pool3d_backward": Rule("AvgPool3d", _POOL),
    "_adaptive_avg_pool2d_backward": Rule("AdaptiveAvgPool2d", "the mean over the axes"),
    "_adaptive_avg_pool3d_backward": Rule("AdaptiveAvgPool3d", "the mean over the axes"),
    "adaptive_max_pool2d_backward": Rule("AdaptiveMaxPool2d", "amax over the axes"),
    "fractional_max_pool2d_backward": Rule("FractionalMaxPool2d", _POOL),
    "fractional_max_pool3d_backward": Rule("FractionalMaxPool3d", _POOL),
    "max_unpool2d": Rule("MaxUnpool2d", _UPSAMPLE),
    "max_unpool3d": Rule("MaxUnpool3d", _UPSAMPLE),
    "max_pool3d_with_indices_backward": Rule("MaxPool3d", "strided convolution", slow=True),
    "upsample_linear1d_backward": Rule("interpolate", _UPSAMPLE),
    "upsample_bicubic2d_backward": Rule("interpolate", _UPSAMPLE),
    "upsample_bilinear2d_backward": Rule("interpolate", _UPSAMPLE, slow=True),
    "upsample_trilinear3d_backward": Rule("interpolate", _UPSAMPLE, slow=True),
    "reflection_pad1d_backward": Rule("ReflectionPad1d", _PAD),
    "reflection_pad2d_backward": Rule("ReflectionPad2d", _PAD),
    "reflection_pad3d_backward": Rule("ReflectionPad3d", _PAD),
    "_ctc_loss_backward": Rule("CTCLoss", "another loss"),
    "_embedding_bag_dense_backward": Rule("EmbeddingBag", "mode mean or sum", _takes_maxima),
    "put": Rule("put_", "index_put"),
    "put_": Rule("put_", "index_put"),
    "histc": Rule("histc", "bucketize and bincount without weights"),
    "bincount": Rule("bincount", "bincount without weights", _weighted),
    "median": Rule("median", "quantile or sort"),
    "nanmedian": Rule("median", "quantile or sort"),
    "grid_sampler_2d_backward": Rule("grid_sample", "resampling outside of the network"),
    "grid_sampler_3d_backward": Rule("grid_sample", "resampling outside of the network"),
    "cumsum": Rule("cumsum", "cumsum of integers", _floating),
    "scatter_reduce": Rule("scatter_reduce", "reduce sum or mean", _multiplies),
    "scatter_reduce_": Rule("scatter_reduce", "reduce sum or mean", _multiplies),
}


@dataclass(frozen=True, order=True)
class Finding:
    """A call of an operator that is not deterministic on CUDA.

    Attributes:
        phase: ``"training"`` or ``"prediction"``.
        operator: Its name in torch's dispatcher.
        module: The innermost module that it belongs to; empty outside of the network.
        line: File and line that called it, or whose backward pass called it.
        instead: What to use instead.
        slow: Deterministic mode replaces it on CUDA by a slow path; otherwise it raises.
    """

    phase: str
    operator: str
    module: str
    line: str
    instead: str
    slow: bool


class OperatorWatch(TorchDispatchMode):
    """Collects calls of operators that are not deterministic on CUDA; use :func:`watch`."""

    def __init__(self, phase: str, tracker: ModuleTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.calls = 0
        self.findings: dict[Finding, None] = {}
        self._phase = phase
        self._tracker = tracker

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at an operator, then let it work."""
        kwargs = kwargs or {}
        self.calls += 1
        name = func.overloadpacket.__name__
        rule = RULES.get(name)
        if rule is not None and rule.applies(args, kwargs) and not (name == "median" and len(args) < 2):
            finding = Finding(self._phase, name, self._module(), _calling_line(), rule.instead, rule.slow)
            self.findings[finding] = None
        return func(*args, **kwargs)

    def _module(self) -> str:
        names = [name for name in self._tracker.parents if name != "Global"]
        return max(names, key=lambda name: (name.count("."), name), default="")


@contextmanager
def watch(phase: str) -> Iterator[OperatorWatch]:
    """Watch the operators that are called inside the block.

    Args:
        phase: What the block does, for the findings.
    """
    # anomaly mode has every node of the graph remember the line of its forward pass
    tracker = ModuleTracker()
    anomaly = torch.autograd.set_detect_anomaly(True, check_nan=False)
    with anomaly, tracker, OperatorWatch(phase, tracker) as found:
        yield found


_FRAME = re.compile(r'File "(.+)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent)


def _calling_line() -> str:
    """File and line, outside of torch, of the call that is running; in a backward pass those of the forward call."""
    node: Any = torch._C._current_autograd_node()
    if node is not None and "traceback_" in node.metadata:
        frames = [found.groups() for text in node.metadata["traceback_"] if (found := _FRAME.search(text))]
    else:
        frames = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_stack()]
    for file, line in reversed(frames):
        if not file.startswith((_TORCH, "<")) and file != __file__:
            return f"{_shorten(file)}:{line}"
    return "unknown"


def _shorten(file: str) -> str:
    """The file's place in its package or folder, without the folders of the machine."""
    parts = Path(file).parts
    anchor = next((i for i, part in enumerate(parts) if part == "site-packages"), None)
    if anchor is not None:
        return "/".join(parts[anchor + 1 :])
    package = Path(__file__).resolve().parents[2]
    return str(Path(file).relative_to(package)) if Path(file).is_relative_to(package) else parts[-1]
