"""Reading and writing IDX files, the format that MNIST and its relatives come in.

An IDX file is two zero bytes, a type code, the number of dimensions, each dimension as a
big-endian 32-bit integer, and the elements in C order, big-endian. Files may be gzip-compressed;
the reader tells by the first two bytes, never by the name.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DIMS = 8
_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_CODES: dict[np.dtype[Any], int] = {
    dtype.newbyteorder("="): code for code, dtype in _DTYPES.items()
}


class IdxError(ValueError):
    """A file is not a complete, well-formed IDX file."""


def read_raw(path: str | Path, limit: int | None = None) -> bytes:
    """The uncompressed bytes of a raw or gzip-compressed file.

    Args:
        path: The file.
        limit: Stop with an error beyond this many uncompressed bytes, so that a hostile archive
            cannot fill the memory.

    Raises:
        IdxError: The compressed stream is damaged or cut short, or longer than ``limit``.
        OSError: The file cannot be opened.
    """
    size = -1 if limit is None else limit + 1
    with open(path, "rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if compressed:
            try:
                with gzip.GzipFile(fileobj=file) as stream:
                    data = stream.read(size)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise IdxError(
                    f"{path} is a damaged or truncated gzip file ({error}); fetch it again"
                ) from error
        else:
            data = file.read(size)
    if limit is not None and len(data) > limit:
        raise IdxError(f"{path} holds more than the {limit} bytes expected of it")
    return data


def parse_idx(data: bytes, name: str = "data") -> Tensor:
    """The tensor that the bytes of an IDX file describe.

    Args:
        data: The uncompressed file.
        name: What to call the file in errors.

    Returns:
        A tensor of the stored shape and element type (uint8, int8, int16, int32, float32 or
        float64), in memory of its own.

    Raises:
        IdxError: Wrong magic number, or fewer or more bytes than the header announces.
    """
    if len(data) < 4:
        raise IdxError(f"{name} has {len(data)} bytes: too short for an IDX header")
    zeros, code, dims = struct.unpack(">HBB", data[:4])
    if zeros != 0 or code not in _DTYPES or not 1 <= dims <= _MAX_DIMS:
        raise IdxError(
            f"{name} is not an IDX file: it starts with {data[:4].hex(' ')}, expected 00 00, a "
            f"type code out of {', '.join(f'{c:02x}' for c in _DTYPES)}, and 1 to {_MAX_DIMS} dims"
        )
    start = 4 + 4 * dims
    if len(data) < start:
        raise IdxError(f"{name} is truncated inside its header ({len(data)} of {start} bytes)")
    shape = struct.unpack(f">{dims}I", data[4:start])
    dtype = _DTYPES[code]
    expected = start + prod(shape) * dtype.itemsize
    if len(data) != expected:
        kind = "truncated" if len(data) < expected else "longer than its header says"
        raise IdxError(f"{name} is {kind}: shape {shape} takes {expected} bytes, got {len(data)}")
    array = np.frombuffer(data, dtype, offset=start).astype(dtype.newbyteorder("="))
    return torch.from_numpy(array.reshape(shape))


def read_idx(path: str | Path, limit: int | None = None) -> Tensor:
    """The tensor stored in an IDX file, raw or gzip-compressed.

    Args:
        path: The file.
        limit: The largest uncompressed size to accept, in bytes.

    Raises:
        IdxError: The file is truncated, damaged or not IDX.
        OSError: The file cannot be opened.
    """
    return parse_idx(read_raw(path, limit), str(path))


def encode_idx(tensor: Tensor) -> bytes:
    """The bytes of an (uncompressed) IDX file that holds ``tensor``; the inverse of `parse_idx`.

    Raises:
        TypeError: The format has no code for the tensor's element type.
        ValueError: The tensor has no dimension or too many.
    """
    array = tensor.detach().cpu().numpy()
    if array.dtype not in _CODES:
        raise TypeError(
            f"IDX cannot hold {tensor.dtype}; convert to uint8, int8, int16, int32, float32 or "
            "float64 first"
        )
    if not 1 <= array.ndim <= _MAX_DIMS:
        raise ValueError(f"IDX holds 1 to {_MAX_DIMS} dims, got shape {tuple(array.shape)}")
    code = _CODES[array.dtype]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(_DTYPES[code]).tobytes()
