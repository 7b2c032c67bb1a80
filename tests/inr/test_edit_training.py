"""Training of weight editors, with what is in the package alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmn_opt.data import load_bundled
from gmn_opt.inr import (
    EditorConfig,
    EditTrainer,
    FitConfig,
    InrSet,
    SirenConfig,
    TrainConfig,
    WeightEditor,
    fit_images,
    render,
)
from gmn_opt.inr.augmentation import SYMMETRIES
from gmn_opt.inr.edit_training import rendered_edits, under_symmetries
from gmn_opt.inr.edits import edited

TINY = EditorConfig(hidden=8, edge_hidden=4, layers=2, rounds=2, grid=14, vision=3)


def small(count: int = 4) -> InrSet:
    images = load_bundled("mnist").train_images[:count, ::2, ::2].contiguous()
    return fit_images(images, SirenConfig(widths=(8, 8)), FitConfig(40))


def test_a_run_goes_on_exactly() -> None:
    data, config = small(), TrainConfig(steps=6, batch=2)

    def fresh(data: InrSet = data, edit: str = "dilate") -> EditTrainer:
        torch.manual_seed(0)
        editor = WeightEditor(data.config, TINY)
        return EditTrainer([data], edit, editor, config, 0, torch.device("cpu"))

    whole, first, second = fresh(), fresh(), fresh()
    want = [whole.advance() for _ in range(6)]
    got = [first.advance() for _ in range(3)]
    second.load_state_dict(first.state_dict())
    got += [second.advance() for _ in range(3)]
    assert got == want
    assert torch.equal(rendered_edits(whole.result(), data),
                       rendered_edits(second.result(), data))  # fmt: skip
    second.compare(0.5)
    second.advance()
    second.compare(0.7)
    third = fresh()
    third.load_state_dict(second.state_dict())
    best = rendered_edits(third.result(best=True), data)
    assert torch.equal(best, rendered_edits(whole.result(), data))
    assert not torch.equal(best, rendered_edits(third.result(), data))
    other = fresh()
    other.config = replace(config, lr=1.0)
    with pytest.raises(ValueError, match="written with other settings"):
        other.load_state_dict(first.state_dict())
    for other in (fresh(edit="erode"), fresh(small(5))):
        with pytest.raises(ValueError, match="of the edit 'dilate' or of other INRs"):
            other.load_state_dict(first.state_dict())


def test_the_rate_follows_steps_or_time() -> None:
    data = small(2)
    for config in (TrainConfig(steps=8, batch=2), TrainConfig(seconds=0.5, batch=2)):
        editor = WeightEditor(data.config, TINY)
        trainer = EditTrainer([data], "dilate", editor, config, 0, torch.device("cpu"))
        rates = []
        while trainer.progress < 1:
            trainer.advance()
            rates.append([g["lr"] for g in trainer.optimizer.param_groups])
        assert max(r[0] for r in rates) > 0.5 * config.lr
        assert rates[-1][0] < 0.3 * config.lr
        if config.seconds is None:
            assert trainer.step == 8
        else:
            assert trainer.seconds == pytest.approx(0.5, abs=0.2)
    with pytest.raises(ValueError, match="seconds positive"):
        TrainConfig(seconds=0.0)


def test_an_editor_of_another_grid() -> None:
    data = small(2)
    editor = WeightEditor(data.config, replace(TINY, grid=28))
    with pytest.raises(ValueError, match="28 x 28 pixels, the images have 14 x 14"):
        EditTrainer([data], "dilate", editor, TrainConfig(), 0, torch.device("cpu"))


def test_pairs_under_symmetries_and_tones() -> None:
    """What a drawn network shows, edited, is the drawn target."""
    data = small(3)
    shown = render(data.template(), 14, data.params).clamp(-1, 1)
    data = replace(data, images=((shown + 1) * 127.5).round().to(torch.uint8))
    for tones in (1.0, 0.3):
        editor = WeightEditor(data.config, TINY)
        config = TrainConfig(batch=3, tones=tones)
        trainer = EditTrainer([data], "blur", editor, config, 0, torch.device("cpu"))
        for _ in range(4):
            inr, params, target = trainer._draw()
            shown = edited(render(inr, 14, params).clamp(-1, 1), "blur")
            assert (shown - target).square().mean() < 0.01 * target.var()
    with pytest.raises(ValueError, match="tones must lie"):
        TrainConfig(tones=0.0)
    assert under_symmetries(data, False).shape == (1, 3, 14, 14, 1)
    assert under_symmetries(data, True).shape == (SYMMETRIES, 3, 14, 14, 1)
    wide = replace(data, images=data.images[:, :, :10])
    assert under_symmetries(wide, True).shape == (4, 3, 14, 10, 1)
