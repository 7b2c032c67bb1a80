"""Fitting thousands of INRs at once.

Small networks one at a time cost mostly overhead. Here a few dozen are stacked and trained by
batched matrix products, each on its own image. A network that has reached the wanted PSNR leaves
its slot to the next image, so that the batch stays full. What a network becomes depends on its
image, the settings, the seed and its key alone, not on its company.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gmn_opt.inr.base import Inr, InrConfig, Params
from gmn_opt.inr.rendering import coordinates

_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class FitConfig:
    """How INRs are fitted: Adam (Kingma & Ba 2015) on squared errors of sampled pixels.

    Attributes:
        steps: Most steps per network.
        lr: Learning rate at the first step; it falls to 0 along a half cosine.
        pixels: Pixels drawn per step, without replacement; 0 for all. A step on 128 of 784 pixels
            takes a fifth of the time, but four times as many are needed: worth it for large
            images, or to see an image early.
        target_psnr: Stop a network at this PSNR in dB over all its pixels; None to go all steps.
        check_every: Steps between looks at the PSNR.
        slots: Networks trained at once. On a CPU, more than fit into its cache are slower.
    """

    steps: int = 600
    lr: float = 4e-3
    pixels: int = 0
    target_psnr: float | None = 40.0
    check_every: int = 20
    slots: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which nothing could be fitted."""
        if min(self.steps, self.check_every, self.slots) < 1 or self.pixels < 0 or not self.lr > 0:
            raise ValueError(
                "steps, check_every and slots must be at least 1, pixels at least 0 and lr "
                f"positive, received {self}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass
class FittedInrs:
    """Networks of one config, in the order of their images.

    Attributes:
        config: How each is built.
        params: ``{name: [N, *shape]}`` on the CPU.
        psnr: ``[N]`` in dB, over all pixels.
        steps: ``[N]`` int64, taken by each.
        seconds: Wall time of the fit.
    """

    config: InrConfig
    params: Params
    psnr: Tensor
    steps: Tensor
    seconds: float = field(default=0.0, compare=False)

    def __len__(self) -> int:
        """N."""
        return len(self.psnr)


def as_targets(images: Tensor, config: InrConfig) -> Tensor:
    """Images or signals as what an INR is fitted to, float32 ``[N, H, W, outputs]``.

    Args:
        images: uint8 or floating point ``[N, H, W]`` or ``[N, H, W, C]``; uint8 is brought from
            0...255 to ``config.value_range``, floating point is taken as it is. INRs of one
            coordinate are fitted to signals ``[N, L]`` or ``[N, L, C]``, here ``[N, L, outputs]``.
        config: Of the INRs.

    Raises ValueError for other shapes or dtypes, another number of channels, no pixels, or values
    that are not finite.
    """
    axes = {1: "L", 2: "H, W"}.get(config.inputs)
    if axes is None:
        raise ValueError(
            f"Signals and images have 1 or 2 axes, but INRs with {config.inputs} inputs were asked "
            "for. Set inputs of the config to 2 for images, to 1 for signals."
        )
    if images.dim() == 1 + config.inputs:
        images = images.unsqueeze(-1)
    if (
        images.dim() != 2 + config.inputs
        or images.shape[-1] != config.outputs
        or not images.numel()
    ):
        channels = f", {config.outputs}" if config.outputs > 1 else ""
        raise ValueError(
            f"Expected images [N, {axes}{channels}] for INRs with {config.inputs} inputs and "
            f"{config.outputs} outputs, received {list(images.shape)}. Channels come last; set "
            "inputs of the config to the number of axes, outputs to the number of channels."
        )
    if images.dtype == torch.uint8:
        low, high = config.value_range
        return images.float() * ((high - low) / 255) + low
    if not images.is_floating_point():
        raise ValueError(f"Images must be uint8 or floating point, received {images.dtype}.")
    if not bool(images.isfinite().all()):
        raise ValueError("The images hold NaN or infinite pixels; nothing can be fitted to them.")
    return images.float()


def supersampled(targets: Tensor, factor: int = 2) -> Tensor:
    """Targets with ``factor - 1`` values between neighbouring pixels, by bicubic interpolation.

    A SIREN is free between the pixels that it is fitted to, and waves there; fitted to these it
    can be rendered at any size.

    Args:
        targets: ``[N, H, W, C]``; the pixels stay in their places and keep their values.
        factor: At least 1.

    Returns:
        ``[N, factor * (H - 1) + 1, factor * (W - 1) + 1, C]``, within the range of ``targets``.

    Raises ValueError for other shapes or a factor below 1.
    """
    if targets.dim() != 4 or factor < 1:
        raise ValueError(
            f"Expected targets [N, H, W, C] and a factor of at least 1, received "
            f"{list(targets.shape)} and {factor}."
        )
    size = [factor * (n - 1) + 1 for n in targets.shape[1:3]]
    low, high = targets.aminmax()
    channels_first = targets.movedim(-1, 1)
    between = interpolate(channels_first, size=size, mode="bicubic", align_corners=True)
    return between.clamp(low, high).movedim(1, -1)


def initial_params(inr: Inr, seed: int, keys: Sequence[int]) -> Params:
    """Initial parameters ``{name: [len(keys), *shape]}``; row i depends on seed and key alone."""
    drawn = []
    for key in keys:
        state = int(np.random.SeedSequence([seed, key]).generate_state(1, np.uint64)[0] >> 1)
        drawn.append(inr.draw(torch.Generator().manual_seed(state)))
    return {n: torch.stack([d[n] for d in drawn]) for n in drawn[0]}


def fit_batch(
    images: Tensor,
    config: InrConfig,
    fit: FitConfig | None = None,
    *,
    seed: int = 0,
    keys: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    on_done: Callable[[Tensor], None] | None = None,
    on_check: Callable[[int, Tensor], None] | None = None,
) -> FittedInrs:
    """Fit one INR to every image.

    Args:
        images: See `as_targets`.
        config: Of every INR.
        fit: Settings.
        seed: Of the initial parameters, which are independent, and of the pixels drawn.
        keys: One number per image, which its initial parameters depend on; by default
            its position.
        device: Where to compute; results come back to the CPU.
        on_done: Called with the PSNRs of networks as they are finished.
        on_check: Called at every look, with the most steps that one of the networks being fitted
            has taken, and their PSNRs.

    Raises ValueError for images that do not fit the config, see `as_targets`, and RuntimeError
    when an INR diverges.
    """
    started = time.perf_counter()
    fit = fit or FitConfig()
    targets = as_targets(images, config)
    keys = list(range(len(targets))) if keys is None else list(keys)
    if len(keys) != len(targets):
        raise ValueError(f"Received {len(keys)} keys for {len(targets)} images.")
    with torch.random.fork_rng(devices=[]):
        inr = config.build().to(device)
    found = _Fit(inr, targets, fit, seed, keys, torch.device(device)).run(on_done, on_check)
    found.seconds = time.perf_counter() - started
    return found


class _Fit:
    """The slots: networks ``theta`` [S, P] with their Adam moments, each at a step of its own."""

    def __init__(
        self,
        inr: Inr,
        targets: Tensor,
        fit: FitConfig,
        seed: int,
        keys: list[int],
        device: torch.device,
    ) -> None:
        self.inr, self.fit, self.seed, self.keys, self.device = inr, fit, seed, keys, device
        self.targets = targets.flatten(1, -2)
        self.shapes = {n: p.shape for n, p in inr.named_parameters()}
        self.points = coordinates(targets.shape[1:-1], inr.config.inputs, device=device)
        self.peak = inr.config.value_range[1] - inr.config.value_range[0]
        size = sum(s.numel() for s in self.shapes.values())
        self.done = torch.zeros(len(keys), size)
        self.psnr = torch.zeros(len(keys))
        self.steps = torch.zeros(len(keys), dtype=torch.int64)
        self.next = 0
        self.which = torch.arange(0)  # the position of the image in every slot
        total = len(self.points)
        self.sampled = 0 < fit.pixels < total
        if self.sampled:
            # the same draws for all networks: which pixels at which of its own steps
            generator = torch.Generator().manual_seed(seed)
            rows = [torch.randperm(total, generator=generator)[: fit.pixels]
                    for _ in range(fit.steps)]  # fmt: skip
            self.draws = torch.stack(rows).to(device)

    def run(
        self,
        on_done: Callable[[Tensor], None] | None,
        on_check: Callable[[int, Tensor], None] | None,
    ) -> FittedInrs:
        theta, image, step, moments = self._fresh(self.fit.slots)
        while len(image):
            for _ in range(min(self.fit.check_every, self.fit.steps - int(step.max()))):
                self._step(theta, moments, step, image)
            psnr = self._psnr(theta, image)
            if on_check is not None:
                on_check(int(step.max()), psnr)
            finished = step >= self.fit.steps
            if self.fit.target_psnr is not None:
                finished = finished | (psnr >= self.fit.target_psnr)
            if not bool(finished.any()):
                continue
            at = self.which[finished.cpu()]
            self.done[at] = theta[finished].cpu()
            self.psnr[at], self.steps[at] = psnr[finished].cpu(), step[finished].cpu()
            if on_done is not None:
                on_done(self.psnr[at])
            kept = ~finished
            old = [theta[kept], image[kept], step[kept], *(m[kept] for m in moments)]
            which = self.which[kept.cpu()]
            theta, image, step, moments = self._fresh(self.fit.slots - int(kept.sum()))
            self.which = torch.cat([which, self.which])
            new = [theta, image, step, *moments]
            theta, image, step, *rest = (torch.cat(p) for p in zip(old, new, strict=True))
            moments = rest
        params = self._views(self.done)
        return FittedInrs(
            self.inr.config, {n: p.contiguous() for n, p in params.items()}, self.psnr, self.steps
        )

    def _fresh(self, count: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Slots for at most ``count`` further images."""
        keys = self.keys[self.next : self.next + count]
        self.which = torch.arange(self.next, self.next + len(keys))
        self.next += len(keys)
        size = self.done.shape[1]
        theta = torch.empty(0, size)
        if keys:
            drawn = initial_params(self.inr, self.seed, keys)
            theta = torch.cat([drawn[n].flatten(1) for n in self.shapes], 1)
        theta = theta.to(self.device)
        image = self.targets[self.which].to(self.device)
        step = torch.zeros(len(keys), dtype=torch.int64, device=self.device)
        return theta, image, step, [torch.zeros_like(theta), torch.zeros_like(theta)]

    def _views(self, theta: Tensor) -> Params:
        """``theta`` [S, P] as named parameters [S, *shape]."""
        parts = theta.split([s.numel() for s in self.shapes.values()], 1)
        return {n: p.unflatten(1, s) for p, (n, s) in zip(parts, self.shapes.items(), strict=True)}

    def _sample(self, step: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Points and values that networks at these steps see."""
        first = int(step[0])
        if bool((step == first).all()):
            # one set of points for all: what depends on these alone is computed once
            chosen = self.draws[first]
            return self.points[chosen], image[:, chosen]
        chosen = self.draws[step]
        target = image.gather(1, chosen.unsqueeze(-1).expand(-1, -1, image.shape[-1]))
        return self.points[chosen], target

    def _step(self, theta: Tensor, moments: list[Tensor], step: Tensor, image: Tensor) -> None:
        """One step of Adam for every slot, in place."""
        points, target = self.points, image
        if self.sampled:
            points, target = self._sample(step, image)
        theta.requires_grad_()
        values = self.inr.batched(self._views(theta), points)
        loss = (values - target).square().mean((1, 2)).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        theta.requires_grad_(False)
        fast, slow = moments
        fast.lerp_(gradient, 1 - _BETAS[0])
        slow.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        lr = self.fit.lr * 0.5 * (1 + torch.cos(step * (math.pi / self.fit.steps)))
        step += 1
        size = lr / (1 - _BETAS[0] ** step)
        root = slow.sqrt() * (1 - _BETAS[1] ** step).rsqrt().unsqueeze(1)
        theta.addcdiv_(fast * -size.unsqueeze(1), root + _EPS)

    @torch.no_grad()
    def _psnr(self, theta: Tensor, image: Tensor) -> Tensor:
        """``[S]`` in dB over all pixels."""
        error = (self.inr.batched(self._views(theta), self.points) - image).square().mean((1, 2))
        if not bool(error.isfinite().all()):
            raise RuntimeError(
                f"{int((~error.isfinite()).sum())} of {len(error)} INRs diverged with "
                f"lr={self.fit.lr}. Choose a lower learning rate."
            )
        return 10 * torch.log10(self.peak**2 / error.clamp_min(self.peak**2 * 1e-12))
