"""The config of a method: one checked, frozen tree."""

from seg3d.config.explain import WITHOUT_EFFECT, config_digest, describe_schema, schema, schema_rows, show, to_yaml
from seg3d.config.load import as_config, inspect_config, load_config
from seg3d.config.tree import Config

__all__ = [
    "WITHOUT_EFFECT",
    "Config",
    "as_config",
    "config_digest",
    "describe_schema",
    "inspect_config",
    "load_config",
    "schema",
    "schema_rows",
    "show",
    "to_yaml",
]
