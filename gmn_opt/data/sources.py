"""The full data sets: which files they consist of, and how to tell the right ones.

Checksums are of the uncompressed IDX contents, because packagers recompress the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One official IDX file.

    Attributes:
        name: Official name, without ``.gz``.
        size: Bytes, uncompressed.
        sha256: Of the uncompressed contents.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A full data set.

    Attributes:
        name: The name that `gmn_opt.data.load_full` takes.
        title: The name that people use.
        url_variable: Environment variable with the address to download from.
        files: By part: ``train_images``, ``train_labels``, ``test_images``, ``test_labels``.
        debian_package: Debian package that holds the files, if any.
        debian_folder: Where that package puts them.
    """

    name: str
    title: str
    url_variable: str
    files: Mapping[str, SourceFile]
    debian_package: str | None = None
    debian_folder: str | None = None


FASHION_MNIST = Source(
    name="fashion_mnist",
    title="Fashion-MNIST",
    url_variable="GMN_OPT_FASHION_MNIST_URL",
    debian_package="dataset-fashion-mnist",
    debian_folder="/usr/share/datasets/fashion-mnist",
    files={
        "train_images": SourceFile(
            "train-images-idx3-ubyte",
            47_040_016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train_labels": SourceFile(
            "train-labels-idx1-ubyte",
            60_008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "test_images": SourceFile(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "test_labels": SourceFile(
            "t10k-labels-idx1-ubyte",
            10_008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
)

MNIST = Source(
    name="mnist",
    title="MNIST",
    url_variable="GMN_OPT_MNIST_URL",
    files={
        "train_images": SourceFile(
            "train-images-idx3-ubyte",
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train_labels": SourceFile(
            "train-labels-idx1-ubyte",
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "test_images": SourceFile(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "test_labels": SourceFile(
            "t10k-labels-idx1-ubyte",
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
)

SOURCES: Mapping[str, Source] = {source.name: source for source in (FASHION_MNIST, MNIST)}
