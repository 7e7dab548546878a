"""Config of the data: where they are, how they are split and how a scan is prepared."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from seg3d.config.base import (
    Bool,
    Count,
    Float,
    Int,
    NonNegative,
    PositiveTriple,
    Section,
    Share,
    Size,
    Unique,
    refuse,
    without_effect,
)
from seg3d.errors import Fault


def _pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise PydanticCustomError("pattern", "not a regular expression: {error}", {"error": str(error)}) from error
    if groups < 1:
        raise PydanticCustomError("pattern", "has no group (...) that gives the patient")
    return value


def _template(value: str) -> str:
    if "{case}" not in value:
        raise PydanticCustomError("template", "lacks {place} where the case id stands", {"place": "{case}"})
    return value


Template = Annotated[str, AfterValidator(_template)]


class Folders(Section):
    """Files of a dataset with one folder or file name pattern a case."""

    images: tuple[Template, ...] = Field(
        min_length=1, description="file of each channel, relative to the source; {case} matches part of one folder name"
    )
    label: Template | None = Field(
        default=None, description="file of the label map, relative to the source; null: no labels"
    )
    negatives: tuple[Template, ...] = Field(
        default=(), description="files of images that hold no foreground and have no label map, relative to the source"
    )


class SplitSection(Section):
    """How cases are split into training, validation and test."""

    kind: Literal["kfold", "share", "file"] = Field(
        default="kfold",
        description="kfold: one fold is the test set; share: test_share of the cases; file: as a file says",
    )
    folds: Annotated[Int, Field(ge=2)] = Field(default=5, description="number of folds (kind kfold)")
    fold: Count = Field(default=0, description="fold that is the test set, from 0 (kinds kfold, file)")
    val_share: Share = Field(default=0.1, description="share of the cases held for validation, 0 to 1")
    test_share: Share = Field(default=0.2, description="share of the cases held for the test, 0 to 1 (kind share)")
    file: str | None = Field(default=None, description="file with the split (kind file)")
    seed: Count | None = Field(default=None, description="seed of the split alone; null: the seed of the run")
    stratify: str | None = Field(
        default=None,
        description="label whose presence is spread evenly over the parts; null: the label of the fewest cases",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = list(without_effect(self, self.kind, {"test_share": ("share",), "fold": ("kfold", "file")}))
        if self.kind == "kfold" and self.fold >= self.folds:
            faults.append(
                Fault(
                    "fold",
                    "wrong_value",
                    "no such fold",
                    str(self.fold),
                    f"0 to {self.folds - 1}",
                    "Folds count from 0",
                )
            )
        held = self.val_share + (self.test_share if self.kind == "share" else 0)
        if self.kind != "file" and held >= 1:
            what = "val_share and test_share leave nothing to train on"
            faults.append(Fault("val_share", "wrong_value", what, f"{held:g} together", "less than 1 together"))
        if (self.kind == "file") != (self.file is not None):
            what = "kind file needs a file" if self.kind == "file" else f"has no effect with kind {self.kind}"
            faults.append(Fault("file", "wrong_value", what, str(self.file)))
        refuse(*faults)
        return self


def _label_name(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _region_list(value: Any) -> Any:
    """``{name: labels}``, the short way to write regions, as a list."""
    return [{"name": name, "labels": labels} for name, labels in value.items()] if isinstance(value, dict) else value


LabelName = Annotated[str, BeforeValidator(_label_name)]


class RegionSection(Section):
    """Labels that are predicted as one mask, which may overlap others."""

    name: str = Field(min_length=1, description="name of the region")
    labels: Annotated[tuple[LabelName, ...], Unique] = Field(
        min_length=1, description="names or values of the labels that belong to it"
    )
    label: LabelName | None = Field(
        default=None,
        description="label it is shown as in a label map; null: the lowest of its labels that is in no later region",
    )


class DataSection(Section):
    """Where the data are and how they are split."""

    source: str = Field(min_length=1, description="dataset folder, dataset.json or table file")
    store: str = Field(min_length=1, description="folder of the HDF5 volumes, made from the source")
    layout: Literal["auto", "msd", "nnunet", "table", "folders"] = Field(
        default="auto", description="layout of the source"
    )
    folders: Folders | None = Field(default=None, description="files of a case (layout folders)")
    channels: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="channel names; null: as the dataset says"
    )
    labels: dict[str, Count] | None = Field(default=None, description="label value by name; null: as the dataset says")
    ignore_label: Count | None = Field(default=None, description="label value of voxels that count nowhere")
    regions: Annotated[tuple[RegionSection, ...], BeforeValidator(_region_list)] | None = Field(
        default=None,
        description="masks that are predicted instead of labels, one sigmoid output each, {name: [label, ...]} for "
        "short; in a label map later ones lie over earlier ones; null: as the dataset says; []: none",
    )
    group_pattern: Annotated[str, AfterValidator(_pattern)] | None = Field(
        default=None, description="regular expression on the case id whose first group gives the patient"
    )
    groups: dict[str, str] = Field(
        default_factory=dict, description="patient or group by case id, before group_pattern; groups are never split"
    )
    num_workers: Count = Field(
        default=0, description="threads or processes that read patches ahead; 0: one thread, as needed"
    )
    prefetch: Literal["auto", "threads", "processes", "none"] = Field(
        default="auto",
        description="what reads patches ahead, the bits are the same; auto: processes where a patch takes long; none: "
        "each batch is read when the step asks for it",
    )
    split: SplitSection = Field(default=SplitSection(), description="how cases are split")


class ForegroundSection(Section):
    """Crop to where a channel is bright."""

    threshold: Float | None = Field(default=None, description="grey value above which a voxel is foreground")
    percentile: Annotated[Float, Field(ge=0, le=100)] | None = Field(
        default=None, description="percentile of the grey values that serves as threshold, 0 to 100"
    )
    channel: Count = Field(default=0, description="channel that is looked at, from 0")
    margin_mm: NonNegative = Field(default=10.0, description="margin left around the foreground, mm")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.threshold is None) == (self.percentile is None):
            got = "neither" if self.threshold is None else "both"
            refuse(Fault("", "wrong_value", "needs either threshold or percentile", got, "one of them"))
        return self


class CropSection(Section):
    """What is cut off a scan."""

    foreground: ForegroundSection | None = Field(
        default=None, description="crop to the bright part; null: no such crop"
    )
    inferior_slices: Count = Field(default=0, description="slices cut off at the lower end")
    inferior_mm: NonNegative = Field(default=0.0, description="length cut off at the lower end, mm")
    superior_slices: Count = Field(default=0, description="slices cut off at the upper end")
    superior_mm: NonNegative = Field(default=0.0, description="length cut off at the upper end, mm")


NormalisationKind = Literal["none", "divide", "window", "zscore", "minmax", "percentile"]
_USED: dict[str, set[str]] = {
    "none": set(),
    "divide": {"by"},
    "window": {"lower", "upper"},
    "zscore": {"foreground"},
    "minmax": {"foreground"},
    "percentile": {"lower", "upper", "foreground"},
}


class NormalisationSection(Section):
    """How grey values of a channel are normalised."""

    kind: NormalisationKind = Field(default="zscore", description="how grey values are normalised")
    by: Float | None = Field(default=None, description="divisor in grey values (kind divide)")
    lower: Float | None = Field(
        default=None, description="lower end: grey value (window) or percentile, 0.5 (percentile)"
    )
    upper: Float | None = Field(
        default=None, description="upper end: grey value (window) or percentile, 99.5 (percentile)"
    )
    foreground: Bool = Field(default=False, description="take the statistics from voxels that are not 0")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kind") != "percentile":
            return values
        given = {key: value for key, value in values.items() if value is not None}
        return {"lower": 0.5, "upper": 99.5} | given

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(*self._faults())
        return self

    def _faults(self) -> list[Fault]:
        used, faults = _USED[self.kind], []
        for key, value in (("by", self.by), ("lower", self.lower), ("upper", self.upper)):
            if key in used and value is None:
                faults.append(Fault(key, "wrong_value", f"kind {self.kind} needs it", "null", "a number"))
        for key in sorted({"by", "lower", "upper", "foreground"} - used):
            value = getattr(self, key)
            if value is not None and value is not False:
                faults.append(Fault(key, "wrong_value", f"has no effect with kind {self.kind}", str(value)))
        if self.kind == "divide" and self.by == 0:
            faults.append(Fault("by", "wrong_value", "cannot divide by it", "0", "a number other than 0"))
        lower, upper = self.lower, self.upper
        if "lower" in used and lower is not None and upper is not None:
            if lower >= upper:
                what = "lower must be below upper"
                faults.append(Fault("lower", "wrong_value", what, f"{lower:g}", f"less than {upper:g}"))
            elif self.kind == "percentile" and not (lower >= 0 and upper <= 100):
                faults.append(Fault("", "wrong_value", "not percentiles", f"{lower:g}, {upper:g}", "0 to 100"))
        return faults


class SeparationSection(Section):
    """Loss weights that teach a network to part touching objects (Ronneberger et al. 2015, equation 2)."""

    w0: NonNegative = Field(default=10.0, description="largest weight that is added between two objects")
    sigma: Annotated[Float, Field(gt=0)] = Field(
        default=5.0, description="width of the gap over which it is added, voxels"
    )
    class_balance: Bool = Field(default=True, description="weigh each class so that all weigh the same in a scan")


class PrepareSection(Section):
    """How a scan is prepared before it is stored."""

    crop: CropSection = Field(default=CropSection(), description="what is cut off")
    spacing_mm: PositiveTriple | None = Field(
        default=None, description="voxel size after resampling, mm; null: no resampling"
    )
    size: tuple[Size | None, Size | None, Size | None] | None = Field(
        default=None,
        description="voxels along x, y, z after resampling, null along an axis keeps its own; null: as spacing_mm says",
    )
    separation: SeparationSection | None = Field(
        default=None, description="weigh the loss more between touching objects; null: all voxels alike"
    )
    normalise: tuple[NormalisationSection, ...] = Field(
        default=(NormalisationSection(kind="zscore"),), min_length=1, description="one for all channels or one for each"
    )
    workers: Size | None = Field(
        default=None, description="processes that prepare scans; null: one for each usable core"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size is not None and self.spacing_mm is not None:
            refuse(Fault("size", "wrong_value", "does not go with spacing_mm", str(list(self.size)), "one of them"))
        return self
