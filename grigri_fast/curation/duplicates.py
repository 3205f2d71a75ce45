"""Near-duplicates in a data set.

By a perceptual hash (ImageHash: the signs of 64 low frequencies) and, since a small distance of 64
bits happens by chance among many images, by how small versions correlate.

Shapes: N images, P pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import GrigriError
from ..pipeline import thumbnails

DISTANCE = 10  # of 64 bits
# Measured on 12,000 photographs of MIRFLICKR: of the 47 pairs within 10 bits, the six that show
# the same had 0.90 to 1.00, the others 0.84 at most.
_LEAST_CORRELATION = 0.88
_READ_PX, _SMALL_PX = 64, 16
_BLOCK_CELLS = 4_000_000  # pairs of hashes that are compared at a time
_CHUNK = 65_536  # pairs whose small versions are compared at a time
_MAX_PAIRS = 1_000_000


@dataclass(frozen=True)
class Pair:
    """Two images that show the same, nearly.

    Attributes:
        first, second: their rows, in order.
        distance: bits of 64 in which their hashes differ.
        correlation: of their brightness at 16 x 16 px.
    """

    first: int
    second: int
    distance: int
    correlation: float


@dataclass(frozen=True)
class Fingerprints:
    """What images show, in few bytes.

    Attributes:
        rows_N: the images' rows.
        hashes_N: perceptual hashes, uint64.
        small_NP: brightness at 16 x 16 px, uint8.
    """

    rows_N: NDArray[np.intp]
    hashes_N: NDArray[np.uint64]
    small_NP: NDArray[np.uint8]


def fingerprints(
    paths: Sequence[Path],
    *,
    threads: int,
    max_pixels: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fingerprints:
    """Return the fingerprints of all files that can be used; the others are left out."""
    import imagehash

    rows_N = np.arange(len(paths))
    inspection, batches = thumbnails.load_thumbnails(
        paths, rows_N, size_px=_READ_PX, threads=threads, max_pixels=max_pixels
    )
    rows, hashes, small = [], [], []
    for batch in batches:
        for row, pixels in zip(batch.rows_N.tolist(), batch.images_NHWC.numpy(), strict=True):
            grey = Image.fromarray(pixels).convert("L")
            rows.append(row)
            bits = imagehash.phash(grey).hash.ravel()
            hashes.append(np.packbits(bits).view(np.uint64)[0])
            small.append(np.asarray(grey.resize((_SMALL_PX, _SMALL_PX), Image.Resampling.BOX)))
        on_progress(len(rows), len(paths) - len(inspection.bad))
    return Fingerprints(
        np.array(rows, dtype=np.intp),
        np.array(hashes, dtype=np.uint64),
        np.array(small, dtype=np.uint8).reshape(len(rows), _SMALL_PX**2),
    )


def near_duplicates(prints: Fingerprints, distance: int = DISTANCE) -> list[Pair]:
    """Return the pairs that are alike, the most alike first.

    All pairs are compared, 4 million at a time: of 100,000 images, 5 thousand million.

    Raises:
        GrigriError: if they are more than a million.
    """
    pairs: list[Pair] = []
    n = len(prints.rows_N)
    block = max(1, _BLOCK_CELLS // max(1, n))
    for start in range(0, n, block):
        differ = np.bitwise_count(
            prints.hashes_N[start : start + block, None] ^ prints.hashes_N[None, start:]
        )
        a, b = np.nonzero(differ <= distance)
        later = b > a
        a, b = a[later], b[later]
        bits = differ[a, b]
        for at in range(0, len(a), _CHUNK):
            chunk = slice(at, at + _CHUNK)
            i, j = a[chunk] + start, b[chunk] + start
            alike = _correlation(prints.small_NP[i], prints.small_NP[j])
            for k in np.flatnonzero(alike >= _LEAST_CORRELATION).tolist():
                first, second = sorted((int(prints.rows_N[i[k]]), int(prints.rows_N[j[k]])))
                pairs.append(Pair(first, second, int(bits[chunk][k]), float(alike[k])))
        if len(pairs) > _MAX_PAIRS:
            raise GrigriError(
                f"more than {_MAX_PAIRS:,} near-duplicates: are most images the same?"
                f" A smaller --distance than {distance} finds fewer"
            )
    return sorted(pairs, key=lambda p: (p.distance, -p.correlation, p.first, p.second))


def _correlation(a_PN: NDArray[np.uint8], b_PN: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Pearson's correlation of each row; 1 for equal rows, 0 for others without contrast."""
    a = a_PN - a_PN.mean(1, keepdims=True, dtype=np.float32)
    b = b_PN - b_PN.mean(1, keepdims=True, dtype=np.float32)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    correlation = (a * b).sum(1) / np.maximum(norm, 1e-6)
    return np.where((a_PN == b_PN).all(1), np.float32(1), correlation)
