"""Pixels from Pillow: of files that DALI does not read, and of pictures that are in memory.

DALI 2.4.0 refuses valid files, such as a lossless WebP with metadata (NVIDIA/DALI 3206) or a BMP of
15 bits, has no decoder for HEIC and AVIF, and prints a line on stderr each time that it decodes a
CMYK TIFF or a PNG with an odd colour profile. The check (``check_worker``) finds out which files
these are; they are decoded here, with the same orientation and colours.
"""

import contextlib
import functools
import io
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL import __version__ as pillow_version

from ..errors import GrigriError
from . import image_file

# About metadata that do not matter here; each would be a line on stderr.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Which of Pillow's formats a file of one of ours may be.
_FORMATS = {
    "JPEG": ("JPEG", "MPO"),
    "PNG": ("PNG",),
    "WebP": ("WEBP",),
    "BMP": ("BMP",),
    "TIFF": ("TIFF",),
    "AVIF": ("AVIF",),
    "HEIC": ("HEIF", "AVIF"),
}
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PHOTOMETRIC, _BITS_PER_SAMPLE = 262, 258  # tags of TIFF


def version() -> str:
    """Return what decodes here, and its version."""
    heif = _pillow_heif()
    return f"pillow-{pillow_version}" + (f"-heif-{heif.__version__}" if heif else "")


def decode(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of an image file, RGB (H, W, 3), as :func:`rgb` does.

    Raises:
        GrigriError: if Pillow cannot read it, or it is damaged; the reason alone.
    """
    with opened(content) as image:
        return rgb(image)


def size_px(content: bytes) -> tuple[int, int]:
    """Return width and height that an image file claims, before its orientation.

    Raises:
        GrigriError: if Pillow cannot read it; the reason alone.
    """
    with opened(content) as image:
        return image.size


def is_better(content: bytes) -> bool:
    """Return whether DALI would misread a file without a word: a TIFF of gray with alpha.

    DALI 2.4.0 takes its alpha for green.
    """
    if image_file.format_of(content) != "TIFF":
        return False
    with contextlib.suppress(GrigriError), opened(content) as image:
        return len(image.getbands()) == 2
    return False


def as_ppm(content: bytes) -> bytes:
    """Return an image file as an uncompressed one with the same pixels, which DALI reads.

    Raises:
        GrigriError: as :func:`decode`.
    """
    pixels_HWC = decode(content)
    height, width, _ = pixels_HWC.shape
    return b"P6\n%d %d\n255\n" % (width, height) + pixels_HWC.tobytes()


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a picture, uint8 RGB (H, W, 3), upright, as DALI returns them.

    The orientation in its metadata is applied and alpha is dropped. The range of 16-bit samples is
    scaled to that of 8 bits (65,535 is white), where Pillow's own ``convert`` would make everything
    above 255 white; floating-point samples go from 0, black, to 1.

    Raises:
        GrigriError: for samples of 32-bit integers, of which it is not known what is white.
    """
    white, is_inverted = 65535, False
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "I":
        raise GrigriError("has samples of 32-bit integers: convert it to 8 or 16 bits per sample")
    if image.mode.startswith("I;16") and tags:
        white = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
        is_inverted = tags.get(_PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        light_HW = np.asarray(image) / white
    elif image.mode == "F":
        light_HW = np.nan_to_num(np.asarray(image, dtype=np.float64))
    else:
        return np.ascontiguousarray(image.convert("RGB"))
    levels_HW = np.rint(255 * light_HW).clip(0, 255).astype(np.uint8)
    if is_inverted:
        levels_HW = 255 - levels_HW
    return np.repeat(levels_HW[:, :, None], 3, axis=2)


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[ImageFile.ImageFile]:
    """Open an encoded image; all that Pillow raises about it becomes a reason."""
    name = image_file.format_of(content)
    if name == "HEIC" and _pillow_heif() is None:
        raise GrigriError("HEIC is read with pillow-heif: pip install pillow-heif")
    try:
        if name == "PNG":
            content = _without_extras(content)
        with Image.open(io.BytesIO(content), formats=_FORMATS.get(name or "", ())) as image:
            yield image
    except (GrigriError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise GrigriError("cannot be decoded") from None
    except Exception as e:  # of damaged files: OSError, ValueError, SyntaxError, struct.error ...
        raise GrigriError(f"cannot be decoded: {e or type(e).__name__}") from e


@functools.cache
def _pillow_heif():
    """Return the module with which Pillow reads HEIC from now on, None if it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return None
    pillow_heif.register_heif_opener()
    return pillow_heif


def _without_extras(content: bytes) -> bytes:
    """Return a PNG with those of its chunks that make its pixels, and its orientation.

    Pillow refuses a file for damage in the others, and does not check the pixels' checksums.

    Raises:
        GrigriError: if the file is cut off, or a checksum is wrong.
    """
    kept, start, kind = [_PNG_MAGIC], len(_PNG_MAGIC), b""
    while kind != b"IEND":
        length = int.from_bytes(content[start : start + 4])
        kind, end = content[start + 4 : start + 8], start + 12 + length
        if end > len(content):
            raise GrigriError("cannot be decoded: the file is truncated")
        chunk = content[start:end]
        is_whole = chunk[-4:] == zlib.crc32(chunk[4:-4]).to_bytes(4)
        if kind[:1].isupper() and not is_whole:
            raise GrigriError("cannot be decoded: the file is damaged, a checksum is wrong")
        if kind[:1].isupper() or (kind == b"eXIf" and is_whole):
            kept.append(chunk)
        start = end
    return b"".join(kept)
