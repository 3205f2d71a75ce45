"""Downloads: resumed after every kind of end, and never mixed from two versions."""

import json
import random
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import Site, serving

from grigri_fast.data import download as downloads
from grigri_fast.data.download import download
from grigri_fast.errors import GrigriError

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setattr(downloads, "WAITS_S", (0, 0, 0))
    with serving() as site:
        site.pages["f"] = CONTENT
        yield site


def interrupted(site: Site, path: Path, after: int = 100_000) -> None:
    """Begin a download and stop it by Ctrl-C once so many bytes are here."""

    def on_progress(done: int, total: int | None) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(f"{site.url}/f", path, on_progress=on_progress)
    site.asked.clear()


def test_a_file_arrives_with_its_origin(site: Site, tmp_path: Path) -> None:
    seen = []
    origin = download(f"{site.url}/f", tmp_path / "f", on_progress=lambda *a: seen.append(a))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert origin == downloads.Origin(f"{site.url}/f", '"1"', "", len(CONTENT))
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "f.json"]
    assert download(f"{site.url}/f", tmp_path / "f") == origin
    assert len(site.asked) == 1  # it was there


def test_cut_connections_are_resumed_where_they_were_cut(site: Site, tmp_path: Path) -> None:
    site.cuts = [120_000, 50_000]
    said = []
    download(f"{site.url}/f", tmp_path / "f", log=said.append)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert site.asked == [
        ("f", None, None),
        ("f", "bytes=120000-", '"1"'),
        ("f", "bytes=170000-", '"1"'),
    ]
    assert "cut after 120,000 of 300,000 bytes" in said[0]


def test_an_interrupted_download_goes_on_with_the_next_call(site: Site, tmp_path: Path) -> None:
    interrupted(site, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    have = (tmp_path / "f.part").read_bytes()
    assert 100_000 <= len(have) < len(CONTENT) and CONTENT.startswith(have)
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert site.asked == [("f", f"bytes={len(have)}-", '"1"')]


def test_a_download_that_lacks_only_its_name_is_not_asked_for_again(
    site: Site, tmp_path: Path
) -> None:
    interrupted(site, tmp_path / "f", after=len(CONTENT))
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and not site.asked


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    interrupted(site, tmp_path / "f")
    said = []
    download(f"{site.url}/f", tmp_path / "f", log=said.append)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert "the server does not resume" in said[0]


@pytest.mark.parametrize("if_range", [True, False], ids=["if-range", "without"])
def test_a_file_that_has_changed_is_not_mixed(site: Site, tmp_path: Path, if_range: bool) -> None:
    interrupted(site, tmp_path / "f")
    site.pages["f"], site.etags["f"], site.if_range = OTHER, '"2"', if_range
    said = []
    origin = download(f"{site.url}/f", tmp_path / "f", log=said.append)
    assert (tmp_path / "f").read_bytes() == OTHER and origin.etag == '"2"'
    assert "changed on the server" in said[0]


def test_a_file_that_has_shrunk_starts_over(site: Site, tmp_path: Path) -> None:
    interrupted(site, tmp_path / "f")
    site.pages["f"], site.if_range = CONTENT[:1000], False
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("etag", ["", 'W/"1"'], ids=["none", "weak"])
def test_without_a_version_to_ask_for_it_starts_over(site: Site, tmp_path: Path, etag: str) -> None:
    site.etags["f"] = etag
    interrupted(site, tmp_path / "f")
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and site.asked == [("f", None, None)]


def test_what_came_from_another_address_is_not_gone_on_with(site: Site, tmp_path: Path) -> None:
    interrupted(site, tmp_path / "f")
    site.pages["g"] = OTHER
    download(f"{site.url}/g", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == OTHER and site.asked == [("g", None, None)]
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(site: Site, tmp_path: Path) -> None:
    site.refusals = [503, 429]
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and len(site.asked) == 3
    with pytest.raises(GrigriError, match="404 Not Found"):
        download(f"{site.url}/nothing", tmp_path / "nothing")
    assert len(site.asked) == 4


def test_it_gives_up_when_nothing_new_arrives(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000] + [0] * 9
    with pytest.raises(GrigriError, match="kept, and the same command goes on"):
        download(f"{site.url}/f", tmp_path / "f")
    assert len(site.asked) == 4  # the first failure brought something, three more did not
    site.cuts = []
    download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_server_that_is_silent_or_gone_is_left(site: Site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.1)
    site.silent = True
    with pytest.raises(GrigriError, match=r"the server was silent for 0\.1 s"):
        download(f"{site.url}/f", tmp_path / "f")
    with pytest.raises(GrigriError, match="refused"):
        download("http://127.0.0.1:9/f", tmp_path / "f")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/f"])
def test_only_the_web_is_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(GrigriError):
        download(url, tmp_path / "f")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", ["http://", "https:///f", "http://:80/f", "http://a:b/f", "http://["]
)
def test_an_address_without_a_host_is_not_tried(url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "WAITS_S", ())  # where it is tried, once
    with pytest.raises(GrigriError, match="names no host") as raised:
        download(url, tmp_path / "f")
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_a_size_that_is_not_said_is_no_obstacle(site: Site, tmp_path: Path) -> None:
    site.sizes = False
    origin = download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and origin.num_bytes is None


def test_room_is_asked_for_before_a_byte_is_written(
    site: Site, tmp_path: Path, monkeypatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda p: usage(0, 0, 250_000))

    def require(to_come: int, in_all: int) -> None:
        downloads.require_room(tmp_path, to_come, "f")

    with pytest.raises(GrigriError, match="takes 300 kB, and 250 kB are free"):
        download(f"{site.url}/f", tmp_path / "f", require=require)
    assert not list(tmp_path.iterdir())
    interrupted(site, tmp_path / "f")
    download(f"{site.url}/f", tmp_path / "f", require=require)  # the rest fits


def test_a_full_disk_is_one_line_and_keeps_what_is_there(
    site: Site, tmp_path: Path, monkeypatch
) -> None:
    interrupted(site, tmp_path / "f")
    have = (tmp_path / "f.part").stat().st_size

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with pytest.raises(GrigriError, match="No space left on device; what has arrived is kept"):
        download(f"{site.url}/f", tmp_path / "f")
    assert (tmp_path / "f.part").stat().st_size >= have


def test_an_unreadable_note_of_the_origin_starts_over(site: Site, tmp_path: Path) -> None:
    for text in ("{", "[1]", json.dumps({"colour": "red"})):
        interrupted(site, tmp_path / "f")
        (tmp_path / "f.json").write_text(text)
        download(f"{site.url}/f", tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == CONTENT
        downloads.remove(tmp_path / "f")
        assert not list(tmp_path.iterdir())
