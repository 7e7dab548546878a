"""What all models of the config share: strictness, types of numbers, faults told by their own key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Strict
from pydantic_core import PydanticCustomError

from seg3d.errors import Fault


class Section(BaseModel):
    """One section of the config: frozen, and a key it does not know is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def refuse(*faults: Fault) -> None:
    """Raise what pydantic carries to the user: faults whose ``where`` is relative to the section, nothing when none."""
    if faults:
        text = "; ".join(str(fault) for fault in faults)
        raise PydanticCustomError("faults", "{text}", {"text": text, "faults": faults})


def without_effect(section: Section, kind: str, options: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """A fault for each key that is set to other than its default although the section's kind does not read it.

    Args:
        section: The section.
        kind: Its kind.
        options: Kinds that read a key, by key.
    """
    for key, kinds in options.items():
        got = getattr(section, key)
        if kind not in kinds and got != type(section).model_fields[key].default:
            what = f"has no effect with kind {kind}"
            yield Fault(key, "wrong_value", what, str(got).lower(), f"kind {' or '.join(kinds)}")


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise PydanticCustomError("range", "the lower bound is above the upper one")
    return value


# 5 is a fine number with a fraction, but "5" and true are neither whole numbers nor numbers
Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]
Count = Annotated[Int, Ge(0)]
Size = Annotated[Int, Ge(1)]
Float = Annotated[float, Strict()]
NonNegative = Annotated[Float, Ge(0)]
Positive = Annotated[Float, Gt(0)]
Share = Annotated[Float, Ge(0), Le(1)]

Ordered = AfterValidator(_ordered)
PositiveRange = Annotated[tuple[Positive, Positive], Ordered]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], Ordered]
Sizes = tuple[Size, Size, Size]
PositiveTriple = tuple[Positive, Positive, Positive]
NonNegativeTriple = tuple[NonNegative, NonNegative, NonNegative]


def _unique(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise PydanticCustomError("repeated", "a value is given twice")
    return value


Unique = AfterValidator(_unique)
