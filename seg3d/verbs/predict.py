"""``seg3d predict``: label maps on the grids of the scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from seg3d.atomic import write_json
from seg3d.build import training as build
from seg3d.build.dataset import build_dataset, build_recipe, classes
from seg3d.config import Config, load_config
from seg3d.digest import sha256_file
from seg3d.errors import DataError, Fault, FaultsError, RunError, Seg3dError
from seg3d.inference.inputs import Scan, find_scans
from seg3d.inference.predictor import Predictor
from seg3d.io import image_stem, read_header, read_volume, write_like
from seg3d.training.outcome import chosen_checkpoint, read_weights
from seg3d.training.run_folder import RunFolder, open_run_folder, read_json

MANIFEST = "predictions.json"


def predict(
    run: Path | str,
    inputs: Sequence[Path | str] = (),
    output: Path | str = "predictions",
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """The label maps written, one per scan, under the scan's own file name.

    Args:
        run: A run folder.
        inputs: Image files and folders of them.
        output: Folder of the answers.
        split: Instead of ``inputs``: predict the run's own ``"test"``, ``"val"`` or ``"train"`` cases, read from the
            dataset that its config names.
        overrides: ``path=value`` settings on top of the run's config, such as ``predict.mirror=[x]``.
        tell: Called with a line for each scan.

    Raises:
        FaultsError: Some scans could not be predicted; the others are written.
        Seg3dError: The run or the inputs cannot be used.
    """
    folder = open_run_folder(Path(run))
    config = load_config(folder.config, overrides)
    predictor = load_predictor(folder, config)
    if split is not None:
        scans = _scans_of_split(folder, config, split)
    else:
        scans = find_scans([Path(path) for path in inputs], len(predictor.channels))
    if not scans:
        raise DataError("there is nothing to predict", fix="Give files or folders, or --split test.")
    target = Path(output)
    _refuse_overwriting_inputs(scans, target)
    written, faults = [], []
    for number, scan in enumerate(scans, start=1):
        try:
            written.append(_predict_scan(predictor, scan, target, config.predict.probabilities))
            tell(f"{number}/{len(scans)} {scan.name}")
        except Seg3dError as error:
            faults.append(Fault(scan.name, "not_predicted", str(error)))
            tell(f"{number}/{len(scans)} {scan.name}: failed")
    _write_manifest(target, folder, [scan for scan in scans if target / scan.name in written])
    if faults:
        raise FaultsError(f"{len(faults)} of {len(scans)} scans could not be predicted", faults)
    return written


def load_predictor(folder: RunFolder, config: Config) -> Predictor:
    """The network of a run with its best weights, ready to predict.

    Args:
        folder: The run.
        config: Its config, perhaps with other ``predict`` settings.

    Raises:
        RunError: The checkpoint does not fit the config.
    """
    model = read_json(folder.path / "model.json")
    labels: dict[str, int] = model["labels"]
    values = classes(labels, model["ignore_label"])
    device = torch.device(build.device_type(config))
    network = build.build_network(config, len(model["channels"]), len(values))
    try:
        network.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise RunError("the weights do not fit the network of the config", where=folder.path, got=error) from error
    chosen = config.predict
    return Predictor(
        network.to(device).eval(),
        build.build_window(config),
        build_recipe(config, len(model["channels"])),
        tuple(model["channels"]),
        values,
        device,
        keep_largest=tuple(
            build.class_weights(dict.fromkeys(chosen.keep_largest, 1.0), labels, "predict.keep_largest", {})
        ),
        min_size_ml=build.class_weights(chosen.min_size_ml, labels, "predict.min_size_ml", {}),
    )


def _scans_of_split(folder: RunFolder, config: Config, split: str) -> list[Scan]:
    splits: dict[str, Any] = read_json(folder.splits)
    if split not in ("train", "val", "test"):
        raise RunError("unknown part of the split", where="--split", got=split, expected="train, val or test")
    wanted = set(splits[split])
    cases = [case for case in build_dataset(config).cases if case.case_id in wanted]
    absent = wanted - {case.case_id for case in cases}
    if absent:
        raise DataError("cases of the split are not in the dataset", where=config.data.source, got=sorted(absent))
    return [Scan(f"{case.case_id}{_suffix(case.images[0])}", case.images) for case in cases]


def _suffix(path: Path) -> str:
    return path.name[len(image_stem(path)) :]


def _refuse_overwriting_inputs(scans: Sequence[Scan], target: Path) -> None:
    clash = [scan.name for scan in scans if (target / scan.name).resolve() in {p.resolve() for p in scan.images}]
    if clash:
        raise DataError(
            "the answers would overwrite the scans", where=target, got=", ".join(clash), fix="Give another --output."
        )


def _predict_scan(predictor: Predictor, scan: Scan, target: Path, probabilities: bool) -> Path:
    header = read_header(scan.images[0])
    found = predictor.predict([read_volume(path) for path in scan.images], probabilities=probabilities)
    path = target / scan.name
    target.mkdir(parents=True, exist_ok=True)
    write_like(path, found.label, header)
    for value, values in found.probabilities.items():
        name = f"{image_stem(path)}_probability_{value}{_suffix(path)}"
        write_like(target / "probabilities" / name, values, header)
    return path


def _write_manifest(target: Path, folder: RunFolder, scans: Sequence[Scan]) -> None:
    """What was predicted by which run, so that an evaluation can tell which cases it is about."""
    if not scans:
        return
    model = read_json(folder.path / "model.json")
    write_json(
        target / MANIFEST,
        {
            "run": folder.path.name,
            "weights": sha256_file(chosen_checkpoint(folder).path),
            "labels": model["labels"],
            "ignore_label": model["ignore_label"],
            "scans": [scan.name for scan in scans],
        },
    )
