"""Files whose bytes are those that were checked and still cannot be decoded in the loader.

Nothing of the loader is replaced: DALI really fails. Both ways of making batches are tried, the
one for a GPU with DALI's operators for a CPU.
"""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from odd_images import webp_that_dali_refuses
from PIL import Image
from small_loader import collect, make_loader

from grigri_fast.pipeline import decode, host_batches, reading
from grigri_fast.pipeline.check import ImageCheck, check_images

WAYS = pytest.mark.parametrize("host_warp", [True, False], ids=["host", "dali"])
ROWS = np.arange(37)


def checked(files: list[Path]) -> ImageCheck:
    return check_images(files, threads=2, max_pixels=10**8)


def with_content(found: ImageCheck, row: int, content: bytes) -> ImageCheck:
    """Return the check as if it had seen this content in a file."""
    crc32_N = found.crc32_N.copy()
    crc32_N[row] = zlib.crc32(content)
    return dataclasses.replace(found, crc32_N=crc32_N)


def misread(monkeypatch, wrong: dict[Path, bytes]) -> None:
    """Let the loader read other bytes than are in some files, as from a disk that fails."""
    read = reading.files.read_bytes

    def read_wrong(path: Path, *limit: int) -> bytes:
        return wrong.get(path) or read(path, *limit)

    monkeypatch.setattr(reading.files, "read_bytes", read_wrong)


@WAYS
def test_a_file_that_has_become_undecodable_costs_only_itself(files, host_warp: bool) -> None:
    expected, _ = collect(make_loader(files, host_warp=host_warp).eval_epoch(ROWS))
    found = checked(files)
    for row in (5, 6):
        content = files[row].read_bytes()[:200]
        files[row].write_bytes(content)
        found = with_content(found, row, content)
    loader = make_loader(files, checked=found, host_warp=host_warp)
    good = [row for row in ROWS if row not in (5, 6)]
    for _ in range(2):  # the decoder lives on
        batches = list(loader.eval_epoch(ROWS))
        dropped = {row: reason for batch in batches for row, reason in batch.dropped.items()}
        assert list(dropped) == [5, 6]
        assert all(reason.startswith("cannot be decoded: ") for reason in dropped.values())
        images, rows = collect(batches)
        assert rows.tolist() == good and (images == expected[good]).all()
        assert [batch.position for batch in batches] == [1, 2, 3, 4, 5]


@WAYS
def test_what_only_the_loader_cannot_decode_stands_alone_in_the_end(
    files, host_warp: bool, monkeypatch
) -> None:
    """The check finds nothing wrong, so the group is done by halves."""
    expected, _ = collect(make_loader(files, host_warp=host_warp).eval_epoch(ROWS))
    wrong = {files[row]: files[row].read_bytes()[:200] for row in (7, 8, 33)}
    found = checked(files)
    for path, content in wrong.items():
        found = with_content(found, files.index(path), content)
    misread(monkeypatch, wrong)
    loader = make_loader(files, checked=found, host_warp=host_warp, batch_size=37, threads=1)
    (batch,) = loader.eval_epoch(ROWS)
    assert batch.dropped == dict.fromkeys([7, 8, 33], "cannot be decoded on cpu")
    good = [row for row in ROWS if row not in (7, 8, 33)]
    assert batch.rows_N.tolist() == good
    assert (batch.images_NHWC.numpy() == expected[good]).all()


@WAYS
def test_a_file_alone_in_its_group_costs_only_itself(files, host_warp: bool, monkeypatch) -> None:
    """That all of a group fail does not mean that the device does."""
    wrong = files[0].read_bytes()[:200]
    found = with_content(checked(files), 0, wrong)
    misread(monkeypatch, {files[0]: wrong})
    loader = make_loader(files, checked=found, host_warp=host_warp, batch_size=1)
    batches = list(loader.eval_epoch(np.arange(3)))
    assert [row for batch in batches for row in batch.rows_N.tolist()] == [1, 2]
    assert batches[0].dropped == {0: "cannot be decoded on cpu"}


@WAYS
def test_what_fails_in_the_loader_is_decoded_by_pillow(
    tmp_path: Path, files, host_warp: bool
) -> None:
    """A decoder on a GPU can do less than the one of the check: here for one file."""
    noise = np.random.default_rng(0).integers(0, 256, (33, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "same.png")
    (tmp_path / "odd.webp").write_bytes(webp_that_dali_refuses(picture, xmp=b"<x/>"))
    paths = [*files[:5], tmp_path / "odd.webp", tmp_path / "same.png"]
    found = dataclasses.replace(checked(paths), by_pillow=set())  # as if DALI had decoded it
    loader = make_loader(paths, checked=found, host_warp=host_warp)
    for _ in range(2):
        (batch,) = loader.eval_epoch(np.arange(7))
        assert batch.rows_N.tolist() == list(range(7)) and not batch.dropped
        assert (batch.images_NHWC[5] == batch.images_NHWC[6]).all()


@pipeline_def
def broken_graph(device: str, shrink: bool, keep: bool | None = None):
    """As the graphs of ``decode``, but no image has the shape that is asked for."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    images = fn.reshape(fn.decoders.image(encoded), shape=[1, 1, 7])
    return images if keep is None else (*decode._warped(images), images.shape())


@WAYS
def test_a_device_that_decodes_nothing_is_no_files_fault(
    files, host_warp: bool, monkeypatch
) -> None:
    monkeypatch.setattr(host_batches, "image_graph", broken_graph)
    monkeypatch.setattr(decode, "batch_graph", broken_graph)
    loader = make_loader(files[:5], host_warp=host_warp, threads=1)
    with pytest.raises(RuntimeError, match="reshape"):
        list(loader.eval_epoch(np.arange(5)))
    assert check_images(files[:5], threads=1, max_pixels=10**8).bad == {}


@WAYS
def test_memory_that_has_run_out_is_no_files_fault(files, host_warp: bool, monkeypatch) -> None:
    monkeypatch.setattr(reading.memory, "is_out_of_memory", lambda error: True)
    found = with_content(checked(files), 3, content := files[3].read_bytes()[:200])
    misread(monkeypatch, {files[3]: content})
    loader = make_loader(files, checked=found, host_warp=host_warp)
    with pytest.raises(RuntimeError, match="decod"):
        list(loader.eval_epoch(ROWS))
