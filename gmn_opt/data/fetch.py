"""The full data sets, from a local folder, from Debian's package, or by download.

Each file is taken from the first place that has it: the cache folder, the folder of Debian's
package, the download address. Whatever its way here, its contents are checked by sha256.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from torch import Tensor

from gmn_opt.data.idx import IdxError, parse_idx, read_raw
from gmn_opt.data.images import ImageDataset
from gmn_opt.data.sources import SOURCES, Source, SourceFile

CACHE_VARIABLE = "GMN_OPT_DATA"
"""Environment variable with the folder to look in and to download to."""

_CHUNK = 1 << 16
_TIMEOUT = 30.0
_SLACK = 1 << 12  # gzip may add a little to what it cannot compress


class DatasetError(RuntimeError):
    """A full data set cannot be had; the message says why, and what to do."""


def cache_folder() -> Path:
    """Where data sets are looked for and downloaded to.

    ``$GMN_OPT_DATA`` if set, otherwise ``gmn_opt`` in the user's cache folder.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gmn_opt"


def load_full(
    name: str, *, folder: str | Path | None = None, url: str | None = None, progress: bool = True
) -> ImageDataset:
    """A full data set: 60,000 training and 10,000 test images.

    Args:
        name: ``"fashion_mnist"`` or ``"mnist"``.
        folder: Cache folder; its subfolder ``name`` holds the four official IDX files, raw or
            ``.gz``. By default `cache_folder`.
        url: Address (http or https) below which the four files lie as ``NAME.gz``. By default
            ``$GMN_OPT_FASHION_MNIST_URL`` or ``$GMN_OPT_MNIST_URL``; without one, nothing is
            downloaded.
        progress: Show a progress bar on stderr while downloading.

    Returns:
        The data set, its contents checked by sha256.

    Raises:
        ValueError: Unknown name, or an address that is not http(s).
        DatasetError: A file is nowhere to be had, cannot be downloaded, or has wrong contents.
    """
    if name not in SOURCES:
        raise ValueError(f"no data set {name!r}; there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    return _load(
        source,
        cache=(cache_folder() if folder is None else Path(folder)) / name,
        url=url or os.environ.get(source.url_variable) or None,
        progress=progress,
    )


def _load(source: Source, cache: Path, url: str | None, progress: bool) -> ImageDataset:
    if url is not None and urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"the address of {source.title} must be http or https, got {url!r}")
    folders = [cache] + ([Path(source.debian_folder)] if source.debian_folder else [])
    parts: dict[str, Tensor] = {}
    for part, file in source.files.items():
        path = _find(file, folders)
        if path is None:
            if url is None:
                raise DatasetError(_nowhere(source, file, folders))
            path = _download(file, f"{url.rstrip('/')}/{file.name}.gz", cache, progress)
        parts[part] = _read_checked(file, path)
    return ImageDataset(
        train_images=parts["train_images"],
        train_labels=parts["train_labels"].to(torch.int64),
        test_images=parts["test_images"],
        test_labels=parts["test_labels"].to(torch.int64),
        name=source.name,
    )


def _find(file: SourceFile, folders: list[Path]) -> Path | None:
    for folder in folders:
        for path in (folder / file.name, folder / f"{file.name}.gz"):
            if path.is_file():
                return path
    return None


def _read_checked(file: SourceFile, path: Path) -> Tensor:
    """The tensor in a file that is already here.

    Raises:
        DatasetError: It is not the official file.
    """
    try:
        data = read_raw(path, limit=file.size)
        _check(file, data)
        return parse_idx(data, str(path))
    except IdxError as error:
        raise DatasetError(f"{path} is not the official file: {error}. Delete it") from error


def _check(file: SourceFile, data: bytes) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise IdxError(
            f"its contents ({len(data)} bytes) have sha256 {found}, expected {file.sha256} "
            f"({file.size} bytes)"
        )


def _download(file: SourceFile, url: str, folder: Path, progress: bool) -> Path:
    """Fetch one file into ``folder``, whole and checked, or not at all.

    Raises:
        DatasetError: The server or the contents are not as expected; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{file.name}.gz"
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", suffix=".part", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            _stream(url, out, file, progress)
        _check(file, read_raw(temporary, limit=file.size))
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except HTTPError as error:
        error.close()
        raise DatasetError(
            f"downloading {url} failed: the server answered {error.code} {error.reason}; check "
            "the address"
        ) from error
    except IdxError as error:
        message = str(error).replace(name, "it")
        raise DatasetError(
            f"{url} is not the official file and was deleted: {message}. Use another address"
        ) from error
    except (OSError, HTTPException) as error:
        raise DatasetError(f"downloading {url} to {folder} failed: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _stream(url: str, out: BinaryIO, file: SourceFile, progress: bool) -> None:
    """Copy the body of ``url`` to an open file, never more of it than the official file needs."""
    request = Request(url, headers={"User-Agent": "gmn-opt", "Accept-Encoding": "identity"})
    with urlopen(request, timeout=_TIMEOUT) as response:
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced and announced.isdigit() else None
        received = 0
        with _bar(progress) as bar:
            task = bar.add_task(file.name, total=total)
            while chunk := response.read(_CHUNK):
                received += len(chunk)
                if received > file.size + _SLACK:
                    raise IdxError(f"it is longer than the {file.size} bytes expected")
                out.write(chunk)
                bar.update(task, advance=len(chunk))
    if total is not None and received < total:
        raise IdxError(f"the connection closed after {received} of {total} bytes")


def _bar(visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not visible,
    )


def _nowhere(source: Source, file: SourceFile, folders: list[Path]) -> str:
    """The error that names every way to get the data."""
    ways = []
    if source.debian_package:
        ways.append(f"on Debian or Ubuntu, run `apt install {source.debian_package}`")
    ways.append(
        f"put the four official files ({file.name}.gz, ...) into {folders[0]}, or into "
        f"{source.name}/ of a folder that {CACHE_VARIABLE} names"
    )
    ways.append(
        f"set {source.url_variable} (or pass url=) to the http(s) address below which they lie, "
        "and they are downloaded and checked"
    )
    listed = "\n".join(f"  {number}. {way}" for number, way in enumerate(ways, 1))
    looked = ", ".join(str(folder) for folder in folders)
    return f"{source.title} was not found (looked for {file.name} in {looked}). Either\n{listed}"
