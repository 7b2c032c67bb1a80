"""Compile the native kernel of a checkout: ``python -m gmn_opt.metanet.native.build``."""

from __future__ import annotations

import sys

from gmn_opt.metanet.native.compiling import CompilerError, build, keep_reason


def main() -> None:
    """Build, and say what was built."""
    try:
        made = build()
    except CompilerError as error:
        keep_reason(error)
        sys.exit(f"error: {error}")
    for path in made:
        print(f"built {path.name} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
