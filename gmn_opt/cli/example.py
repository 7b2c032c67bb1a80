"""What the examples of commands are tried on."""

from __future__ import annotations

from torch import nn


def digit() -> nn.Module:
    """A network such as `gmn-opt generate digits` makes; its weights mean nothing."""
    from gmn_opt.generate.digits import load_digits, template

    return template(load_digits())
