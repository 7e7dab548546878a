"""Commands that show what a config says and could say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seg3d.cli.app import AsJson, ConfigPath, Overrides, app, print_json

config_app = typer.Typer(help="Show a config as it is resolved, or every key that there is.", no_args_is_help=True)

app.add_typer(config_app, name="config")


@config_app.command("show")
def show_config(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print a config with every key resolved."""
    from seg3d.config import load_config, show

    found = load_config(config, overrides or ())
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print(show(found), end="")


@config_app.command("schema")
def show_schema(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Checked, if given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print every key with its type, default and meaning."""
    from seg3d.config import describe_schema, load_config, schema

    if config is not None:
        load_config(config)
    if as_json:
        print_json(schema())
    else:
        print(describe_schema())
