"""YAML as configs use it: no key twice, ``1e-3`` is a number, and ``010`` is not 8."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from seg3d.errors import ConfigError, Fault

# YAML 1.1 wants a dot and a signed exponent; everybody else reads these as numbers
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_FLOAT, _TEXT = "tag:yaml.org,2002:float", "tag:yaml.org,2002:str"
# YAML 1.1 reads these in base 8 and 60; everybody else does not
_OLD_BASES = re.compile(r"[-+]?(?:0[0-9_]+|[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?)")


class Loader(yaml.SafeLoader):
    """Safe loader that reads ``1e-3`` as a number, and ``010`` and ``1:30`` as text instead of as 8 and 90."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """The tag of a node."""
        if kind is yaml.ScalarNode and implicit[0] and _OLD_BASES.fullmatch(value):
            return _TEXT
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # so it is in PyYAML


class Dumper(yaml.SafeDumper):
    """Safe dumper that quotes text which :class:`Loader` would read as a number, and never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Yes: shared values are written out."""
        return True


Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def parse(text: str) -> tuple[Any, list[Fault]]:
    """Value of a YAML text and the faults of keys given twice.

    Raises:
        yaml.YAMLError: Not YAML.
        ValueError: A number or date that does not exist.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        faults = _duplicates(node, "", set())
        return loader.construct_document(node), faults
    finally:
        loader.dispose()


def read(path: Path) -> tuple[dict[Any, Any], list[Fault]]:
    """Mapping of a YAML file and the faults of keys given twice.

    Raises:
        ConfigError: No file, not text, not YAML or not a mapping.
    """
    try:
        value, faults = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fix = "The config comes first, then settings." if "=" in path.name else None
        raise ConfigError("no such config file", where=path, fix=fix) from error
    except IsADirectoryError as error:
        fix = "Give a YAML file whose data.source names the dataset."
        raise ConfigError("a config is a file", where=path, got="a folder", fix=fix) from error
    except OSError as error:
        raise ConfigError("cannot read the config file", where=path, got=error.strerror) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = path if mark is None else f"{path}, line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError("not YAML", where=where, got=error.problem) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("not YAML", where=path, got=str(error).splitlines()[0]) from error
    if not isinstance(value, dict):
        got = "nothing" if value is None else type(value).__name__
        raise ConfigError("not a mapping of keys to values", where=f"{path}, line 1", got=got)
    return value, faults


def dump(value: Any) -> str:
    """YAML text; innermost lists and mappings on one line."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def one_line(value: Any) -> str:
    """A value as it stands in YAML, on one line and not too long."""
    try:
        text = yaml.dump(
            value, Dumper=Dumper, sort_keys=False, default_flow_style=True, allow_unicode=True, width=10**6
        )
    except (yaml.YAMLError, RecursionError):  # what YAML made that cannot be written back is still worth showing
        text = repr(value)
    text = " ".join(text.removesuffix("\n").removesuffix("...").split())
    return text if len(text) <= 60 else text[:57] + "..."


def _duplicates(node: yaml.Node, where: str, seen: set[int]) -> list[Fault]:
    if id(node) in seen:
        return []  # an alias
    seen.add(id(node))
    faults: list[Fault] = []
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            faults += _duplicates(item, f"{where}{index}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if (key.tag, name) in lines:
                what = f"given twice, in lines {lines[key.tag, name]} and {line}"
                faults.append(Fault(where + name, "duplicate_key", what, fix="Keep one of them"))
            lines[key.tag, name] = line
            faults += _duplicates(value, f"{where}{name}.", seen)
    return faults
