from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_set import decoded

from grigri_fast.pipeline import decode
from grigri_fast.pipeline.check import check_images


def exif_rotated(path: Path, image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(path, exif=exif, quality=95)


KINDS = {
    "gray.jpg": lambda path, image: image.convert("L").save(path, quality=95),
    "colour.jpg": lambda path, image: image.save(path, quality=95),
    "progressive.jpg": lambda path, image: image.save(path, quality=90, progressive=True),
    "turned.jpg": exif_rotated,
    "plain.png": lambda path, image: image.save(path),
    "palette.png": lambda path, image: image.convert("P").save(path),
    "alpha.png": lambda path, image: image.convert("RGBA").save(path),
    "lossless.webp": lambda path, image: image.save(path, lossless=True),
    "plain.bmp": lambda path, image: image.save(path),
    "plain.tiff": lambda path, image: image.save(path),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_seen_as_pillow_sees_it(tmp_path: Path, name: str) -> None:
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)
    path = tmp_path / name
    KINDS[name](path, Image.fromarray(pixels))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = check_images([path], threads=1, max_pixels=10**8)
    assert not found.bad
    assert tuple(found.sizes_HW[0]) == expected.shape[:2]
    assert np.abs(decoded(path).astype(int) - expected.astype(int)).max() <= 1


def test_groups_fit_the_memory_together() -> None:
    rows = [0, 2, 3, *range(4, 74)]
    weights = [32, 32, 32, *[1] * 70]
    groups = list(decode.groups_of(rows, weights, limit=64))
    assert groups[0] == [0, 2]
    assert max(map(len, groups)) <= 64
    assert [i for group in groups for i in group] == rows
