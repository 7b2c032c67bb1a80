"""Editing a tiled INR: all tiles as one batch, towards one image that is predicted for the whole.

The editor's predictor sees the blended picture, so that every tile knows what its neighbours show,
and the bands that tiles share are to show the same. Its prediction is cut into tiles; the metanet's
rounds, and then plain steps, move all networks towards their tiles. ``strength`` scales the change
of the image that is aimed at, not that of the weights: whatever lies between is a mixture of two
images, and never noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gmn_opt.inr.base import InrConfig
from gmn_opt.inr.editor import WeightEditor
from gmn_opt.inr.refining import ImagePredictor
from gmn_opt.inr.settling import settle
from gmn_opt.inr.tiled import TiledInr
from gmn_opt.inr.tiling import cut

#: Tiles that are edited at once; bounds the memory.
TILES_AT_ONCE = 64
_PREDICTOR = ".predictor."
#: How far a predictor looks, in pixels.
_MIRRORED = 8


def serves_tiles(editor: WeightEditor) -> bool:
    """Whether an editor is for tiled INRs: its predictor knows no place of its own."""
    return editor.refinement is not None and not editor.config.places


@torch.no_grad()
def aim(editor: WeightEditor, image: Tensor, strength: float = 1.0) -> Tensor:
    """The image ``[H, W, C]`` that an edit of ``image`` is to reach.

    Raises ValueError for an editor of single INRs.
    """
    if editor.refinement is None or not serves_tiles(editor):
        raise ValueError(
            f"This editor ({editor.config.edit}) is for single networks of "
            f"{editor.config.grid} pixels, not for tiled ones; fit the image with --size 32 or "
            "less, or take an editor for photographs."
        )
    low, high = editor.inr.value_range
    predicted = _predicted(editor.refinement.predictor, image).clamp(low, high)
    return image + strength * (predicted - image)


def _predicted(predictor: ImagePredictor, image: Tensor) -> Tensor:
    """What a predictor makes of an image ``[H, W, C]``, mirrored at its edges as by OpenCV."""
    height, width = image.shape[:2]
    down, across = min(_MIRRORED, height - 1), min(_MIRRORED, width - 1)
    wide = pad(image.movedim(-1, 0), (across, across, down, down), mode="reflect")
    out: Tensor = predictor(wide.movedim(0, -1).unsqueeze(0))[0]
    return out[down : down + height, across : across + width]


def for_family(
    editor: WeightEditor, config: InrConfig, rounds_of: WeightEditor | None = None
) -> WeightEditor:
    """An editor for the same edit on tiles of another family: it predicts the same image.

    Args:
        editor: For tiles of any family.
        config: Of the tiles.
        rounds_of: An editor for tiles of this family, whose trained rounds it takes over; without,
            its rounds are learned by nobody (small steps along the signs of gradients), and the
            plain steps after them do the work.

    Raises ValueError for an editor of single INRs, or rounds of other sizes.
    """
    if editor.refinement is None or not serves_tiles(editor):
        raise ValueError(f"This editor ({editor.config.edit}) is for single networks, not tiles.")
    sizes = editor.config if rounds_of is None else rounds_of.config
    sizes = replace(sizes, edit=editor.config.edit, vision=editor.config.vision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = WeightEditor(config if rounds_of is None else rounds_of.inr, sizes)
    taken = {} if rounds_of is None else {
        n: t for n, t in rounds_of.state_dict().items() if _PREDICTOR not in n
    }  # fmt: skip
    seen = {n: t for n, t in editor.state_dict().items() if _PREDICTOR in n}
    try:
        made.load_state_dict({**made.state_dict(), **taken, **seen})
    except RuntimeError as error:
        raise ValueError(f"These rounds belong to an editor of other sizes: {error}") from error
    made.graph_of(config)  # refuse before any work
    return made.to(editor.scale).requires_grad_(False).eval()


@torch.no_grad()
def edit_tiles(
    editor: WeightEditor,
    tiled: TiledInr,
    strength: float = 1.0,
    on_progress: Callable[[float], None] | None = None,
) -> TiledInr:
    """An edited copy.

    Args:
        editor: For tiled INRs, see `serves_tiles`.
        tiled: Of the editor's family and channels, of any widths and depth.
        strength: From 0, where nothing changes, to 1, the edit.
        on_progress: Called with the share that is done.

    Raises ValueError for another kind of editor or INR, or a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength lies between 0 and 1, received {strength}.")
    editor.graph_of(tiled.config)  # refuse before any work
    goal = aim(editor, tiled.render(), strength)
    if strength == 0:
        return tiled
    goals, inr, done = cut(goal, tiled.tiling), tiled.template(), []
    for start in range(0, len(tiled), TILES_AT_ONCE):
        these = slice(start, start + TILES_AT_ONCE)
        known = {n: p[these] for n, p in tiled.params.items()}
        changed = editor(known, tiled.config, goal=goals[these])
        done.append(settle(inr, changed, goals[these], editor.config.settle))
        if on_progress is not None:
            on_progress(min(1.0, (start + TILES_AT_ONCE) / len(tiled)))
    params = {n: torch.cat([some[n] for some in done]) for n in tiled.params}
    before: Sequence[Any] = tiled.about.get("edits", [])
    edits = [*before, {"edit": editor.config.edit, "strength": strength}]
    return tiled.with_params(params, edits=edits)
