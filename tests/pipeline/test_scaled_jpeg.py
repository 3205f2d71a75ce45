"""Large JPEGs are decoded at a fraction of their size: the same picture as when decoded whole."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_loader import CPU, collect, make_loader

from grigri_fast.errors import GrigriError
from grigri_fast.pipeline import affine, host_batches, scaled_jpeg
from grigri_fast.pipeline.cache import plan_cache
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.reading import CheckedFiles

SIDE = 64
ORIENTATION = 274


def photograph(seed: int, height: int = 900, width: int = 1300) -> np.ndarray:
    """Return a picture with detail of all sizes, as photographs have, and other corners each."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128.0)
    for step in (2, 4, 8, 16, 32, 64, 128, 256):
        shape = (height // step + 2, width // step + 2, 3)
        blobs = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        large = blobs.resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(large, dtype=np.float64) - 128) * step**0.5 / 16
    return picture.clip(0, 255).astype(np.uint8)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return large JPEGs of all kinds."""
    folder = tmp_path_factory.mktemp("large")
    kinds = [{"exif": turned(i)} for i in range(2, 9)]
    kinds += [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}]
    paths = []
    for i, how in enumerate(kinds):
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(photograph(i)).save(paths[-1], quality=88, **how)
    for mode in ("L", "CMYK"):
        paths.append(folder / f"{mode}.jpg")
        Image.fromarray(photograph(len(paths))).convert(mode).save(paths[-1], quality=88)
    paths.append(folder / "odd.jpg")  # sides that are no multiples of anything
    Image.fromarray(photograph(99, 1021, 1303)).save(paths[-1], quality=88)
    return paths


def test_the_picture_is_the_one_that_is_decoded_whole(files: list[Path]) -> None:
    checked = check_images(files, threads=1, max_pixels=10**8)
    working_HW = affine.working_sizes(checked.sizes_HW, SIDE)
    assert (scaled_jpeg.factors(checked.sizes_HW, working_HW) == 4).all()
    contents, _ = CheckedFiles(files, checked, SIDE, scales=True).read(list(range(len(files))))
    assert {pixels.ndim for pixels in contents.values()} == {3}
    rows = np.arange(len(files))
    ours, whole = (make_loader(files, SIDE, checked, host_warp=warp) for warp in (True, False))
    for epoch in ("eval", "train"):
        a, b = (
            collect(
                loader.eval_epoch(rows)
                if epoch == "eval"
                else loader.train_epoch(rows, seed=0, epoch=1, augment=True)
            )[0].astype(int)
            for loader in (ours, whole)
        )
        off_N = np.abs(a - b).reshape(len(rows), -1)
        # libjpeg-turbo repeats the colours of 4:2:2 in one axis instead of interpolating them.
        mean_N = np.where(np.array([path.stem == "10" for path in files]), 2.0, 0.8)
        assert (off_N.mean(1) < mean_N).all() and (off_N.max(1) <= 5 * mean_N).all()
        assert off_N.any()  # they are two ways


def test_real_photographs_lose_nothing(grigri: Path, tmp_path: Path) -> None:
    # Photographs of 128 px side by side, at their own size: as much detail as there can be.
    names = sorted((grigri / "images").iterdir())[:120]
    tiles = [np.asarray(Image.open(name).convert("RGB"))[:120, :120] for name in names]
    mosaic = np.vstack([np.hstack(tiles[12 * i : 12 * i + 12]) for i in range(10)])
    path = tmp_path / "mosaic.jpg"
    Image.fromarray(mosaic).save(path, quality=90)
    for size_px, factor in ((128, 4), (64, 8), (200, 2)):
        checked = check_images([path], threads=1, max_pixels=10**8)
        ours, whole = (
            collect(make_loader([path], size_px, checked, host_warp=w).eval_epoch(np.arange(1)))[0]
            for w in (True, False)
        )
        working_HW = affine.working_sizes(checked.sizes_HW, size_px)
        assert scaled_jpeg.factors(checked.sizes_HW, working_HW).tolist() == [factor]
        off = np.abs(ours.astype(int) - whole.astype(int))
        assert off.mean() < 1.5 and off.max() <= 25


def test_the_factor_leaves_at_least_the_size_that_is_wanted() -> None:
    sizes_HW = np.array([[3000, 4000], [8000, 6000], [895, 1400], [896, 1400], [700, 900]])
    working_HW = affine.working_sizes(sizes_HW, 224)
    assert scaled_jpeg.factors(sizes_HW, working_HW).tolist() == [4, 8, 1, 2, 1]


def test_what_is_no_jpeg_or_is_cut_off_is_left_to_the_others(
    files: list[Path], tmp_path: Path
) -> None:
    size_HW = np.array([128, 185])
    content = files[0].read_bytes()
    with pytest.raises(GrigriError, match="truncated"):
        scaled_jpeg.decode(content[: len(content) // 2], 4, size_HW)
    with pytest.raises(GrigriError, match="size"):
        scaled_jpeg.decode(content, 8, size_HW)
    png = tmp_path / "large.png"
    Image.fromarray(photograph(3)).save(png)
    both = [png, files[0]]
    ours, whole = (
        collect(make_loader(both, SIDE, host_warp=w).eval_epoch(np.arange(2)))[0]
        for w in (True, False)
    )
    assert np.abs(ours[0].astype(int) - whole[0].astype(int)).max() <= 1


def test_pixels_are_the_same_from_the_cache(files: list[Path]) -> None:
    checked = check_images(files, threads=1, max_pixels=10**8)
    rows = np.arange(len(files))
    plan = plan_cache("ram", checked, SIDE, CPU)
    plain, kept = (make_loader(files, SIDE, checked, cache=cache) for cache in (None, plan))
    expected, _ = collect(plain.eval_epoch(rows))
    for _ in range(2):
        images, _ = collect(kept.eval_epoch(rows))
        assert (images == expected).all()


def test_no_more_files_are_read_at_once_than_are_decoded(files: list[Path], monkeypatch) -> None:
    groups: list[int] = []
    read = CheckedFiles.read

    def noted(self: CheckedFiles, rows: list[int]):
        groups.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(CheckedFiles, "read", noted)
    monkeypatch.setattr(host_batches, "GROUP_PIXELS", 3 * 1024 * 1303)
    loader = make_loader(files, SIDE, batch_size=len(files), threads=1)
    collect(loader.eval_epoch(np.arange(len(files))))
    assert max(groups) <= 3 and sum(groups) == len(files)
