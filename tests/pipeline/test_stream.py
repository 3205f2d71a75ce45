"""Images of any number of files: what comes is what a loader of all of them makes."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import ODD
from small_loader import CPU, write_noise
from small_set import write_image

from grigri_fast.pipeline import check, stream
from grigri_fast.pipeline.check import check_images, check_in_order
from grigri_fast.pipeline.loader import ImageLoader

SIZE_PX, BATCH = 24, 4
BAD = (0, 3, 4, 5, 61, 62, 63, 64, 65, 119)  # of BATCH - 1 others and more in between


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> list[Path]:
    """Return 120 files: small ones, some to be shrunk, one for Pillow, and bad ones."""
    folder = tmp_path_factory.mktemp("many")
    paths = [folder / f"{row}.jpg" for row in range(120)]
    for row, path in enumerate(paths):
        if row in BAD:
            path.write_bytes(b"no picture" if row % 2 else b"")
        elif row % 7 == 0:
            write_noise(path, 60 + row, 200, seed=row)
        else:
            write_image(path, row, size=(32 + row % 5, 30))
    write_image(paths[21], 21, size=(1100, 1000))  # decoded at a fraction of its size
    paths[10].write_bytes(ODD["cmyk.tif"][0])
    return paths


def parts_of(paths: list[Path], **options) -> list[stream.Part]:
    settings = {"size_px": SIZE_PX, "batch_size": BATCH, "device": CPU, "threads": 1} | options
    made = stream.ImageStream(paths, max_pixels=10**8, **settings)
    parts = list(made.parts(check_in_order(paths, threads=1, max_pixels=10**8)))
    made.close()
    return parts


@pytest.mark.parametrize("host_warp", [None, False], ids=["on the host", "by DALI"])
@pytest.mark.parametrize("count", [120, 37])  # with 37 one image is left over
def test_a_stream_is_what_a_loader_of_all_files_makes(
    many, count: int, host_warp, monkeypatch
) -> None:
    loader_of = functools.partial(ImageLoader, host_warp=host_warp)
    monkeypatch.setattr(stream, "ImageLoader", loader_of)
    paths = many[:count]
    found = check_images(paths, threads=1, max_pixels=10**8)
    options = {"size_px": SIZE_PX, "batch_size": BATCH, "device": CPU, "threads": 1}
    good = check.without(np.arange(count), found.bad)
    batches = [batch.images_NHWC for batch in loader_of(paths, found, **options).eval_epoch(good)]
    parts = parts_of(paths)
    # The places are used again and again: there are 85 of them.
    assert [p for part in parts for p in part.positions] == list(range(count))
    assert {p: why for part in parts for p, why in part.bad.items()} == found.bad
    for part in parts:
        assert len(part.images_NHWC) == len(part.positions) - len(part.bad)
        assert set(part.bad) <= set(part.positions)
    assert len(parts) == len(batches)
    assert all(torch.equal(part.images_NHWC, b) for part, b in zip(parts, batches, strict=True))


def test_a_file_that_goes_or_changes_after_its_check_costs_only_itself(many, tmp_path) -> None:
    paths = [tmp_path / path.name for path in many]
    for path, other in zip(paths, many, strict=True):
        path.write_bytes(other.read_bytes())
    made = stream.ImageStream(
        paths, size_px=SIZE_PX, batch_size=BATCH, device=CPU, threads=1, max_pixels=10**8
    )
    found = check_images(paths, threads=1, max_pixels=10**8)
    gone = [*range(40, 48), 50]  # two batches, and a file
    for row in gone:
        paths[row].unlink()
    checks = [
        (row, check.FileCheck(int(found.crc32_N[row]), *found.sizes_HW[row].tolist()))
        for row in range(60)
        if row not in found.bad
    ]
    parts = list(made.parts(iter(checks)))
    bad = {p: why for part in parts for p, why in part.bad.items()}
    assert list(bad) == gone and set(bad.values()) == {os.strerror(2)}
    assert sum(len(part.images_NHWC) for part in parts) == len(checks) - len(gone)


def test_only_bad_files_and_none(tmp_path) -> None:
    assert parts_of([]) == []
    (part,) = parts_of([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert part.positions == range(2) and list(part.bad) == [0, 1] and not len(part.images_NHWC)


@pytest.mark.parametrize("known", [(), range(120), range(1, 120)])
def test_files_are_checked_in_order_a_bounded_number_ahead(many, known, monkeypatch) -> None:
    monkeypatch.setattr(check, "_LOOKED_AT", 10)
    check_images(many, np.array(known, dtype=np.intp), threads=1, max_pixels=10**8)  # remembered
    looked_at: list[Path] = []
    stamp = check.image_file.stamp

    def counted(path: Path):
        looked_at.append(path)
        return stamp(path)

    monkeypatch.setattr(check.image_file, "stamp", counted)
    expected = check_images(many, threads=1, max_pixels=10**8, use_cache=False)
    looked_at.clear()
    results = {}
    for row, result in check_in_order(many, threads=1, max_pixels=10**8):
        assert row == len(results)
        results[row] = result
        assert len(looked_at) <= row + 50
    assert {row: r.reason for row, r in results.items() if r.reason} == expected.bad
    for row, result in results.items():
        if not result.reason:
            assert result.crc32 == expected.crc32_N[row]
            assert [result.height_px, result.width_px] == expected.sizes_HW[row].tolist()
            assert result.by_pillow == (row in expected.by_pillow)
