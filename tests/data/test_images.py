from __future__ import annotations

import pytest
import torch

from gmn_opt.data import ImageDataset, load_bundled, normalize


def small(**changes: torch.Tensor) -> ImageDataset:
    parts = {
        "train_images": torch.randint(0, 256, (6, 4, 4), dtype=torch.uint8),
        "train_labels": torch.arange(6),
        "test_images": torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8),
        "test_labels": torch.arange(3),
    }
    return ImageDataset(**(parts | changes), name="small")


def test_normalize_agrees_with_the_definition() -> None:
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    expected = (images.double().reshape(5, 14, 2, 14, 2).mean((2, 4)) / 255 - 0.2860) / 0.3530
    result = normalize(images, 14)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result[:, 0].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 8, 14, 28])
def test_shapes_and_flat_images(size: int) -> None:
    result = normalize(torch.full((2, 28, 28), 51, dtype=torch.uint8), size, mean=0.0, std=1.0)
    assert result.shape == (2, 1, size, size)
    torch.testing.assert_close(result, torch.full_like(result, 0.2))


def test_an_image_is_the_same_input_in_every_batch() -> None:
    images = load_bundled("mnist").test_images[:8]
    together = normalize(images, 8)
    alone = torch.cat([normalize(image[None], 8) for image in images])
    assert torch.equal(together, alone)


def test_normalized_uses_the_training_statistics_for_both_splits() -> None:
    data = load_bundled("fashion_mnist")
    train, test = data.normalized()
    assert abs(float(train.double().mean())) < 1e-4
    assert abs(float(train.double().std()) - 1) < 1e-4
    assert torch.equal(test, normalize(data.test_images, mean=data.mean, std=data.std))
    assert data.normalized(14)[0].shape == (10_000, 1, 14, 14)


def test_statistics_agree_with_torch() -> None:
    data = small()
    pixels = data.train_images.double() / 255
    assert data.mean == pytest.approx(float(pixels.mean()))
    assert data.std == pytest.approx(float(pixels.std(correction=0)))


@pytest.mark.parametrize(
    ("images", "size", "std", "message"),
    [
        (torch.zeros(2, 28, 28), 28, 1.0, r"expected uint8 \[N, H, W\], got torch.float32"),
        (torch.zeros(28, 28, dtype=torch.uint8), 28, 1.0, r"got torch.uint8 \[28, 28\]"),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), 32, 1.0, "choose 1 to 28"),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), 0, 1.0, "to side 0"),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), 8, 0.0, "std must be positive, got 0.0"),
    ],
)
def test_normalize_refuses(images: torch.Tensor, size: int, std: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize(images, size, std=std)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(6, 4, 4)}, "small: train images must be uint8"),
        ({"test_labels": torch.zeros(4, dtype=torch.int64)}, r"test labels must be int64 \[3\]"),
        ({"train_labels": torch.zeros(6)}, "train labels must be int64"),
    ],
)
def test_dataset_checks_its_parts(changes: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_repr_is_one_short_line() -> None:
    assert repr(small()) == "ImageDataset('small', train=6, test=3, 4x4, classes=6)"
