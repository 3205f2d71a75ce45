"""Images of any number of files, in order: checked, read and decoded just before they are used.

A check of all files, and a loader that knows all of them, take memory and time in proportion to
their number before the first image comes. Here a file is checked shortly before it is decoded, and
its place in the loader is used again for a later one.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .check import ImageCheck
from .image_file import FileCheck
from .loader import ImageLoader

_Verdicts = list[tuple[int, FileCheck]]  # of usable files: position in the list, and the check


@dataclass(frozen=True)
class Part:
    """The next files of the list, and the images of those that can be used.

    Attributes:
        positions: the files' positions in the list, without a gap.
        images_NHWC: uint8 RGB on the device, those of the usable files in order.
        bad: reason by position, for each file that cannot be used.
    """

    positions: range
    images_NHWC: torch.Tensor
    bad: dict[int, str]


class ImageStream:
    """Makes batches of whole images of files, in order, while they are checked.

    The images of a batch are the next ``batch_size`` usable ones, the last one joined by an image
    that would be left over (as in :func:`cut_batches`), wherever there are bad files in between.

    Args:
        paths: image files.
        size_px: side of the square output.
        batch_size: images in a batch.
        device: where batches end up.
        threads: CPU threads for reading, decoding and warping.
        max_pixels: the limit that the files are checked with.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        size_px: int,
        batch_size: int,
        device: torch.device,
        threads: int,
        max_pixels: int,
    ) -> None:
        self._paths, self._batch_size = paths, batch_size
        # Places for files that are read or decoded; more than any loader has batches under way.
        self._num_places = (batch_size + 1) * (threads + 16)
        self._num_entered = 0
        self._path_of = [Path()] * self._num_places
        self._checked = ImageCheck(
            np.ones((self._num_places, 2), dtype=np.int64),
            np.full(self._num_places, -1),
            {},
            max_pixels,
        )
        self._loader = ImageLoader(
            self._path_of,
            self._checked,
            size_px=size_px,
            batch_size=batch_size,
            device=device,
            threads=threads,
            grows=True,
        )

    @property
    def num_at_once(self) -> int:
        """Images that are read, decoded or waiting at the same time."""
        return self._loader.num_at_once

    def parts(self, checks: Iterable[tuple[int, FileCheck]]) -> Generator[Part]:
        """Yield all files in parts, each with a batch of images (or with none, if no file is good).

        ``checks``: position and result of each file in order (:func:`check_in_order`); it is asked
        for a few batches ahead of what is yielded.
        """
        coming: deque[tuple[range, _Verdicts, NDArray[np.intp], dict[int, str]]] = deque()

        def batches() -> Iterator[NDArray[np.intp]]:
            for positions, usable, bad in self._cut(checks):
                places = self._enter(usable)
                coming.append((positions, usable, places, bad))
                if usable:
                    yield places

        with contextlib.closing(self._loader.stream(batches())) as made:
            for batch in made:
                positions, usable, places, bad = coming.popleft()
                for (position, _), place in zip(usable, places.tolist(), strict=True):
                    if place in batch.dropped:
                        bad[position] = batch.dropped[place]
                yield Part(positions, batch.images_NHWC, bad)
        for positions, _, _, bad in coming:
            yield Part(positions, torch.empty((0, 0, 0, 3), dtype=torch.uint8), bad)

    def close(self) -> None:
        """Free the decoders and the threads."""
        self._loader.close()

    def _cut(
        self, checks: Iterable[tuple[int, FileCheck]]
    ) -> Iterator[tuple[range, _Verdicts, dict[int, str]]]:
        """Yield positions without a gap, the usable files among them, and why others are bad.

        A batch is cut when two more images are known, since one alone joins the last batch.
        """
        first = end = 0
        usable: _Verdicts = []
        bad: dict[int, str] = {}
        for position, check in checks:
            end = position + 1
            if check.reason:
                bad[position] = check.reason
                continue
            usable.append((position, check))
            if len(usable) == self._batch_size + 2:
                next_first = usable[self._batch_size][0]
                here = {row: why for row, why in bad.items() if row < next_first}
                yield range(first, next_first), usable[: self._batch_size], here
                usable = usable[self._batch_size :]
                bad = {row: why for row, why in bad.items() if row > next_first}
                first = next_first
        if first < end:
            yield range(first, end), usable, bad

    def _enter(self, usable: _Verdicts) -> NDArray[np.intp]:
        """Give files their places in the loader, those that were used the longest time ago."""
        numbers = np.arange(self._num_entered, self._num_entered + len(usable))
        self._num_entered += len(usable)
        places = numbers % self._num_places
        for place, (position, check) in zip(places.tolist(), usable, strict=True):
            self._path_of[place] = self._paths[position]
            self._checked.sizes_HW[place] = check.height_px, check.width_px
            self._checked.crc32_N[place] = check.crc32
            self._checked.by_pillow.discard(place)
            if check.by_pillow:
                self._checked.by_pillow.add(place)
        return places.astype(np.intp)
