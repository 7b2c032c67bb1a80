"""The tables at the end of the demo."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gmn_opt.cli.contest import GMN, LEARNED
from gmn_opt.cli.demo.summary import BEST, DEFAULT, ModelSummary, Spread, Standing
from gmn_opt.cli.demo.verdict import caveats, format_loss, verdict


def print_report(console: Console, summaries: list[ModelSummary], *, quick: bool) -> None:
    """Everything there is to say, model by model, and then what to beware of."""
    for summary in summaries:
        console.print()
        console.print(model_report(summary))
    for note in caveats(summaries, quick=quick):
        console.print(Text(note, style="yellow"))


def model_report(summary: ModelSummary) -> RenderableType:
    """A model's table, its ratios, its grid and its verdict."""
    parts: list[RenderableType] = [standings_table(summary)]
    parts += [ratios_table(summary), Text(verdict(summary))]
    grid = Text(summary.tuning.describe() + ".", style="dim")
    if summary.tuning.at_edge or summary.tuning.added:
        grid.stylize("bold yellow")
    return Group(*parts, grid)


def standings_table(summary: ModelSummary) -> Table:
    """One row per contestant; the lowest training loss is in bold."""
    seeds = len(summary.seeds)
    some = "1 seed" if seeds == 1 else f"{seeds} seeds, mean ± std"
    size = f"{summary.parameters:,} parameters"
    table = Table(
        title=f"{summary.title} · {size} · {summary.steps} steps · {some}",
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("optimizer", no_wrap=True)
    table.add_column("train loss", justify="right", no_wrap=True)
    table.add_column("test acc. %", justify="right", no_wrap=True)
    table.add_column("steps to\ntarget", justify="right")
    table.add_column("seconds", justify="right", no_wrap=True)
    lowest = min(standing.loss.mean for standing in summary.standings)
    for standing in summary.standings:
        style = "bold green" if standing.role == GMN.name else ""
        loss = Text(spread(standing.loss, 3))
        if standing.loss.mean == lowest:
            loss.stylize("bold")
        table.add_row(
            Text(standing.title, style=style),
            loss,
            spread(standing.accuracy, 1, scale=100),
            steps_text(standing),
            spread(standing.seconds, 1),
        )
    table.caption = (
        f"target: the best-rate AdamW's final training loss, {format_loss(summary.target)}"
    )
    table.caption_justify = "left"
    return table


def ratios_table(summary: ModelSummary) -> Table:
    """The learned rule's training loss divided by AdamW's, seed by seed."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("train loss, ratio", no_wrap=True)
    table.add_column("to AdamW default", justify="right", no_wrap=True)
    table.add_column("to AdamW best rate", justify="right", no_wrap=True)
    for learned in LEARNED:
        against = summary.ratios[learned.name]
        table.add_row(learned.title, ratio_text(against[DEFAULT]), ratio_text(against[BEST]))
    return table


def spread(figures: Spread, digits: int, *, scale: float = 1.0) -> str:
    """Mean ± deviation; the mean alone when there is one seed."""
    if format_loss(figures.mean) == "diverged":
        return "diverged"
    text = f"{figures.mean * scale:.{digits}f}"
    return text if figures.std is None else f"{text} ± {figures.std * scale:.{digits}f}"


def ratio_text(ratio: Spread) -> str:
    """Mean and range over the seeds, coloured by who is ahead."""
    if format_loss(ratio.mean) == "diverged":
        return "[red]diverged[/]"
    colour = "green" if ratio.mean < 1 else "red"
    text = f"[{colour}]{ratio.mean:.3f}[/]"
    if len(ratio.values) > 1:
        text += f" ({ratio.low:.3f} to {ratio.high:.3f})"
    return text


def steps_text(standing: Standing) -> str:
    """When the target was reached, or a dash."""
    return "-" if standing.steps_to_target is None else str(standing.steps_to_target)
