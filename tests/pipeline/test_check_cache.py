import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_loader import make_loader
from small_set import write_image

from grigri_fast.pipeline import check
from grigri_fast.pipeline.check_cache import CheckCache
from grigri_fast.pipeline.image_file import FileCheck
from grigri_fast.runtime import files
from grigri_fast.runtime.files import Stamp

GOOD, BY_PILLOW = FileCheck(7, 20, 30), FileCheck(9, 20, 30, by_pillow=True)
BAD = FileCheck(8, reason="cannot be decoded")


def stored(*results: tuple) -> None:
    with CheckCache("test") as cache:
        for path, stamp, result in results:
            cache.add(path, stamp, result)


def known(stamps: dict) -> dict:
    with CheckCache("test") as cache:
        return cache.known(stamps)


def stamp_of(i: int) -> Stamp:
    return Stamp(i, i, i, i)


ONE = stamp_of(1)


def test_a_good_file_is_known_while_its_stamp_is_the_same() -> None:
    a, b = Path("/photos/a.jpg"), Path("/photos/\udcff.jpg")  # a name that is not UTF-8
    stored((a, ONE, GOOD), (b, stamp_of(2), BY_PILLOW))
    assert known({a: ONE, b: stamp_of(2)}) == {a: GOOD, b: BY_PILLOW}
    assert known({Path("/photos/c.jpg"): ONE}) == {}
    for field in Stamp._fields:
        assert known({a: ONE._replace(**{field: 9})}) == {}, field
    stored((a, stamp_of(3), GOOD))
    assert known({a: stamp_of(3)}) == {a: GOOD}


def test_a_refusal_is_not_remembered() -> None:
    stored((Path("/a"), ONE, BAD), (Path("/b"), ONE, GOOD))
    assert known({Path("/a"): ONE, Path("/b"): ONE}) == {Path("/b"): GOOD}


def test_what_was_forgotten_is_not_known() -> None:
    stored((Path("/a"), ONE, GOOD), (Path("/b"), ONE, GOOD))
    with CheckCache("test") as cache:
        cache.forget(Path("/a"))
    assert known({Path("/a"): ONE, Path("/b"): ONE}) == {Path("/b"): GOOD}


def test_many_at_once() -> None:
    paths = [Path(f"/photos/{i}.jpg") for i in range(1234)]
    stored(*((path, stamp_of(i), FileCheck(i, 1, 1)) for i, path in enumerate(paths)))
    found = known({path: stamp_of(i) for i, path in enumerate(paths)})
    assert [found[path].crc32 for path in paths] == list(range(1234))


def test_another_decoder_has_its_own_verdicts() -> None:
    stored((Path("/a"), ONE, GOOD))
    with CheckCache("another") as cache:
        assert cache.known({Path("/a"): ONE}) == {}


def cache_file() -> Path:
    return files.cache_folder() / "checked-2-test.sqlite"


@pytest.mark.parametrize(
    "content", [b"", b"no database" * 99, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_damaged_cache_is_an_empty_one(content: bytes) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(content)
    assert known({Path("/a"): ONE}) == {}
    stored((Path("/a"), ONE, GOOD))
    assert known({Path("/a"): ONE}) == {Path("/a"): GOOD}


def test_a_cache_damaged_in_the_middle_is_an_empty_one() -> None:
    stored(*((Path(f"/{i}"), stamp_of(i), GOOD) for i in range(2000)))
    content = bytearray(cache_file().read_bytes())
    content[5000:] = os.urandom(len(content) - 5000)
    cache_file().write_bytes(content)
    assert len(known({Path(f"/{i}"): stamp_of(i) for i in range(2000)})) < 2000


@pytest.mark.parametrize("in_the_way", ["file", "folder"])
def test_without_a_place_for_a_cache_there_is_none(in_the_way: str) -> None:
    if in_the_way == "folder":
        cache_file().mkdir(parents=True)
    else:
        files.cache_folder().write_text("a file where the folder should be")
    stored((Path("/a"), ONE, GOOD))
    assert known({Path("/a"): ONE}) == {}


def test_a_locked_cache_is_done_without(monkeypatch) -> None:
    stored((Path("/a"), ONE, GOOD))
    monkeypatch.setattr("grigri_fast.pipeline.check_cache._TIMEOUT_S", 0.1)
    other = sqlite3.connect(cache_file(), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert known({Path("/a"): ONE}) == {}
    stored((Path("/b"), ONE, GOOD))
    other.close()
    assert known({Path("/a"): ONE}) == {Path("/a"): GOOD}


# ------------------------------------------------------------------- as inspect uses them


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Return a list that grows by the number of files that are really decoded."""
    counts = []
    checked = check._check_groups

    def counted(*args: object):
        for group in checked(*args):
            counts.append(len(group))
            yield group

    monkeypatch.setattr(check, "_check_groups", counted)
    return counts


def test_a_second_look_decodes_only_what_has_changed(tmp_path: Path, decoded: list) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(9)]
    for i, path in enumerate(paths):
        write_image(path, i)
    paths[4].write_bytes(paths[4].read_bytes()[:300])
    first = check.check_images(paths, threads=1, max_pixels=10**8)
    assert sum(decoded) == 9 and list(first.bad) == [4]
    write_image(paths[7], 70)
    decoded.clear()
    second = check.check_images(paths, threads=1, max_pixels=10**8)
    assert sum(decoded) == 2 and second.bad == first.bad  # a refusal is verified again
    same = np.arange(9) != 7
    assert (second.crc32_N[same] == first.crc32_N[same]).all()
    assert (second.sizes_HW == first.sizes_HW).all()
    assert second.crc32_N[7] != first.crc32_N[7]


def test_a_file_of_equal_size_and_time_is_decoded_again(tmp_path: Path, decoded: list) -> None:
    path = tmp_path / "frame.bmp"
    Image.new("RGB", (8, 8), "red").save(path)
    os.utime(path, (10**9, 10**9))
    first = check.check_images([path], threads=1, max_pixels=10**8)
    Image.new("RGB", (8, 8), "blue").save(path)
    os.utime(path, (10**9, 10**9))
    second = check.check_images([path], threads=1, max_pixels=10**8)
    assert sum(decoded) == 2 and first.crc32_N[0] != second.crc32_N[0]


def test_a_stale_verdict_is_used_once_at_most(tmp_path: Path) -> None:
    """A file system may hide a change; the loader finds it out by the checksum."""
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for row, path in enumerate(paths):
        write_image(path, row)
    with CheckCache(check.DECODERS) as cache:
        cache.add(paths[0], files.stamp(paths[0]), FileCheck(12345, 32, 40))
    checked = check.check_images(paths, threads=1, max_pixels=10**8)
    assert checked.crc32_N[0] == 12345
    (batch,) = make_loader(paths, checked=checked).eval_epoch(np.arange(2))
    assert batch.dropped == {0: "its content has changed since it was checked"}
    (batch,) = make_loader(paths).eval_epoch(np.arange(2))
    assert batch.dropped == {} and batch.rows_N.tolist() == [0, 1]


def test_what_depends_on_an_option_is_not_remembered(tmp_path: Path, decoded: list) -> None:
    write_image(tmp_path / "a.jpg", 0)  # 40 x 32
    paths = [tmp_path / "a.jpg"]
    for _ in range(2):
        found = check.check_images(paths, threads=1, max_pixels=1000)
        assert found.bad == {0: "40 x 32 pixels, more than the 1,000 of --max-pixels"}
    assert not check.check_images(paths, threads=1, max_pixels=10**8).bad
    assert check.check_images(paths, threads=1, max_pixels=1000).bad
    assert not check.check_images(paths, threads=1, max_pixels=1280).bad


def test_a_look_that_stops_early(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(200)]
    for path in paths:
        path.write_text("no image")
    found = check.check_images(paths, threads=1, max_pixels=10**8, max_bad=3)
    assert 4 <= len(found.bad) <= 64


def test_a_process_that_was_started_in_another_folder_finds_the_files(
    tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "a.jpg"
    write_image(path, 1)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setattr(check, "_started", {})
    check.start_early([path], threads=1, max_pixels=10**8)
    assert len(check._started) == 1
    monkeypatch.chdir(tmp_path)
    assert not check.check_images([Path("a.jpg")], threads=1, max_pixels=10**8).bad
    assert not check._started
