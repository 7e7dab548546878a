"""The record of what a run was computed with; nothing in it names the machine, its user or their folders."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info

from seg3d.digest import sha256_file, sha256_json

# a change of any of these may change bits or speed
_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_MAX_CPU_ISA",
    "KMP_AFFINITY",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONHASHSEED",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def describe_environment() -> dict[str, Any]:
    """Versions, hardware, flags and code state, as JSON."""
    return {
        "packages": installed_packages(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".strip(),
        "torch": _torch(),
        "blas": _blas(),
        "cpu": _cpu(),
        "gpus": _gpus(),
        "driver": _driver(),
        "determinism": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cuda_matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "onednn": torch.backends.mkldnn.enabled,
        },
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "code": describe_code(),
    }


def has_fast_bf16(device: str) -> bool:
    """Whether bfloat16 is computed natively; elsewhere it is emulated, tens of times slower than float32.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_instructions()))  # the last is Arm's


@functools.cache
def installed_packages() -> dict[str, str]:
    """Version of every installed distribution, by normalised name; read once in a process."""
    found = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata  # parsed anew whenever it is asked for
        if name := metadata["Name"]:
            found[name.lower().replace("_", "-")] = metadata["Version"]
    return dict(sorted(found.items()))


def _torch() -> dict[str, Any]:
    return {
        "version": torch.__version__,
        "git": torch.version.git_version,
        "build": torch.__config__.show(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def _blas() -> list[dict[str, Any]]:
    """Linear algebra and thread libraries that are loaded; their files would name folders of the machine."""
    kept = ("user_api", "internal_api", "version", "num_threads", "threading_layer", "architecture")
    found = [{key: entry.get(key) for key in kept} for entry in threadpool_info()]
    return sorted(found, key=str)


def _cpu() -> dict[str, Any]:
    return {
        "model": _cpu_field("model name") or platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
    }


def _instructions() -> list[str]:
    """Instruction sets that change how numbers are computed."""
    flags = (_cpu_field("flags") or _cpu_field("Features")).split()
    return sorted(
        flag for flag in flags if flag.startswith(("avx", "amx", "fma", "sse4", "asimd", "sve", "bf16", "i8mm"))
    )


def _cpu_field(name: str) -> str:
    lines = _lines(Path("/proc/cpuinfo"))
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    return [
        {
            "name": torch.cuda.get_device_name(i),
            "capability": list(torch.cuda.get_device_capability(i)),
            "memory_gib": round(torch.cuda.get_device_properties(i).total_memory / 2**30, 1),
        }
        for i in range(torch.cuda.device_count())
    ]


def _driver() -> str | None:
    """Version of the NVIDIA driver, from NVML; ``None`` where there is none."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(96)
    failed = nvml.nvmlSystemGetDriverVersion(text, len(text))
    nvml.nvmlShutdown()
    return None if failed else text.value.decode()


def describe_code() -> dict[str, Any]:
    """Version, digest of the modules and, in a git checkout, commit and digest of what differs from it."""
    root = Path(__file__).resolve().parents[2]
    modules = sorted((root / "seg3d").rglob("*.py"))
    sources = {str(path.relative_to(root)): sha256_file(path) for path in modules}
    found: dict[str, Any] = {"version": importlib.metadata.version("seg3d"), "modules_sha256": sha256_json(sources)}
    if (root / ".git").exists():
        patch = code_patch()
        found |= {"commit": _git(root, "rev-parse", "HEAD"), "dirty": bool(patch)}
        if patch:
            found["patch_sha256"] = hashlib.sha256(patch.encode()).hexdigest()
    return found


def code_patch() -> str:
    """What differs from the commit in the files of the package that git knows; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    return _git(root, "diff", "HEAD", "--", "seg3d") if (root / ".git").exists() else ""


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a checkout on a machine without git
        return ""
    return done.stdout.strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
