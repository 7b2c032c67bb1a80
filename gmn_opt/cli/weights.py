"""`gmn-opt weights`: the meta-trained weights that come with the package."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gmn_opt.cli.errors import fail

weights_app = typer.Typer(help="The meta-trained weights that come with the package.")
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@weights_app.command("list")
def list_weights(as_json: _AsJson = False) -> None:
    """List the shipped weights."""
    from gmn_opt.weights import available

    names = list(available())
    if as_json:
        sys.stdout.write(json.dumps(names) + "\n")
        return
    sys.stdout.write("".join(f"{name}\n" for name in names))
    if not names:
        sys.stderr.write("no weights come with this installation\n")


@weights_app.command("show")
def show_weights(
    name: Annotated[str, typer.Argument(help="A name out of `gmn-opt weights list`.")],
    as_json: _AsJson = False,
) -> None:
    """Show the model card of some weights: what they were trained on, how, and for what."""
    from gmn_opt.weights import available, card

    names = list(available())
    if name not in names:
        fail(f"no weights {name!r}; there are {', '.join(names) or 'none'}")
    try:
        facts = card(name)
    except (OSError, ValueError) as error:
        fail(f"cannot read the card of {name!r}: {error}")
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    else:
        Console().print(card_table(facts))


def card_table(facts: dict[str, Any]) -> Table:
    """A card's entries, one a row; what is nested is shown under dotted names."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, value in _flatten(facts):
        table.add_row(Text(label), Text(value))
    return table


def _flatten(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows.append((prefix + key, ", ".join(map(str, value))))
        else:
            rows.append((prefix + key, str(value)))
    return rows
