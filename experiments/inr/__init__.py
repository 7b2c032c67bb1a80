"""Experiments on implicit neural representations."""
