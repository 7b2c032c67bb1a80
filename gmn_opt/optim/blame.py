"""Where a warning should point: at the user's line, however many wrappers lie between."""

from __future__ import annotations

import sys

_OURS = ("gmn_opt", "torch")


def users_level() -> int:
    """The ``stacklevel`` of the first caller outside of this package and torch.

    For a ``warnings.warn`` in the function that calls this.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _root(frame.f_globals) in _OURS:
        frame, level = frame.f_back, level + 1
    return level


def _root(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
