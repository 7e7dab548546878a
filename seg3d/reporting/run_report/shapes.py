"""The shapes that a run's documents must have for its page; more fields are welcome.

A page is made of damaged runs, too, so a document of another shape counts as damaged rather than ending in a traceback.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic's own choice up to Python 3.11

Table = dict[str, Any]


def _hexadecimal(text: str) -> str:
    float.fromhex(text)
    return text


class _Train(TypedDict, total=False):
    max_epochs: int | None


class _Config(TypedDict, total=False):
    train: _Train
    model: Table
    reproducibility: Table


class _Manifest(TypedDict, total=False):
    config: _Config
    identity: Table


class _Result(TypedDict, total=False):
    epochs: int
    best_epoch: int | None
    seconds: FiniteFloat | None
    trace_sha256: str | None


class _Code(TypedDict, total=False):
    commit: str


class _Environment(TypedDict, total=False):
    code: _Code
    torch: Table
    cpu: Table
    packages: Table
    gpus: list[Table]


class _Data(TypedDict, total=False):
    cases: dict[str, Table]
    changed_files: list[str]
    shared_images: list[str]


class _Region(TypedDict, total=False):
    values: list[Any]


class _Model(TypedDict, total=False):
    channels: list[Any]
    labels: dict[str, int]
    regions: list[_Region]
    ignore_label: int | None


class _Step(TypedDict, total=False):
    epoch: int
    batch: int
    loss: Annotated[str, AfterValidator(_hexadecimal)] | None
    hash: str


class _Epoch(TypedDict):
    epoch: FiniteFloat
    step: NotRequired[FiniteFloat | None]
    seconds: NotRequired[FiniteFloat | None]


class _Share(TypedDict):
    expected: FiniteFloat
    planned: NotRequired[FiniteFloat]
    realised: FiniteFloat
    drawn_but_moved_out: NotRequired[FiniteFloat]


class _Lesion(TypedDict):
    case: str
    lesion: int
    label: str
    voxels: int


class _Certificate(TypedDict):
    patches: NotRequired[FiniteFloat]
    lesions: int
    lesions_never_drawn: list[_Lesion]
    classes: dict[str, _Share]


class _Resumed(TypedDict, total=False):
    epoch: int
    batches: int
    changed: list[str]
    environment: list[str] | Table


class _Verified(TypedDict):
    identical: bool
    epochs: int
    trace_sha256: NotRequired[str | None]
    changed: NotRequired[list[str] | None]
    environment: NotRequired[list[str] | None]


class _Interval(TypedDict):
    mean: float | None
    median: float | None
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    n: int
    n_infinite: int


class _Lesions(TypedDict):
    detected: int
    reference: int
    false_positive: int


class _Pooled(TypedDict):
    Lesions: _Lesions


class _Entry(TypedDict):
    name: Any
    Dice: _Interval
    IoU: _Interval
    HD95_mm: _Interval
    SurfaceDice: _Interval
    prediction_empty: NotRequired[int]
    reference_empty: NotRequired[int]
    both_empty: NotRequired[int]


_Score = float | Literal["inf"] | None


class _Metrics(TypedDict):
    Dice: float | None
    IoU: NotRequired[_Score]
    HD95_mm: NotRequired[_Score]
    SurfaceDice: NotRequired[_Score]
    Precision: NotRequired[_Score]
    Recall: NotRequired[_Score]
    Volume_mL: NotRequired[_Score]
    ReferenceVolume_mL: NotRequired[_Score]
    Lesions: NotRequired[_Lesions]
    Empty: NotRequired[str]


class _Row(TypedDict):
    case: str
    metrics: dict[str, _Metrics]
    prediction_file: NotRequired[str | None]
    reference_file: NotRequired[str | None]


class _Block(TypedDict):
    metric_per_case: list[_Row]
    per_label: dict[str, _Entry]
    foreground_dice: _Interval
    pooled_over_all_voxels_of_all_cases: dict[str, _Pooled]


def _complete(block: _Block) -> _Block:
    """Every label of a case is among those that are summed up."""
    known = set(block["per_label"])
    used = {label for row in block["metric_per_case"] for label in row["metrics"]}
    if used - known or known - set(block["pooled_over_all_voxels_of_all_cases"]):
        raise ValueError("labels of the cases are not those that are summed up")
    return block


class _Warning(TypedDict):
    kind: str
    text: str


class _Summary(_Block):
    warnings: NotRequired[list[_Warning]]
    regions: NotRequired[Annotated[_Block, AfterValidator(_complete)] | None]


def _numbered(summary: _Summary) -> _Summary:
    for label in summary["per_label"]:
        int(label)
    _complete(summary)
    return summary


class _Evaluated(TypedDict):
    summary: str
    sha256: NotRequired[str | None]
    weights: NotRequired[str | None]


Shape = TypeAdapter[Any]
MANIFEST: Shape = TypeAdapter(_Manifest)
RESULT: Shape = TypeAdapter(_Result)
ENVIRONMENT: Shape = TypeAdapter(_Environment)
DATA: Shape = TypeAdapter(_Data)
MODEL: Shape = TypeAdapter(_Model)
SPLITS: Shape = TypeAdapter(dict[str, list[str]])
STEP: Shape = TypeAdapter(_Step)
EPOCHS: Shape = TypeAdapter(list[_Epoch])
CERTIFICATE: Shape = TypeAdapter(_Certificate)
RESUMED: Shape = TypeAdapter(_Resumed)
VERIFIED: Shape = TypeAdapter(_Verified)
EVALUATED: Shape = TypeAdapter(_Evaluated)
SUMMARY: Shape = TypeAdapter(Annotated[_Summary, AfterValidator(_numbered)])


def shaped(value: Any, shape: Shape) -> Any:
    """``value`` as it is.

    Raises:
        ValueError: It has another shape; in one line.
    """
    try:
        shape.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
    return value
