"""The `gmn-opt` command."""

from gmn_opt.cli.app import app

__all__ = ["app"]
