import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from small_set import write_image

from grigri_fast.pipeline import check
from grigri_fast.pipeline.check_cache import CheckCache
from grigri_fast.pipeline.image_file import FileCheck
from grigri_fast.runtime import files

GOOD, BAD = FileCheck(7, 20, 30), FileCheck(8, reason="cannot be decoded")


def stored(*results: tuple) -> None:
    with CheckCache("test") as cache:
        for path, stamp, result in results:
            cache.add(path, stamp, result)


def known(stamps: dict) -> dict:
    with CheckCache("test") as cache:
        return cache.known(stamps)


def test_a_verdict_holds_while_the_file_is_as_it_was() -> None:
    a, b = Path("/photos/a.jpg"), Path("/photos/\udcff.jpg")  # a name that is not UTF-8
    stored((a, (10, 1), GOOD), (b, (20, 2), BAD))
    assert known({a: (10, 1), b: (20, 2)}) == {a: GOOD, b: BAD}
    assert known({a: (11, 1), b: (20, 3)}) == {}
    assert known({Path("/photos/c.jpg"): (10, 1)}) == {}
    stored((a, (11, 1), BAD))
    assert known({a: (11, 1)}) == {a: BAD}


def test_many_at_once() -> None:
    paths = [Path(f"/photos/{i}.jpg") for i in range(1234)]
    stored(*((path, (i, i), FileCheck(i, 1, 1)) for i, path in enumerate(paths)))
    found = known({path: (i, i) for i, path in enumerate(paths)})
    assert [found[path].crc32 for path in paths] == list(range(1234))


def test_another_decoder_has_its_own_verdicts() -> None:
    stored((Path("/a"), (1, 1), GOOD))
    with CheckCache("another") as cache:
        assert cache.known({Path("/a"): (1, 1)}) == {}


def cache_file() -> Path:
    return files.cache_folder() / "checked-1-test.sqlite"


@pytest.mark.parametrize(
    "content", [b"", b"no database" * 99, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_damaged_cache_is_an_empty_one(content: bytes) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(content)
    assert known({Path("/a"): (1, 1)}) == {}
    stored((Path("/a"), (1, 1), GOOD))
    assert known({Path("/a"): (1, 1)}) == {Path("/a"): GOOD}


def test_a_cache_damaged_in_the_middle_is_an_empty_one() -> None:
    stored(*((Path(f"/{i}"), (i, i), GOOD) for i in range(2000)))
    content = bytearray(cache_file().read_bytes())
    content[5000:] = os.urandom(len(content) - 5000)
    cache_file().write_bytes(content)
    assert len(known({Path(f"/{i}"): (i, i) for i in range(2000)})) < 2000


@pytest.mark.parametrize("in_the_way", ["file", "folder"])
def test_without_a_place_for_a_cache_there_is_none(in_the_way: str) -> None:
    if in_the_way == "folder":
        cache_file().mkdir(parents=True)
    else:
        files.cache_folder().write_text("a file where the folder should be")
    stored((Path("/a"), (1, 1), GOOD))
    assert known({Path("/a"): (1, 1)}) == {}


def test_a_locked_cache_is_done_without(monkeypatch) -> None:
    stored((Path("/a"), (1, 1), GOOD))
    monkeypatch.setattr("grigri_fast.pipeline.check_cache._TIMEOUT_S", 0.1)
    other = sqlite3.connect(cache_file(), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert known({Path("/a"): (1, 1)}) == {}
    stored((Path("/b"), (1, 1), GOOD))
    other.close()
    assert known({Path("/a"): (1, 1)}) == {Path("/a"): GOOD}


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
    assert sum(decoded) == 1 and second.bad == first.bad
    same = np.arange(9) != 7
    assert (second.crc32_N[same] == first.crc32_N[same]).all()
    assert (second.sizes_HW == first.sizes_HW).all()
    assert second.crc32_N[7] != first.crc32_N[7]


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
