"""Generating networks: flow matching in weight space, and audits of what was generated."""
