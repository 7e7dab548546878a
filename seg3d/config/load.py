"""Reading a config file with overrides; every fault is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from seg3d.config.document import parse, read
from seg3d.config.faults import Location, concerned, faults_of, is_about, unknown_key
from seg3d.config.keys import core, is_section, item_type, split_key
from seg3d.config.tree import Config
from seg3d.errors import Fault, FaultsError


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, changed by overrides.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value`` each, the value in YAML; a later one wins.

    Raises:
        ConfigError: No such file, or not a YAML mapping.
        FaultsError: Anything wrong with keys or values, all at once.
    """
    return _sound(*_examined(*read(Path(path)), overrides), f"{path}: the config cannot be used")


def inspect_config(path: Path | str, overrides: Sequence[str] = ()) -> tuple[Config | None, list[Fault]]:
    """What is sound in a config, and its faults; ``None`` where not even the rest can be used.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value`` each.

    Raises:
        ConfigError: No such file, or not a YAML mapping.
    """
    return _examined(*read(Path(path)), overrides)


def as_config(config: Config | Path | str, overrides: Sequence[str] = ()) -> Config:
    """A config from a file or from a config, changed by overrides and checked again.

    Raises:
        ConfigError: No such file, or not a YAML mapping.
        FaultsError: Anything wrong with keys or values, all at once.
    """
    if not isinstance(config, Config):
        return load_config(config, overrides)
    if not overrides:
        return config
    return _sound(*_examined(config.model_dump(mode="json"), [], overrides), "the config cannot be used")


def _sound(config: Config | None, faults: Sequence[Fault], title: str) -> Config:
    if faults or config is None:
        raise FaultsError(title, faults)
    return config


def _examined(
    values: dict[Any, Any], faults: Sequence[Fault], overrides: Sequence[str]
) -> tuple[Config | None, list[Fault]]:
    """The config of what is sound, and all faults."""
    found = list(faults)
    for override in overrides:
        found += _override(values, override)
    if values.get("data") is None:
        values["data"] = {}  # so that each key it must have is told
    config: Config | None = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        config, more = _all_faults(values, error, found)
        found += more
    return config, list(dict.fromkeys(found))


def _all_faults(
    values: dict[Any, Any], error: ValidationError, known: Sequence[Fault]
) -> tuple[Config | None, list[Fault]]:
    """The config of the sound values, and faults of the values, then of how the sound ones among them fit together.

    Pydantic checks how values fit together only once each is sound by itself; so the faulty ones are taken out and the
    rest is checked again.
    """
    found = faults_of(error)
    faults = [fault for _, fault in found]
    told = [path for fault in (*known, *faults) for path in concerned(fault)]
    for level in range(3):
        for location, fault in found:
            _prune(values, location[: len(location) - level], fault)
        values.setdefault("data", {"source": "missing", "store": "missing"})
        try:
            return Config.model_validate(values), faults
        except ValidationError as later:
            found = faults_of(later)
            new = [fault for location, fault in found if not is_about(fault, location, told)]
            faults += new
            told += [path for fault in new for path in concerned(fault)]
    return _data_alone(values), faults


def _data_alone(values: dict[Any, Any]) -> Config | None:
    """A config of the data section with all else at its defaults, where that is sound."""
    try:
        return Config.model_validate({"name": values.get("name", "study"), "data": values["data"]})
    except ValidationError:
        return None


def _prune(values: Any, location: Location, fault: Fault) -> None:
    """Take a faulty value out in place, a list as a whole, so that the others can be checked together."""
    inside_list = next((index for index, part in enumerate(location) if isinstance(part, int)), len(location))
    location = location[:inside_list]
    if not location:
        return
    for part in location[:-1]:
        values = values.get(part) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        return
    if fault.kind == "missing_key" and location[-1] not in values:
        values[location[-1]] = "missing"
    else:
        values.pop(location[-1], None)


def _override(values: dict[Any, Any], override: str) -> list[Fault]:
    """Apply one override in place; its faults, none when it was applied."""
    dotted, sign, text = override.partition("=")
    dotted = dotted.strip()
    if not sign or not all(part.strip() for part in dotted.split(".")):
        what = "an override reads dotted.key=value"
        return [Fault(dotted or override, "malformed_override", what, override, fix="For example train.max_epochs=10")]
    parts = split_key(Config, dotted)
    if unknown := unknown_key(parts):
        return [unknown]
    try:
        value, faults = parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        got = str(getattr(error, "problem", None) or error).splitlines()[0]
        return [Fault(dotted, "malformed_override", "the value is not YAML", got, fix="Put it in quotes")]
    if not text.strip():  # a shell variable that is not set, for example
        return [Fault(dotted, "malformed_override", "the value is missing", override, fix="Or is it null?")]
    if "#" in text and "#" not in str(value):
        what = "what follows # is a comment to YAML"
        return [Fault(dotted, "malformed_override", what, override, fix="Leave it out, or put the value in quotes")]
    if faults:
        return [Fault(f"{dotted}.{fault.where}", fault.kind, fault.what, fix=fault.fix) for fault in faults]
    return _put(values, parts, value)


def _put(values: Any, parts: Sequence[str], value: Any) -> list[Fault]:
    """Set what lies at the end of a path, opening sections on the way that are null or absent."""
    annotation: Any = Config
    for index, part in enumerate(parts):
        kind, key = core(annotation), _index(values, part)
        if key is None:
            return [Fault(".".join(parts[: index + 1]), "wrong_value", "no such item", part, f"0 to {len(values) - 1}")]
        if not isinstance(values, list | dict):
            return []  # the section itself is at fault and told as such
        held: Any = values
        if index == len(parts) - 1:
            held[key] = value
            return []
        annotation = kind.model_fields[part].annotation if is_section(kind) else item_type(kind)
        if isinstance(held, dict) and held.get(key) is None:
            held[key] = _opened(kind, part, annotation)
        values = held[key]
    return []


def _index(values: Any, part: str) -> str | int | None:
    """A part of a path as the key or index that it is; ``None`` for an item that a list lacks."""
    if not isinstance(values, list):
        return part
    return int(part) if part.isdecimal() and int(part) < len(values) else None


def _opened(section: type[BaseModel], name: str, annotation: Any) -> Any:
    """What stands for a section or list that was null or absent: a list starts from its default."""
    if get_origin(core(annotation)) is not tuple:
        return {}
    default = section.model_fields[name].get_default(call_default_factory=True) or ()
    return [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in default]
