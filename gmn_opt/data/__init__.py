"""Image data: the bundled real subsets, and readers for the full data sets."""

from gmn_opt.data.bundle import bundled_names, load_bundled
from gmn_opt.data.fetch import DatasetError, cache_folder, load_full
from gmn_opt.data.idx import IdxError, encode_idx, parse_idx, read_idx
from gmn_opt.data.images import ImageDataset, normalize

__all__ = [
    "DatasetError",
    "IdxError",
    "ImageDataset",
    "bundled_names",
    "cache_folder",
    "encode_idx",
    "load_bundled",
    "load_full",
    "normalize",
    "parse_idx",
    "read_idx",
]
