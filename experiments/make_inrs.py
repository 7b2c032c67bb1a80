"""``python -m experiments.make_inrs``: see :mod:`experiments.inr.data`."""

import typer

from experiments.inr.data import main

if __name__ == "__main__":
    typer.run(main)
