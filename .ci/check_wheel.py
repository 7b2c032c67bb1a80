"""Check that a wheel holds gmn_opt and its data, and nothing else: ``check_wheel.py FILE.whl``.

With the native kernel it must be tagged for a platform, without it for any.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import PurePosixPath

REQUIRED = {
    "gmn_opt/__init__.py",
    "gmn_opt/py.typed",
    "gmn_opt/metanet/native/edge_pass.cpp",
    "gmn_opt/metanet/native/edge_tiles.h",
    "gmn_opt/metanet/native/incidence.cpp",
    "gmn_opt/metanet/native/sine.cpp",
    "gmn_opt/metanet/native/step.cpp",
    "gmn_opt/metanet/native/vectors.h",
    "gmn_opt/data/bundled/manifest.json",
    "gmn_opt/data/bundled/DATA.md",
    "gmn_opt/data/bundled/fashion_mnist-train-images.idx.gz",
    "gmn_opt/data/bundled/mnist-train-images.idx.gz",
    "gmn_opt/data/bundled/photographs.json",
    "gmn_opt/data/bundled/chelsea.png",
}
SUFFIXES = {".py", ".typed", ".json", ".md", ".gz", ".png", ".safetensors", ".cpp", ".h"}
LIBRARIES = "gmn_opt/metanet/native/_edge_pass_"
MAX_BYTES = 20_000_000


def problems(file: str, names: list[str], size: int) -> list[str]:
    """What is wrong with a wheel of these members and this size; empty when all is well."""
    found = [f"lacks {name}" for name in sorted(REQUIRED - set(names))]
    for name in names:
        path = PurePosixPath(name)
        if path.parts[0].endswith(".dist-info"):
            continue
        if path.parts[0] != "gmn_opt":
            found.append(f"holds {name}, which is not part of gmn_opt")
        elif path.suffix not in SUFFIXES and not name.startswith(LIBRARIES):
            found.append(f"holds {name}, of a kind that is not package data")
    if not any(name.endswith(".safetensors") for name in names):
        found.append("holds no *.safetensors weights")
    pure, native = file.endswith("-none-any.whl"), any(n.startswith(LIBRARIES) for n in names)
    if pure == native:
        found.append(
            "is tagged for any platform, but holds the native kernel"
            if pure
            else "is tagged for a platform, but lacks the native kernel"
        )
    if size > MAX_BYTES:
        found.append(f"is {size} bytes large, more than {MAX_BYTES}")
    return found


def main() -> None:
    """Print what the wheel holds; exit 1 if it is not what it should be."""
    file = sys.argv[1]
    with zipfile.ZipFile(file) as wheel:
        members = wheel.infolist()
    size = sum(member.compress_size for member in members)
    print(f"{file}: {len(members)} files, {size:,} bytes")
    files = [member.filename for member in members if not member.is_dir()]
    found = problems(file, files, size)
    for problem in found:
        print(f"error: the wheel {problem}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
