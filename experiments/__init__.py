"""Runnable scripts, one per result."""
