"""Write the photograph that ships with gmn_opt: ``python -m tasks.data.bundle_photograph``.

Takes it from scikit-image, cuts out the middle square and reduces it by area averaging.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

from PIL import Image

from tasks.data.bundle import DEFAULT_OUT
from tasks.inr_data import photograph

NAME, SIDE = "chelsea", 128


def reduced(image: Image.Image) -> Image.Image:
    """The middle square of an image, ``SIDE`` pixels wide."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((SIDE, SIDE), Image.Resampling.BOX)


def main(argv: list[str] | None = None) -> None:
    """Write the PNG and ``photographs.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    whole = Image.fromarray(photograph(NAME).numpy())
    packed = io.BytesIO()
    reduced(whole).save(packed, "PNG", optimize=True)
    (out / f"{NAME}.png").write_bytes(packed.getvalue())
    entry = {
        "title": "Chelsea the cat",
        "authors": "Stefan van der Walt",
        "licence": "CC0-1.0",
        "origin": f"skimage.data.{NAME}",
        "changes": f"middle square of {whole.width}x{whole.height}, reduced to {SIDE}x{SIDE}",
        "file": f"{NAME}.png",
        "shape": [SIDE, SIDE, 3],
        "sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
    }
    text = json.dumps({NAME: entry}, indent=1) + "\n"
    (out / "photographs.json").write_text(text, "utf-8")
    print(f"{NAME}.png: {SIDE}x{SIDE}, {len(packed.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
