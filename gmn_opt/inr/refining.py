"""Editing in several steps towards a predicted image, with gradients beside the weights.

A metanet that reads weights has to work out what the network draws, what it should draw, and which
change of which weight would draw that. The first and the last are cheap to compute: by a rendering,
and by a backward pass. So a refining editor renders the INR, a small convolutional network predicts
the edited image (`ImagePredictor`), and the metanet takes a few steps towards it: in each it reads,
beside every weight, the gradient of the distance, and says how to change the weight. This makes the
editor a learned optimizer (Andrychowicz et al. 2016, arXiv 1606.04474; reading parameters and
gradients by a neural functional is in Zhou et al. 2024, arXiv 2402.05232) of an objective that it
predicts by itself: the reference edit is never an input. Permuting neurons permutes the gradients,
so that the editor stays equivariant.

Published editors of INRs read weights alone, or probes: results of this one are to be compared with
theirs only by saying so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.inr.base import Inr, Params
from gmn_opt.inr.rendering import coordinates, render

#: Per parameter, the position of its role and what changes are divided by.
Units = Mapping[str, tuple[int, float]]
#: (parameters, what is to be read beside them, what all nodes are told) to changes.
Change = Callable[[Params, Params, Tensor], Params]

#: What the metanet reads about each gradient.
SLOPE_FEATURES = 3
#: A gradient is seen on one of so many sets of pixels, which take turns.
_PHASES = 4
#: Spacing of the predictor's taps by layer: together they see 17 pixels.
_DILATIONS = (1, 1, 2, 4)
#: Change of a weight per step at the start, by the sign of its gradient.
_RATE = 1e-3
#: Share of the former gradients' sum that a step adds the new gradient to.
_MOMENTUM = 0.5
#: Gradients below this share of the usual ones are not brought to unit size.
_LEAST = 0.1
#: INRs by which the usual size of gradients is measured.
_MEASURED = 256


class ImagePredictor(nn.Module):
    """Images ``[N, H, W, C]`` to edited images of the same shape: themselves plus a correction.

    3x3 convolutions of growing dilation at one resolution.

    Args:
        channels: C.
        hidden: Channels between.
        places: Whether it sees coordinates; not, where its images are parts of larger ones.
    """

    def __init__(self, channels: int, hidden: int, places: bool = True) -> None:
        super().__init__()
        self.places = places
        widths = [channels + 2 * places, *[hidden] * len(_DILATIONS)]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=d, dilation=d, padding_mode="replicate")
            for a, b, d in zip(widths, widths[1:], _DILATIONS, strict=False)
        )
        self.last = nn.Conv2d(hidden, channels, 1)
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    def forward(self, images: Tensor) -> Tensor:
        """The predicted images, of the same shape."""
        x = images
        if self.places:
            size = (images.shape[1], images.shape[2])
            places = coordinates(size, dtype=images.dtype, device=images.device).unflatten(0, size)
            x = torch.cat([images, places.expand(len(images), -1, -1, -1)], -1)
        x = x.movedim(-1, 1)
        for number, layer in enumerate(self.layers):
            y = silu(layer(x))
            x = y if number == 0 else x + y
        return images + self.last(x).movedim(1, -1)


class Refinement(nn.Module):
    """Steps from the parameters of INRs towards what they ought to show.

    Args:
        outputs: Of the INRs.
        roles: Number of roles that parameters have, see `gmn_opt.inr.editor.role_of`.
        rounds: Steps.
        grid: Pixels along each side of the rendered image.
        hidden: Channels of the predictor.
        places: Whether the predictor sees coordinates.
    """

    usual: Tensor

    def __init__(
        self,
        outputs: int,
        roles: int,
        rounds: int,
        grid: int,
        hidden: int,
        places: bool = True,
    ) -> None:
        super().__init__()
        self.rounds, self.grid = rounds, grid
        self.predictor = ImagePredictor(outputs, hidden, places)
        self.log_rates = nn.Parameter(torch.full((rounds, roles), math.log(_RATE)))
        self.register_buffer("usual", torch.ones(roles))

    @property
    def node_features(self) -> int:
        """The same for every node: the round, one-hot, and the logarithm of the distance."""
        return self.rounds + 1

    @torch.no_grad()
    def measure(self, inr: Inr, params: Mapping[str, Tensor], units: Units) -> None:
        """Take the gradients on the way to the negative images as the usual size of gradients."""
        some = {n: p[:_MEASURED] for n, p in params.items()}
        slopes, _ = towards(inr, some, -render(inr, self.grid, some))
        found: dict[int, list[Tensor]] = {}
        for name, (role, width) in units.items():
            found.setdefault(role, []).append(slopes[name].square().mean() * width)
        for role, squares in found.items():
            self.usual[role] = torch.stack(squares).mean().sqrt().clamp_min(1e-8)

    def goal(self, inr: Inr, params: Params) -> Tensor:
        """What INRs ought to show, ``[N, grid, grid, outputs]``."""
        return self.predictor(render(inr, self.grid, params))

    def forward(
        self, inr: Inr, params: Params, units: Units, change: Change, goal: Tensor | None = None
    ) -> Params:
        """Changes of the parameters, ``{name: [N, *shape]}``, summed over all rounds.

        Args:
            inr: Kind of the networks.
            params: ``{name: [N, *shape]}``.
            units: Of every parameter.
            change: The learned part of a step.
            goal: What `goal` gives for these INRs, where it is known already.
        """
        if goal is None:
            goal = self.goal(inr, params)
        rates = self.log_rates.exp()
        now, sums = params, {n: torch.zeros_like(p) for n, p in params.items()}
        for number in range(self.rounds):
            slopes, error = towards(inr, now, goal, phase=number)
            seen, signs = {}, {}
            for name, (role, width) in units.items():
                slope = _at_unit_size(slopes[name] * (width**0.5 / self.usual[role]))
                sums[name] = _MOMENTUM * sums[name] + slope
                signs[name] = sums[name] * (sums[name].square() + 0.03).rsqrt()
                seen[name] = torch.stack([slope, sums[name], signs[name]], -1)
            told = error.new_zeros(len(error), self.node_features)
            told[:, number] = 1.0
            told[:, -1] = (error + 1e-4).log()
            learned = change(now, seen, told)
            now = {
                n: now[n] + learned[n] + rates[number, role] / width * signs[n]
                for n, (role, width) in units.items()
            }
        return {n: now[n] - params[n] for n in now}


def _at_unit_size(slope: Tensor) -> Tensor:
    """Per network at a root mean square of 1, unless it is far below that of most."""
    square = slope.flatten(1).square().mean(1) + _LEAST**2
    return slope * square.rsqrt().view(-1, *[1] * (slope.dim() - 1))


def towards(
    inr: Inr, params: Mapping[str, Tensor], goal: Tensor, phase: int | None = None
) -> tuple[Params, Tensor]:
    """Negative gradients of the distances from goals, and the distances.

    Args:
        inr: Kind of the networks.
        params: ``{name: [N, *shape]}``.
        goal: ``[N, H, W, C]``.
        phase: With a number, only every fourth pixel counts, spread evenly; four numbers in a row
            see all pixels.

    Returns:
        ``{name: [N, *shape]}``, minus the gradient of half the mean squared error over pixels and
        channels; and that error, ``[N]``. Where gradients are recorded, both are differentiable by
        ``params`` and ``goal``.
    """
    recorded = torch.is_grad_enabled()
    size = (goal.shape[1], goal.shape[2])
    points = coordinates(size, dtype=goal.dtype, device=goal.device)
    wanted = goal.flatten(1, 2)
    if phase is not None:
        chosen = pixels(size, phase, goal.device)
        points, wanted = points[chosen], wanted[:, chosen]
    with torch.enable_grad():
        known = {
            n: p if recorded and p.requires_grad else p.detach().requires_grad_()
            for n, p in params.items()
        }
        error = (inr.batched(known, points) - wanted).square().mean((1, 2))
        slopes = torch.autograd.grad(
            -0.5 * error.sum(), list(known.values()), create_graph=recorded
        )
    return dict(zip(known, slopes, strict=True)), error if recorded else error.detach()


def pixels(size: tuple[int, int], phase: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices of every fourth pixel, int64: one of each square of 2 by 2."""
    height, width = size
    place = torch.arange(height * width, device=device)
    row, column = place // width, place % width
    # diagonal neighbours in a row, so that two phases are a checkerboard
    number = 2 * ((row + column) % 2) + row % 2
    return (number == phase % _PHASES).nonzero().squeeze(1)
