"""Vision models of ``torchvision`` and ``timm`` as published, on the meta device.

Both libraries are optional and imported when a model is built. ``spaces`` is derived by hand where
a number is given; the sum says of what: residual streams and stems, then what each block has.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    *(f"{name}(Tensor x) -> Tensor" for name in (
        "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "roi_pool",
        "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "qroi_align",
        "deform_conv2d", "_deform_conv2d_backward")),
)  # fmt: skip
_declared: list[Any] = []


def has(library: str) -> bool:
    """Whether a library is installed; timm needs torchvision too."""
    needed = {library, "torchvision"}
    return all(importlib.util.find_spec(name) is not None for name in needed)


def import_torchvision() -> None:
    """Import torchvision, also beside a torch that its compiled operators were not made for.

    None of the models here needs these operators, but the package wants their names to exist.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        _declared.append(library)
        for schema in _OPERATORS:
            library.define(schema)
        importlib.import_module("torchvision")


@dataclass(frozen=True)
class VisionCase:
    """A model of a library by its name there, the size of its image, and its spaces by hand."""

    library: str
    name: str
    spaces: int | None = None
    size: int = 64
    settings: dict[str, Any] = field(default_factory=dict)

    def meta(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The model in evaluation mode and an image, both without numbers."""
        import_torchvision()
        try:
            with torch.device("meta"):
                model = self._build()
        except NotImplementedError:  # its sizes are computed with tensors (RegNet)
            model = self._build().to("meta")
        return model.eval(), (torch.zeros(2, 3, self.size, self.size, device="meta"),)

    def _build(self) -> nn.Module:
        if self.library == "timm":
            made = importlib.import_module("timm").create_model(self.name, **self.settings)
        else:
            models = importlib.import_module("torchvision.models")
            made = models.get_model(self.name, weights=None, **self.settings)
        model: nn.Module = made
        return model


def tv(name: str, spaces: int | None = None, size: int = 64, **settings: Any) -> VisionCase:
    """A row of torchvision."""
    return VisionCase("torchvision", name, spaces, size, settings)


def timm(name: str, spaces: int | None = None, size: int = 64, **settings: Any) -> VisionCase:
    """A row of timm."""
    return VisionCase("timm", name, spaces, size, settings)


PLAIN = {"aux_logits": False, "init_weights": False}

VISION: list[VisionCase] = [
    tv("alexnet", 5 + 2),
    tv("vgg11", 8 + 2),
    tv("vgg16_bn", 13 + 2),
    # Streams, and the channels inside of each block; a stem of its own where blocks project.
    tv("resnet18", 4 + 8),
    tv("resnet34", 4 + 16),
    tv("resnet50", 5 + 16 * 2),
    tv("wide_resnet50_2", 5 + 16 * 2),
    # Groups, and the channels within each, before and behind the grouped convolution.
    tv("resnext50_32x4d", 5 + 16 * 3),
    tv("squeezenet1_1", 1 + 8 * 3),
    tv("densenet121", 1 + 58 * 2 + 3),
    tv("googlenet", 3 + 9 * 6, **PLAIN),
    tv("inception_v3", None, 96, **PLAIN),
    # Stem, hidden channels of all blocks but the first, a stream per stage, and the last layer.
    tv("mobilenet_v2", 1 + 16 + 7 + 1),
    # The same with a squeezed layer per block.
    tv("efficientnet_b0", 1 + 15 + 16 + 7 + 1),
    tv("mobilenet_v3_small"),
    tv("mnasnet0_5"),
    # Streams; groups, channels within each before and behind, and a squeezed layer per block.
    tv("regnet_y_400mf", 5 + 16 * 4),
    tv("shufflenet_v2_x0_5"),
    tv("convnext_tiny", 4 + 18),
    # A stream; heads, two kinds of dims and a hidden layer per layer.
    tv("vit_b_16", 1 + 12 * 4, image_size=64),
    tv("swin_t", 4 + 12 * 4),
    # The same, and the hidden layer that makes the biases of positions.
    tv("swin_v2_t", 4 + 12 * 5),
    tv("maxvit_t", None, 224),
    timm("vit_tiny_patch16_224", 1 + 12 * 4, img_size=64),
    timm("deit_tiny_patch16_224", 1 + 12 * 4, img_size=64),
    # Hidden layers over tokens and over channels.
    timm("mixer_s16_224", 1 + 8 * 2, img_size=64),
    timm("resmlp_12_224", None, img_size=64),
    timm("convmixer_768_32", 1 + 32),
    timm("resnet26d", 5 + 2 + 8 * 2),
    timm("resnetblur18", None),
    timm("nf_resnet50"),
    timm("dm_nfnet_f0"),
    timm("nfnet_l0"),
    timm("halonet26t", None, 256),
    timm("eva02_tiny_patch14_224", None, 56, img_size=56),
    timm("beit_base_patch16_224", None, img_size=64),
    timm("cait_xxs24_224", None, img_size=64),
    timm("xcit_nano_12_p16_224", None),
    timm("pit_ti_224", None, 224),
    timm("levit_128s", None, 224),
    timm("coat_tiny", None, img_size=64),
    timm("poolformer_s12"),
    timm("ghostnet_050"),
    timm("repvgg_a0"),
    timm("hrnet_w18_small"),
    timm("dla34"),
    timm("cspresnet50"),
    timm("gcresnet33ts"),
]  # fmt: skip
