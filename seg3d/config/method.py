"""Config of the method: patches, network, loss, training, prediction."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from seg3d.config.base import (
    Bool,
    Count,
    Float,
    NonNegative,
    Positive,
    Section,
    Size,
    Sizes,
    Unique,
    refuse,
)
from seg3d.errors import Fault

Momentum = Annotated[Float, Field(ge=0, lt=1)]
Decay = Annotated[Float, Field(gt=0, lt=1)]


class SamplingSection(Section):
    """How training patches are drawn."""

    patch_size: Sizes = Field(default=(96, 96, 96), description="patch size along x, y and z, voxels")
    patches_per_epoch: Size = Field(default=256, description="number of patches of an epoch")
    patches_per_visit: Size = Field(default=4, description="number of patches drawn each time a case is opened")
    queue_length: Size = Field(default=64, description="number of patches among which the next one is drawn")
    balance: Literal["case", "class", "lesion"] = Field(
        default="case", description="what is drawn evenly: cases, cases within a class, lesions within a class"
    )
    class_weights: dict[str, NonNegative] | None = Field(
        default=None,
        description="weight of each label name at the patch centre; null: half background, half foreground",
    )


def _whole(value: Any) -> Any:
    if type(value) is not int:
        raise PydanticCustomError("whole_type", "should be a whole number")
    return value


Dims = Annotated[Literal[2, 3], BeforeValidator(_whole)]  # 3.0 would pass as 3


class ModelSection(Section):
    """The network."""

    kind: Literal["reduced_unet"] = Field(default="reduced_unet", description="architecture")
    dims: Dims = Field(default=3, description="dimensions of the convolutions")
    features: tuple[Size, ...] = Field(
        default=(32, 64, 128), min_length=1, description="channels of each level, finest first"
    )
    norm: Literal["instance", "batch", "none"] = Field(default="instance", description="normalisation layers")
    dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="probability of dropout, 0 to below 1"
    )
    activation: Literal["relu", "leaky_relu"] = Field(default="leaky_relu", description="activation function")

    @property
    def stride(self) -> int:
        """Voxels of the input that one voxel of the coarsest level covers along an axis."""
        return int(2 ** (len(self.features) - 1))


LossKind = Literal["cross_entropy", "dice", "generalised_dice", "focal", "tversky"]
_OPTION_OF: dict[str, tuple[LossKind, ...]] = {
    "gamma": ("focal",),
    "alpha": ("tversky",),
    "beta": ("tversky",),
    "include_background": ("dice", "tversky"),
    "batch": ("dice", "generalised_dice", "tversky"),
}


class LossTermSection(Section):
    """One term of the loss."""

    kind: LossKind = Field(default="dice", description="loss function")
    weight: NonNegative = Field(default=1.0, description="factor of the term in the sum")
    gamma: NonNegative = Field(default=2.0, description="focusing exponent (kind focal)")
    alpha: NonNegative = Field(default=0.3, description="weight of false positives (kind tversky)")
    beta: NonNegative = Field(default=0.7, description="weight of false negatives (kind tversky)")
    include_background: Bool = Field(default=False, description="count the background as a class (kinds dice, tversky)")
    batch: Bool = Field(
        default=False,
        description="sums over the whole batch instead of each patch (kinds dice, generalised_dice, tversky)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        fields = type(self).model_fields
        refuse(
            *(
                Fault(
                    key,
                    "wrong_value",
                    f"has no effect with kind {self.kind}",
                    str(getattr(self, key)).lower(),
                    f"kind {' or '.join(kinds)}",
                )
                for key, kinds in _OPTION_OF.items()
                if self.kind not in kinds and getattr(self, key) != fields[key].default
            )
        )
        return self


class LossSection(Section):
    """What training minimises."""

    terms: tuple[LossTermSection, ...] = Field(
        default=(LossTermSection(kind="dice"), LossTermSection(kind="cross_entropy")),
        min_length=1,
        description="terms that are added up",
    )
    class_weights: dict[str, NonNegative] | None = Field(
        default=None, description="weight of each label name, 1 for those not named; null: all alike"
    )


class OptimizerSection(Section):
    """How weights are updated."""

    kind: Literal["adamw", "sgd"] = Field(default="adamw", description="optimiser")
    learning_rate: Positive = Field(default=1e-3, description="highest learning rate")
    weight_decay: NonNegative = Field(default=1e-2, description="weight decay")
    momentum: Momentum = Field(default=0.99, description="momentum, 0 to below 1 (kind sgd)")
    nesterov: Bool = Field(default=True, description="Nesterov momentum (kind sgd)")


class ScheduleSection(Section):
    """How the learning rate changes."""

    kind: Literal["polynomial", "cosine", "constant"] = Field(
        default="polynomial", description="course of the learning rate"
    )
    warmup_steps: Count = Field(default=0, description="optimiser steps over which the learning rate rises from 0")
    power: Positive = Field(default=0.9, description="exponent (kind polynomial)")


class TrainSection(Section):
    """How the network is trained."""

    max_epochs: Size = Field(default=50, description="number of epochs")
    batch_size: Size = Field(default=2, description="patches of a step on each device")
    optimizer: OptimizerSection = Field(default=OptimizerSection(), description="how weights are updated")
    schedule: ScheduleSection = Field(default=ScheduleSection(), description="how the learning rate changes")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="fp32", description="floating-point format of the network; auto: bf16 where it is fast, else fp32"
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="where to compute; auto: a GPU if there is"
    )
    devices: Size = Field(default=1, description="number of devices")
    gradient_clip: Positive | None = Field(default=12.0, description="largest norm of the gradient; null: no limit")
    accumulate: Size = Field(default=1, description="batches whose gradients are added up for a step")
    validate_every: Size = Field(default=1, description="epochs from one validation to the next")
    ema_decay: Decay | None = Field(
        default=None, description="decay of the running mean of the weights a step; null: no mean"
    )
    early_stop_patience: Size | None = Field(
        default=None, description="validations without improvement after which training stops; null: never"
    )
    checkpoint_steps: Size | None = Field(
        default=200, description="optimiser steps between checkpoints within an epoch; null: at its end only"
    )
    progress: Bool = Field(default=True, description="show a progress bar")


class PredictSection(Section):
    """How whole scans are segmented."""

    tile_size: Sizes | None = Field(
        default=None, description="tile size along x, y and z, voxels; null: as the patches"
    )
    step: Annotated[Float, Field(gt=0, le=1)] = Field(
        default=0.5, description="distance of tiles as a share of their size"
    )
    batch_size: Size = Field(default=2, description="tiles computed at once")
    mirror: Annotated[tuple[Literal["x", "y", "z"], ...], Unique] = Field(
        default=(), description="axes along which tiles are also mirrored and averaged"
    )
    probabilities: Bool = Field(default=False, description="write the probabilities too")
    keep_largest: Annotated[tuple[str, ...], Unique] = Field(
        default=(), description="label names of which only the largest connected component is kept"
    )
    min_size_ml: dict[str, NonNegative] = Field(
        default_factory=dict, description="volume by label name below which a connected component is removed, ml"
    )


class EvaluateSection(Section):
    """How segmentations are scored."""

    tolerance_mm: NonNegative = Field(default=2.0, description="tolerance of the surface Dice, mm")
