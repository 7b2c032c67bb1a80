"""Language models of source code, symbol by symbol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, Split
from tasks.base import DataTask, right
from tasks.data.source_code import ALPHABETS, CORPORA, symbols_of, text_of
from tasks.networks.plain import ACTIVATIONS, check_choice, check_positive, scale_matrices
from tasks.networks.recurrent import GRU
from tasks.networks.transformer import GPT

KINDS = ("gpt", "gru")


@dataclass(frozen=True)
class SourceCode(DataTask):
    """Predict the next symbol of Python's standard library.

    Attributes:
        data: A key of ``CORPORA``.
        width: Of the network.
        depth: Blocks of a transformer; 1 for a GRU.
        kind: ``"gpt"`` or ``"gru"``.
        length: Symbols that are predicted per sequence.
        alphabet: A key of ``ALPHABETS``.
        activation: A key of ``ACTIVATIONS``; the GRU has its own.
        heads: Of attention; divides ``width``.
        batch_size: Sequences per network and step.
        gain: Factor on the initial weights.
        tied: Whether the output layer of a GPT reads its table of symbols.
    """

    family: ClassVar[str] = "source_code"

    data: str
    width: int
    depth: int = 1
    kind: str = "gpt"
    length: int = 24
    alphabet: str = "reduced"
    activation: str = "gelu"
    heads: int = 2
    batch_size: int = 8
    gain: float = 1.0
    tied: bool = False

    def __post_init__(self) -> None:
        check_choice("corpus", self.data, CORPORA)
        check_choice("kind", self.kind, KINDS)
        check_choice("alphabet", self.alphabet, ALPHABETS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_positive(
            "width, depth, length, heads, batch_size and gain",
            *(self.width, self.depth, self.length, self.heads, self.batch_size, self.gain),
        )
        if self.kind == "gpt" and self.width % self.heads:
            raise ValueError(f"{self.heads} heads cannot share a width of {self.width} evenly.")
        if self.kind == "gru" and self.depth != 1:
            raise ValueError(f"The GRU has one layer, received depth={self.depth}.")
        if self.tied and self.kind != "gpt":
            raise ValueError(f"Only a GPT has a tied output layer, received kind={self.kind!r}.")

    @property
    def name(self) -> str:
        """Corpus, alphabet, architecture, length and batch size."""
        kind = f"{self.kind}-{self.width}x{self.depth}" + "-tied" * self.tied
        return f"{self.data}-{self.alphabet}-{kind}-t{self.length}-b{self.batch_size}"

    def build(self) -> nn.Module:
        """A fresh network."""
        symbols = symbols_of(self.alphabet)
        network: nn.Module = GRU(symbols, self.width)
        if self.kind == "gpt":
            sizes = (self.length, self.width, self.depth, self.heads)
            network = GPT(symbols, *sizes, self.activation, tied=self.tied)
        return scale_matrices(network, self.gain)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two random sequences."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randint(symbols_of(self.alphabet), (2, self.length), generator=generator),)

    def _cut(self, split: Split, starts: Tensor) -> Batch:
        text = text_of(self.data, self.alphabet, split)
        windows = text[starts[..., None] + torch.arange(self.length + 1)]
        return {"x": windows[..., :-1], "y": windows[..., 1:]}

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``x`` and ``y``, the symbols one place later: [count, batch, length]."""
        text = text_of(self.data, self.alphabet, split)
        last = len(text) - self.length
        shape = (count, self.batch_size)
        return self._cut(split, torch.randint(last, shape, generator=generator))

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """Sequences at even distances."""
        last = len(text_of(self.data, self.alphabet, split)) - self.length - 1
        return self._cut(split, torch.linspace(0, last, limit).long())

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy in nats per symbol."""
        return F.cross_entropy(output.flatten(0, 1), batch["y"].flatten())

    def accuracy(self, output: Tensor, batch: Batch) -> Tensor:
        """Share of symbols that were the likeliest."""
        return right(output, batch["y"])
