"""Large JPEGs decoded at a half, a quarter or an eighth of their size, then shrunk to the rest.

A JPEG holds blocks of 8 x 8 pixels as frequencies. Its decoder can leave out the high ones and make
4 x 4, 2 x 2 pixels or one of each block (libjpeg-turbo, by way of Pillow's ``draft``), which leaves
little more to do than to read the file: a photograph of 12 Mpx takes a third of the time. The rest
of the way is a triangle filter as wide as the step, as where DALI shrinks; only there it begins at
the original's size. The pixels are close to DALI's, not equal (test_scaled_jpeg.py).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ..errors import GrigriError
from . import image_file, pillow

FACTORS = (8, 4, 2)  # what libjpeg-turbo has fast code for
_LEAST_PIXELS = 2**20  # of an original that is worth it (assumed)
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap height and width


def factors(sizes_HW: NDArray[np.int64], working_HW: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return by how much to divide the sizes of JPEGs when they are decoded (N,); 1: not at all.

    The most that leaves an image at least as large as what is wanted.

    Args:
        sizes_HW: sizes of the originals (N, 2).
        working_HW: the sizes that are wanted (N, 2).
    """
    factor_N = np.ones(len(sizes_HW), dtype=np.int64)
    for factor in sorted(FACTORS):
        factor_N[(sizes_HW // factor >= working_HW).all(1)] = factor
    factor_N[sizes_HW.prod(1) < _LEAST_PIXELS] = 1
    return factor_N


def decode(content: bytes, factor: int, size_HW: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the pixels of a JPEG in the size that is wanted, upright, RGB (H, W, 3).

    Args:
        content: an image file.
        factor: what its sides are divided by when it is decoded.
        size_HW: the size that is wanted, height and width.

    Raises:
        GrigriError: if it is no JPEG, or cannot be decoded so; the reason alone.
    """
    if image_file.format_of(content[:32]) != "JPEG":
        raise GrigriError("no JPEG")
    with pillow.opened(content) as image:
        width, height = image.size
        image.draft("RGB", (width // factor, height // factor))
        if image.size != (-(-width // factor), -(-height // factor)):
            raise GrigriError(f"cannot be decoded at 1/{factor} of its size")
        # All at once: by pieces, the decoder would go back to the last row that was whole.
        image.decodermaxblock = len(content)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        lying_HW = size_HW[::-1] if orientation in _ON_ITS_SIDE else size_HW
        # The last row and column may be of a part of their source pixels: the scale is the true one
        scale_HW = lying_HW * factor / np.array([height, width])
        colours = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
        pixels_HWC = _shrunk(np.array(colours), scale_HW)
        if orientation != 1:
            shrunk = Image.fromarray(pixels_HWC)
            shrunk.info = image.info  # with its orientation
            pixels_HWC = np.asarray(ImageOps.exif_transpose(shrunk))
    if pixels_HWC.shape != (*size_HW.tolist(), 3):
        raise GrigriError("its size is not the one that was checked")
    return pixels_HWC


def _shrunk(pixels_HWC: NDArray[np.uint8], scale_HW: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return an image by a triangle filter as wide as the step; its size is rounded down."""
    if (scale_HW > 1).any():
        raise GrigriError("its size is not the one that was checked")
    scale = tuple((scale_HW * (1 + 1e-9)).tolist())  # a whole number is not rounded down
    # As channels_last this is serial code for uint8: other layouts start threads in each thread.
    pixels_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
    shrunk_1CHW = torch.nn.functional.interpolate(
        pixels_1CHW, scale_factor=scale, mode="bilinear", antialias=True
    )
    return shrunk_1CHW[0].permute(1, 2, 0).contiguous().numpy()
