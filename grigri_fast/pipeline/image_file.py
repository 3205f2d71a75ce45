"""An image file before it is decoded: is it a file, in a format that is read, of a sane size?"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files

_READ = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "BMP": re.compile(rb"BM"),
    "TIFF": re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    "AVIF": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "HEIC": re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL),
}
# What people take for a photograph. JPEG 2000 also because two malformed ones in a row end the
# process in DALI 2.4.0 (FACTS: segmentation fault, 10 of 10).
_NOT_READ = {
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "GIF": re.compile(rb"GIF8"),
    "PDF": re.compile(rb"%PDF"),
    "Photoshop": re.compile(rb"8BPS"),
    "SVG or HTML": re.compile(rb"\s*<"),
}
_MAX_BYTES_PER_PIXEL = 8  # 16-bit RGBA, not compressed
_MAX_OTHER_BYTES = 64 * 2**20  # profiles, previews, videos of "live" photographs
# A progressive JPEG has about ten scans. Each is a pass over all its pixels, and a file of 17 KB
# can hold thousands.
_MAX_SCANS = 100
_START_OF_SCAN = b"\xff\xda"
_ADDRESS = re.compile(r"(?:^|/)([a-z][a-z0-9+.-]+):/", re.IGNORECASE)

Stamp = files.Stamp


class FileCheck(NamedTuple):
    """What checking a file showed.

    Attributes:
        crc32: checksum of the encoded bytes, -1 where they could not be read.
        height_px, width_px: decoded size, after EXIF orientation.
        reason: why the file cannot be used, or "".
        by_pillow: whether Pillow decodes it, since DALI refuses it or prints a line about it.
        digest: of the pixels, if it was asked for.
    """

    crc32: int
    height_px: int = 0
    width_px: int = 0
    reason: str = ""
    by_pillow: bool = False
    digest: str = ""


def stamp(path: Path) -> Stamp:
    """Return what tells a regular file from what it was before, without opening it.

    Raises:
        GrigriError: if there is no such file, or it is no regular one; the reason alone.
    """
    try:
        return files.stamp(path)
    except GrigriError:
        if address := _ADDRESS.search(str(path)):
            raise GrigriError(
                f"an address ({address[1]}:), not a file: download the images first"
            ) from None
        raise


def identities(paths: Sequence[Path], crc32_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number per image file that says which content it has: its checksum and its size.

    -1 for a file that is not there or has not been checked.
    """
    identity_N = np.full(len(paths), -1, dtype=np.int64)
    for i, (path, crc32) in enumerate(zip(paths, crc32_N.tolist(), strict=True)):
        with contextlib.suppress(OSError):
            if crc32 >= 0:
                identity_N[i] = crc32 << 31 | path.stat().st_size % 2**31
    return identity_N


def format_of(content: bytes) -> str | None:
    """Return the format of an image file that is read, by its first bytes; None for all others."""
    return next((name for name, magic in _READ.items() if magic.match(content)), None)


def max_bytes(max_pixels: int) -> int:
    """Return how large the file of an image of ``max_pixels`` may be."""
    return max_pixels * _MAX_BYTES_PER_PIXEL + _MAX_OTHER_BYTES


def read(path: Path, max_pixels: int) -> bytes:
    """Return the encoded bytes of a file that may be decoded, if its header says no bomb.

    Raises:
        GrigriError: if it is not a regular, readable, non-empty file in one of the formats that are
            read (by its first bytes, not its name), or too large for an image of ``max_pixels``, or
            a JPEG with too many scans. The message is the reason alone.
    """
    content = files.read_bytes(path, max_bytes(max_pixels))
    if not content:
        raise GrigriError("empty file")
    format_name = format_of(content)
    if format_name is None:
        other = next((name for name, magic in _NOT_READ.items() if magic.match(content)), None)
        if other:
            raise GrigriError(f"{other} is not read: convert it to JPEG, PNG, WebP, BMP or TIFF")
        raise GrigriError("not a JPEG, PNG, WebP, BMP, TIFF, HEIC or AVIF image")
    if format_name == "JPEG":
        scans = content.count(_START_OF_SCAN)
        if scans > _MAX_SCANS:
            raise GrigriError(f"a JPEG of {scans:,} scans; at most {_MAX_SCANS} are decoded")
    return content
