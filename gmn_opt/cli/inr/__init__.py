"""`gmn-opt inr`: an image becomes a network, the network is edited, the result is looked at."""

from gmn_opt.cli.inr.commands import inr_app

__all__ = ["inr_app"]
