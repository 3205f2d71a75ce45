"""Small images of photographs, for pages and for comparing them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from . import check
from .batching import Batch
from .check import without
from .loader import ImageLoader


def load_thumbnails(
    paths: Sequence[Path],
    rows_N: NDArray[np.intp],
    *,
    size_px: int,
    threads: int,
    max_pixels: int,
) -> tuple[check.ImageCheck, Iterator[Batch]]:
    """Check some files; return what was found, and the good ones whole, squeezed to ``size_px``.

    They are read by the loader, on the CPU, so a file that has gone or changed its content since
    the check is not decoded but in a batch's ``dropped``.
    """
    found = check.check_images(paths, rows_N, threads=threads, max_pixels=max_pixels)

    def batches() -> Iterator[Batch]:
        good_N = without(rows_N, found.bad)
        if not len(good_N):
            return
        loader = ImageLoader(
            paths,
            found,
            size_px=size_px,
            batch_size=32,
            device=torch.device("cpu"),
            threads=threads,
        )
        try:
            yield from loader.eval_epoch(good_N)
        finally:
            loader.close()

    return found, batches()
