"""How long windows are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.meta.windows import Constant, Growing, LogUniform, Uniform, Windows


def test_window_lengths() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(windows: Windows, progress: float = 0.0, count: int = 4000) -> Tensor:
        return torch.tensor([windows.draw(generator, progress) for _ in range(count)])

    assert drawn(Constant(7), count=9).unique().tolist() == [7]
    uniform = drawn(Uniform(3, 6))
    assert uniform.unique().tolist() == [3, 4, 5, 6]
    assert (uniform == 3).double().mean() == pytest.approx(0.25, abs=0.03)
    octaves = drawn(LogUniform(1, 63))
    assert (int(octaves.min()), int(octaves.max())) == (1, 63)
    assert (octaves < 8).double().mean() == pytest.approx(0.5, abs=0.03)
    growing = Growing(10, 160, over=0.5)
    at = [float(drawn(growing, p).double().mean()) for p in (0.0, 0.25, 0.5, 1.0)]
    assert at[0] == pytest.approx(11, abs=1)
    assert at[1] == pytest.approx(40, abs=2)
    assert at[2:] == pytest.approx([152, 152], abs=2)
    for bad in ({"shortest": 0}, {"shortest": 40, "longest": 3}):
        with pytest.raises(ValueError, match="received"):
            Uniform(**bad)
    with pytest.raises(ValueError, match="share of meta-training"):
        Growing(1, 2, over=0.0)
