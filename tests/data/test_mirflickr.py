"""Public data from small archives of the same layout, over a real connection."""

import hashlib
import io
import json
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from archives import NUM_IMAGES, image_members, label_members, photo, zipped
from PIL import Image
from web_server import Site, serving

from grigri_fast.data import dataset, download, mirflickr
from grigri_fast.data.mirflickr import ANNOTATIONS, CLASSES, IMAGES, FetchCallback
from grigri_fast.errors import GrigriError, Interrupted


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "WAITS_S", (0, 0, 0))
    with serving() as site:
        site.pages = {IMAGES: zipped(image_members()), ANNOTATIONS: zipped(label_members())}
        yield site


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a folder with both archives, for a test to change."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / IMAGES).write_bytes(zipped(image_members()))
    (folder / ANNOTATIONS).write_bytes(zipped(label_members()))
    return folder


def put(mirror: Path, name: str, members: dict[str, bytes]) -> None:
    (mirror / name).write_bytes(zipped(members))


@pytest.fixture
def fetched(cli, tmp_path: Path):
    """Run the command, which must succeed; return the folder and what it printed."""

    def call(*args: object) -> tuple[Path, str, str]:
        folder = tmp_path / "flickr"
        code, out, err = cli("data", "fetch", "mirflickr25k", folder, "--threads=2", *args)
        assert code == 0, err
        return folder, out, err

    return call


@pytest.fixture
def refused(cli, tmp_path: Path):
    """Run the command, which must fail in one line; return the line."""

    def call(*args: object, code: int = 1) -> str:
        folder = tmp_path / "flickr"
        found, out, err = cli("data", "fetch", "mirflickr25k", folder, "--threads=1", *args)
        assert found == code and not folder.exists(), err
        line = err.splitlines()[-1]
        assert line.startswith("error: ") and "Traceback" not in err and not out
        hidden = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
        assert not hidden
        return line

    return call


# ------------------------------------------------------------------------------ the whole way


@pytest.mark.slow
def test_it_is_downloaded_and_train_reads_it(
    cli, fetched, site: Site, tmp_path: Path, monkeypatch
) -> None:
    site.cuts = [len(site.pages[ANNOTATIONS]), 20_000, 10_000]
    folder, out, _ = fetched("--from", site.url, "--size=32")
    assert f"{NUM_IMAGES:,} images -> {folder}" in out
    assert [(name, wanted) for name, wanted, _ in site.asked] == [
        (ANNOTATIONS, None),
        (IMAGES, None),
        (IMAGES, "bytes=20000-"),
        (IMAGES, "bytes=30000-"),
    ]
    data = dataset.load(folder)
    assert data.class_names == sorted(CLASSES) and len(data) == NUM_IMAGES
    for c, name in enumerate(CLASSES):
        expected = [f"im{n}.jpg" for n in range(1 + c % 5, NUM_IMAGES + 1, 5 + c % 3)]
        column = data.targets_NC[:, data.class_names.index(name)]
        assert [n for n, has in zip(data.names, column, strict=True) if has] == expected
    assert not (tmp_path / "flickr.downloads").exists()

    code, out, _ = cli("data", "check", folder, "--threads=1")
    assert code == 0 and "32x32 px (60)" in out
    code, out, err = cli(
        *("train", folder, "--arch=resnet18", "--weights=none", "--size=32", "--epochs=1"),
        *("--batch-size=16", "--compile=off", "--threads=1", "--out", tmp_path / "runs"),
    )
    assert code == 0, err


def test_without_from_it_comes_from_leiden_and_must_have_the_published_checksum(
    refused, fetched, site: Site, tmp_path: Path, monkeypatch
) -> None:
    assert mirflickr.SITE == "https://press.liacs.nl/mirflickr/mirflickr25k.v3b"
    monkeypatch.setattr(mirflickr, "SITE", site.url)
    line = refused()
    seen = hashlib.md5(site.pages[IMAGES]).hexdigest()
    assert f"its MD5 is {seen}, not {mirflickr.MD5[IMAGES]} as published" in line
    assert not (tmp_path / "flickr.downloads" / IMAGES).exists()
    assert (tmp_path / "flickr.downloads" / ANNOTATIONS).exists()
    monkeypatch.setitem(mirflickr.MD5, IMAGES, seen)
    site.asked.clear()
    fetched()
    assert [name for name, *_ in site.asked] == [IMAGES]  # the other one was kept


def test_from_a_folder_it_works_without_a_network(fetched, mirror: Path) -> None:
    folder, _, err = fetched("--from", mirror)
    assert "not a23d0a8564ee84cda5622a6c2f947785 as published; --from names it" in err
    content = json.loads((folder / mirflickr.PROVENANCE).read_text())
    assert content["num_images"] == NUM_IMAGES and content["size_px"] == 128
    for archive in content["archives"]:
        data = (mirror / archive["name"]).read_bytes()
        assert archive["sha256"] == hashlib.sha256(data).hexdigest()
        assert archive["url"] == archive["name"] and archive["num_bytes"] == len(data)
    assert str(mirror) not in (folder / mirflickr.PROVENANCE).read_text()


def test_archives_may_be_named_one_by_one(fetched, site: Site, mirror: Path) -> None:
    fetched("--from", mirror / IMAGES, "--from", f"{site.url}/{ANNOTATIONS}")
    assert [name for name, *_ in site.asked] == [ANNOTATIONS]


def test_keep_keeps_the_archives_for_another_size(cli, fetched, site: Site, tmp_path: Path) -> None:
    folder, *_ = fetched("--from", site.url, "--keep", "--size=32")
    kept = tmp_path / "flickr.downloads"
    assert (kept / IMAGES).read_bytes() == site.pages[IMAGES]
    folder.rename(tmp_path / "small")
    site.asked.clear()
    folder, *_ = fetched("--from", site.url)
    assert not site.asked and not kept.exists()
    assert Image.open(folder / "images" / "im1.jpg").size == (128, 128)


# ----------------------------------------------------------------------------------- the images


def test_images_are_cut_around_the_centre() -> None:
    cut = mirflickr.cut_square(photo(1, (100, 40)), 40)
    with Image.open(io.BytesIO(cut)) as image:
        assert image.size == (40, 40) and image.mode == "RGB"
        pixels = np.asarray(image).reshape(-1, 3)
    assert (pixels[:, 1] > 100).all() and (pixels[:, [0, 2]] < 120).all()  # the green middle


def test_images_are_upright_and_grayscale_stays_grayscale() -> None:
    lying = Image.open(io.BytesIO(photo(1, (60, 60))))
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise: the red left edge becomes the top
    content = io.BytesIO()
    lying.save(content, "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(mirflickr.cut_square(content.getvalue(), 30))) as image:
        assert image.getpixel((15, 1))[0] > 200 > 60 > image.getpixel((1, 15))[0]
        assert not image.getexif()
    with Image.open(io.BytesIO(mirflickr.cut_square(photo(2, mode="L"), 30))) as image:
        assert image.mode == "L"
    with Image.open(io.BytesIO(mirflickr.cut_square(photo(2, mode="CMYK"), 30))) as image:
        assert image.mode == "RGB"


def test_size_0_leaves_them_as_they_are(fetched, mirror: Path) -> None:
    folder, *_ = fetched("--from", mirror, "--size=0")
    for name, content in image_members().items():
        if name.endswith(".jpg"):
            assert (folder / "images" / Path(name).name).read_bytes() == content


def test_damaged_images_are_named_and_left_out_with_their_labels(fetched, mirror: Path) -> None:
    members = image_members()
    members["mirflickr/im1.jpg"] = members["mirflickr/im1.jpg"][:400]
    del members["mirflickr/im6.jpg"]
    put(mirror, IMAGES, members)
    content = bytearray((mirror / IMAGES).read_bytes())
    with zipfile.ZipFile(mirror / IMAGES) as archive:
        start = archive.getinfo("mirflickr/im7.jpg").header_offset
    content[start + 400] ^= 255  # within its data: the checksum no longer fits
    (mirror / IMAGES).write_bytes(content)
    folder, out, _ = fetched("--from", mirror)
    assert "im1.jpg: cannot be decoded" in out and "im7.jpg: damaged in the archive" in out
    assert "im6.jpg: labelled, but not in the archive" in out
    data = dataset.load(folder)  # refuses a label without an image
    assert len(data) == NUM_IMAGES - 3
    skipped = json.loads((folder / mirflickr.PROVENANCE).read_text())["skipped"]
    assert set(skipped) == {"im1.jpg", "im6.jpg", "im7.jpg"}


def test_too_many_damaged_images_are_another_archive(refused, mirror: Path) -> None:
    members = image_members()
    put(mirror, IMAGES, members | {f"mirflickr/im{n}.jpg": b"no" for n in range(1, 9)})
    assert "8 of 60 images cannot be used, such as im1.jpg" in refused("--from", mirror)


# ------------------------------------------------------------------------------- what is refused


def test_a_checksum_that_was_given_must_fit(refused, fetched, site: Site, mirror: Path) -> None:
    wrong = "0" * 64
    line = refused("--from", mirror, "--sha256", f"{ANNOTATIONS}={wrong}")
    right = hashlib.sha256((mirror / ANNOTATIONS).read_bytes()).hexdigest()
    assert f"its SHA-256 is {right}, not {wrong}" in line and (mirror / ANNOTATIONS).exists()
    line = refused("--from", site.url, "--sha256", f"{IMAGES}={wrong}")
    assert "the download has been removed" in line
    sums = [f"{n}={hashlib.sha256(c).hexdigest().upper()}" for n, c in site.pages.items()]
    _, _, err = fetched("--from", site.url, "--sha256", sums[0], "--sha256", sums[1])
    assert "MD5" not in err


def test_what_the_server_lacks_is_said_with_its_address(refused, site: Site) -> None:
    del site.pages[IMAGES]
    assert f"{site.url}/{IMAGES}: the server says 404" in refused("--from", site.url)


def test_a_server_that_is_not_there_leaves_nothing(refused, site: Site, tmp_path: Path) -> None:
    line = refused("--from", "http://127.0.0.1:9")
    assert "refused; --from names another place" in line and not list(tmp_path.iterdir())


def test_an_archive_that_is_none_is_removed(refused, fetched, site: Site, tmp_path: Path) -> None:
    right = site.pages[ANNOTATIONS]
    site.pages[ANNOTATIONS] = b"<html>please register</html>"
    assert "not a zip archive" in refused("--from", site.url)
    site.pages[ANNOTATIONS] = right
    fetched("--from", site.url)


@pytest.mark.parametrize("name", ["../im9.jpg", "/im9.jpg", "a/../../im9.jpg", "..\\im9.jpg"])
def test_an_archive_that_leaves_the_folder_is_refused(
    refused, mirror: Path, tmp_path: Path, name: str
) -> None:
    members = image_members()
    del members["mirflickr/im9.jpg"]
    put(mirror, IMAGES, members | {name: photo(9)})
    assert "leaves the folder" in refused("--from", mirror)
    assert not list(tmp_path.rglob("im9.jpg"))


def test_bombs_are_refused_by_what_they_declare(refused, fetched, mirror: Path) -> None:
    members = label_members()
    put(mirror, ANNOTATIONS, members | {"sea_r1.txt": b"1\n" * 2**20})
    assert "sea_r1.txt: claims 2,097,152 bytes" in refused("--from", mirror)
    put(mirror, ANNOTATIONS, members)
    put(mirror, IMAGES, image_members() | {"mirflickr/im1.jpg": bytes(65 * 2**20)})
    _, out, _ = fetched("--from", mirror)
    assert "im1.jpg: claims 68,157,440 bytes" in out


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    content = bytearray(photo(1))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\x1f\x40\x1b\x58"
    with pytest.raises(GrigriError, match="7,000 x 8,000 pixels are too many"):
        mirflickr.cut_square(bytes(content), 32)


def test_missing_or_odd_annotations_are_named(refused, mirror: Path) -> None:
    members = label_members()
    put(mirror, ANNOTATIONS, {k: v for k, v in members.items() if k != "river_r1.txt"})
    assert "there is no river_r1.txt in it" in refused("--from", mirror)
    put(mirror, ANNOTATIONS, members | {"sea_r1.txt": b"1\n-3\n"})
    assert "sea_r1.txt: expected image numbers, not b'-3'" in refused("--from", mirror)


def test_an_archive_without_images_or_with_one_twice(refused, mirror: Path) -> None:
    put(mirror, IMAGES, {"readme.txt": b"nothing"})
    assert "there is no im1.jpg" in refused("--from", mirror)
    put(mirror, IMAGES, image_members() | {"more/im3.jpg": photo(3)})
    assert "are the same" in refused("--from", mirror)


def test_no_room_is_said_before_the_download_and_before_the_images(
    refused, site: Site, mirror: Path, monkeypatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = len(site.pages[ANNOTATIONS]) + len(site.pages[IMAGES])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda p: usage(0, 0, free))
    line = refused("--from", site.url)
    assert f"the rest of {IMAGES} and what is made of it takes" in line
    monkeypatch.setattr(download.shutil, "disk_usage", lambda p: usage(0, 0, 100_000))
    assert "60 images takes" in refused("--from", mirror)


def test_a_folder_that_is_there_is_left_alone(cli, mirror: Path) -> None:
    before = sorted(mirror.iterdir())
    code, _, err = cli("data", "fetch", "mirflickr25k", mirror, "--from", mirror)
    assert code == 1 and "is there already" in err and sorted(mirror.iterdir()) == before


@pytest.mark.parametrize(
    "source, says",
    [
        ("nowhere", "no such file or folder"),
        (IMAGES, "no such file or folder"),
        ("other.zip", "the archives are"),
        ("ftp://host/x", "only http, https and files"),
        ("http://127.0.0.1:9/other.zip", "the archives are"),
        (".", f"there is no {IMAGES} and no {ANNOTATIONS} in it"),
    ],
)
def test_sources_that_are_none(refused, tmp_path: Path, monkeypatch, source, says) -> None:
    (tmp_path / "neither").mkdir()
    (tmp_path / "neither" / "other.zip").touch()
    monkeypatch.chdir(tmp_path / "neither")
    assert says in refused("--from", source)


def test_wrong_use(refused, mirror: Path) -> None:
    line = refused("--from", mirror, "--from", mirror / IMAGES)
    assert f"{IMAGES} is named by another --from, too" in line
    for text in ("abc", f"{IMAGES}=12", "other.zip=" + "0" * 64):
        assert "--sha256" in refused("--from", mirror, "--sha256", text, code=2)
    refused("--size=-1", code=2)


# ------------------------------------------------------------------------------- interruptions


def test_an_interrupted_download_goes_on_with_the_same_command(
    fetched, site: Site, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(download, "_PIECE_BYTES", 4096)

    class Stops(FetchCallback):
        def on_download(self, name: str, done: int, total: int | None) -> None:
            if name == IMAGES and done > 10_000:
                raise KeyboardInterrupt

    folder = tmp_path / "flickr"
    with pytest.raises(Interrupted) as e:
        mirflickr.fetch(folder, size=128, sources=[site.url], threads=1, callback=Stops())
    assert "the same command goes on" in e.value.advice and not folder.exists()
    have = (tmp_path / "flickr.downloads" / f"{IMAGES}.part").stat().st_size
    site.asked.clear()
    fetched("--from", site.url)
    assert site.asked == [(IMAGES, f"bytes={have}-", '"1"')]


def test_interrupted_while_images_are_written_nothing_is_left(mirror: Path, tmp_path: Path) -> None:
    class Stops(FetchCallback):
        def on_convert(self, done: int, total: int) -> None:
            if done == 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mirflickr.fetch(
            tmp_path / "f", size=128, sources=[str(mirror)], threads=2, callback=Stops()
        )
    assert [p.name for p in tmp_path.iterdir()] == ["mirror"]
    assert not any(t.name.startswith("grigri-fetch") for t in threading.enumerate())


def test_two_processes_do_not_download_into_one_folder(site: Site, tmp_path: Path) -> None:
    class Second(FetchCallback):
        def on_download(self, name: str, done: int, total: int | None) -> None:
            with pytest.raises(GrigriError, match="another process is downloading"):
                mirflickr.fetch(tmp_path / "f", size=32, sources=[site.url], threads=1)

    mirflickr.fetch(tmp_path / "f", size=32, sources=[site.url], threads=1, callback=Second())
