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
            *self._queue_faults(),
            *self._folder_faults(),
        )
        return self

    def _size_faults(self, key: str, size: Sequence[int] | None) -> list[Fault]:
        stride, axes = self.model.stride, self.model.dims
        if size is None or all(length % stride == 0 for length in size[:axes]):
            return []
        nearest = [max(1, (length + stride // 2) // stride) * stride for length in size[:axes]] + list(size[axes:])
        what = f"not divisible by {stride}, the stride of a network of {len(self.model.features)} levels"
        return [Fault(key, "wrong_value", what, str(list(size)), str(nearest), f"The nearest size is {nearest}")]

    def _queue_faults(self) -> list[Fault]:
        length, visit = self.sampling.queue_length, self.sampling.patches_per_visit
        if length >= visit:
            return []
        what = "the queue cannot hold the patches of one visit"
        return [Fault("sampling.queue_length", "wrong_value", what, str(length), f"at least {visit}")]

    def _folder_faults(self) -> list[Fault]:
        if self.data.layout != "folders" or self.data.folders is not None:
            return []
        what, fix = (
            "layout folders needs it",
            'For example {images: ["{case}/image.nii.gz"], label: "{case}/mask.nii.gz"}',
        )
        return [Fault("data.folders", "wrong_value", what, "null", "images and label", fix)]


# what a check between sections reads; where one of these is at fault the check says nothing
READ_BY: dict[str, tuple[str, ...]] = {
    "sampling.patch_size": ("sampling.patch_size", "model.features", "model.dims"),
    "predict.tile_size": ("predict.tile_size", "model.features", "model.dims"),
    "sampling.queue_length": ("sampling.queue_length", "sampling.patches_per_visit"),
    "data.folders": ("data.folders", "data.layout"),
}
