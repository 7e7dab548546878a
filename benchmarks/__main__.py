"""All timed benchmarks, one after the other: ``python -m benchmarks``."""

from __future__ import annotations

import subprocess
import sys

MODULES = ("sampling", "slices", "augmentation", "preparation", "trace", "data_engine", "training_step")

for module in MODULES:
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)
