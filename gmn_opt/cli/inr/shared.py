"""What the commands on INRs share: finding editors, reading networks, refusing in time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import gmn_opt
from gmn_opt.cli.errors import fail

if TYPE_CHECKING:
    from gmn_opt.inr import Inr, InrConfig, WeightEditor

Omega = Annotated[float, typer.Option(help="Frequency factor of a SIREN from elsewhere.")]
Editor = Annotated[
    Path | None, typer.Option("--editor", metavar="FILE", help="A trained editor of your own.")
]
Strength = Annotated[
    float, typer.Option(help="0 for nothing, 1 for the edit; what lies between is in between.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]
Family = Annotated[
    str, typer.Option(help="What networks are: siren, or grid (grids of features, and a decoder).")
]
#: What files of networks and of images end in.
NETWORKS, PICTURES = (".safetensors",), (".png", ".jpg", ".jpeg", ".webp", ".bmp")
#: Largest side of an image that is rendered.
LARGEST = 16384
#: Longer side of images that one network is enough for.
ONE_NETWORK = 32
#: Side of the images that an editor was made for, by their channels, where nothing else says it.
SIDES = {1: 28, 3: 32}


def find_editor(
    edit: str | None, path: Path | None, channels: int | None
) -> tuple[WeightEditor, str]:
    """The editor in a file, or the shipped one for an edit; and what it is called."""
    from gmn_opt.inr import load_editor, shipped_editors
    from gmn_opt.inr.editor_files import colours, editor_name
    from gmn_opt.weights import WeightsError

    if path is None and edit is None:
        there = (
            ", ".join(shipped_editors(channels) or shipped_editors()) or "none in this installation"
        )
        fail(f"say which edit with --edit, or give a file with --editor; there are: {there}")
    if path is not None and path.is_dir():
        fail(f"{path} is a folder; --editor takes a file")
    other = next((c for c in SIDES if c != channels and editor_name(str(edit), c)
                  in shipped_editors()), None)  # fmt: skip
    if path is None and channels and other and editor_name(str(edit), channels) not in (
        shipped_editors()
    ):  # fmt: skip
        fail(f"{edit} is for {colours(other)} images; fit with --{colours(other)}")
    try:
        if path is None:
            found = load_editor(str(edit), channels)
            return found, editor_name(found.config.edit, found.inr.outputs)
        found = load_editor(path, channels)
    except WeightsError as error:
        fail(str(error))
    if edit is not None and found.config.edit != edit:
        fail(f"{path} is an editor for {found.config.edit!r}, not for {edit!r}")
    return found, str(path)


def side_of(editor: WeightEditor) -> int:
    """Side of the images that an editor was made for."""
    size = size_in(editor.about)
    return size[0] if size else SIDES.get(editor.inr.outputs, SIDES[1])


def is_for_images(config: InrConfig) -> bool:
    """Whether networks of this config show grey or colour images."""
    return config.inputs == 2 and config.outputs in SIDES


def image_file(path: Path) -> Path:
    """The file, or where there is none of this name, the bundled photograph."""
    check_image(path)
    from gmn_opt.data import photograph_names, photograph_path

    try:
        is_bundled = not path.exists() and str(path) in photograph_names()
        return photograph_path(str(path)) if is_bundled else path
    except RuntimeError as error:
        fail(str(error))


def check_image(path: Path) -> None:
    """Refuse a path that is no image's, before anything large is imported."""
    if path.is_dir():
        fail(f"{path} is a folder; give an image file")
    # bundled photographs are files of the package
    bundled = Path(gmn_opt.__file__).parent / "data" / "bundled" / f"{path}.png"
    if not path.is_file() and not (len(path.parts) == 1 and bundled.is_file()):
        fail(f"there is no file {path}")


def check_network(path: Path) -> None:
    """Refuse a path that is no network's, before anything large is imported."""
    if path.is_dir():
        fail(f"{path} is a folder; give the file of a network")
    if not path.is_file():
        fail(f"There is no file {path}.")


def check_family(family: str) -> None:
    """Refuse a family that there is not."""
    if family not in ("siren", "grid"):
        fail(f"there is no family {family!r}; --family takes siren or grid")


def check_strength(strength: float) -> None:
    """Refuse what does not lie between nothing and the edit."""
    if not 0 <= strength <= 1:
        fail(f"--strength takes a number from 0 to 1 such as 0.5, received {strength}")


def load_network(path: Path, omega: float) -> tuple[Inr, dict[str, Any]]:
    """The network in a file, and what was saved about it."""
    from gmn_opt.inr import read_inr
    from gmn_opt.weights import WeightsError

    if not 0 < omega < math.inf:
        fail(f"--omega takes a positive number such as 30, received {omega}")
    if path.is_dir():
        fail(f"{path} is a folder; give the file of a network")
    try:
        inr, about = read_inr(path, omega=omega)
    except WeightsError as error:
        fail(str(error))
    return inr, about if isinstance(about, dict) else {}


def size_in(about: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the image of a network, if what was saved about it says them."""
    size = about.get("size")
    if not isinstance(size, list) or len(size) != 2:
        return None
    right = all(type(n) is int and 1 <= n <= LARGEST for n in size)
    return (size[0], size[1]) if right else None


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Refuse, with a remedy, where memory does not suffice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has no error of its own for this on CPUs
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        fail(f"there is not enough memory for this; {remedy}")


def say_changes(changes: tuple[str, ...], path: Path) -> None:
    """Say on standard error what was done to an image on the way."""
    if changes:
        typer.echo(f"changed {path}: {'; '.join(changes)}", err=True)


def check_out(path: Path, *suffixes: str, force: bool = False) -> None:
    """Refuse before anything is computed."""
    if suffixes and path.suffix.lower() not in suffixes:
        fail(f"cannot write {path}: the name must end in {', '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        fail(f"cannot write {path}: {path.parent} is not a folder")
    if path.is_dir():
        fail(f"cannot write {path}: it is a folder")
    if path.exists() and not force:
        fail(f"{path} is there already; choose another name, or pass --force to write over it")
