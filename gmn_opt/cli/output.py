"""Writing results to the standard output, where nobody may be reading any more."""

from __future__ import annotations

import os
import sys


def write_out(text: str) -> None:
    """Write text; a reader that has enough (``| head``) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes again at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
