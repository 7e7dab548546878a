"""``seg3d demo``: the whole path on phantoms, in minutes, without network or data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seg3d.config import load_config
from seg3d.errors import FaultsError
from seg3d.phantom import PhantomSpec, write_phantom_dataset
from seg3d.reporting.cases import save_worst_median_best
from seg3d.verbs.check import check
from seg3d.verbs.evaluate import evaluate, format_summary
from seg3d.verbs.predict import predict
from seg3d.verbs.prepare import prepare
from seg3d.verbs.train import train

CASES = 24


def demo(
    output: Path | str = "demo", config: Path | str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The evaluation's summary on phantom cases that nothing was trained or chosen on.

    Makes phantom chest CTs with lung tumours, checks and prepares them, trains a small network, predicts the test
    cases and scores them. Everything but the MLflow record lies under ``output``.

    Args:
        output: Folder; what is there already is made again or, where it cannot have changed, used.
        config: A config instead of the demo's own.
        overrides: ``path=value`` settings.
    """
    folder = Path(output)
    places = [f"data.source={folder / 'data'}", f"data.store={folder / 'store'}", f"output_dir={folder / 'runs'}"]
    settings = load_config(config or demo_config(), [*places, *overrides])
    step = _Steps()
    step("phantoms", lambda: write_phantom_dataset(folder / "data", PhantomSpec(cases=CASES, seed=settings.seed)))
    step("check", lambda: _refuse_faults(folder / "data"))
    step("prepare", lambda: prepare(settings))
    run = step("train", lambda: train(settings))
    step("predict", lambda: predict(run, output=folder / "predictions", split="test"))
    summary_path = folder / "summary.json"
    summary: dict[str, Any] = step(
        "evaluate",
        lambda: evaluate(folder / "predictions", folder / "data" / "labelsTr", summary_path, subset=True),
    )
    figure = folder / "worst_median_best.png"
    step("figure", lambda: save_worst_median_best(summary, folder / "data" / "imagesTr", figure))
    print()
    print(format_summary(summary))
    _tell_where(
        {"phantoms": folder / "data", "store": folder / "store", "run": run, "label maps": folder / "predictions"}
        | {"scores": summary_path, "figure": figure, "report": run / "report.html", "MLflow": settings.tracking.uri}
    )
    return summary


def demo_config() -> Path:
    """The demo's config: in a checkout beside the package, in an installed package inside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_configs" / "demo.yaml"
    return inside if inside.exists() else package.parent / "configs" / "demo.yaml"


class _Steps:
    """Runs the steps and tells how long each took."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        self._number += 1
        print(f"[{self._number}/7] {name}", flush=True)
        started = time.perf_counter()
        result = work()
        print(f"      {time.perf_counter() - started:.1f} s", flush=True)
        return result


def _refuse_faults(source: Path) -> None:
    serious = [fault for fault in check(source) if not fault.note]
    if serious:
        raise FaultsError("the phantoms have faults", serious)


def _tell_where(places: dict[str, Any]) -> None:
    width = max(map(len, places))
    print("\n".join(f"{name:<{width}}  {place}" for name, place in places.items()))
