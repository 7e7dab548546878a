"""The whole config and the rules between its sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from seg3d.config.augment import AugmentSection
from seg3d.config.base import Bool, Count, Section, Size, refuse
from seg3d.config.data import DataSection, PrepareSection
from seg3d.config.method import (
    EvaluateSection,
    LossSection,
    ModelSection,
    PredictSection,
    SamplingSection,
    TrainSection,
)
from seg3d.errors import Fault


class ReproducibilitySection(Section):
    """What is done so that a run can be repeated."""

    mode: Literal["deterministic", "seeded", "random"] = Field(
        default="deterministic",
        description="deterministic: bit for bit; seeded: seeds only, faster; random: nothing is seeded",
    )
    threads: Size | None = Field(
        default=None, description="CPU threads of torch, changes the last bits; null: torch's choice"
    )
    portable: Bool = Field(default=False, description="the same bits for any number of threads on the CPU; slower")
    tf32: Bool = Field(default=False, description="allow TF32 on CUDA")
    keep_memory: Bool = Field(default=True, description="keep freed memory for the next step (glibc only)")


class TrackingSection(Section):
    """Where runs are recorded with MLflow."""

    enabled: Bool = Field(default=True, description="record runs")
    uri: str = Field(default="sqlite:///mlruns/mlflow.db", min_length=1, description="MLflow tracking URI")
    experiment: str | None = Field(default=None, description="MLflow experiment; null: the name of the config")


class Config(Section):
    """Everything that can be set; relative paths are relative to the working directory."""

    name: str = Field(min_length=1, description="name of the method, used for run folders and records")
    seed: Count = Field(default=0, description="seed of everything drawn by chance")
    output_dir: str = Field(default="runs", min_length=1, description="folder of the run folders")
    data: DataSection = Field(description="where the data are and how they are split")
    prepare: PrepareSection = Field(default=PrepareSection(), description="how scans are prepared")
    sampling: SamplingSection = Field(default=SamplingSection(), description="how training patches are drawn")
    augment: AugmentSection = Field(default=AugmentSection(), description="what is done to training patches")
    model: ModelSection = Field(default=ModelSection(), description="the network")
    loss: LossSection = Field(default=LossSection(), description="what training minimises")
    train: TrainSection = Field(default=TrainSection(), description="how the network is trained")
    predict: PredictSection = Field(default=PredictSection(), description="how whole scans are segmented")
    evaluate: EvaluateSection = Field(default=EvaluateSection(), description="how segmentations are scored")
    reproducibility: ReproducibilitySection = Field(
        default=ReproducibilitySection(), description="what is done so that a run can be repeated"
    )
    tracking: TrackingSection = Field(default=TrackingSection(), description="where runs are recorded")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(
            *self._size_faults("sampling.patch_size", self.sampling.patch_size),
            *self._size_faults("predict.tile_size", self.predict.tile_size),
            *self._norm_faults(),
            *self._plane_faults(),
            *self._slice_faults(),
            *self._augment_faults(),
            *self._separation_faults(),
            *self._attention_faults(),
            *self._memory_faults(),
            *self._tiling_faults(),
            *self._queue_faults(),
            *self._validation_faults(),
            *self._folder_faults(),
        )
        return self

    def _size_faults(self, key: str, size: Sequence[int] | None) -> list[Fault]:
        if size is None:
            return []
        thin = self.sampling.thin_axes if self.model.dims == 2 else ()
        nearest = [1 if axis in thin else self.model.nearest_size(length) for axis, length in enumerate(size)]
        if nearest == list(size):
            return []
        stride, levels = self.model.stride, len(self.model.features)
        what = f"not divisible by {stride}, the stride of a network of {levels} levels"
        if self.model.padding == "valid":
            what = f"not a size that valid convolutions of {levels} levels can answer for"
        if any(size[axis] != 1 for axis in thin):
            what = f"a slice like the patches has 1 voxel along {'xyz'[thin[0]]}"
        fix = f"The nearest size is {nearest}"
        if self.model.dims == 3 and len(self.sampling.thin_axes) == 1:
            fix = f"Pictures and slices need model.dims 2; of volumes the nearest size is {nearest}"
        return [Fault(key, "wrong_value", what, str(list(size)), str(nearest), fix)]

    def _norm_faults(self) -> list[Fault]:
        """Sizes whose coarsest level is a single voxel, which has no spread that could be normalised."""
        norm, one = self.model.norm, self.train.batch_size == 1
        sizes = (
            ("sampling.patch_size", self.sampling.patch_size, norm == "instance" or (norm == "batch" and one)),
            ("predict.tile_size", self.predict.tile_size, norm == "instance"),
        )
        thin = self.sampling.thin_axes if self.model.dims == 2 else ()
        faults = []
        for key, size, spread in sizes:
            coarsest = {self.model.coarsest_size(n) for axis, n in enumerate(size or ()) if axis not in thin}
            if spread and coarsest == {1}:
                what = (
                    f"{norm} norm has a single voxel to normalise at the coarsest of {len(self.model.features)} levels"
                )
                faults.append(Fault(key, "wrong_value", what, str(list(size or ())), "a larger size or fewer levels"))
        return faults

    def _plane_faults(self) -> list[Fault]:
        """What goes with slices only, and what slices need."""
        chosen = self.sampling
        if self.model.dims == 2:
            if len(chosen.thin_axes) == 1:
                return []
            what = "a network of 2 dimensions takes slices: one voxel along one axis"
            fix = "[256, 256, 1] is axial, [256, 1, 256] coronal, [1, 256, 256] sagittal"
            return [Fault("sampling.patch_size", "wrong_value", what, str(list(chosen.patch_size)), fix=fix)]
        return [
            Fault(key, "wrong_value", "has no effect on volumes", str(got), "model.dims 2")
            for key, got, default in (
                ("sampling.neighbours", chosen.neighbours, 0),
                ("sampling.balance", chosen.balance, None),
            )
            if got != default and (key != "sampling.balance" or got == "slice")
        ]

    def _slice_faults(self) -> list[Fault]:
        """Settings that reach across slices, where the network sees one slice alone."""
        if self.model.dims != 2 or len(self.sampling.thin_axes) != 1:
            return []
        across = self.sampling.thin_axes[0]
        faults = []
        if "xyz"[across] in self.predict.mirror and not self.sampling.neighbours:
            what, got = "has no effect across slices without neighbours", str(list(self.predict.mirror))
            faults.append(Fault("predict.mirror", "wrong_value", what, got, f"no {'xyz'[across]}"))
        elastic = self.augment.elastic
        points = None if elastic is None else elastic.control_points
        if points is not None and points[across] != 1:
            what, got = "a slice is deformed in its plane only", str(list(points))
            faults.append(Fault("augment.elastic.control_points", "wrong_value", what, got, f"1 along {'xyz'[across]}"))
        return faults

    def _attention_faults(self) -> list[Fault]:
        if self.predict.attention and self.predict.backend != "torch":
            return [
                Fault("predict.attention", "wrong_value", f"{self.predict.backend} gives no gates", fix="backend torch")
            ]
        if not self.predict.attention or (self.model.kind == "attention_unet" and len(self.model.features) > 1):
            return []
        return [Fault("predict.attention", "wrong_value", "this network has no gates", fix="model.kind attention_unet")]

    def _memory_faults(self) -> list[Fault]:
        if self.predict.memory_gib is None or self.predict.backend == "torch":
            return []
        what = f"how much memory {self.predict.backend} takes is not known: no limit can be held"
        return [
            Fault("predict.memory_gib", "wrong_value", what, str(self.predict.memory_gib), "null, or backend torch")
        ]

    def _tiling_faults(self) -> list[Fault]:
        """Exact tiles of networks whose answer for a voxel depends on the tile."""
        reasons = []
        if self.model.norm == "instance":
            reasons.append("instance norm looks at all of a tile")
        if self.model.kind == "attention_unet":
            reasons.append("how far gates look is not known")
        if self.predict.backend != "torch":
            reasons.append(f"{self.predict.backend} takes tiles as a whole")
        if self.predict.tiling != "exact" or not reasons:
            return []
        what = f"this network cannot be tiled exactly: {', and '.join(reasons)}"
        return [Fault("predict.tiling", "wrong_value", what, "exact", "blended or auto")]

    def _augment_faults(self) -> list[Fault]:
        """Transforms that the shape of a patch does not allow."""
        part, size = self.augment.rot90, self.sampling.patch_size
        faults = []
        if part is not None:
            across = [length for axis, length in zip("xyz", size, strict=True) if axis != part.about]
            if across[0] != across[1]:
                what = f"quarter turns about {part.about} need patches that are square across it"
                faults.append(Fault("augment.rot90", "wrong_value", what, str(list(size)), "two equal sizes"))
        affine = self.augment.affine
        if affine is not None and self.model.dims == 2 and len(self.sampling.thin_axes) == 1:
            thin = self.sampling.thin_axes[0]
            if any(angle for axis, angle in enumerate(affine.rotation_deg) if axis != thin):
                what = f"a slice turns in its plane only, about {'xyz'[thin]}"
                got = str(list(affine.rotation_deg))
                faults.append(Fault("augment.affine.rotation_deg", "wrong_value", what, got, "0 for the others"))
            if affine.shift_mm[thin]:
                what, got = "a slice is shifted in its plane only", str(list(affine.shift_mm))
                faults.append(Fault("augment.affine.shift_mm", "wrong_value", what, got, f"0 along {'xyz'[thin]}"))
        return faults

    def _separation_faults(self) -> list[Fault]:
        """A map of voxel weights that no term of the loss knows."""
        knowing = [term for term in self.loss.terms if term.weight and term.kind in ("cross_entropy", "focal")]
        if self.prepare.separation is None or knowing:
            return []
        what, fix = "has no effect: the loss has no cross_entropy or focal", "Add such a term, or set it to null"
        return [Fault("prepare.separation", "wrong_value", what, fix=fix)]

    def _queue_faults(self) -> list[Fault]:
        length, visit = self.sampling.queue_length, self.sampling.patches_per_visit
        if length >= visit:
            return []
        what = "the queue cannot hold the patches of one visit"
        return [Fault("sampling.queue_length", "wrong_value", what, str(length), f"at least {visit}")]

    def _validation_faults(self) -> list[Fault]:
        """An early stop that waits for scores that never come."""
        split, patience = self.data.split, self.train.early_stop_patience
        if patience is None:
            return []
        reasons = []
        if split.kind != "file" and not split.val_share:
            reasons.append("data.split.val_share is 0")
        if self.train.validate_every > self.train.max_epochs:
            reasons.append("train.validate_every is above train.max_epochs")
        what = f"has no effect where nothing is validated, as {' and '.join(reasons)}"
        return [Fault("train.early_stop_patience", "wrong_value", what, str(patience))] if reasons else []

    def _folder_faults(self) -> list[Fault]:
        if self.data.folders is not None:
            if self.data.layout in ("auto", "folders"):
                return []
            what = f"has no effect with layout {self.data.layout}"
            return [Fault("data.folders", "wrong_value", what, fix="Leave it out, or data.layout auto")]
        if self.data.layout != "folders":
            return []
        what, fix = (
            "layout folders needs it",
            'For example {images: ["{case}/image.nii.gz"], label: "{case}/mask.nii.gz"}',
        )
        return [Fault("data.folders", "wrong_value", what, "null", "images and label", fix)]


_OF_DIMS = ("model.dims", "model.kind", "model.padding", "model.upsampling")  # some are at fault together
_OF_SIZES = ("sampling.patch_size", "model.features", "model.norm", *_OF_DIMS)
# what a check between sections reads; where one of these is at fault the check says nothing
READ_BY: dict[str, tuple[str, ...]] = {
    "sampling.patch_size": (*_OF_SIZES, "train.batch_size"),
    "predict.tile_size": ("predict.tile_size", *_OF_SIZES),
    "predict.mirror": ("predict.mirror", "sampling.patch_size", "sampling.neighbours", *_OF_DIMS),
    "augment.elastic.control_points": ("augment.elastic", "sampling.patch_size", *_OF_DIMS),
    "sampling.neighbours": ("sampling.neighbours", *_OF_DIMS),
    "sampling.balance": ("sampling.balance", *_OF_DIMS),
    "predict.attention": ("predict.attention", "predict.backend", "model.kind", "model.features"),
    "augment.rot90": ("augment.rot90", "sampling.patch_size"),
    "augment.affine.rotation_deg": ("augment.affine", "sampling.patch_size", *_OF_DIMS),
    "augment.affine.shift_mm": ("augment.affine", "sampling.patch_size", *_OF_DIMS),
    "prepare.separation": ("prepare.separation", "loss"),
    "sampling.queue_length": ("sampling.queue_length", "sampling.patches_per_visit"),
    "train.early_stop_patience": (
        "train.early_stop_patience",
        "train.validate_every",
        "train.max_epochs",
        "data.split",
    ),
    "data.folders": ("data.folders", "data.layout"),
    "predict.memory_gib": ("predict.memory_gib", "predict.backend"),
    "predict.tiling": ("predict.tiling", "predict.backend", "model.norm", "model.kind"),
}
