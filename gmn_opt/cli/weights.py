"""`gmn-opt weights`: the meta-trained weights that come with the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from gmn_opt.cli.errors import fail
from gmn_opt.cli.frame import columns, examples

weights_app = typer.Typer(help="The meta-trained weights that come with the package.")
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with all that is known.")]
#: Lines of a page, of one entry, and of the entries below one heading.
_PAGE, _ENTRY, _BELOW = 40, 3, 12
#: Colours by the channels of the images that weights are for.
_CHANNELS = {1: "grey", 3: "colour"}


@weights_app.command("list", epilog=examples("gmn-opt weights list", "gmn-opt weights list --json"))
def list_weights(as_json: _AsJson = False) -> None:
    """List the shipped weights: what each is for, on which images, how large, and since when."""
    from gmn_opt.weights import available

    rows = [summary(name) for name in available()]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    if not rows:
        sys.stderr.write("no weights come with this installation\n")
        return
    for line in listing(rows, columns()):
        sys.stdout.write(line + "\n")


@weights_app.command(
    "show", epilog=examples("gmn-opt weights show default", "gmn-opt weights show default --json")
)
def show_weights(
    name: Annotated[str, typer.Argument(help="A name out of `gmn-opt weights list`.")],
    as_json: _AsJson = False,
) -> None:
    """Show the model card of some weights: what they were trained on, how, and for what.

    One page of it; --json has all.
    """
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
        for line in page(facts, min(80, columns())):
            sys.stdout.write(line + "\n")


def summary(name: str) -> dict[str, Any]:
    """What a line of the list says of shipped weights."""
    from gmn_opt.weights import card, path_of

    try:
        facts = card(name)
    except (OSError, ValueError) as error:
        fail(f"cannot read the card of {name!r}: {error}")
    inr = facts.get("inr")
    channels = inr.get("outputs") if isinstance(inr, dict) else None
    return {
        "name": name,
        "what": str(facts.get("what", "")),
        "images": _CHANNELS.get(channels) if isinstance(channels, int) else None,
        "bytes": path_of(name).stat().st_size,
        "date": facts.get("date"),
    }


def listing(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """A line for every row of the list, and one above them, of at most ``width`` characters."""
    cells = [("name", "images", "KiB", "date", "what it is")]
    for row in rows:
        size = f"{row['bytes'] / 1024:.0f}"
        cells.append((row["name"], row["images"] or "-", size, row["date"] or "-", row["what"]))
    wide = [max(len(c[i]) for c in cells) for i in range(4)]
    lines = []
    for name, images, size, date, what in cells:
        line = f"{name:<{wide[0]}}  {images:<{wide[1]}}  {size:>{wide[2]}}  {date:<{wide[3]}}  "
        room = max(width - len(line), 10)
        lines.append(line + (what if len(what) <= room else what[: room - 3].rstrip() + "..."))
    return lines


# ---------------------------------------------------------------------- a card on a page


def page(card: Mapping[str, Any], width: int, most: int = _PAGE) -> list[str]:
    """A card in at most ``most`` lines of at most ``width`` characters.

    What is nested more than twice is counted, long texts are cut; a last line says where the rest
    is.
    """
    label = min(22, max((len(_name(k)) for k in card), default=0))
    lines: list[str] = []
    whole = True
    for key, value in card.items():
        if isinstance(value, Mapping):
            below, complete = _below(value)
        else:
            below, complete = [_short(value)], not isinstance(value, list | tuple)
        if not below:
            continue
        wrapped = [part for text in below for part in _wrap(text, width - label - 2)]
        kept = _BELOW if isinstance(value, Mapping) else _ENTRY
        whole &= complete and len(wrapped) <= kept
        if len(wrapped) > kept:
            wrapped = [*wrapped[: kept - 1], "..."]
        heads = [_name(key)[:label], *[""] * (len(wrapped) - 1)]
        lines += [f"{h:<{label}}  {w}".rstrip() for h, w in zip(heads, wrapped, strict=True)]
    more = f"all of it: gmn-opt weights show {card.get('name', 'NAME')} --json"
    if len(lines) >= most:
        return [*lines[: most - 1], more]
    return lines if whole else [*lines, more]


def _below(values: Mapping[str, Any]) -> tuple[list[str], bool]:
    """A line with the plain entries, one for every nested one; and whether that is all."""
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    lines = [_line(plain)] if plain else []
    complete = True
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            deep = any(isinstance(v, Mapping) for v in value.values())
            complete &= not deep
            text = f"{len(value)} entries" if deep else _line(value)
            lines.append(f"{_name(key)}: {text}")
    return lines, complete


def _line(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{_name(k)} {_short(v)}" for k, v in values.items())


def _name(key: object) -> str:
    return str(key).replace("_", " ")


def _short(value: Any) -> str:
    """A value for people: four digits, lists with spaces, digests cut."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        if any(isinstance(v, Mapping | list) for v in value):
            return f"{len(value)} entries"
        return ", ".join(map(_short, value)) or "none"
    text = str(value)
    is_digest = len(text) in (40, 64) and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_digest else text


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, max(width, 20), subsequent_indent="  ") or [""]
