"""The case table: tiny models of every kind, shared by the tests of all rooms.

``spaces`` is the number of free index sets where it can be derived by hand, None where the count
is not the point. Tags: ``adversarial`` (full of traps; nothing wrong may be claimed), ``noisy``
(random even in evaluation mode), ``stats`` (has running statistics), ``partial`` (a hidden layer is
fixed for a good reason).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.graph import models as m


@dataclass(frozen=True)
class Case:
    """One model with its inputs; ``inert`` tensors may be permuted alone without any effect."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    spaces: int | None = None
    tags: frozenset[str] = frozenset()
    inert: frozenset[str] = frozenset()

    def make(self, seed: int = 0) -> tuple[nn.Module, tuple[Any, ...]]:
        """The model and its inputs, from a seed, leaving the global random state alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().eval(), self.inputs()


def floats(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Standard normal inputs."""
    return lambda: tuple(torch.randn(s) for s in shapes)


def tokens(vocabulary: int, *shape: int) -> Callable[[], tuple[Tensor, ...]]:
    """Token ids."""
    return lambda: (torch.randint(vocabulary, shape),)


def case(
    name: str,
    build: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Any, ...]],
    spaces: int | None = None,
    *tags: str,
    inert: tuple[str, ...] = (),
) -> Case:
    """Short for a row of the table."""
    return Case(name, build, inputs, spaces, frozenset(tags), frozenset(inert))


image = floats((2, 3, 8, 8))

CASES: list[Case] = [
    # Dense
    case("linear", lambda: nn.Linear(4, 3), floats((5, 4)), 0),
    case("mlp", lambda: m.mlp(4, 6, 5, 3), floats((7, 4)), 2),
    case("mlp_batch_equals_width", lambda: m.mlp(6, 6, 6, 6), floats((6, 6)), 2),
    case("mlp_width_one", lambda: m.mlp(1, 5, 1, 5, 1), floats((3, 1)), 2),
    case("mlp_batch_norm", m.MLPBatchNorm, floats((6, 4)), 2, "stats"),
    case("mlp_layer_norm", m.MLPLayerNorm, floats((3, 4)), 1),
    case("mlp_prelu", m.MLPPReLU, floats((3, 4)), 1),
    case("mlp_bilinear", m.BilinearNet, floats((3, 4), (3, 5)), 1),
    case("residual_mlp", m.ResidualMLP, floats((3, 4)), 3),
    case("dense_mlp", m.DenseConcat, floats((3, 4)), 2),
    case("two_inputs", m.TwoInputs, floats((3, 4), (3, 5)), 2),
    case("two_outputs", m.TwoOutputs, floats((3, 4)), 1),
    case("tied_autoencoder", m.TiedAutoencoder, floats((3, 4)), 1),
    case("shared_layer", m.SharedLayer, floats((3, 5)), 1),
    case("siren", m.Siren, floats((6, 2)), 2),
    case("weight_norm", m.WeightNorm, floats((3, 4)), 2),
    case("low_rank", m.LowRank, floats((3, 4)), 2),
    case("maxout", m.Maxout, floats((3, 4)), 2),
    case("glu", m.GLUNet, floats((3, 4)), 1),
    case("swiglu", m.SwiGLU, floats((3, 4)), 1),
    case("swiglu_packed", m.SwiGLUPacked, floats((3, 4)), 1),
    case("film", m.FiLM, floats((3, 4), (3, 2)), 3),
    case("hyper", m.HyperNet, floats((3, 4), (3, 2)), 1),
    case("deep_sets", m.DeepSets, floats((3, 5, 4)), 3),
    case("equivariant_set", m.SetLayers, floats((3, 5, 2)), 1),
    case("mixer", m.Mixer, floats((3, 5, 4)), 3),
    case("einsum_heads", m.EinsumHeads, floats((3, 4)), 2),
    case("mixed_heads", m.MixedHeads, floats((3, 4)), 2),
    case("read_for_its_shape", m.ReadForItsShape, floats((3, 4)), 1),
    case("stacked_experts", m.StackedExperts, floats((3, 4)), 2),
    # The router's positions are read, so experts keep their order, each with a hidden layer.
    *(case(f"experts_by_{how}", partial(m.IndexedExperts, how), floats((96, 4)), 5)
      for how in ("index", "list", "slice", "unbind", "view")),
    case("gathered_experts", m.GatheredExperts, floats((12, 4)), 1),
    case("stacked_layers", m.StackedLayers, floats((3, 4)), 4),
    case("stacked_residual", lambda: m.StackedLayers(residual=True), floats((3, 4)), 1),
    case("soft_moe", m.SoftMoE, floats((3, 4)), 3),
    case("spectral_norm", m.SpectralNorm, floats((3, 4)), 1, "stats"),
    case("hard_moe", m.HardMoE, floats((12, 4)), 3),
    case("mask_moe", m.MaskMoE, floats((12, 4)), 3),
    case("masked_weight", m.MaskedWeight, floats((3, 4)), 2, "stats"),
    case("layer_scale", m.LayerScale, floats((3, 4)), 2),
    case("vmapped", m.Vmapped, floats((3, 4)), 2),
    case("in_place", m.InPlace, floats((3, 4)), 2),
    case("fourier_features", m.FourierFeatures, floats((3, 2)), 2),
    case("fourier_operator", m.FourierOperator, floats((2, 8, 2)), 2),
    # Convolutional
    case("cnn", m.CNN, image, 2),
    case("cnn_global_pool", m.CNNGlobalPool, image, 2),
    case("cnn_batch_norm", m.CNNBatchNorm, image, 2, "stats"),
    case("cnn_1d", m.CNN1d, floats((2, 3, 12)), 2),
    case("cnn_3d", m.CNN3d, floats((1, 2, 4, 4, 4)), 1),
    case("resnet", m.ResNet, image, 4, "stats"),
    case("preact_resnet", m.PreactResNet, image, 2, "stats"),
    case("depthwise", m.Depthwise, image, 2),
    case("mobilenet", m.MobileNet, image, 3, "stats"),
    case("grouped_conv", m.GroupedConv, image, 4),
    case("grouped_conv_residual", m.GroupedConvResidual, image, 2),
    case("group_norm", m.GroupNormNet, image, 3),
    case("instance_norm", m.InstanceNormNet, image, 1, "stats"),
    case("squeeze_excite", m.SqueezeExcite, image, 2),
    case("densenet", m.DenseNet, image, 3),
    case("inception", m.Inception, image, 3),
    case("unet", m.UNet, image, 4),
    case("transposed_conv", m.ConvAutoencoder, image, 3),
    case("pixel_shuffle", m.PixelShuffleNet, image, None),
    case("pixel_unshuffle", m.PixelUnshuffleNet, image, None),
    case("shuffle_net", m.ShuffleNet, image, None),
    case("convnext", m.ConvNeXt, image, 2),
    case("patch_merging", m.PatchMerging, image, 2),
    case("vae_mean", m.VAE, image, 3, "noisy"),
    case("dropout", m.DropoutNet, floats((3, 4)), 2),
    # Sequences
    case("embedding_mean", m.EmbeddingMean, tokens(11, 3, 5), 1),
    case("attention", lambda: m.Attention(8, 2), floats((2, 5, 8)), 4,
         inert=("k.bias",)),
    case("attention_sdpa", lambda: m.Attention(8, 2, "sdpa"), floats((2, 5, 8)), 4,
         inert=("k.bias",)),
    case("attention_mha", m.MHA, floats((2, 5, 8)), 4),
    case("attention_packed", m.PackedAttention, floats((2, 5, 8)), 4),
    case("attention_packed_chunk", m.ChunkedAttention, floats((2, 5, 8)), 4),
    case("attention_interleaved", m.InterleavedAttention, floats((2, 5, 8)), 4),
    case("attention_strided", m.StridedAttention, floats((2, 5, 8)), 4),
    case("attention_gqa", m.GQA, floats((2, 5, 8)), 5, inert=("k.bias",)),
    case("attention_multi_query", m.MultiQuery, floats((2, 5, 8)), 4),
    case("attention_multi_query_groups", lambda: m.MultiQuery(3, 2), floats((2, 5, 8)), 5),
    case("attention_cross", m.CrossAttention, floats((2, 5, 8), (2, 7, 8)), 5),
    case("attention_einops", m.EinopsAttention, floats((2, 5, 8)), 4),
    case("attention_rope", m.RoPEAttention, floats((2, 5, 8)), None),
    case("attention_relative", m.RelativePositions, floats((2, 5, 8)), 4, inert=("k.bias",)),
    case("transformer_encoder", m.Encoder, floats((2, 5, 8)), 9),
    case("transformer_decoder", m.Decoder, floats((2, 5, 8), (2, 4, 8)), 8),
    case("gpt", m.GPT, tokens(11, 2, 6), 9),
    case("gpt_tied", lambda: m.GPT(tied=True), tokens(11, 2, 6), 9),
    case("llama", m.Llama, tokens(11, 2, 6), 7),
    case("vit", m.ViT, image, 5),
    case("perceiver", m.Perceiver, floats((2, 7, 4)), 4, inert=("k.bias",)),
    case("rnn", lambda: m.Recurrent(nn.RNN), floats((2, 5, 4)), 1),
    case("gru", lambda: m.Recurrent(nn.GRU), floats((2, 5, 4)), 1),
    case("lstm", lambda: m.Recurrent(nn.LSTM), floats((2, 5, 4)), 1),
    case("lstm_two_layers", m.DeepLSTM, floats((2, 5, 4)), 4),
    case("rnn_cell", m.CellLoop, floats((2, 5, 4)), 1),
    case("lstm_cell", m.LSTMCellLoop, floats((2, 5, 4)), 1),
    case("ssm", m.DiagonalSSM, floats((2, 6, 4)), 2),
    case("linear_attention", m.LinearAttention, floats((2, 5, 8)), 4),
    # Graph-like, coordinate-based, spatial parameters
    case("gcn", m.GCN, lambda: (torch.randn(6, 4), (torch.rand(6, 6) > 0.5).float()), 1),
    case("triplane", m.Triplane, lambda: (torch.rand(9, 3) * 2 - 1,), 2),
    case("feature_grid", m.FeatureGrid, lambda: (torch.rand(9, 2) * 2 - 1,), 2),
    case("positional", m.Positional, floats((2, 5, 4)), 1),
    # Adversarial: nothing wrong may be claimed
    *(case(f"trap_{name}", build, inputs, None, "adversarial", *tags)
      for name, build, inputs, *tags in m.TRAPS),
]  # fmt: skip

BY_NAME: dict[str, Case] = {c.name: c for c in CASES}
