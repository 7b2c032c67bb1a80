from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmn_opt.data import IdxError, encode_idx, parse_idx, read_idx

DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.float32, torch.float64]


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_round_trip(shape: list[int], dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(-100, 100, shape, generator=generator).to(dtype)
    again = parse_idx(encode_idx(tensor))
    assert again.dtype == dtype
    assert again.shape == tensor.shape
    assert torch.equal(again, tensor)


def test_layout_is_big_endian_with_the_official_header() -> None:
    data = encode_idx(torch.tensor([[1, -2], [300, 4]], dtype=torch.int16))
    assert data == bytes.fromhex("00000b02 00000002 00000002 0001 fffe 012c 0004")


@pytest.mark.parametrize("packed", [False, True])
def test_compression_is_told_by_content_not_by_name(tmp_path: Path, packed: bool) -> None:
    tensor = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    path = tmp_path / "misleading.gz" if not packed else tmp_path / "misleading"
    data = encode_idx(tensor)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert torch.equal(read_idx(path), tensor)


def test_result_is_writable_and_owns_its_memory() -> None:
    data = encode_idx(torch.zeros(3, dtype=torch.uint8))
    parse_idx(data)[0] = 7
    assert parse_idx(data).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes: too short"),
        (b"\x89PNG....", "not an IDX file: it starts with 89 50 4e 47"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x00", "not an IDX file"),
        (b"\x00\x00\x08\x00", "not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "truncated inside its header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", "is truncated: shape .5,. takes 13 bytes, got 10"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01ab", "longer than its header says"),
        (struct.pack(">HBB8I", 0, 8, 8, *[2**32 - 1] * 8), "is truncated"),
    ],
)
def test_bad_bytes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(IdxError, match=message):
        parse_idx(data)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_parse_or_raise_idx_error(data: bytes) -> None:
    try:
        tensor = parse_idx(data)
    except IdxError:
        return
    assert encode_idx(tensor)[:4] == data[:4]


def test_truncated_gzip_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(encode_idx(torch.zeros(1000, dtype=torch.float64)))[:-10])
    with pytest.raises(IdxError, match=r"images\.gz is a damaged or truncated gzip file"):
        read_idx(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    data = bytearray(gzip.compress(bytes(range(256)) * 10))
    data[30] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(IdxError, match="damaged"):
        read_idx(path)


def test_limit_stops_a_decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(IdxError, match="more than the 1000 bytes"):
        read_idx(path, limit=1000)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing")


def test_encode_refuses_what_the_format_cannot_hold() -> None:
    with pytest.raises(TypeError, match=r"cannot hold torch\.int64"):
        encode_idx(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 to 8 dims"):
        encode_idx(torch.zeros((), dtype=torch.uint8))
