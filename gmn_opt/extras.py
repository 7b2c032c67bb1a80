"""Packages that only some uses need, and what to type where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

#: What is imported, and the package that has it.
PACKAGES = {
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface_hub",
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "PIL": "pillow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch_geometric",
}


class MissingExtraError(ImportError):
    """A package is not installed that comes with one of our extras."""

    def __init__(self, module: str, extra: str) -> None:
        package = PACKAGES[module.partition(".")[0]]
        text = f"This needs {package}, which is not installed; pip install 'gmn-opt[{extra}]'"
        super().__init__(text, name=module)
        self.extra = extra


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports: raises MissingExtraError, one line with the command, where one is missing.

    Other errors of an import, those of a broken installation say, stay as they are.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise MissingExtraError(str(error.name), extra) from error


class _Lazy:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str, extra: str) -> None:
        self._name, self._extra = name, extra

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # what inspection asks for is no use
            raise AttributeError(attribute)
        with needs(self._extra):
            module = import_module(self._name)
        return getattr(module, attribute)


def lazy(name: str, extra: str) -> Any:
    """A stand-in for a module: imported on first use, or MissingExtraError there.

    Give type checkers the module itself: ``if TYPE_CHECKING: import cv2``, ``else`` this.
    """
    return _Lazy(name, extra)
