"""Packages that only some data sets need."""

from __future__ import annotations

from importlib import import_module


def require(*packages: str) -> None:
    """Raise ImportError that says what to install unless all ``packages`` can be imported."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f"The tasks' data come with scikit-learn and scikit-image, but {package!r} cannot "
                f"be imported ({error}). Install them: pip install 'gmn-opt[experiments]'."
            ) from error
