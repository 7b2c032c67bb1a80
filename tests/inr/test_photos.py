"""Reading and writing photographs, galleries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmn_opt.inr.gallery import draw_gallery, error_image, levels
from gmn_opt.inr.photos import PhotoError, check_size, read_photo, tiles, write_photo


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_pixels_survive(tmp_path: Path) -> None:
    for shape in ((5, 7), (5, 7, 3)):
        array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        photo = read_photo(save(tmp_path / "a.png", array))
        assert photo.changes == ()
        assert np.array_equal(photo.pixels.squeeze(-1).numpy(), array)
        write_photo(tmp_path / "b.png", photo.pixels)
        assert torch.equal(read_photo(tmp_path / "b.png").pixels, photo.pixels)


def test_the_middle_by_area(tmp_path: Path) -> None:
    array = np.zeros((4, 8), np.uint8)
    array[:2, 2:4], array[2:, 4:6] = 200, 100
    photo = read_photo(save(tmp_path / "a.png", array), 2, 1)
    assert photo.pixels.squeeze(-1).tolist() == [[200, 0], [0, 100]]
    assert photo.changes == ("8x4 to its middle, 4x4", "4x4 to 2x2")
    photo = read_photo(tmp_path / "a.png", 6, 3)
    assert photo.pixels.shape == (6, 6, 3)
    assert photo.changes[0] == "grey to colour"


def test_other_modes(tmp_path: Path) -> None:
    array = np.full((4, 4), 200, np.uint8)
    Image.fromarray(array).convert("1").save(tmp_path / "bits.png")
    assert read_photo(tmp_path / "bits.png").changes == ("black and white to grey",)
    for mode, message in (("P", "a palette"), ("LA", "transparency"), ("I;16", "more than 8 bits"),
                          ("CMYK", "the colour mode CMYK")):  # fmt: skip
        path = tmp_path / (f"{mode[0]}.jpg" if mode == "CMYK" else f"{mode[0]}.png")
        wide = Image.fromarray(array.astype(np.uint16))
        (wide if mode == "I;16" else Image.fromarray(array).convert(mode)).save(path)
        with pytest.raises(PhotoError, match=message):
            read_photo(path)


def test_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="the name must end in .png"):
        write_photo(tmp_path / "a.tiff", torch.zeros(2, 2, 1, dtype=torch.uint8))
    with pytest.raises(Exception, match=r"cannot|Cannot|invalid|Unsupported"):
        write_photo(tmp_path / "a.png", torch.zeros(2, 2, 5, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_levels_and_errors() -> None:
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert levels(image).tolist() == [0, 0, 128, 255, 255]
    assert levels(image, (0.0, 2.0)).tolist() == [0, 0, 0, 128, 255]
    assert error_image(image, image).tolist() == [-1.0] * 5
    assert error_image(image, torch.ones(5)).tolist() == [1, 1, 0, -1, 0]


def test_a_gallery_shows_its_images(tmp_path: Path) -> None:
    black, white = -torch.ones(2, 8, 8, 1), torch.ones(2, 8, 8, 3)
    draw_gallery({"a": black, "b": white}, tmp_path / "g.png", "title")
    with Image.open(tmp_path / "g.png") as file:
        pixels = np.array(file.convert("L"))
    width = pixels.shape[1]
    assert pixels[-60:-20, width // 4].max() < 30
    assert pixels[-60:-20, 3 * width // 4].min() > 225
    for columns in ({}, {"a": black[:0]}, {"a": black, "b": white[:1]}):
        with pytest.raises(ValueError, match="columns of the same number"):
            draw_gallery(columns, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_an_image_too_large_for_its_format(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"cannot write .*a\.webp: .*16383"):
        write_photo(tmp_path / "a.webp", torch.zeros(16384, 2, 3, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    image.save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png")
    assert photo.changes == ("turned upright as its EXIF data say",)
    assert np.array_equal(photo.pixels[..., 0].numpy(), np.rot90(pixels, -1))


def test_tiles_are_the_whole_its_quarters_and_its_sixteenths() -> None:
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        image = torch.randint(256, (16, 16, channels), dtype=torch.uint8, generator=generator)
        found = tiles(image, 4)
        assert found.shape == (21, 4, 4, channels)
        assert found.dtype == torch.uint8
        whole = image.double().view(4, 4, 4, 4, channels).mean((1, 3))
        assert float((found[0] - whole).abs().max()) <= 1
        second = image[:8, 8:].double().view(4, 2, 4, 2, channels).mean((1, 3))
        assert float((found[2] - second).abs().max()) <= 1
        assert torch.equal(found[5 + 6], image[4:8, 8:12])  # row 1, column 2
        assert tiles(image, 30).shape == (21, 30, 30, channels)


def test_animations_and_other_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (10, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    photo = read_photo(tmp_path / "a.webp")
    assert photo.changes == ("the first of 2 frames taken",)
    assert int(photo.pixels.float().mean()) == 10
    frames[0].save(tmp_path / "a.gif")
    with pytest.raises(PhotoError, match="give a whole PNG, JPEG, WebP or BMP"):
        read_photo(tmp_path / "a.gif")
    monkeypatch.setattr("gmn_opt.inr.photos.MOST_PIXELS", 15)
    with pytest.raises(PhotoError, match="4x4 pixels, more than 15"):
        read_photo(tmp_path / "a.webp")


def test_a_large_photograph_is_reduced_as_a_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((30, 60, 3), np.uint8))
    photo = read_photo(path, longest=20)
    assert photo.pixels.shape == (10, 20, 3)
    assert photo.changes == ("60x30 to 20x10",)
    assert read_photo(path, longest=60).changes == ()


def test_formats_have_largest_sides() -> None:
    check_size(Path("a.png"), 5, 16384)
    with pytest.raises(PhotoError, match="WEBP holds sides up to 16383 pixels, not 16384x5"):
        check_size(Path("a.webp"), 5, 16384)
