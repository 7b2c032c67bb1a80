"""Which tasks are meta-trained on, which steer meta-training, and which are held out.

No data of ``HELD_OUT_DATA`` and no network of ``HELD_OUT_KINDS`` may ever be meta-trained on or
steer a decision in meta-training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tasks import registry
from tasks.autoencoding import ImageAutoencoding
from tasks.base import DataTask
from tasks.classification import ImageClassification, PatchClassification
from tasks.drawing import Draw
from tasks.inr_fitting import InrFitting
from tasks.language import SourceCode
from tasks.networks.plain import check_choice
from tasks.rescaled import RescaledTask
from tasks.synthetic import Rosenbrock, TeacherStudent
from tasks.tabular import Tabular

META_TRAIN_DATA = (
    "mnist", "digits", "textures", "photos", "grey_photos", "stdlib", "diabetes", "iris", "wine",
    "wine_alcohol",
)  # fmt: skip
#: Seen by validation only: it may steer, but is not meta-trained on.
VALIDATION_DATA = ("photos_valid",)
HELD_OUT_DATA = ("fashion_mnist", "photos_held_out", "stdlib_held_out", "breast_cancer")
#: Kinds of networks that are neither meta-trained nor validated.
HELD_OUT_KINDS = ("mixer", "unet", "fourier", "gru")


def _mlp(draw: Draw) -> DataTask:
    images = draw.images([8, 14, 28], [0.35, 0.3, 0.35])
    top = {8: 128, 14: 96, 28: 64}[images["size"]]
    depth = draw.of([1, 2, 3], [0.5, 0.35, 0.15])
    return ImageClassification(
        **images,
        **draw.label_noises(),
        hidden=tuple(draw.width(12, top) for _ in range(depth)),
        norm=draw.of(["none", "layer"], [0.8, 0.2]),
        activation=draw.activation(),
        batch_size=draw.of([32, 64, 128]),
        gain=draw.gain(),
    )


def _conv(draw: Draw) -> DataTask:
    kind = draw.of(["cnn", "strided"])
    return ImageClassification(
        **draw.images([8, 14, 28], [0.55, 0.35, 0.1]),
        **draw.label_noises(),
        hidden=tuple(draw.width(4, 16) for _ in range(2)),
        kind=kind,
        norm=draw.of(["none", "batch", "group"], [0.6, 0.2, 0.2]),
        activation=draw.activation(),
        batch_size=draw.of([2, 8, 16, 32], [0.1, 0.35, 0.35, 0.2]),
        gain=draw.gain(),
    )


def _resnet(draw: Draw) -> DataTask:
    width = draw.width(4, 12)
    return ImageClassification(
        **draw.images([8, 14], [0.75, 0.25]),
        **draw.label_noises(),
        hidden=draw.of([(width, width), (width, 2 * width), (width, width, 2 * width)]),
        kind="resnet",
        norm=draw.of(["none", "batch", "group"], [0.15, 0.5, 0.35]),
        activation=draw.activation(),
        batch_size=draw.of([8, 16, 32]),
        gain=draw.gain(),
    )


def _vit(draw: Draw) -> DataTask:
    images = draw.images([8, 14], [0.6, 0.4])
    heads = draw.of([1, 2, 4])
    return PatchClassification(
        **images,
        **draw.label_noises(),
        width=draw.width(8, 48, heads),
        depth=draw.of([1, 2, 3, 4], [0.45, 0.3, 0.15, 0.1]),
        patch=draw.of([2, 4], [0.35, 0.65]) if images["size"] == 8 else 7,
        heads=heads,
        class_token=draw.chance(0.5),
        activation=draw.of(["gelu", "relu"], [0.7, 0.3]),
        batch_size=draw.of([8, 16, 32]),
        gain=draw.gain(),
    )


def _autoencoder(draw: Draw) -> DataTask:
    mlp = draw.chance(0.75)
    images = draw.images([8, 14, 28] if mlp else [8, 12], [0.5, 0.35, 0.15] if mlp else [0.8, 0.2])
    if mlp:
        hidden: tuple[int, ...] = (draw.width(4, 24),)
        if draw.chance(0.6):
            hidden = (draw.width(24, 64), *hidden)
    else:
        hidden = tuple(draw.width(4, 12) for _ in range(2))
    return ImageAutoencoding(
        **images,
        hidden=hidden,
        kind="mlp" if mlp else "conv",
        activation=draw.activation(),
        norm=draw.of(["none", "layer" if mlp else "group"], [0.8, 0.2]),
        batch_size=draw.of([16, 32, 64] if mlp else [8, 16]),
        pixel_noise=round(draw.uniform(0, 1), 3) if draw.chance(0.5) else 0.0,
        gain=draw.gain(),
    )


def _siren(draw: Draw) -> DataTask:
    return InrFitting(
        data=draw.of(["photos", "grey_photos"]),
        size=draw.of([16, 32]),
        hidden=tuple(draw.width(12, 40) for _ in range(draw.of([1, 2, 3], [0.2, 0.6, 0.2]))),
        frequency=round(draw.log_uniform(8, 30), 1),
        batch_size=draw.of([64, 128, 256]),
        first=int(draw.uniform(0, 60)),
    )


def _gpt(draw: Draw) -> DataTask:
    heads = draw.of([1, 2, 4])
    return SourceCode(
        data="stdlib",
        width=draw.width(8, 48, heads),
        depth=draw.of([1, 2, 3, 4], [0.5, 0.3, 0.1, 0.1]),
        length=draw.of([8, 16, 32], [0.4, 0.4, 0.2]),
        alphabet=draw.of(["reduced", "ascii"], [0.6, 0.4]),
        activation=draw.of(["gelu", "relu"], [0.7, 0.3]),
        heads=heads,
        batch_size=draw.of([4, 8, 16]),
        gain=draw.gain(),
        tied=draw.chance(0.25),
    )


def _tabular(draw: Draw) -> DataTask:
    depth = draw.of([0, 1, 2, 3], [0.1, 0.4, 0.35, 0.15])
    return Tabular(
        data=draw.of(["diabetes", "iris", "wine", "wine_alcohol"]),
        hidden=tuple(draw.width(6, 48) for _ in range(depth)),
        activation=draw.activation(),
        norm=draw.of(["none", "layer"], [0.8, 0.2]),
        batch_size=draw.of([8, 16, 32]),
        feature_noise=round(draw.uniform(0.1, 0.8), 3),
        gain=draw.gain(),
    )


def _synthetic(draw: Draw) -> DataTask:
    if draw.chance(0.15):
        return Rosenbrock(draw.width(2, 16), round(draw.log_uniform(1, 30), 2))
    linear = draw.chance(0.4)
    depth = draw.of([0, 1, 2], [0.4, 0.3, 0.3]) if linear else draw.of([1, 2])
    return TeacherStudent(
        features=draw.width(4, 32),
        outputs=draw.width(1, 8),
        hidden=tuple(draw.width(6, 32) for _ in range(depth)),
        teacher=() if linear else (draw.width(4, 24),),
        activation="identity" if linear else draw.activation(),
        condition=round(draw.log_uniform(1, 100), 2),
        target_noise=round(draw.uniform(0.1, 0.5), 3),
        seed=int(draw.uniform(0, 1000)),
        batch_size=draw.of([8, 16, 32]),
        gain=draw.gain(),
    )


#: How tasks of a family are drawn, and how often: most often what is trained most often.
SAMPLERS: dict[str, tuple[Callable[[Draw], DataTask], float]] = {
    "mlp": (_mlp, 0.21),
    "conv": (_conv, 0.14),
    "resnet": (_resnet, 0.12),
    "vit": (_vit, 0.14),
    "autoencoder": (_autoencoder, 0.07),
    "siren": (_siren, 0.09),
    "gpt": (_gpt, 0.15),
    "tabular": (_tabular, 0.04),
    "synthetic": (_synthetic, 0.04),
}
_RESCALED = 0.15


def _rescale(task: DataTask, draw: Draw) -> DataTask:
    """In half of the tasks every tensor has a scale of its own."""
    shared = draw.log_uniform(0.2, 5.0)
    if draw.chance(0.5):
        return RescaledTask(task, (round(shared, 3),))
    count = sum(1 for _ in task.template.parameters())
    return RescaledTask(
        task, tuple(round(shared * draw.log_uniform(0.5, 2.0), 3) for _ in range(count))
    )


class MetaTrainSuite:
    """Random small networks of many kinds on ``META_TRAIN_DATA``, some of them rescaled.

    Args:
        families: Keys of ``SAMPLERS`` to draw from, all of them by default.

    Raises ValueError for an unknown family.
    """

    def __init__(self, families: Sequence[str] = tuple(SAMPLERS)) -> None:
        for family in families:
            check_choice("family", family, SAMPLERS)
        self.families = list(families)

    def sample(self, generator: torch.Generator) -> DataTask:
        """Draw a family, then everything else."""
        draw = Draw(generator)
        family = draw.of(self.families, [SAMPLERS[f][1] for f in self.families])
        task = SAMPLERS[family][0](draw)
        return _rescale(task, draw) if draw.chance(_RESCALED) else task

    def restore(self, spec: dict[str, Any]) -> DataTask:
        """The task that ``spec`` describes; raises ValueError when there is none like it."""
        return registry.restore(spec)


def validation() -> list[DataTask]:
    """Tasks that choose between checkpoints, most wider or deeper than any meta-trained one.

    Half of the classifications are clean: networks fit them, as they do where users are.
    """
    noisy: dict[str, Any] = {"pixel_noise": 0.5, "overlay": 0.5}
    classify, patches = ImageClassification, PatchClassification
    return [
        classify("mnist", 28, (120,), batch_size=128),
        classify("mnist", 8, (64, 64, 64, 64), batch_size=128, **noisy),
        classify("mnist", 28, (96,), batch_size=128, **noisy),
        classify("textures", 14, (16, 32), "cnn", batch_size=64),
        classify("textures", 8, (16, 16, 16), "resnet", "group", batch_size=16),
        classify("textures", 28, (16, 32), "strided", batch_size=64),
        classify("mnist", 28, (16, 32), "strided", batch_size=32, overlay=0.3),
        classify("mnist", 14, (12, 24), "cnn", "batch", batch_size=16, **noisy),
        classify("mnist", 14, (16, 32), "resnet", "batch", batch_size=32),
        patches("mnist", 14, 40, 2, patch=7, heads=4, batch_size=16, **noisy),
        patches("textures", 28, 64, 2, patch=7, heads=4, batch_size=32),
        ImageAutoencoding("mnist", 14, (80, 16), batch_size=64),
        InrFitting("photos_valid", 32, (48, 48), batch_size=256),
        SourceCode("stdlib", 32, 2, length=16, heads=4),
        SourceCode("stdlib", 96, 3, length=32, alphabet="ascii", heads=4, batch_size=16),
        Tabular("diabetes", (64, 64), batch_size=32, feature_noise=0.3),
    ]


def held_out() -> list[DataTask]:
    """Unseen data, wider and deeper networks, and unseen kinds; measured once, at the end."""
    fashion = "fashion_mnist"
    classify = ImageClassification
    gpt: dict[str, Any] = {"length": 64, "alphabet": "ascii", "heads": 4, "batch_size": 16}
    return [
        classify(fashion, 28, (128,), batch_size=128),
        classify(fashion, 28, (128, 128), batch_size=128),
        classify(fashion, 8, (32,), batch_size=128),
        classify(fashion, 14, (16, 32), "cnn", batch_size=128),
        classify(fashion, 14, (16, 16, 32), "resnet", "batch", batch_size=32),
        classify(fashion, 28, (16, 32), "strided", batch_size=64),
        classify(fashion, 28, (16, 32, 64), "resnet", "batch", batch_size=64),
        PatchClassification(fashion, 28, 32, 2, patch=7, heads=4, batch_size=32),
        PatchClassification(fashion, 28, 64, 4, patch=4, heads=4, batch_size=64),
        PatchClassification(fashion, 28, 32, 2, "mixer", patch=7, batch_size=32),
        ImageAutoencoding(fashion, 16, (8, 16), "unet", pixel_noise=0.7, batch_size=32),
        InrFitting("photos_held_out", 32, (64, 64)),
        InrFitting("photos_held_out", 32, (64, 64), "fourier", 1.0),
        SourceCode("stdlib_held_out", 48, 2, length=32, heads=4, batch_size=16),
        SourceCode("stdlib_held_out", 128, 4, **gpt),
        SourceCode("stdlib_held_out", 128, 4, **gpt, tied=True),
        SourceCode("stdlib_held_out", 48, kind="gru", length=32, batch_size=16),
        Tabular("breast_cancer", (48, 48), feature_noise=0.5),
    ]
