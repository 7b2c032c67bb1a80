"""Populations of small trained classifiers: what they are, and how they are trained together."""
