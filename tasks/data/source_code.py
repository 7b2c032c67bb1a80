"""Python's own standard library as text: its source files, read as sequences of symbols."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmn_opt.meta import Split

#: Packages of the standard library in each corpus.
CORPORA: dict[str, tuple[str, ...]] = {
    "stdlib": (
        "asyncio", "concurrent", "ctypes", "email", "html", "http", "json", "multiprocessing",
        "urllib", "wsgiref",
    ),
    "stdlib_held_out": ("importlib", "logging", "unittest", "xml"),
}  # fmt: skip
#: ``reduced`` has no capitals, and one symbol for whatever is rare.
ALPHABETS = {
    "reduced": "\n abcdefghijklmnopqrstuvwxyz0123456789_()[]{}.,:;=+-*/<>'\"#%@\\!",
    "ascii": "\t\n" + "".join(map(chr, range(32, 127))),
}
#: Of ten files in alphabetic order the last but two and the last but one steer, the last tests.
_TURNS: tuple[Split, ...] = (
    "inner_train", "inner_train", "inner_train", "inner_train", "inner_train", "inner_train",
    "inner_train", "inner_valid", "outer_valid", "test",
)  # fmt: skip


def symbols_of(alphabet: str) -> int:
    """How many symbols there are, the one for all other bytes included."""
    return len(ALPHABETS[alphabet]) + 1


@cache
def source_files(corpus: str, split: Split) -> tuple[Path, ...]:
    """The files of one split, the same for one version of Python; tests are left out.

    Raises ValueError for an unknown corpus, FileNotFoundError where Python comes without sources.
    """
    if corpus not in CORPORA:
        raise ValueError(f"Unknown corpus {corpus!r}; choose one of {', '.join(CORPORA)}.")
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for package in CORPORA[corpus]:
        found = sorted((root / package).rglob("*.py"), key=lambda f: f.relative_to(root).as_posix())
        files += [f for f in found if not {"test", "tests"} & set(f.relative_to(root).parts)]
    full = [f for f in files if f.stat().st_size > 1000]
    if len(full) < len(_TURNS):
        raise FileNotFoundError(
            f"Only {len(full)} source files of {', '.join(CORPORA[corpus])} lie beside this Python "
            "interpreter. Use an installation with the sources of the standard library."
        )
    return tuple(f for i, f in enumerate(full) if _TURNS[i % len(_TURNS)] == split)


@cache
def text_of(corpus: str, alphabet: str, split: Split) -> Tensor:
    """The files of a split one after the other, int64 ``[length]``; see ``source_files``.

    Raises ValueError for an unknown alphabet.
    """
    if alphabet not in ALPHABETS:
        raise ValueError(f"Unknown alphabet {alphabet!r}; choose one of {', '.join(ALPHABETS)}.")
    known = ALPHABETS[alphabet]
    table = np.full(256, len(known), dtype=np.int64)
    for i, letter in enumerate(known):
        table[ord(letter)] = i
        if alphabet == "reduced":
            table[ord(letter.upper())] = i
    data = b"\n".join(f.read_bytes() for f in source_files(corpus, split))
    return torch.from_numpy(table[np.frombuffer(data, np.uint8)])
