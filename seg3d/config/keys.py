"""Walking the schema by dotted keys: what a key may be called, and what lies beneath it."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def core(annotation: Any) -> Any:
    """A type without what is wrapped around it: bounds and "or null"."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return core(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return core(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def is_section(annotation: Any) -> bool:
    """Whether a type is a section with keys of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def item_type(annotation: Any) -> Any:
    """Type of the items of a list or mapping, ``None`` for what has no items."""
    kind = core(annotation)
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    return get_args(kind)[1] if get_origin(kind) is dict else None


def split_key(root: type[BaseModel], dotted: str) -> list[str]:
    """Parts of a dotted key; the name of an item of a mapping may itself hold dots."""
    parts, annotation = dotted.split("."), root
    for index, part in enumerate(parts):
        kind = core(annotation)
        if get_origin(kind) is dict:
            return [*parts[:index], ".".join(parts[index:])]
        if is_section(kind) and part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
        else:
            annotation = item_type(kind)
    return parts


def unknown_at(root: type[BaseModel], parts: Sequence[str]) -> tuple[int, Any] | None:
    """Index of the first part that the schema does not know with the type it was looked up in, ``None``: all known."""
    annotation: Any = root
    for index, part in enumerate(parts):
        kind = core(annotation)
        if is_section(kind):
            if part not in kind.model_fields:
                return index, kind
            annotation = kind.model_fields[part].annotation
        elif get_origin(kind) is dict or (get_origin(kind) is tuple and part.isdecimal()):
            annotation = item_type(kind)
        else:
            return index, kind
    return None


def close_match(word: object, words: Sequence[str]) -> str | None:
    """The one of ``words`` that ``word`` was probably meant to be."""
    found = difflib.get_close_matches(str(word).lower(), words, n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(kind: Any, part: object) -> str | None:
    """The key of a section that a misspelt one was probably meant to be."""
    return close_match(part, list(kind.model_fields)) if is_section(kind) else None


def choices(annotation: Any) -> tuple[Any, ...]:
    """What a key with fixed choices may be, empty for others."""
    kind = core(annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def walk(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the schema with its dotted path, in order; ``*`` stands for an index."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        kind = core(field.annotation)
        if is_section(kind):
            yield from walk(kind, f"{prefix}{name}.")
        elif get_origin(kind) is tuple and is_section(core(item_type(kind))):
            yield from walk(core(item_type(kind)), f"{prefix}{name}.*.")
