"""The code on the page about INRs runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gmn_opt.data import load_bundled
from gmn_opt.inr import psnr


def test_the_code_on_the_page() -> None:
    text = (Path(__file__).parents[2] / "docs" / "inr.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "inr.md", "exec"), names)
    images = load_bundled("mnist").test_images[: len(names["pixels"])]
    wanted = images.float().unsqueeze(-1) / 127.5 - 1
    assert float(psnr(names["pixels"], wanted).min()) > 39
