"""The full data sets, from a local folder, from Debian's package, or by download.

Each file is taken from the first place that has it: the cache folder, the folder of Debian's
package, the download address. Whatever its way here, its contents are checked by sha256: the
uncompressed ones, which pooch's own check cannot see, because packagers recompress the files.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

import torch
from platformdirs import user_cache_path
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
    return user_cache_path("gmn_opt", appauthor=False)


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
    import pooch
    import requests  # slow to import

    def get(url: str, target: str, caller: object) -> None:
        """Into a temporary file, which pooch puts in place afterwards."""
        fetch = pooch.HTTPDownloader(
            progressbar=_Bar(file, progress),
            chunk_size=_CHUNK,
            timeout=_TIMEOUT,
            headers={"User-Agent": "gmn-opt", "Accept-Encoding": "identity"},
        )
        fetch(url, target, caller)
        try:
            _check(file, read_raw(Path(target), limit=file.size))
        except IdxError as error:
            raise IdxError(str(error).replace(target, "it")) from error

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        name = f"{file.name}.gz"
        return Path(pooch.retrieve(url, None, name, folder, downloader=get))
    except requests.HTTPError as error:
        raise DatasetError(
            f"downloading {url} failed: the server answered {error}; check the address"
        ) from error
    except IdxError as error:
        raise DatasetError(
            f"{url} is not the official file and was deleted: {error}. Use another address"
        ) from error
    except OSError as error:  # of which those of requests are
        raise DatasetError(f"downloading {url} to {folder} failed: {error}") from error
    finally:
        logger.setLevel(level)


class _Bar:
    """What pooch tells of a download: shown if wanted, and ended when the file is too long."""

    total = 0

    def __init__(self, file: SourceFile, visible: bool) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
        console = Console(stderr=True)
        self._most, self._received = file.size + _SLACK + _CHUNK, 0
        self._bar = Progress(*columns, TransferSpeedColumn(), console=console, disable=not visible)
        self._task = self._bar.add_task(file.name, total=None)
        self._bar.start()

    def update(self, received: int) -> None:
        """So many bytes more; the last ones may be fewer."""
        self._received += received
        self._bar.update(self._task, completed=self._received, total=self.total or None)
        if self._received > self._most:
            self.close()
            raise IdxError(f"it is longer than the {self._most - _SLACK - _CHUNK} bytes expected")

    def reset(self) -> None:
        """All is there; what comes next is its exact size."""
        self._received = 0

    def close(self) -> None:
        """Nothing more will come."""
        self._bar.stop()


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
