"""Edit a photograph by the weights of a network that draws it.

Run: python examples/edit_photo.py

Fits a small network to the middle of a photograph at 32x32 pixels, lets a shipped editor change its
weights, and draws both at 512x512. For whole photographs see `gmn-opt inr` and docs/inr.md.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch.nn import functional as F

from gmn_opt.data import load_photograph
from gmn_opt.inr import FitConfig, SirenConfig, fit_batch, load_editor, render, supersampled


def square(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """The middle square of uint8 [H, W, 3], as [side, side, 3] in [-1, 1]."""
    edge = min(pixels.shape[:2])
    top, left = ((n - edge) // 2 for n in pixels.shape[:2])
    middle = pixels[top : top + edge, left : left + edge].movedim(-1, 0).float() / 127.5 - 1
    small = F.interpolate(middle.unsqueeze(0), (side, side), mode="area")
    return small[0].movedim(0, -1)


def save(values: torch.Tensor, path: str) -> None:
    """Write [H, W, 3] in [-1, 1] as a picture."""
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)


def main(steps: int = 1000, size: int = 512, edit: str = "contrast") -> float:
    """Fit, edit, draw; returns how much the spread of the pixels grew."""
    target = square(load_photograph("chelsea"), 32)
    fit = FitConfig(steps=steps, target_psnr=40.0, pixels=32 * 32)
    # between the pixels too, so that it can be drawn larger
    found = fit_batch(supersampled(target.unsqueeze(0)), SirenConfig(2, 3), fit)
    print(f"fitted to {found.psnr[0]:.1f} dB in {found.steps[0]} steps")
    network = found.config.build()
    network.load_state_dict({name: values[0] for name, values in found.params.items()})

    editor = load_editor(edit, channels=3)
    edited = editor.edit(network, strength=1.0)  # 0 changes nothing

    with torch.no_grad():
        before, after = render(network, size), render(edited, size)
    save(before, "photo.png")
    save(after, f"photo_{edit}.png")
    print(f"photo.png and photo_{edit}.png")
    return (after.std() / before.std()).item()


if __name__ == "__main__":
    main()
