"""Faults of a config: what pydantic found, told by dotted keys and with a way to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from seg3d.config.document import one_line
from seg3d.config.keys import close_match, split_key, suggest, unknown_at
from seg3d.config.tree import READ_BY, Config
from seg3d.errors import Fault

Location = tuple[str | int, ...]

# where pydantic's own words speak of Python
_WORDS = {
    "model_type": "should be a section, that is keys with values",
    "dict_type": "should be a mapping of names to values",
    "tuple_type": "should be a list",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "too_short": "too few values",
    "too_long": "too many values",
}


def faults_of(error: ValidationError) -> list[tuple[Location, Fault]]:
    """Every fault with the location of the faulty value."""
    found: list[tuple[Location, Fault]] = []
    for details in error.errors(include_url=False):
        for location, fault in _faults_of(details):
            if all(known != fault for _, known in found):
                found.append((location, fault))
    return found


def unknown_key(parts: Sequence[str]) -> Fault | None:
    """The fault of a path that is not in the schema, ``None`` when it is."""
    unknown = unknown_at(Config, parts)
    if unknown is None:
        return None
    index, kind = unknown
    where, fields = ".".join(parts[: index + 1]), getattr(kind, "model_fields", None)
    if fields is None:
        return Fault(where, "unknown_key", "unknown key", fix=f"{'.'.join(parts[:index])} is a value without keys")
    meant = suggest(kind, parts[index])
    fix = f"did you mean {meant}?" if meant else f"The keys here are {', '.join(fields)}"
    return Fault(where, "unknown_key", "unknown key", fix=fix)


def concerned(fault: Fault) -> list[tuple[str, ...]]:
    """Paths that a fault is about: where it is and, for a misspelt key, the key that was meant."""
    parts = split_key(Config, fault.where)
    paths, unknown = [tuple(parts)], unknown_at(Config, parts)
    if unknown is not None:
        index, kind = unknown
        if meant := suggest(kind, parts[index]):
            paths.append((*parts[:index], meant))
    return paths


def is_about(fault: Fault, location: Location, told: Sequence[tuple[str, ...]]) -> bool:
    """Whether a fault of a later look reads what was already told, and so may come from it."""
    read = () if location else READ_BY.get(fault.where, ())
    places = [tuple(key.split(".")) for key in read] or [tuple(map(str, location))]
    return any(_overlap(place, other) for place in places for other in told)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _faults_of(details: ErrorDetails) -> list[tuple[Location, Fault]]:
    location: Location = tuple(part for part in details["loc"] if part != "[key]")
    where = ".".join(map(str, location))
    kind, context = details["type"], details.get("ctx", {})
    if kind == "faults":
        return [(location, _beneath(where, fault)) for fault in context["faults"]]
    if kind in ("extra_forbidden", "invalid_key"):
        parts = [str(part) for part in location]
        return [(location, unknown_key(parts) or Fault(where, "unknown_key", "unknown key", fix="Write it as text"))]
    if kind == "missing":
        if isinstance(location[-1], int):  # an item of a list of fixed length
            parent = ".".join(map(str, location[:-1]))
            what = "too few values"
            return [(location[:-1], Fault(parent, "wrong_value", what, one_line(details["input"])))]
        return [(location, Fault(where, "missing_key", "missing", fix="Set it in the file or as KEY=VALUE"))]
    if kind == "too_short" and len(details["input"]) >= context["min_length"]:
        return []  # pydantic counts sound items only; the others are told themselves
    if kind == "literal_error":
        options = context["expected"].replace("'", "").replace(" or ", ", ")
        meant = close_match(details["input"], options.split(", "))
        fix = f"did you mean {meant}?" if meant else ""
        return [(location, Fault(where, "wrong_value", "no such choice", one_line(details["input"]), options, fix))]
    wrong = "wrong_type" if _is_type(kind) else "wrong_value"
    what = _WORDS.get(kind) or details["msg"].removeprefix("Input ")
    return [(location, Fault(where, wrong, what, one_line(details["input"]), "", _fix(details)))]


def _is_type(kind: str) -> bool:
    return kind.endswith("_type") or kind in ("int_from_float", "is_instance_of", "none_required")


def _beneath(where: str, fault: Fault) -> Fault:
    path = ".".join(part for part in (where, fault.where) if part)
    return Fault(path, fault.kind, fault.what, fault.got, fault.expected, fault.fix, fault.note)


def _fix(details: ErrorDetails) -> str:
    value: Any = details["input"]
    name = str(details["loc"][-1]) if details["loc"] else ""
    if value is None and ":" in name:  # {tumour:1} is a key without a value
        return f"YAML wants a blank after a colon: {name.replace(':', ': ')}"
    if details["type"] == "string_type" and value is not None and not isinstance(value, dict | list):
        # of yes, 1e3 or a date YAML does not keep how it was written
        return f'Put it in quotes: "{value}"' if type(value) is int else "Put it in quotes as it is written"
    return ""
