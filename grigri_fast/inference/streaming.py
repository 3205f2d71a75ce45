"""Any number of files through a network, in order: what is computed comes out as it is computed.

While a batch goes through the network, the files of the next ones are checked (in a process of
their own), read and decoded (in threads). Memory does not depend on the number of files.

Shapes: N images of a part, C outputs.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..pipeline.check import check_images, check_in_order
from ..pipeline.image_file import FileCheck
from ..pipeline.stream import ImageStream
from ..runtime.compute import Compute
from ..runtime.memory import Budget
from .forward import Forward, micro_batch_of_evaluation

Outputs = tuple[range, dict[int, str], NDArray[np.float32]]


def outputs(
    run: Forward,
    paths: Sequence[Path],
    *,
    size_px: int,
    batch_size: int,
    compute: Compute,
    budget: Budget,
    max_pixels: int,
) -> Generator[Outputs]:
    """Yield what ``run`` computes of image files, in parts of about a batch, in order.

    With a limit in ``budget``, all files are checked first: the memory that the largest of them
    takes is measured before the limit is judged.

    Args:
        run: images -> outputs (N, C).
        paths: image files.
        size_px: side of the images.
        batch_size: images in a batch.
        compute: what to compute on.
        budget: with a limit, as many images go through ``run`` at once as it allows.
        max_pixels: larger images are refused unread.

    Yields:
        The positions of the files; by position, the reason why one cannot be used; and the outputs
        of the others (on the host, float32).

    Raises:
        GrigriError: if not even one image fits within the limit.
    """
    stream = ImageStream(
        paths,
        size_px=size_px,
        batch_size=batch_size,
        device=compute.device,
        threads=compute.threads,
        max_pixels=max_pixels,
    )
    with contextlib.closing(stream):
        checks: Iterator[tuple[int, FileCheck]]
        if budget.limit is None:
            checks = check_in_order(paths, threads=compute.threads, max_pixels=max_pixels)
        else:
            checks = _check_all(paths, compute.threads, max_pixels, stream)
        at_once = micro_batch_of_evaluation(run, batch_size, size_px, budget)
        # What is on the device is fetched when the next batch has been given to it.
        waiting: tuple[range, dict[int, str], torch.Tensor] | None = None
        for part in stream.parts(checks):
            computed = [run(some) for some in part.images_NHWC.split(at_once) if len(some)]
            if waiting is not None:
                yield _on_host(*waiting)
            outputs_NC = torch.cat(computed) if computed else torch.empty((0, 0))
            waiting = part.positions, part.bad, outputs_NC
        if waiting is not None:
            yield _on_host(*waiting)


def _on_host(positions: range, bad: dict[int, str], outputs_NC: torch.Tensor) -> Outputs:
    return positions, bad, outputs_NC.cpu().numpy()


def _check_all(
    paths: Sequence[Path], threads: int, max_pixels: int, stream: ImageStream
) -> Iterator[tuple[int, FileCheck]]:
    """Check all files, decode the largest ones, and return the results in order."""
    checked = check_images(paths, threads=threads, max_pixels=max_pixels)

    def result(row: int) -> tuple[int, FileCheck]:
        if row in checked.bad:
            return row, FileCheck(-1, reason=checked.bad[row])
        height, width = checked.sizes_HW[row].tolist()
        crc32 = int(checked.crc32_N[row])
        return row, FileCheck(crc32, height, width, by_pillow=row in checked.by_pillow)

    by_size = np.argsort(-checked.sizes_HW.prod(1), kind="stable").tolist()
    largest = [row for row in by_size[: 2 * stream.num_at_once] if row not in checked.bad]
    for _ in stream.parts(map(result, largest)):
        pass
    return map(result, range(len(paths)))
