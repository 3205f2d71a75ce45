"""Valid image files of unusual kinds, 32 x 32, each with the pixels that must be seen."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

SIDE = 32
_y, _x = np.mgrid[:SIDE, :SIDE]
BASE = np.stack([7 * _x, 7 * _y, 3 * (_x + _y) + 20], axis=2).astype(np.uint8)  # HWC
_picture = Image.fromarray(BASE)
GRAY16 = (_x * 1500 + _y * 500).astype(np.uint16)


def _saved(kind: str, image: Image.Image | None = None, **how: object) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(BASE)).save(file, kind, **how)
    return file.getvalue()


def _turned() -> Image.Exif:
    """Return metadata that say: turn by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def webp_that_dali_refuses(image: Image.Image, **metadata: object) -> bytes:
    """Return a lossless WebP with metadata whose pixels take an odd number of bytes.

    That is where DALI 2.4.0 loses its way (NVIDIA/DALI 3206).
    """
    for method in range(7):
        webp = _saved("WEBP", image, lossless=True, method=method, **metadata)
        (size,) = struct.unpack_from("<I", webp, webp.index(b"VP8L") + 4)
        if size % 2:
            return webp
    raise AssertionError("no WebP with an odd number of bytes")


def png_chunk(kind: bytes, body: bytes, damage: int = 0) -> bytes:
    crc32 = zlib.crc32(kind + body) ^ damage
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32)


def with_chunk(chunk: bytes) -> bytes:
    """Return a PNG with one more chunk before its pixels."""
    png = _saved("PNG")
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk + png[at:]


def _interlaced(pixels: np.ndarray, bits: int, colour: int, extra: bytes = b"") -> bytes:
    """Return an interlaced PNG (Adam7)."""
    rows = b""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
    passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for left, top, step_x, step_y in passes:
        for row in pixels[top::step_y, left::step_x]:
            rows += b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, 1)
    chunks = png_chunk(b"IHDR", head) + extra + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def _bmp(bits: int, compression: int, body: bytes, palette: bytes = b"") -> bytes:
    start = 54 + len(palette)
    head = struct.pack(
        "<IiiHHIIiiII",
        *(40, SIDE, SIDE, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0),
    )
    size = struct.pack("<IHHI", start + len(body), 0, 0, start)
    return b"BM" + size + head + palette + body


def _run_length_bmp() -> bytes:
    grays = b"".join(bytes([i, i, i, 0]) for i in range(256))
    runs = b"".join(
        b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in BASE[::-1, :, 0]
    )
    return _bmp(8, 1, runs + b"\0\1", grays)


def _bmp_of_15_bits() -> bytes:
    r, g, b = (BASE[::-1, :, i].astype("<u2") >> 3 for i in range(3))
    return _bmp(16, 0, (r << 10 | g << 5 | b).astype("<u2").tobytes())


def tiff(bits: list[int], photometric: int, body: bytes, *more: tuple[int, int]) -> bytes:
    """Return a TIFF that is not compressed; ``more``: its other tags, of one short each."""
    tags = {256: [SIDE], 257: [SIDE], 258: bits, 259: [1], 262: [photometric], 273: [0]}
    tags |= {277: [len(bits)], 278: [SIDE], 279: [len(body)]} | {tag: [v] for tag, v in more}
    start = 8 + 2 + 12 * len(tags) + 4
    long = b"".join(
        struct.pack("<H", v) for values in tags.values() if len(values) > 2 for v in values
    )
    tags[273] = [start + len(long)]
    entries = b""
    for tag, values in sorted(tags.items()):
        kind, size = (4, "I") if tag in (273, 279) else (3, "H")
        packed = b"".join(struct.pack(f"<{size}", v) for v in values)
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", start)
        entries += struct.pack("<HHI", tag, kind, len(values)) + where
    return (
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + long + body
    )


def _jpeg_marker(at: int, junk: bytes, image: Image.Image | None = None) -> bytes:
    jpeg = _saved("JPEG", image, quality=98, subsampling=0)
    return jpeg[:at] + junk + jpeg[at:]


def _junk_in_a_jpeg() -> bytes:
    jpeg = _saved("JPEG", quality=98, subsampling=0)
    at = jpeg.index(b"\xff\xda")
    return jpeg[:at] + b"\0\1\2\3" + jpeg[at:]


def _gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(values).astype(np.uint8)[:, :, None], 3, axis=2)


def _cmyk(image_HWC: np.ndarray) -> Image.Image:
    ink = np.dstack([255 - image_HWC, np.zeros((SIDE, SIDE), np.uint8)])
    return Image.frombytes("CMYK", (SIDE, SIDE), ink.tobytes())


def _lab() -> Image.Image:
    to = ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(
        Image.fromarray(BASE), ImageCms.createProfile("sRGB"), to, outputMode="LAB"
    )


_icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = np.rot90(BASE, -1)
_alpha = np.dstack([BASE[..., 0], BASE[..., 1]])
_red = _gray(BASE[..., 0])
_five_bits = np.rint((BASE >> 3) / 31 * 255).astype(np.uint8)

# By name: the file, the pixels, and how far they may be off (lossy formats, rounding).
ODD: dict[str, tuple[bytes, np.ndarray, int]] = {
    "turned.webp": (webp_that_dali_refuses(_picture, exif=_turned()), TURNED, 0),
    "profile.webp": (
        webp_that_dali_refuses(_picture, icc_profile=_icc, xmp=b"<x/>", exif=_turned()),
        TURNED,
        0,
    ),
    "animated.webp": (
        _saved("WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(TURNED)]),
        BASE,
        0,
    ),
    "15-bits.bmp": (_bmp_of_15_bits(), _five_bits, 1),
    "run-length.bmp": (_run_length_bmp(), _red, 0),
    "bilevel.tif": (
        _saved("TIFF", Image.fromarray(BASE[..., 0] > 100)),
        _gray(255.0 * (BASE[..., 0] > 100)),
        0,
    ),
    "4-bits.tif": (
        tiff([4], 1, (BASE[:, ::2, 0] & 0xF0 | BASE[:, 1::2, 0] >> 4).tobytes()),
        _gray((BASE[..., 0] >> 4) * 17),
        0,
    ),
    "gray-alpha.tif": (tiff([8, 8], 1, _alpha.tobytes(), (338, 2)), _red, 0),
    "white-is-zero.tif": (tiff([8], 0, (255 - BASE[..., 0]).tobytes()), _red, 0),
    "lzma.tif": (_saved("TIFF", compression="lzma"), BASE, 0),
    "cmyk.tif": (_saved("TIFF", _cmyk(BASE)), BASE, 0),
    "lab.tif": (_saved("TIFF", _lab()), BASE, 32),
    "ycc.tif": (_saved("TIFF", Image.fromarray(BASE).convert("YCbCr")), BASE, 3),
    "cmyk.jpg": (_saved("JPEG", _cmyk(BASE), quality=98), BASE, 12),
    "junk.jpg": (_junk_in_a_jpeg(), BASE, 5),
    "padded.jpg": (_jpeg_marker(2, b"\xff\xff\xff"), BASE, 5),
    "interlaced-palette.png": (
        _interlaced(
            BASE[..., 0], 8, 3, png_chunk(b"PLTE", bytes(np.arange(256).repeat(3).tolist()))
        ),
        _red,
        0,
    ),
    "interlaced-16-bits.png": (_interlaced(BASE.astype(np.uint16) * 257, 16, 2), BASE, 0),
    "profile-damaged.png": (
        with_chunk(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"no profile"))),
        BASE,
        0,
    ),
    "text-damaged.png": (with_chunk(png_chunk(b"tEXt", b"a\0b", damage=1)), BASE, 0),
    # 16 bits: 65,535 is white
    "16-bits.png": (_saved("PNG", Image.fromarray(GRAY16)), _gray(GRAY16 / 257), 1),
    "16-bits-interlaced.png": (_interlaced(GRAY16, 16, 0), _gray(GRAY16 / 257), 1),
    "16-bits.tif": (_saved("TIFF", Image.fromarray(GRAY16)), _gray(GRAY16 / 257), 1),
    "16-bits-white-is-zero.tif": (
        tiff([16], 0, (65535 - GRAY16).astype("<u2").tobytes()),
        _gray(GRAY16 / 257),
        1,
    ),
    "16-bits-colour.tif": (
        tiff([16] * 3, 2, (BASE.astype("<u2") * 257).tobytes()),
        BASE,
        1,
    ),
    "avif.avif": (_saved("AVIF", quality=100, subsampling="4:4:4", exif=_turned()), TURNED, 8),
}
