"""What the networks of a zoo say of images: function access, beside which weights alone are judged.

Images are unlabelled ones of the training set of the network's own data. Normalizations by batch
statistics take those of these images. How sure a network is, and how far it agrees with what the
networks that are learned from say on average (of the same data, without labels), are numbers that
tell of its accuracy; no label is read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from experiments.zoo.images import images
from experiments.zoo.networks import Dropout, build
from gmn_opt.predict import NetworkDataset

#: Images that networks are asked about, and networks that are asked at once.
ASKED, _TOGETHER = 256, 50
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Side of the images where no network tells: of all but MLPs.
_SIZE = 14


@torch.no_grad()
def answers_of(data: NetworkDataset, asked: int = ASKED) -> Tensor:
    """Probabilities ``[n, asked, classes]``."""
    found: dict[int, Tensor] = {}
    alike: dict[tuple[str, int], list[int]] = {}
    for place, (row, network) in enumerate(zip(data.table, data.networks, strict=True)):
        alike.setdefault((row["data"], id(network.graph)), []).append(place)
    for (name, _), places in alike.items():
        first = data.networks[places[0]]
        size = _SIZE
        if data.table[places[0]]["kind"] == "mlp":
            size = math.isqrt(first.tensors["1.weight"].shape[1])
        model = _asked(build(data.table[places[0]], size))
        x = images(name, size).train[:asked]
        for part in torch.tensor(places).split(_TOGETHER):
            some = [data.networks[i].tensors for i in part.tolist()]
            stacked = {n: torch.stack([t[n] for t in some]) for n in first.tensors}
            said = vmap(lambda own: functional_call(model, own, (x,)))(stacked)  # noqa: B023
            found |= dict(zip(part.tolist(), said.softmax(-1), strict=True))
    return torch.stack([found[i] for i in range(len(data))])


def _asked(model: nn.Module) -> nn.Module:
    """Without dropout, with the statistics of the batch where the zoo keeps no others."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        module.train(not isinstance(module, Dropout))
    return model


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
