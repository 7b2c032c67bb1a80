"""``python -m experiments.inr_editing``: see :mod:`experiments.inr.editing`."""

import typer

from experiments.inr.editing import main

if __name__ == "__main__":
    typer.run(main)
