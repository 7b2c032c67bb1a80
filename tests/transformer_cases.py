"""Models of the ``transformers`` library from tiny configs, with random weights.

The library is optional: it is imported when a model is built. Sizes are chosen so that each space
is known by its size: residual stream 12, heads 3, dims per head 4, feed-forward layers 20.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Inputs = dict[str, Any]
Space = tuple[int, tuple[int, ...]]
"""Its size, and those of its parents."""

BATCH, LENGTH, VOCABULARY = 2, 7, 23
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED: dict[str, Any] = {
    **TEXT, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
}  # fmt: skip


@dataclass(frozen=True)
class HubCase:
    """A model class of ``transformers`` with a config of its own and the names of its inputs."""

    name: str
    family: str
    model: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[], Inputs] = dict

    def make(self, seed: int = 0) -> tuple[nn.Module, Inputs]:
        """The model in evaluation mode and its keyword inputs."""
        import transformers

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = getattr(transformers, self.config)(**self.settings)
            model: nn.Module = getattr(transformers, self.model)(config)
            return model.eval(), self.inputs()

    def meta(self) -> tuple[nn.Module, Inputs]:
        """The same on the meta device: shapes without numbers."""
        with torch.device("meta"):
            return self.make()


def text() -> Inputs:
    """Token ids, none of them a special one."""
    return {"input_ids": torch.randint(3, VOCABULARY, (BATCH, LENGTH))}


def pairs() -> Inputs:
    """Token ids for an encoder and for a decoder."""
    return {**text(), "decoder_input_ids": torch.randint(3, VOCABULARY, (BATCH, LENGTH - 1))}


def images(size: int = 8) -> Callable[[], Inputs]:
    """Standard normal images."""
    return lambda: {"pixel_values": torch.randn(BATCH, 3, size, size)}


def hub(
    family: str, name: str, model: str, config: str, inputs: Callable[[], Inputs], **settings: Any
) -> HubCase:
    """Short for a row of the table."""
    return HubCase(name, family, model, config, settings, inputs)


IMAGE: dict[str, Any] = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "image_size": 8, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 12, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip

HUB: list[HubCase] = [
    # Decoders
    hub("decoder", "gpt2", "GPT2LMHeadModel", "GPT2Config", text, vocab_size=VOCABULARY,
        n_embd=12, n_layer=2, n_head=3, n_inner=20, n_positions=32, bos_token_id=1,
        eos_token_id=2),
    hub("decoder", "llama", "LlamaForCausalLM", "LlamaConfig", text, **GROUPED),
    hub("decoder", "mistral", "MistralForCausalLM", "MistralConfig", text, **GROUPED,
        sliding_window=4),
    hub("decoder", "qwen2", "Qwen2ForCausalLM", "Qwen2Config", text, **GROUPED),
    hub("decoder", "qwen3", "Qwen3ForCausalLM", "Qwen3Config", text, **GROUPED),
    hub("decoder", "gemma2", "Gemma2ForCausalLM", "Gemma2Config", text, **GROUPED,
        query_pre_attn_scalar=4, sliding_window=4),
    hub("decoder", "opt", "OPTForCausalLM", "OPTConfig", text, vocab_size=VOCABULARY,
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, ffn_dim=20,
        max_position_embeddings=32, word_embed_proj_dim=12, pad_token_id=0, bos_token_id=1,
        eos_token_id=2),
    hub("decoder", "gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", text, **TEXT),
    hub("decoder", "falcon", "FalconForCausalLM", "FalconConfig", text, vocab_size=VOCABULARY,
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, ffn_hidden_size=20,
        bos_token_id=1, eos_token_id=2),
    hub("decoder", "falcon_grouped", "FalconForCausalLM", "FalconConfig", text,
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_kv_heads=2, ffn_hidden_size=20, new_decoder_architecture=True, bos_token_id=1,
        eos_token_id=2),
    hub("decoder", "phi", "PhiForCausalLM", "PhiConfig", text, **TEXT),
    # Mixtures of experts
    hub("moe", "mixtral", "MixtralForCausalLM", "MixtralConfig", text, **GROUPED,
        num_local_experts=3, num_experts_per_tok=2),
    hub("moe", "qwen2_moe", "Qwen2MoeForCausalLM", "Qwen2MoeConfig", text, **GROUPED,
        num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=14, decoder_sparse_step=1),
    # Encoders
    hub("encoder", "bert", "BertForMaskedLM", "BertConfig", text, **TEXT),
    hub("encoder", "roberta", "RobertaForSequenceClassification", "RobertaConfig", text, **TEXT),
    hub("encoder", "distilbert", "DistilBertForMaskedLM", "DistilBertConfig", text,
        vocab_size=VOCABULARY, dim=12, n_layers=2, n_heads=3, hidden_dim=20,
        max_position_embeddings=32, pad_token_id=0),
    hub("encoder", "albert", "AlbertForMaskedLM", "AlbertConfig", text, **TEXT, embedding_size=6),
    hub("encoder", "deberta", "DebertaV2ForMaskedLM", "DebertaV2Config", text, **TEXT,
        relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4,
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False,
        max_relative_positions=8),
    hub("encoder", "electra", "ElectraForPreTraining", "ElectraConfig", text, **TEXT,
        embedding_size=6),
    # Encoder-decoders
    hub("encoder-decoder", "t5", "T5ForConditionalGeneration", "T5Config", pairs,
        vocab_size=VOCABULARY, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
        relative_attention_max_distance=16, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=0),
    hub("encoder-decoder", "bart", "BartForConditionalGeneration", "BartConfig", pairs, **SEQ2SEQ),
    hub("encoder-decoder", "marian", "MarianMTModel", "MarianConfig", pairs, **SEQ2SEQ),
    # Vision
    hub("vision", "vit", "ViTForImageClassification", "ViTConfig", images(), **IMAGE),
    hub("vision", "deit", "DeiTForImageClassification", "DeiTConfig", images(), **IMAGE),
    hub("vision", "beit", "BeitForImageClassification", "BeitConfig", images(), **IMAGE,
        use_relative_position_bias=True),
    hub("vision", "swin", "SwinForImageClassification", "SwinConfig", images(16), image_size=16,
        patch_size=2, embed_dim=6, depths=[2, 1], num_heads=[2, 3], window_size=2, num_labels=5,
        mlp_ratio=2.0),
    hub("vision", "convnext", "ConvNextForImageClassification", "ConvNextConfig", images(16),
        hidden_sizes=[6, 10], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5,
        image_size=16),
    hub("vision", "resnet", "ResNetForImageClassification", "ResNetConfig", images(16),
        embedding_size=6, hidden_sizes=[8, 12], depths=[2, 1], num_labels=5),
    hub("vision", "segformer", "SegformerForSemanticSegmentation", "SegformerConfig", images(32),
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[6, 8],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2],
        decoder_hidden_size=10, num_labels=5),
    # Audio
    hub("audio", "whisper", "WhisperForConditionalGeneration", "WhisperConfig",
        lambda: {"input_features": torch.randn(BATCH, 5, 16),
                 "decoder_input_ids": torch.randint(3, VOCABULARY, (BATCH, LENGTH))},
        **{k: v for k, v in SEQ2SEQ.items() if k != "max_position_embeddings"},
        num_mel_bins=5, max_source_positions=8, max_target_positions=16, begin_suppress_tokens=None,
        suppress_tokens=None),
    hub("audio", "wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config",
        lambda: {"input_values": torch.randn(BATCH, 200)},
        **TEXT, conv_dim=[6, 8], conv_kernel=[5, 3], conv_stride=[3, 2],
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=3),
    # State-space models
    hub("state-space", "mamba", "MambaForCausalLM", "MambaConfig", text, vocab_size=VOCABULARY,
        hidden_size=12, num_hidden_layers=2, state_size=4, expand=2, conv_kernel=3,
        time_step_rank=5, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    # Several kinds of input
    hub("multimodal", "clip", "CLIPModel", "CLIPConfig",
        lambda: {**text(), **images()()},
        text_config={**TEXT}, vision_config={**{k: v for k, v in IMAGE.items()
                                                if k != "num_labels"}}, projection_dim=9),
]  # fmt: skip


def long_text() -> Inputs:
    """Zeros as token ids."""
    return {"input_ids": torch.zeros(1, 16, dtype=torch.long)}


BIG: list[HubCase] = [
    hub("decoder", "gpt2_small", "GPT2LMHeadModel", "GPT2Config", long_text),
    hub("encoder", "bert_base", "BertForMaskedLM", "BertConfig", long_text),
    hub("encoder-decoder", "t5_base", "T5ForConditionalGeneration", "T5Config",
        lambda: {**long_text(), "decoder_input_ids": torch.zeros(1, 8, dtype=torch.long)},
        d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0),
    hub("vision", "resnet_50", "ResNetForImageClassification", "ResNetConfig", images(224)),
    hub("vision", "vit_base", "ViTForImageClassification", "ViTConfig", images(224)),
    hub("decoder", "llama_8b", "LlamaForCausalLM", "LlamaConfig", long_text, vocab_size=128256,
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192),
]  # fmt: skip
"""Models of real size, for the meta device."""

HUB_BY_NAME: dict[str, HubCase] = {c.name: c for c in (*HUB, *BIG)}

# Derived by hand. Sizes say what a space is: residual stream 12 (16 with grouped heads), heads 3,
# dims per head 4, feed-forward layers 20, and what is said below.
STREAM: Space = (12, ())
WIDE: Space = (16, ())
FFN: Space = (20, ())
HEADS: Space = (3, ())
PER_HEAD: Space = (4, (3,))
PAIRS_OF_HEADS: list[Space] = [(2, ()), (2, (2,)), (4, (2,))]
"""Key-value heads, query heads within each, value dims; rotations fix the query-key dims."""
ATTENTION = [HEADS, PER_HEAD, PER_HEAD]
LAYER = [FFN, *ATTENTION]
ROTARY_LAYER = [FFN, HEADS, PER_HEAD, (2, (3,))]
"""Half of the query-key dims is rotated; the order of the others is free, head by head."""
GROUPED_LAYER = [FFN, *PAIRS_OF_HEADS]

EXPECTED: dict[str, list[Space]] = {
    **{name: [STREAM, *LAYER * 2]
       for name in ("gpt2", "opt", "bert", "distilbert", "deberta", "vit", "deit", "beit")},
    **{name: [WIDE, *GROUPED_LAYER * 2]
       for name in ("llama", "mistral", "qwen2", "qwen3", "gemma2")},
    **{name: [STREAM, *ROTARY_LAYER * 2] for name in ("gpt_neox", "phi")},
    # Hidden neurons of each expert on their own; a router fixes the order of the experts.
    "mixtral": [WIDE, *[(20, (3,)), *PAIRS_OF_HEADS] * 2],
    "qwen2_moe": [WIDE, *[(8, (3,)), (14, ()), *PAIRS_OF_HEADS] * 2],
    # One key and value for all heads; rotations fix the query-key dims.
    "falcon": [STREAM, *[FFN, HEADS, (4, ())] * 2],
    "falcon_grouped": [WIDE, *GROUPED_LAYER * 2],
    # The classification head has a hidden layer as wide as the stream.
    "roberta": [STREAM, *LAYER * 2, STREAM],
    # Both project narrow embeddings up to the stream; ALBERT's layers share their weights.
    "electra": [(6, ()), STREAM, *LAYER * 2, STREAM],
    "albert": [(6, ()), STREAM, *LAYER],
    # One table of relative positions makes all layers of a stack share their heads.
    "t5": [STREAM, HEADS, *[FFN, PER_HEAD, PER_HEAD] * 2,
           HEADS, *[FFN, PER_HEAD, PER_HEAD, *ATTENTION] * 2],
    # Encoder and decoder share the embedding, thus the stream.
    **{name: [STREAM, *LAYER * 2, *[*LAYER, *ATTENTION] * 2] for name in ("bart", "marian")},
    # A stream for each stack, and the channels between the two convolutions.
    "whisper": [STREAM, STREAM, STREAM, *LAYER * 2, *[*LAYER, *ATTENTION] * 2],
    "clip": [STREAM, *LAYER * 2, STREAM, *LAYER * 2],
    # A grouped convolution over positions splits the stream into 3 groups of 4.
    "wav2vec2": [(6, ()), (8, ()), HEADS, PER_HEAD, *LAYER * 2],
    # A stream per stage. Merging patches joins four copies of the stream.
    "swin": [(6, ()), *[(12, ()), (2, ()), (3, (2,)), (3, (2,))] * 2,
             (12, ()), (24, ()), *ATTENTION],
    "convnext": [(6, ()), (24, ()), (10, ()), (40, ())],
    # Two channels in the middle of each bottleneck, twice.
    "resnet": [(6, ()), (8, ()), *[(2, ())] * 4, (12, ()), *[(3, ())] * 2],
    # The first stage shortens its keys by a convolution, which has channels of its own.
    "segformer": [(6, ()), (6, ()), (12, ()), (2, ()), (3, (2,)), (3, (2,)),
                  (8, ()), (16, ()), (4, ()), (2, (4,)), (2, (4,)), *[(10, ())] * 3],
    # Inner channels, states, and the rank of the time steps.
    "mamba": [STREAM, *[(24, ()), (4, ()), (5, ())] * 2],
}  # fmt: skip
