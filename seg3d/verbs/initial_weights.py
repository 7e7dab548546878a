"""A training that begins with the weights of another run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seg3d.build.dataset import outputs
from seg3d.build.prediction import build_network
from seg3d.build.settings import counted_labels
from seg3d.cases import Split
from seg3d.config import Config
from seg3d.training.run_folder import INITIAL_WEIGHTS, RunFolder, read_json
from seg3d.training.start import Start, initial_state, keeps_head, read_same_start, read_start, seen_before
from seg3d.verbs.leaks import image_digests
from seg3d.verbs.prepare import Store


def meaning_of_outputs(store: Store) -> dict[str, Any]:
    """What the outputs of a network that learns from a store stand for."""
    return {
        "labels": dict(store.labels),
        "ignore_label": store.ignore_label,
        "regions": [region.as_dict() for region in store.regions],
    }


def refuse_other_network(config: Config, store: Store, start: Start, tell: Callable[[str], None]) -> None:
    """Tell whether the initial weights are those of another network, which is not computed with for that."""
    counted = counted_labels(store.labels, store.ignore_label)
    with torch.device("meta"):
        network = build_network(config, len(store.channels), outputs(counted, store.ignore_label, store.regions))
    meaning = meaning_of_outputs(store)
    initial_state(network, start, meaning)
    new = "" if keeps_head(start, meaning) else "; the last layer is random, for other labels"
    tell(f"initial weights: those of {start.run}{new}")
    learnt = start.meaning.get("channels", [])
    if learnt != list(store.channels):  # as many, but perhaps in another order
        tell(f"NOTE: they have learnt from the channels {', '.join(learnt)}; here: {', '.join(store.channels)}")


def tell_seen(store: Store, split: Split, record: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Tell of cases of validation and test that the initial weights know: by their scores nothing can be told."""
    known = seen_before(record, {case.case_id: image_digests(case) for case in store.labelled})
    trained = [case for case in split.val if known.get(case) == "train"]  # what chose before may choose again
    for name, seen in (("validation", trained), ("test", [case for case in split.test if case in known])):
        if seen:
            tell(f"NOTE: the initial weights know {len(seen)} of the {name} cases, whose scores flatter:")
            tell(f"  {', '.join(seen)}")
            tell("  Split the cases as that run did (data.split).")


def initial_of(
    config: Config, folder: RunFolder, store: Store
) -> Callable[[nn.Module], Mapping[str, torch.Tensor]] | None:
    """What a network begins with; a run that goes on from a checkpoint needs none."""
    path = config.train.initial_weights
    if path is None:
        return None
    start = read_same_start(Path(path), read_json(folder.data)[INITIAL_WEIGHTS])
    return partial(initial_state, start=start, meaning=meaning_of_outputs(store))


def other_start(folder: RunFolder, config: Config) -> list[str]:
    """A line if the weights that a run began with are no longer what they were.

    Raises:
        RunError: They are no longer there.
    """
    if config.train.initial_weights is None:
        return []
    recorded = read_json(folder.data)[INITIAL_WEIGHTS]["sha256"]
    found = read_start(Path(config.train.initial_weights)).sha256
    return [] if found == recorded else [f"initial weights: {recorded[:16]} -> {found[:16]}"]
