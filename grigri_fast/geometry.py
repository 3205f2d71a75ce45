"""Where each output pixel comes from: crop, flip, rotation and resize as one affine map.

Conventions: a map takes output coordinates to source coordinates, ``src = A @ out + t``, stored as
``[A | t]`` of shape (2, 3), float32. Coordinates are (x, y) in pixels and continuous: (0, 0) is the
corner of the image, the centre of the first pixel is (0.5, 0.5). Sizes are (height, width).
Shapes: N images.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# torchvision's RandomResizedCrop, flip and RandomRotation with the report's ranges.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_FLIP_SHARE = 0.5
_MAX_ANGLE_DEG = 25.0

# A map that takes steps of more than this many source pixels skips some of them; the image is
# shrunk first, with anti-aliasing. (Assumed: bilinear sampling is fine up to 1.5.)
_MAX_STEP_PX = 1.5


def whole_image_maps(sizes_HW: NDArray, size_px: int) -> NDArray[np.float32]:
    """Return the maps (N, 2, 3) that resize whole images to a square: the evaluation transform.

    Nothing is cut off, since a label may be about what stands at the edge; an image that is not
    square is squeezed, by less than training crops are.
    """
    boxes = np.zeros((len(sizes_HW), 4))
    boxes[:, 2:] = sizes_HW
    plain = np.zeros(len(sizes_HW))
    return _compose(boxes, plain.astype(bool), plain, size_px)


def random_maps(rng: np.random.Generator, sizes_HW: NDArray, size_px: int) -> NDArray[np.float32]:
    """Return random training maps (N, 2, 3): resized crop, then flip, then rotation.

    The distributions are torchvision's (area 8-100 %, aspect 3/4-4/3, flip 50 %, +-25 degrees). The
    one deviation: a rotated crop shows what is beside it in the photograph instead of black
    corners, since all of it is one look into the source; outside the photograph its edge goes on.
    """
    n = len(sizes_HW)
    boxes = random_crop_boxes(rng, sizes_HW)
    flips = rng.random(n) < _FLIP_SHARE
    angles = np.radians(rng.uniform(-_MAX_ANGLE_DEG, _MAX_ANGLE_DEG, n))
    return _compose(boxes, flips, angles, size_px)


def random_crop_boxes(rng: np.random.Generator, sizes_HW: NDArray) -> NDArray[np.int64]:
    """Return random boxes (N, 4) of (top, left, height, width) as RandomResizedCrop draws them.

    Up to ten tries per image to place a box of random area and aspect; the first that fits is
    taken, else the largest central box of an allowed aspect
    (torchvision.transforms.RandomResizedCrop.get_params, which a test compares).
    """
    n = len(sizes_HW)
    heights, widths = (sizes_HW[:, i, None].astype(np.float64) for i in (0, 1))
    area = heights * widths * rng.uniform(*_AREA, (n, _TRIES))
    aspect = np.exp(rng.uniform(*np.log(_ASPECT), (n, _TRIES)))
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
    """Return the maps of: crop the box, resize it to the square, flip it, rotate it."""
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


def needs_shrinking(sizes_HW: NDArray, size_px: int) -> bool:
    """Return whether any map into these images could take steps that skip pixels."""
    return bool((sizes_HW > _MAX_STEP_PX * size_px).any())


def shrink_first(
    maps: NDArray[np.float32], sizes_HW: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the sizes (N, 2) to shrink images to before their maps, and the maps from there.

    An axis of the source along which a map steps by more than 1.5 pixels per output pixel is
    shrunk until it steps by one; the others stay as they are.
    """
    steps_xy = np.linalg.norm(maps[:, :, :2].astype(np.float64), axis=2)
    factors_HW = np.where(steps_xy > _MAX_STEP_PX, steps_xy, 1.0)[:, ::-1]
    shrunk_HW = np.maximum(1, np.rint(sizes_HW / factors_HW)).astype(np.int64)
    ratio_xy = (shrunk_HW / sizes_HW)[:, ::-1, None]
    return shrunk_HW, (maps * ratio_xy).astype(np.float32)


def epoch_rng(seed: int, epoch: int, purpose: Literal["order", "maps"]) -> np.random.Generator:
    """Return the generator of one purpose in one epoch: what it draws depends on nothing else."""
    return np.random.default_rng([seed, epoch, ("order", "maps").index(purpose)])
