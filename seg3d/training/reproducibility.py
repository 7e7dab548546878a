"""The three set-ups of a run: deterministic, seeded, random."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from seg3d.keyed import derived_seed
from seg3d.training.memory import keep_freed_memory

Mode = Literal["deterministic", "seeded", "random"]


@dataclass(frozen=True)
class Reproducibility:
    """How a process is set up before anything is computed.

    Attributes:
        mode: ``"deterministic"`` seeds everything and forbids operators without a deterministic algorithm; ``"seeded"``
            seeds everything and leaves the fastest algorithms; ``"random"`` seeds nothing.
        threads: CPU threads of torch; their number changes the bits of a result on the CPU. ``None``: as torch chose.
            A run in mode ``"deterministic"`` writes the number down and is repeated with it.
        portable: Leave oneDNN out, so that the number of threads no longer matters; slower.
        tf32: Allow TF32 on CUDA.
        keep_memory: Have glibc keep freed blocks instead of giving them back to the kernel; no effect elsewhere.
    """

    mode: Mode = "deterministic"
    threads: int | None = None
    portable: bool = False
    tf32: bool = False
    keep_memory: bool = True

    def apply(self, seed: int) -> None:
        """Set the process up before anything is computed; in mode ``"random"`` nothing is seeded."""
        self.configure()
        if self.mode == "random":
            random.seed()
            np.random.seed()  # noqa: NPY002  # the legacy generator is what others draw from
            torch.seed()
        else:
            # nothing of seg3d draws from the first two, but what a user adds may
            random.seed(derived_seed(seed, "python"))
            np.random.seed(derived_seed(seed, "numpy") % 2**32)  # noqa: NPY002
            torch.manual_seed(derived_seed(seed, "torch"))

    def configure(self, *, raising: bool = True) -> None:
        """Choose threads and algorithms, in every process that computes; nothing is seeded.

        Args:
            raising: In mode ``"deterministic"`` have operators raise that have no deterministic algorithm. It loads
                torch's compiler, which takes longer than a small scan to predict.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.keep_memory:
            keep_freed_memory()
        torch.backends.mkldnn.set_flags(not self.portable)
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        deterministic = self.mode == "deterministic"
        if deterministic:
            choose_cublas_workspace()
        if raising:
            torch.use_deterministic_algorithms(deterministic)
        # would fill every new tensor, for programs that read what they never wrote: 2 % of a step; torch makes the
        # name up at run time, so that no type checker finds it
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = not deterministic


@contextmanager
def configured(settings: Reproducibility) -> Iterator[None]:
    """Threads and algorithms are as chosen inside the block, and as they were after it."""
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    raising = torch.cuda.is_available()  # on the processor every operator of a prediction is deterministic
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    convolutions = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        settings.configure(raising=raising)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.set_flags(onednn)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        if raising:
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = convolutions


def choose_cublas_workspace() -> None:
    """Set what cuBLAS reads when CUDA starts; without it it may choose another algorithm in every call."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def chance_seed() -> int:
    """A seed from the operating system's entropy, for runs that are meant to differ."""
    return secrets.randbits(62)
