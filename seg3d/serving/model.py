"""The model that is served: networks in memory, loaded once, and how far they have come with a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from seg3d.build.dataset import foreground
from seg3d.build.prediction import prediction_settings
from seg3d.config import load_config
from seg3d.inference.predictor import Predictor
from seg3d.serving.cards import model_card
from seg3d.serving.inspection import Wanted
from seg3d.verbs.members import (
    build_predictor,
    distinct,
    learnt_from_pictures,
    load_member,
    open_runs,
    read_model,
    refuse_disagreement,
    refuse_other_preparation,
)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One network, or several whose probabilities are averaged.

    Attributes:
        predictor: Predicts a scan.
        names: What is shown of an answer: names of labels or regions by label value, without the background.
        wanted: What it can answer.
        card: What there is to know about it, as JSON.
    """

    predictor: Predictor
    names: Mapping[int, str]
    wanted: Wanted
    card: Mapping[str, Any]


def load_model(
    runs: Sequence[Path | str], overrides: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None
) -> ServedModel:
    """The model of run folders, as :func:`seg3d.predict` would use them.

    Args:
        runs: Run folders; an audit folder stands for its finished runs.
        overrides: Settings on top of each run's config, such as ``predict.mirror=[x]``.
        tell: Called with a line where two runs have the same weights.

    Raises:
        RunError: A run is not finished or damaged, or they cannot be averaged.
    """
    folders = open_runs(list(runs))
    refuse_disagreement(folders, None)
    config = load_config(folders[0].config, overrides)
    refuse_other_preparation(folders[0], config)
    prediction_settings(config, overrides).configure(raising=torch.cuda.is_available())
    members = distinct([load_member(folder, overrides) for folder in folders], tell)
    predictor = build_predictor(members, config)
    model = read_model(folders[0])
    names = {value: name for name, value in foreground(model["labels"], model["ignore_label"]).items()}
    if model["regions"]:
        names = {region.label: region.name for region in model["regions"]}
    wanted = Wanted(predictor.channels, predictor.recipe, bool(learnt_from_pictures(folders[0])))
    card = model_card(config, [member.folder for member in members], predictor, names, wanted)
    return ServedModel(predictor, names, wanted, card)


class _Checked(TorchFunctionMode):
    """Calls ``check`` before each operation of torch in this thread, however the networks are computed."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operation as it is."""
        self._check()
        return function(*args, **(kwargs or {}))


@contextmanager
def watched(predictor: Predictor, advance: Callable[[float], None]) -> Iterator[Predictor]:
    """A predictor with the same answers, which calls ``advance`` again and again with the share that is done.

    What ``advance`` raises ends the prediction, within one operation of torch. It is used in the thread of the block.

    Args:
        predictor: Its networks are watched.
        advance: Told a share from 0 to 1.
    """
    networks = 1 + len(predictor.others)
    share = 0.0

    def count(planes: int, total: int) -> None:
        nonlocal share
        share += planes / (total * networks)
        advance(min(share, 1.0))

    with _Checked(lambda: advance(min(share, 1.0))):
        yield replace(
            predictor,
            window=replace(predictor.window, advance=count),
            others=tuple((network, replace(window, advance=count)) for network, window in predictor.others),
        )
