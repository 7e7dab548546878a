"""Model cards: what a served model is, what it has learnt from and how good it was, as far as its runs tell.

Source: Mitchell et al., Model cards for model reporting (FAccT 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seg3d import __version__
from seg3d.config import Config
from seg3d.inference.predictor import Predictor
from seg3d.serving.inspection import Wanted
from seg3d.training.run_folder import RunFolder, read_json
from seg3d.verbs.evaluations import evaluation_of_test_cases

DISCLAIMER = "For research use only. Not a medical device: not for diagnosis or treatment."
_CAVEATS = (
    "Scans of other scanners, protocols, patients or diseases than those it has learnt from may be answered wrongly.",
    "Probabilities are the network's own and may be too sure; uncertainty says where runs disagree, not what is wrong.",
)


def model_card(
    config: Config, folders: Sequence[RunFolder], predictor: Predictor, names: Mapping[int, str], wanted: Wanted
) -> dict[str, Any]:
    """The card, as JSON; it names no case and no folder but those of the runs.

    Args:
        config: The first run's.
        folders: The runs that are averaged.
        predictor: Their networks.
        names: Names of labels or regions by label value.
        wanted: What it can answer.
    """
    split = read_json(folders[0].splits)
    return {
        "id": "+".join(folder.path.name for folder in folders),
        "name": config.name,
        "disclaimer": DISCLAIMER,
        "labels": {name: value for value, name in sorted(names.items())},
        "channels": list(predictor.channels),
        "input": {
            "formats": ["PNG", "JPEG"] if wanted.pictures else ["NIfTI", "NRRD"],
            "dimensions": config.model.dims,
            "spacing_mm": predictor.recipe.spacing_mm,
        },
        "network": {
            "kind": config.model.kind,
            "features": list(config.model.features),
            "parameters": sum(weights.numel() for weights in predictor.network.parameters()),
        },
        "preparation": predictor.recipe.as_dict(),
        "cases": {part: len(split.get(part, ())) for part in ("train", "val", "test")},
        "members": [_member(folder) for folder in folders],
        "caveats": list(_CAVEATS),
        "seg3d": __version__,
    }


def _member(folder: RunFolder) -> dict[str, Any]:
    result = read_json(folder.result) if folder.result.is_file() else {}
    found = {key: result.get(key) for key in ("seed", "epochs", "weights_sha256", "data_sha256")}
    return {
        "run": folder.path.name,
        **found,
        "validation_dice": result.get("best_score"),
        "test": _test_scores(folder),
    }


def _test_scores(folder: RunFolder) -> dict[str, Any] | None:
    """Scores of the cases that had no part in training, where they are known."""
    found = evaluation_of_test_cases(folder)
    if found is None:
        return None
    return {"cases": len(found.cases), "dice": found.headline["mean"], "interval": found.headline["ci95"]}
