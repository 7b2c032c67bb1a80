"""Image data: the bundled real images, and readers for the full data sets."""

from gmn_opt.data.bundle import bundled_names, load_bundled
from gmn_opt.data.fetch import DatasetError, cache_folder, load_full
from gmn_opt.data.idx import IdxError, encode_idx, parse_idx, read_idx
from gmn_opt.data.images import ImageDataset, normalize
from gmn_opt.data.photographs import load_photograph, photograph_names, photograph_path

__all__ = [
    "DatasetError",
    "IdxError",
    "ImageDataset",
    "bundled_names",
    "cache_folder",
    "encode_idx",
    "load_bundled",
    "load_full",
    "load_photograph",
    "normalize",
    "parse_idx",
    "photograph_names",
    "photograph_path",
    "read_idx",
]
