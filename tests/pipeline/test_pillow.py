"""Files that DALI refuses, misreads or complains about are read by Pillow, alike everywhere."""

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import (
    BASE,
    GRAY16,
    ODD,
    SIDE,
    TURNED,
    png_chunk,
    tiff,
    webp_that_dali_refuses,
    with_chunk,
)
from PIL import Image
from small_loader import collect, make_loader
from small_set import write_image

from grigri_fast.errors import GrigriError
from grigri_fast.inference import predictor
from grigri_fast.pipeline import check, pillow
from grigri_fast.pipeline.cache import plan_cache
from grigri_fast.pipeline.check import check_images

NAMES = list(ODD)


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("odd")
    for name, (content, _, _) in ODD.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in NAMES]


def assert_seen(name: str, image_HWC: np.ndarray) -> None:
    _, expected, off = ODD[name]
    assert image_HWC.shape == expected.shape, name
    assert np.abs(image_HWC.astype(int) - expected).max() <= off, name


def test_each_odd_file_is_used_with_its_pixels_and_nothing_is_printed(odd_files, capfd) -> None:
    """At their own size the loader returns the very pixels; it is silent in two epochs."""
    checked = check_images(odd_files, threads=1, max_pixels=10**8)
    assert checked.bad == {}
    assert {NAMES[row] for row in checked.by_pillow} >= {
        *("turned.webp", "profile.webp", "15-bits.bmp", "bilevel.tif", "gray-alpha.tif"),
        *("cmyk.tif", "lab.tif", "junk.jpg", "profile-damaged.png", "avif.avif"),
    }
    loader = make_loader(odd_files, size_px=SIDE)
    rows = np.arange(len(NAMES))
    whole, _ = collect(loader.eval_epoch(rows))
    trained, _ = collect(loader.train_epoch(rows, seed=0, epoch=1, augment=False))
    for name, image_HWC in zip(NAMES, whole, strict=True):
        assert_seen(name, image_HWC)
    assert (whole == trained).all()
    assert capfd.readouterr().err == ""


def test_a_picture_in_memory_is_seen_as_its_file_is(odd_files) -> None:
    for name, path in zip(NAMES, odd_files, strict=True):
        if name == "text-damaged.png":
            continue  # Pillow does not open it
        with Image.open(path) as image:
            assert_seen(name, predictor._pixels(image))


def test_the_digests_of_duplicates_are_equal_whoever_decodes_them(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(ODD["turned.webp"][0])
    Image.fromarray(np.ascontiguousarray(TURNED)).save(tmp_path / "b.png")
    paths = [tmp_path / "a.webp", tmp_path / "b.png"]
    checked = check_images(paths, threads=1, max_pixels=10**8, digests=True)
    assert checked.by_pillow == {0} and (checked.digests_N2[0] == checked.digests_N2[1]).all()


def test_they_are_remembered_as_pillows(odd_files, monkeypatch) -> None:
    first = check_images(odd_files, threads=1, max_pixels=10**8)

    def not_again(job: object, groups):
        assert not list(groups)
        yield from ()

    monkeypatch.setattr(check, "_check_groups", not_again)
    second = check_images(odd_files, threads=1, max_pixels=10**8)
    assert second.by_pillow == first.by_pillow and (second.crc32_N == first.crc32_N).all()


def test_with_a_cache_each_is_decoded_once(odd_files, monkeypatch) -> None:
    checked = check_images(odd_files, threads=1, max_pixels=10**8)
    decoded = []
    decode = pillow.decode
    monkeypatch.setattr(pillow, "decode", lambda c: decoded.append(1) or decode(c))
    plan = plan_cache("ram", checked, SIDE, torch.device("cpu"))
    loader = make_loader(odd_files, size_px=SIDE, cache=plan)
    rows = np.arange(len(NAMES))
    first, _ = collect(loader.eval_epoch(rows))
    second, _ = collect(loader.eval_epoch(rows))
    assert len(decoded) == len(checked.by_pillow) and (first == second).all()


def test_large_ones_are_shrunk_as_others_are(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.webp").write_bytes(webp_that_dali_refuses(picture, xmp=b"<x/>"))
    loader = make_loader([tmp_path / "a.png", tmp_path / "b.webp"])
    images, _ = collect(loader.eval_epoch(np.arange(2)))
    assert (images[0] == images[1]).all()


DAMAGED = {
    "pixels.png": (with_chunk(b"")[:-20] + b"\0\1\2\3" + with_chunk(b"")[-16:], "checksum"),
    "cut.png": (with_chunk(b"")[:-30], "truncated"),
    "cut.webp": (ODD["turned.webp"][0][:-30], "Could not retrieve image info"),
    "cut.tif": (ODD["cmyk.tif"][0][:-999], "truncated"),
    "cut.avif": (ODD["avif.avif"][0][:-99], "cannot be decoded"),
    "int32.tif": (tiff([32], 1, bytes(4 * SIDE * SIDE), (339, 2)), "32-bit integers"),
}


def test_what_is_damaged_is_refused_with_a_reason(tmp_path: Path) -> None:
    for name, (content, _) in DAMAGED.items():
        (tmp_path / name).write_bytes(content)
    write_image(tmp_path / "good.jpg", 1)
    names = [*DAMAGED, "good.jpg"]
    found = check_images([tmp_path / name for name in names], threads=1, max_pixels=10**8)
    assert [names[row] for row in found.bad] == list(DAMAGED)
    for (_, says), reason in zip(DAMAGED.values(), found.bad.values(), strict=True):
        assert says in reason


def test_a_bomb_is_refused_by_the_size_it_claims(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000)).save(tmp_path / "a.avif", speed=10)
    found = check_images([tmp_path / "a.avif"], threads=1, max_pixels=10**6)
    assert found.bad == {0: "4,000 x 3,000 pixels, more than the 1,000,000 of --max-pixels"}


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.fromarray(BASE).save(tmp_path / "a.heic", quality=100)
    (image_HWC,), _ = collect(make_loader([tmp_path / "a.heic"], SIDE).eval_epoch(np.arange(1)))
    assert np.abs(image_HWC.astype(int) - BASE).mean() < 3


def test_heic_without_its_library_names_it(monkeypatch) -> None:
    imports = builtins.__import__

    def without(name: str, *rest: object):
        if name == "pillow_heif":
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    pillow._pillow_heif.cache_clear()
    try:
        with pytest.raises(GrigriError, match="HEIC is read with pillow-heif: pip install"):
            pillow.decode(b"\0\0\0\x18ftypheic\0\0\0\0")
        assert pillow.version().count("-") == 1
    finally:
        pillow._pillow_heif.cache_clear()


def test_floating_point_is_black_at_0_and_white_at_1() -> None:
    values = np.array([[0, 0.5, 1, 2, np.nan]], dtype=np.float32)
    assert pillow.rgb(Image.fromarray(values))[0, :, 0].tolist() == [0, 128, 255, 255, 0]


def test_16_bits_keep_their_range() -> None:
    picture = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert pillow.rgb(picture)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert pillow.rgb(Image.fromarray(GRAY16)).max() == round(int(GRAY16.max()) / 257)


def test_a_png_with_a_chunk_of_its_own_keeps_its_pixels() -> None:
    assert (pillow.decode(with_chunk(png_chunk(b"prVt", b"abc"))) == BASE).all()
