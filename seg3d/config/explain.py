"""A config told: as YAML, as a digest, and the schema as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from seg3d.config.document import dump, one_line
from seg3d.config.keys import choices, core, is_section, item_type, walk
from seg3d.config.tree import Config
from seg3d.digest import sha256_json

# where things lie and how many processes work on them changes no result
WITHOUT_EFFECT = (
    "output_dir",
    "data.source",
    "data.store",
    "data.num_workers",
    "data.prefetch",
    "prepare.workers",
    "train.checkpoint_steps",
    "train.initial_weights",  # where they lie; what they are is a digest of its own
    "train.progress",
    "tracking",
)
_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false"}


def to_yaml(config: Config) -> str:
    """The whole config with every default, keys in the order of the schema; loads back to an equal config."""
    return dump(config.model_dump(mode="json"))


def show(config: Config) -> str:
    """The whole config for people to read."""
    return to_yaml(config)


def config_digest(config: Config) -> str:
    """SHA-256 of what can change a result: all but paths of data and output, workers, progress and tracking."""
    tree = config.model_dump(mode="json")
    for dotted in WITHOUT_EFFECT:
        *parents, last = dotted.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        del section[last]
    return sha256_json(tree)


def schema() -> dict[str, Any]:
    """JSON schema of the config."""
    return Config.model_json_schema()


def schema_rows() -> list[tuple[str, str, str, str]]:
    """Every key of the schema: dotted path (``*`` stands for an index), type, default, meaning."""
    return [
        (path, type_text(field.annotation, field.metadata), _default(field), field.description or "")
        for path, field in walk(Config)
    ]


def describe_schema() -> str:
    """The schema as a table, one line a key: dotted path, type, default, meaning; ``*`` stands for an index."""
    rows = [("key", "type", "default", "meaning"), *schema_rows()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in words, with its bounds."""
    kind, bounds, nullable = core(annotation), [*metadata, *_metadata(annotation)], _is_nullable(annotation)
    if options := choices(kind):
        text = "|".join(str(option) for option in options)
    elif is_section(kind):
        text = "section"
    elif get_origin(kind) is dict:
        text = f"mapping of text to {type_text(item_type(kind))}"
    elif get_origin(kind) is tuple:
        items = get_args(kind)
        item = type_text(items[0])
        text = f"list of {item}" if items[-1] is Ellipsis else f"{len(items)} x {item}"
    else:
        text = " ".join([_NAMES.get(kind, str(kind)), " and ".join(_bounds(bounds))]).rstrip()
    return f"{text} or null" if nullable else text


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if is_section(type(value)):
        return ""  # the keys beneath have theirs
    if isinstance(value, tuple):
        value = [item.model_dump(exclude_unset=True) if is_section(type(item)) else item for item in value]
    return one_line(value)


def _is_nullable(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _is_nullable(get_args(annotation)[0])
    return type(None) in get_args(annotation)


def _metadata(annotation: Any) -> list[Any]:
    """Everything written in ``Annotated`` around the core of a type."""
    found: list[Any] = []
    while get_args(annotation) and get_origin(annotation) not in (tuple, dict):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if get_origin(annotation) is Annotated:
            found += parts[1:]
        elif core(parts[0]) is parts[0]:
            break
        annotation = parts[0]
    return found


def _bounds(metadata: Sequence[Any]) -> list[str]:
    signs = {
        annotated_types.Ge: (">=", "ge"),
        annotated_types.Gt: (">", "gt"),
        annotated_types.Le: ("<=", "le"),
        annotated_types.Lt: ("<", "lt"),
    }
    texts: list[str] = []
    for entry in metadata:
        for bound in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
            if type(bound) in signs:
                sign, name = signs[type(bound)]
                texts.append(f"{sign} {getattr(bound, name):g}")
    return texts
