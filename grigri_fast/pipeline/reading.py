"""Reading checked files for a decoder, and finding out which one made it fail."""

import contextlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GrigriError
from ..runtime import files, memory
from . import affine, image_file, pillow, scaled_jpeg
from .check import ImageCheck, check_images, forget

LEAVE_S = 5.0  # how long to wait for unfinished work when an epoch is left
# What any decoder that works can decode: a gray image of 8 x 8 pixels.
PROBE = np.frombuffer(b"P6 8 8 255\n" + bytes([128]) * 192, dtype=np.uint8)
PROBE_HW = np.array([[8, 8]])

Made = TypeVar("Made")
Encoded = dict[int, NDArray[np.uint8]]  # contents of files by row; some are pixels (H, W, 3)


class CheckedFiles:
    """Image files whose bytes are given out only if they are those that were checked.

    Threads may share it.

    Args:
        paths: image files; row i is ``paths[i]``.
        checked: what :func:`check.check_images` returned for them.
        size_px: side of what the images are for.
        scales: whether of large JPEGs the pixels are given out, shrunk (``scaled_jpeg``).
        grows: whether rows come later (:meth:`renew`), of which some may be of large originals.

    Attributes:
        sizes_HW: sizes (N, 2) after large originals are shrunk (:func:`affine.working_sizes`).
        shrink: whether any original is, or may be.
        being_read: the files that are being read now.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        checked: ImageCheck,
        size_px: int,
        *,
        scales: bool = False,
        grows: bool = False,
    ) -> None:
        self._paths, self._checked = paths, checked
        self._size_px, self._scales = size_px, scales
        self._by_pillow = set(checked.by_pillow)
        self.sizes_HW = affine.working_sizes(checked.sizes_HW, size_px)
        self.shrink = grows or bool((self.sizes_HW != checked.sizes_HW).any())
        self.being_read: set[Path] = set()
        self._factor_N = np.ones(len(paths), dtype=np.int64)
        if scales:
            self._factor_N = scaled_jpeg.factors(checked.sizes_HW, self.sizes_HW)

    def __len__(self) -> int:
        return len(self._paths)

    def renew(self, rows: NDArray[np.intp]) -> None:
        """Take over what paths and check say of some rows by now, none of which is in use."""
        originals_HW = self._checked.sizes_HW[rows]
        self.sizes_HW[rows] = affine.working_sizes(originals_HW, self._size_px)
        if self._scales:
            self._factor_N[rows] = scaled_jpeg.factors(originals_HW, self.sizes_HW[rows])
        self._by_pillow.difference_update(rows.tolist())
        self._by_pillow.update(self._checked.by_pillow.intersection(rows.tolist()))

    def num_pixels(self, rows: list[int]) -> list[int]:
        """Return how many pixels each original has."""
        return self._checked.sizes_HW[rows].prod(1).tolist()

    def read(self, rows: list[int]) -> tuple[Encoded, dict[int, str]]:
        """Return the bytes of files by row, and why others are bad.

        Of a file that Pillow decodes they are its pixels, as a file for DALI. Of a large JPEG that
        was decoded at a fraction of its size they are the pixels, RGB (H, W, 3), shrunk.
        """
        contents: Encoded = {}
        dropped: dict[int, str] = {}
        for row in rows:
            try:
                contents[row] = self._read(row)
            except GrigriError as e:
                dropped[row] = str(e)
        return contents, dropped

    def _read(self, row: int) -> NDArray[np.uint8]:
        """Return a file's bytes, or what :meth:`read` gives out for them.

        Raises:
            GrigriError: if they are not those that were checked; the message is the reason alone.
        """
        path = self._paths[row]
        self.being_read.add(path)
        try:
            content = files.read_bytes(path, image_file.max_bytes(self._checked.max_pixels))
        finally:
            self.being_read.discard(path)
        if zlib.crc32(content) != self._checked.crc32_N[row]:
            forget(path)
            raise GrigriError("its content has changed since it was checked")
        if self._factor_N[row] > 1:
            with contextlib.suppress(GrigriError):  # then it is decoded whole
                factor, size_HW = int(self._factor_N[row]), self.sizes_HW[row]
                return scaled_jpeg.decode(content, factor, size_HW)
        if row in self._by_pillow:
            content = pillow.as_ppm(content)
        return np.frombuffer(content, dtype=np.uint8)

    def require_checked_sizes(self, rows: list[int], decoded_HW: ArrayLike) -> None:
        """Raise RuntimeError if images have been decoded to other sizes than when checked."""
        if not np.array_equal(decoded_HW, self.sizes_HW[rows]):
            raise RuntimeError("decoded to another size than when it was checked")

    def rescue(
        self,
        rows: list[int],
        contents: Encoded,
        error: RuntimeError,
        make: Callable[[list[int], Encoded], Made],
        decodes: Callable[[], bool],
        where: str,
    ) -> tuple[list[Made], dict[int, str]]:
        """Do a group that has failed again; return what was made of it, and why files are bad.

        They could be decoded when they were checked, so it is the disk, or a decoder on the GPU
        that can do less than the one on the CPU. Files that are bad now are left out; the others
        are done by halves until those that fail stand alone, and Pillow decodes these.

        Args:
            rows: of the group.
            contents: their bytes.
            error: what was raised.
            make: makes a part of the group, or raises RuntimeError.
            decodes: whether the decoder can decode :data:`PROBE`.
            where: the decoder's device, in words.

        Raises:
            RuntimeError: ``error``, or the last one, if it is no file's fault: memory has run out,
                or nothing can be decoded.
        """
        if memory.is_out_of_memory(error):
            raise error
        dropped = check_images(
            self._paths,
            np.array(rows, dtype=np.intp),
            threads=1,
            max_pixels=self._checked.max_pixels,
            use_cache=False,
        ).bad
        made: list[Made] = []

        def do(some: list[int]) -> None:
            try:
                made.append(make(some, contents))
            except RuntimeError as e:
                if memory.is_out_of_memory(e):
                    raise
                if len(some) > 1:
                    do(some[: len(some) // 2])
                    do(some[len(some) // 2 :])
                elif not by_pillow(some[0]):
                    if not decodes():
                        raise
                    dropped[some[0]] = f"cannot be decoded on {where}"

        def by_pillow(row: int) -> bool:
            try:
                ppm = np.frombuffer(pillow.as_ppm(contents[row].tobytes()), dtype=np.uint8)
                made.append(make([row], {row: ppm}))
            except (GrigriError, RuntimeError):
                return False
            self._by_pillow.add(row)
            return True

        if good := [row for row in rows if row not in dropped]:
            do(good)
        return made, dropped
