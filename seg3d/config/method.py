"""Config of the method: patches, network, loss, training, prediction."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
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
    without_effect,
)
from seg3d.errors import Fault

Momentum = Annotated[Float, Field(ge=0, lt=1)]
Decay = Annotated[Float, Field(gt=0, lt=1)]


def _some(value: dict[str, float]) -> dict[str, float]:
    if not any(value.values()):
        raise PydanticCustomError("no_weight", "no label has a weight")
    return value


class SamplingSection(Section):
    """How training patches are drawn."""

    patch_size: Sizes = Field(default=(96, 96, 96), description="patch size along x, y and z, voxels")
    patches_per_epoch: Size = Field(default=256, description="number of patches of an epoch")
    patches_per_visit: Size = Field(default=4, description="number of patches drawn each time a case is opened")
    queue_length: Size = Field(default=64, description="number of patches among which the next one is drawn")
    balance: Literal["case", "class", "lesion", "slice"] = Field(
        default="case",
        description="what is drawn evenly: cases, voxels of a class, lesions of a class, or (dims 2) slices that hold "
        "a class, for the background those that hold nothing else",
    )
    class_weights: Annotated[dict[str, NonNegative], AfterValidator(_some)] | None = Field(
        default=None,
        description="weight of each label name at the patch centre; null: half background, half foreground",
    )
    neighbours: Count = Field(
        default=0, description="slices on each side that are given to the network as more channels (dims 2)"
    )
    border: Literal["constant", "mirror"] = Field(
        default="constant",
        description="what lies beyond a scan: constant: its lowest grey value, background; mirror: the scan mirrored",
    )

    @property
    def thin_axes(self) -> tuple[int, ...]:
        """Axes (0, 1, 2) along which a patch has a single voxel."""
        return tuple(axis for axis, size in enumerate(self.patch_size) if size == 1)


def _whole(value: Any) -> Any:
    if type(value) is not int:
        raise PydanticCustomError("whole_type", "should be a whole number")
    return value


Dims = Annotated[Literal[2, 3], BeforeValidator(_whole)]  # 3.0 would pass as 3


class ModelSection(Section):
    """The network."""

    kind: Literal["reduced_unet", "unet", "attention_unet"] = Field(
        default="reduced_unet",
        description="architecture: strided down, nearest up; Ronneberger et al. 2015; Oktay et al. 2018",
    )
    dims: Dims = Field(
        default=3, description="dimensions of the convolutions; 2: patches are slices, 1 voxel along one axis"
    )
    features: tuple[Size, ...] = Field(
        default=(32, 64, 128), min_length=1, description="channels of each level, finest first"
    )
    norm: Literal["instance", "batch", "none"] = Field(default="instance", description="normalisation layers")
    dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="probability of dropout, 0 to below 1"
    )
    activation: Literal["relu", "leaky_relu"] = Field(default="leaky_relu", description="activation function")
    prior: Annotated[Float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="probability of each of data.regions before training, such as 0.01 for small ones; null: about 0.5",
    )
    padding: Literal["same", "valid"] = Field(
        default="same",
        description="valid: convolutions without padding, the input is larger than the patch (kind unet)",
    )
    upsampling: Literal["nearest", "transposed"] = Field(
        default="nearest", description="how the coarser level is brought to the finer one (kind unet)"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(
            *(
                Fault(key, "wrong_value", f"has no effect with kind {self.kind}", getattr(self, key), "kind unet")
                for key in ("padding", "upsampling")
                if self.kind != "unet" and getattr(self, key) != type(self).model_fields[key].default
            )
        )
        return self

    @property
    def stride(self) -> int:
        """Voxels of the input that one voxel of the coarsest level covers along an axis."""
        return int(2 ** (len(self.features) - 1))

    @property
    def margin(self) -> int:
        """Voxels that valid convolutions lose on each side of an axis."""
        return 6 * self.stride - 4 if self.padding == "valid" else 0

    def nearest_size(self, length: int) -> int:
        """The size nearest to ``length`` that the network can answer for along an axis.

        It is no smaller than the stride, so that tiles of this size can lie at its multiples.
        """
        smallest = self.coarsest_size(2 * self.stride - 1)
        nearest = self.coarsest_size(length + self.stride // 2)
        return max(smallest, nearest) * self.stride - self._lost

    def coarsest_size(self, length: int) -> int:
        """Voxels of the coarsest level along an axis for an answer of ``length`` voxels, rounded down."""
        return (length + self._lost) // self.stride

    @property
    def _lost(self) -> int:
        """Voxels lost on the way up: with valid convolutions 4 on each level, after it was doubled."""
        return 4 * (self.stride - 1) if self.padding == "valid" else 0


def _loss_kind(value: Any) -> Any:
    if value in ("bce", "binary_cross_entropy"):
        text = "the binary cross-entropy is cross_entropy with data.regions, which have a sigmoid output each"
        raise PydanticCustomError("loss_kind", text)
    return value


LossKind = Literal["cross_entropy", "dice", "generalised_dice", "focal", "tversky"]
_OPTION_OF: dict[str, tuple[LossKind, ...]] = {
    "gamma": ("focal",),
    "alpha": ("tversky",),
    "beta": ("tversky",),
    "include_background": ("dice", "generalised_dice", "tversky"),
    "batch": ("dice", "generalised_dice", "tversky"),
}


class LossTermSection(Section):
    """One term of the loss."""

    kind: Annotated[LossKind, BeforeValidator(_loss_kind)] = Field(
        default="dice",
        description="loss function, of softmax over labels, or of a sigmoid for each of data.regions: cross_entropy is "
        "then the binary one (BCE); a map of voxel weights counts in cross_entropy and focal alone",
    )
    weight: NonNegative = Field(default=1.0, description="factor of the term in the sum")
    gamma: NonNegative = Field(default=2.0, description="focusing exponent (kind focal)")
    alpha: NonNegative = Field(default=0.3, description="weight of false positives (kind tversky)")
    beta: NonNegative = Field(default=0.7, description="weight of false negatives (kind tversky)")
    include_background: Bool = Field(
        default=False,
        description="count the background as a class, without which generalised Dice of a "
        "single label is plain Dice (kinds dice, generalised_dice, tversky; regions have none)",
    )
    batch: Bool = Field(
        default=False,
        description="sums over the whole batch instead of each patch (kinds dice, generalised_dice, tversky)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = list(without_effect(self, self.kind, _OPTION_OF))
        if self.kind == "tversky" and not self.alpha and not self.beta:
            what = "with alpha and beta 0 the loss is the same for every answer"
            faults.append(Fault("beta", "wrong_value", what, "0", "alpha or beta above 0"))
        refuse(*faults)
        return self


class LossSection(Section):
    """What training minimises."""

    terms: tuple[LossTermSection, ...] = Field(
        default=(LossTermSection(kind="dice"), LossTermSection(kind="cross_entropy")),
        min_length=1,
        description="terms that are added up",
    )
    class_weights: dict[str, NonNegative] | None = Field(
        default=None,
        description="weight of each label, with data.regions of each region, by name; 1 for others; null: all alike",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(term.weight for term in self.terms):
            refuse(Fault("terms", "wrong_value", "every term has weight 0", fix="Give at least one a weight"))
        return self


class OptimizerSection(Section):
    """How weights are updated."""

    kind: Literal["adamw", "sgd"] = Field(default="adamw", description="optimiser")
    learning_rate: Positive = Field(default=1e-3, description="highest learning rate")
    weight_decay: NonNegative = Field(default=1e-2, description="weight decay")
    momentum: Momentum = Field(default=0.99, description="momentum, 0 to below 1 (kind sgd)")
    nesterov: Bool = Field(default=True, description="Nesterov momentum (kind sgd)")
    implementation: Literal["auto", "loop", "foreach", "fused"] = Field(
        default="auto",
        description="how a step goes through the weights: one by one, together, or in one kernel, which rounds "
        "differently; auto: foreach on CUDA, loop on the CPU",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(*without_effect(self, self.kind, {"momentum": ("sgd",), "nesterov": ("sgd",)}))
        return self


class ScheduleSection(Section):
    """How the learning rate changes."""

    kind: Literal["polynomial", "cosine", "constant"] = Field(
        default="polynomial", description="course of the learning rate"
    )
    warmup_steps: Count = Field(default=0, description="optimiser steps over which the learning rate rises from 0")
    power: Positive = Field(default=0.9, description="exponent (kind polynomial)")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(*without_effect(self, self.kind, {"power": ("polynomial",)}))
        return self


class TrainSection(Section):
    """How the network is trained."""

    max_epochs: Size = Field(default=50, description="number of epochs")
    batch_size: Size = Field(default=2, description="patches of a step on each device")
    optimizer: OptimizerSection = Field(default=OptimizerSection(), description="how weights are updated")
    schedule: ScheduleSection = Field(default=ScheduleSection(), description="how the learning rate changes")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="fp32", description="floating-point format of the network; auto: bf16 where it is fast, else fp32"
    )
    memory_format: Literal["contiguous", "channels_last"] = Field(
        default="contiguous",
        description="order of an image's values in memory, changes the last bits; channels_last: all channels of a "
        "voxel together, often faster with batch norm",
    )
    initial_weights: str | None = Field(
        default=None,
        description="run folder whose weights the training begins with, but for the last layer where labels differ; "
        "null: random ones",
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="where to compute; auto: a GPU if there is"
    )
    devices: Size = Field(default=1, description="number of devices")
    gradient_clip: Positive | None = Field(default=12.0, description="largest norm of the gradient; null: no limit")
    accumulate: Size = Field(
        default=1,
        description="batches whose mean gradient makes a step; where an epoch ends before, those missing count as 0",
    )
    validate_every: Size = Field(default=1, description="epochs from one validation to the next")
    ema_decay: Decay | None = Field(
        default=None, description="decay of the running mean of the weights a step; null: no mean"
    )
    early_stop_patience: Size | None = Field(
        default=None,
        description="validations without improvement that are borne; the next one stops training; null: never stop",
    )
    checkpoint_steps: Size | None = Field(
        default=200, description="optimiser steps between checkpoints within an epoch; null: at its end only"
    )
    progress: Bool = Field(default=True, description="show a progress bar")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.implementation == "fused" and self.precision == "fp16" and self.gradient_clip is not None:
            what = "a fused step takes fp16 gradients that are scaled, so that none could be clipped before it"
            refuse(Fault("optimizer.implementation", "wrong_value", what, "fused", "foreach, or gradient_clip null"))
        return self


class PredictSection(Section):
    """How whole scans are segmented."""

    tiling: Literal["auto", "exact", "blended"] = Field(
        default="auto",
        description="exact: the answer of one pass over the whole scan, for model.norm batch or none; blended: "
        "overlapping tiles, averaged with Gaussian weights; auto: exact where the network allows it",
    )
    backend: Literal["torch", "openvino", "onnxruntime"] = Field(
        default="torch",
        description="what computes the network on the CPU, in blended tiles; the others are extras and are checked "
        "against torch when they are loaded",
    )
    tile_size: Sizes | None = Field(
        default=None,
        description="tile size along x, y and z, voxels; null: exact tiles as the memory allows, blended ones as the "
        "patches",
    )
    memory_gib: Positive | None = Field(
        default=None,
        description="memory of the process that tiles may take, GiB; null: half of what is free, 4/5 on a GPU",
    )
    step: Annotated[Float, Field(gt=0, le=1)] = Field(
        default=0.5, description="distance of blended tiles as a share of their size"
    )
    batch_size: Size = Field(default=2, description="blended tiles computed at once")
    mirror: Annotated[tuple[Literal["x", "y", "z"], ...], Unique] = Field(
        default=(), description="axes along which tiles are also mirrored and averaged"
    )
    probabilities: Bool = Field(default=False, description="write the probabilities too")
    attention: Bool = Field(
        default=False, description="write where each gate looks, finest first (model.kind attention_unet)"
    )
    keep_largest: Annotated[tuple[str, ...], Unique] = Field(
        default=(), description="label names of which only the largest connected component is kept"
    )
    min_size_ml: dict[str, NonNegative] = Field(
        default_factory=dict, description="volume by label name below which a connected component is removed, ml"
    )


class EvaluateSection(Section):
    """How segmentations are scored."""

    tolerance_mm: NonNegative = Field(
        default=2.0, description="tolerance of the surface Dice, mm; of seg3d evaluate where it is given this config"
    )
