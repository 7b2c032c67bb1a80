"""Rounds of message passing: arithmetic alone. Where values come from, the backends know."""
