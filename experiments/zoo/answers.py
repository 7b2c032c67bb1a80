"""What the networks of a zoo say of images: function access, beside which weights alone are judged.

Images are unlabelled ones of the training set of the network's own data. Normalizations by batch
statistics take those of these images. How sure a network is, and how far it agrees with what the
networks that are learned from say on average (of the same data, without labels), are numbers that
tell of its accuracy; no label is read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import functional_call, replace_all_batch_norm_modules_, vmap

from experiments.zoo.images import images
from experiments.zoo.networks import build
from gmn_opt.predict import NetworkDataset
from gmn_opt.predict.networks import stacked

#: Images that networks are asked about, and networks that are asked at once.
ASKED, _TOGETHER = 256, 50
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Side of the images where no network tells: of all but MLPs.
_SIZE = 14


@torch.no_grad()
def answers_of(data: NetworkDataset, asked: int = ASKED) -> Tensor:
    """Probabilities ``[n, asked, classes]``."""
    found: dict[int, Tensor] = {}
    for stack in stacked(data.networks):  # of one graph, and so of one architecture
        rows = [data.table[i] for i in stack.places.tolist()]
        size = math.isqrt(stack.tensors["1.weight"].shape[2]) if rows[0]["kind"] == "mlp" else _SIZE
        # no dropout; the zoo keeps no running statistics, so those of the batch serve
        model = replace_all_batch_norm_modules_(build(rows[0], size)).eval()
        for name in {row["data"] for row in rows}:
            x = images(name, size).train[:asked]
            own = torch.tensor([row["data"] == name for row in rows]).nonzero().flatten()
            for part in map(stack.__getitem__, own.split(_TOGETHER)):
                said = vmap(lambda p: functional_call(model, p, (x,)))(part.tensors)  # noqa: B023
                found |= dict(zip(part.places.tolist(), said.softmax(-1), strict=True))
    return torch.stack([found[i] for i in range(len(data))])


class Answers:
    """What the networks of a zoo say, each asked once, when it is first wanted."""

    def __init__(self, zoo: NetworkDataset) -> None:
        self.zoo = zoo
        self.said: Tensor | None = None
        self.places = {(row["network"], row["at"]): i for i, row in enumerate(zoo.table)}

    def of(self, part: NetworkDataset) -> Tensor:
        """Those of a part of the zoo, ``[n, asked, classes]``."""
        if self.said is None:
            self.said = answers_of(self.zoo)
        return self.said[[self.places[row["network"], row["at"]] for row in part.table]]


def features(said: Tensor, data: NetworkDataset, others: Tensor, known: NetworkDataset) -> Tensor:
    """``[n, .]`` of probabilities ``[n, asked, classes]``.

    Args:
        said: What the networks ``data`` say.
        data: Their table.
        others: What the networks that are learned from say, ``[m, asked, classes]``.
        known: Their table.
    """
    names = sorted({row["data"] for row in known.table})
    mean = {
        name: others[torch.tensor([row["data"] == name for row in known.table])].mean(0)
        for name in names
    }
    common = torch.stack([mean[row["data"]] for row in data.table])
    agree = (said.argmax(-1) == common.argmax(-1)).to(said).mean(1)
    apart = (common * (common.clamp_min(1e-9) / said.clamp_min(1e-9)).log()).sum(-1)
    top = said.topk(2, -1).values
    margin, entropy = top[..., 0] - top[..., 1], -torch.special.xlogy(said, said).sum(-1)
    levels = torch.tensor(_QUANTILES, dtype=said.dtype)
    spread = [x.quantile(levels, 1).T for x in (top[..., 0], margin, entropy, apart)]
    used = said.mean(1)
    means = torch.stack([agree, apart.mean(1), -torch.special.xlogy(used, used).sum(-1)], 1)
    return torch.cat([*spread, means], 1)
