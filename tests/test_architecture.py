"""The layers: a module imports only what stands above it, and the command line answers at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seg3d

PACKAGE = Path(seg3d.__file__).parent
LAYERS = (
    *(
        "errors",
        "atomic",
        "digest",
        "volume",
        "keyed",
        "io",
        "phantom",
        "cases",
        "label_index",
        "store",
        "preparation",
        "sampling",
    ),
    *(
        "models",
        "losses",
        "metrics",
        "training",
        "inference",
        "auditing",
        "reporting",
        "config",
        "build",
        "forecast",
        "verbs",
        "serving",
        "cli",
    ),
)
MODULES = sorted(PACKAGE.rglob("*.py"))
WITHOUT_TORCH = ("config", "cases", "io", "preparation", "metrics", "store", "phantom")


def layer_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "seg3d"


def imported(path: Path) -> set[str]:
    """Names of the project's modules that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seg3d"):
            names |= {f"{node.module}.{alias.name}" if node.module == "seg3d" else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("seg3d.")}
    return names - {"seg3d.__version__"}


def test_every_layer_is_in_the_list() -> None:
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert found == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_upwards_only(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the table of contents names the verbs
    below = {name for name in imported(path) if LAYERS.index(layer_of(name)) > LAYERS.index(own)}
    assert below == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_randomness_comes_from_keyed_generators_only() -> None:
    forbidden = ("np.random.seed", "np.random.rand", "default_rng", "import random", "torch.rand", "RandomState")
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in MODULES
        for line in path.read_text().splitlines()
        if any(word in line for word in forbidden)
        and "generator=" not in line  # a generator of its own, seeded by a key
        and path.name != "reproducibility.py"  # which seeds what others draw from
    ]
    assert found == []


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_data_modules_do_not_import_torch(name: str) -> None:
    code = f"import sys, seg3d.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_needs_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys; from seg3d.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'pytorch_lightning', 'matplotlib', 'torchio'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
