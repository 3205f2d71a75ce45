"""Where each output pixel comes from: crop, flip, rotation and resize as one affine transform.

Conventions: a matrix takes output coordinates to source coordinates, ``src = A @ out + t``, stored
as ``[A | t]`` of shape (2, 3), float32. Coordinates are (x, y) in pixels and continuous: (0, 0) is
the corner of the image, the centre of the first pixel is (0.5, 0.5). Sizes are (height, width).
Shapes: N images.
"""

import numpy as np
from numpy.typing import NDArray

# torchvision's RandomResizedCrop, flip and RandomRotation with the report's ranges.
LEAST_AREA = 0.08
MAX_ANGLE_DEG = 25.0
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_FLIP_SHARE = 0.5

# Larger originals are shrunk once, when they are decoded, until their short side is this many times
# the output's: the smallest crops, of 8 % of the area, are then enlarged by up to 1.8. (FFCV trains
# on ImageNet at 224 px from images of at most 400-500 px, without a loss: ffcv.io, "rn50 configs".)
_WORKING_SCALE = 2

# Where the source points of two neighbouring output pixels are further apart than this, source
# pixels would be skipped; so each output pixel averages several points, its taps. (Assumed: up to
# 1.5, bilinear sampling is fine.)
_MAX_STEP_PX = 1.5
_MAX_TAPS = 16  # per axis; only a panorama of more than 12 : 1 would need more


def whole_image_matrices(sizes_HW: NDArray, size_px: int) -> NDArray[np.float32]:
    """Return the matrices (N, 2, 3) that resize whole images to a square, as evaluation does.

    Nothing is cut off, since a label may be about what stands at the edge; an image that is not
    square is squeezed, by less than training crops are.
    """
    boxes = np.zeros((len(sizes_HW), 4))
    boxes[:, 2:] = sizes_HW
    plain = np.zeros(len(sizes_HW))
    return _compose(boxes, plain.astype(bool), plain, size_px)


def random_matrices(
    rng: np.random.Generator,
    sizes_HW: NDArray,
    size_px: int,
    least_area: float = LEAST_AREA,
    max_angle_deg: float = MAX_ANGLE_DEG,
) -> NDArray[np.float32]:
    """Return random matrices (N, 2, 3) for training: resized crop, then flip, then rotation.

    The distributions are torchvision's (area ``least_area`` to 1, aspect 3/4-4/3, flip 50 %, angle
    up to ``max_angle_deg`` either way). The one deviation: the corners of a rotated crop show what
    is beside it in the photograph instead of black, since the source is sampled once, through the
    whole transform; outside the photograph its edge pixels are repeated.
    """
    n = len(sizes_HW)
    boxes = random_crop_boxes(rng, sizes_HW, least_area)
    flips = rng.random(n) < _FLIP_SHARE
    angles = np.radians(rng.uniform(-max_angle_deg, max_angle_deg, n))
    return _compose(boxes, flips, angles, size_px)


def random_crop_boxes(
    rng: np.random.Generator, sizes_HW: NDArray, least_area: float = LEAST_AREA
) -> NDArray[np.int64]:
    """Return random boxes (N, 4) of (top, left, height, width) as RandomResizedCrop draws them.

    Up to ten boxes of random area and aspect are drawn per image, and the first that fits is taken;
    where none does, the largest central box of an allowed aspect
    (torchvision.transforms.RandomResizedCrop.get_params, which a test compares).
    """
    n = len(sizes_HW)
    heights, widths = (sizes_HW[:, i, None].astype(np.float64) for i in (0, 1))
    area = heights * widths * rng.uniform(least_area, 1.0, (n, _TRIES))
    low, high = np.log(_ASPECT)
    aspect = np.exp(rng.uniform(low, high, (n, _TRIES)))
    box_w, box_h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (box_w > 0) & (box_w <= widths) & (box_h > 0) & (box_h <= heights)
    first = np.argmax(fits, axis=1)[:, None]
    w, h = (np.take_along_axis(b, first, axis=1)[:, 0] for b in (box_w, box_h))
    heights, widths = heights[:, 0], widths[:, 0]

    none = ~fits.any(axis=1)
    w[none] = np.minimum(widths, np.maximum(1, np.rint(heights * _ASPECT[1])))[none]
    h[none] = np.minimum(heights, np.maximum(1, np.rint(widths / _ASPECT[0])))[none]
    top = np.floor(rng.random(n) * (heights - h + 1))
    left = np.floor(rng.random(n) * (widths - w + 1))
    top[none], left[none] = (heights - h)[none] // 2, (widths - w)[none] // 2
    return np.stack([top, left, h, w], axis=1).astype(np.int64)


def _compose(
    boxes: NDArray, flips: NDArray[np.bool_], angles_rad: NDArray, size_px: int
) -> NDArray[np.float32]:
    """Return the matrices that crop a box, resize it to the square, flip it and rotate it."""
    top, left, height, width = boxes.T.astype(np.float64)
    scale_x, scale_y = width / size_px, height / size_px
    mirror = np.where(flips, -1.0, 1.0)
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    A = np.empty((len(boxes), 2, 2))
    A[:, 0, 0], A[:, 0, 1] = scale_x * mirror * cos, -scale_x * mirror * sin
    A[:, 1, 0], A[:, 1, 1] = scale_y * sin, scale_y * cos
    box_centre = np.stack([left + width / 2, top + height / 2], axis=1)
    out_centre = np.full(2, size_px / 2)
    return np.concatenate([A, (box_centre - A @ out_centre)[:, :, None]], axis=2, dtype=np.float32)


def working_sizes(sizes_HW: NDArray[np.int64], size_px: int) -> NDArray[np.int64]:
    """Return the sizes (N, 2) that images are shrunk to when they are decoded, with anti-aliasing.

    All matrices are for source images of these sizes.
    """
    factor_N = np.maximum(1, sizes_HW.min(1) / (_WORKING_SCALE * size_px))
    return np.maximum(1, np.rint(sizes_HW / factor_N[:, None])).astype(np.int64)


def taps(matrices: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many points of an output pixel to average, (N, 2) for its x and its y axis.

    One, unless that would skip source pixels; else so many that two points are at most 1.5 source
    pixels apart: a box filter over the output pixel, against aliasing.
    """
    steps_N2 = np.linalg.norm(matrices[:, :, :2].astype(np.float64), axis=1)
    # The small number keeps a step of 1.5, which float32 may store as 1.5000001, at one tap.
    return np.ceil(steps_N2 / _MAX_STEP_PX - 1e-6).clip(1, _MAX_TAPS).astype(np.int64)


def describe_evaluation(size_px: int) -> list[str]:
    """Return what evaluation does to a decoded image, in words, to write it in another program."""
    most = _WORKING_SCALE * size_px
    return [
        f"If its short side is more than {most} px: shrink it until that is {most} px, the aspect"
        " kept, sides rounded, with a triangle filter as wide as the step from one output pixel"
        " to the next (in Pillow: resize with BILINEAR).",
        f"Squeeze the whole image, nothing cut off, into {size_px} x {size_px} px, each axis by"
        f" itself: with k = ceil(side / {size_px} / {_MAX_STEP_PX}), at most {_MAX_TAPS}, sample it"
        f" bilinearly at {size_px} k points and average each k of them. Point i is at"
        f" (i + 0.5) side / ({size_px} k), where 0 is the image's edge and 0.5 the centre of its"
        " first pixel; beyond the centres of the outer pixels the image goes on as it ends.",
    ]
