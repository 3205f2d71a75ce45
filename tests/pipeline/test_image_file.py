import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grigri_fast.errors import GrigriError
from grigri_fast.pipeline import image_file

LIMIT = 10**6


def encoded(kind: str, **how: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (21, 37, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_formats_are_known_by_their_first_bytes_not_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(encoded(kind))
    assert image_file.read(path, LIMIT) == encoded(kind)


OTHERS = {
    "GIF": encoded("GIF"),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "JPEG 2000 ": b"\xff\x4f\xff\x51\0\0",
    "JPEG XL": b"\xff\x0a\0\0",
    "PDF": b"%PDF-1.7",
    "SVG or HTML": b"\n<svg>",
}


@pytest.mark.parametrize("name", OTHERS)
def test_formats_that_are_not_read_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.jpg").write_bytes(OTHERS[name])
    with pytest.raises(GrigriError, match=f"^{name.strip()} is not read: convert it"):
        image_file.read(tmp_path / "x.jpg", LIMIT)


@pytest.mark.parametrize("content", [b"hello", b"\0" * 99, b"\xff\xd8", b"RIFF1234WAVE"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(GrigriError, match=r"^not a JPEG, PNG, WebP, BMP, TIFF, HEIC or AVIF"):
        image_file.read(tmp_path / "x.jpg", LIMIT)


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    with pytest.raises(GrigriError, match=r"^empty file$"):
        image_file.read(tmp_path / "x.jpg", LIMIT)


def test_a_file_too_large_for_its_pixels_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(10**12)  # sparse: it takes no space
    with pytest.raises(GrigriError, match="1,000,000,000,000 bytes, more than"):
        image_file.read(tmp_path / "x.jpg", LIMIT)


def test_scans_have_a_limit(tmp_path: Path) -> None:
    whole = encoded("JPEG", progressive=True)
    assert 5 < whole.count(b"\xff\xda") < 20
    (tmp_path / "x.jpg").write_bytes(whole[:-2] + b"\xff\xda" * 100)
    with pytest.raises(GrigriError, match="a JPEG of 110 scans; at most 100 are decoded"):
        image_file.read(tmp_path / "x.jpg", LIMIT)


@pytest.mark.parametrize("address", ["s3://bucket/a.jpg", "https://a.org/a.jpg", "gs:/b/a.jpg"])
def test_an_address_is_no_file(tmp_path: Path, address: str) -> None:
    scheme = address.partition(":")[0]
    for path in (Path(address), tmp_path / address):
        with pytest.raises(GrigriError, match=rf"an address \({scheme}:\), not a file"):
            image_file.stamp(path)


def test_a_folder_with_a_colon_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "day:"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"abc")
    assert image_file.stamp(folder / "a.jpg")[0] == 3
