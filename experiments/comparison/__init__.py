"""Comparing optimizers: which cells there are, how one is run, and what all of them say."""
