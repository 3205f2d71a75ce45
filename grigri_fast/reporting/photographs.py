"""Photographs of a page: which to show of a class, small pictures, and what is said of them.

Shapes: N images.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pipeline import thumbnails

_MAX_BYTES = 3_000_000  # of JPEG; a third more in the page
_QUALITIES = (80, 60, 35)  # of JPEG; the first that fits
_READ_PX, _SHOWN_PX = 128, 96

Kind = Literal["right", "false", "missed"]


@dataclass(frozen=True)
class Photo:
    """A small JPEG, or the reason why there is none."""

    jpeg: bytes = b""
    width_px: int = 0
    height_px: int = 0
    missing: str = ""


@dataclass(frozen=True)
class Tag:
    """A label beside a photograph.

    Attributes:
        text: its name, perhaps with a probability.
        kind: how well it was predicted, "" if that is not in question.
        is_subject: whether the photograph is shown because of this label.
    """

    text: str
    kind: Kind | Literal[""] = ""
    is_subject: bool = False


@dataclass(frozen=True)
class Shot:
    """A photograph as a page shows it.

    Attributes:
        photo: the picture.
        path: the file.
        kind: the colour of its frame.
        alt: what it is, for those who do not see it.
        tags: its labels.
        probability: of the label in question.
    """

    photo: Photo
    path: Path
    kind: Kind
    alt: str
    tags: Sequence[Tag] = field(default=())
    probability: float | None = None


@dataclass(frozen=True)
class Picks:
    """Rows of photographs that say most about one class.

    Attributes:
        alarms: predicted but not so, the most confident first.
        missed: so but not predicted, the most confidently denied first.
        right: predicted and so, those of middling confidence: typical ones.
    """

    alarms: list[int]
    missed: list[int]
    right: list[int]

    @property
    def rows(self) -> list[int]:
        """All of them."""
        return [*self.alarms, *self.missed, *self.right]


def pick(
    probabilities_N: NDArray[np.float64],
    predicted_N: NDArray[np.bool_],
    targets_N: NDArray[np.bool_],
    most: int,
) -> Picks:
    """Return at most ``most`` photographs of each kind; ties go to the first row."""

    def first(flags_N: NDArray[np.bool_], order_N: NDArray[np.float64]) -> list[int]:
        rows = np.flatnonzero(flags_N)
        return rows[np.argsort(order_N[rows], kind="stable")][:most].tolist()

    hits_N = predicted_N & targets_N
    middle = np.median(probabilities_N[hits_N]) if hits_N.any() else 0.0
    return Picks(
        alarms=first(predicted_N & ~targets_N, -probabilities_N),
        missed=first(targets_N & ~predicted_N, probabilities_N),
        right=first(hits_N, np.abs(probabilities_N - middle)),
    )


def read(
    paths: Sequence[Path],
    rows: Sequence[int],
    *,
    threads: int,
    max_pixels: int,
    shown_px: int = _SHOWN_PX,
) -> dict[int, Photo]:
    """Return small pictures of some files by row, as the model sees them but for their shape.

    Their longer side has ``shown_px``. They are read by the loader, so a file that has gone or
    changed its content is not decoded.
    """
    rows_N = np.array(rows, dtype=np.intp)
    if not len(rows_N):
        return {}
    inspection, batches = thumbnails.load_thumbnails(
        paths, rows_N, size_px=max(_READ_PX, shown_px), threads=threads, max_pixels=max_pixels
    )
    missing = dict(inspection.bad)
    small: dict[int, Image.Image] = {}
    for batch in batches:
        missing |= batch.dropped
        for row, pixels in zip(batch.rows_N.tolist(), batch.images_NHWC.numpy(), strict=True):
            small[row] = _unsqueezed(pixels, inspection.sizes_HW[row], shown_px)
    photos = {row: Photo(missing=reason) for row, reason in missing.items()}
    return photos | encode(small)


def _unsqueezed(
    pixels_HWC: NDArray[np.uint8], size_HW: NDArray[np.int64], shown_px: int
) -> Image.Image:
    """Return a square picture in the shape that its file has (height and width)."""
    height_px, width_px = size_HW.tolist()
    scale = shown_px / max(height_px, width_px)
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    return Image.fromarray(pixels_HWC).resize(size, Image.Resampling.LANCZOS)


def encode(small: dict[int, Image.Image], max_bytes: int = _MAX_BYTES) -> dict[int, Photo]:
    """Return pictures as JPEG, in the best quality in which all of them fit into ``max_bytes``."""
    photos: dict[int, Photo] = {}
    for quality in _QUALITIES:
        for row, image in sorted(small.items()):
            jpeg = io.BytesIO()
            image.save(jpeg, format="JPEG", quality=quality, optimize=True)
            photos[row] = Photo(jpeg.getvalue(), *image.size)
        if sum(len(photo.jpeg) for photo in photos.values()) <= max_bytes:
            break
    return photos
