"""The slow, obvious twin of the blocked execution."""
