"""What making batches costs on a GPU: launches, bytes moved and memory, counted and not measured.

Counted from the sources of DALI 2.4 for what ``decode.batch_graph`` and ``decode.look_graph`` do
between decoded images and a batch. Decoding itself is not counted: nvJPEG launches some kernels per
image, whatever comes after it. Only a GPU shows the rest (benchmarks/gpu_acceptance.py).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import affine
from .dali_batches import GROUP_PIXELS, ITERATIONS_UNDER_WAY, PIXELS_UNDER_WAY
from .decode import GROUP_FILES, WARPED_FILES

_FLOAT_BYTES = 4  # what DALI resizes and averages in

# Operations on a stream per iteration; each kernel comes with copies of its descriptions.
_GATHER = 2  # from the cache on the device: descriptions, kernel
_WARP = 3  # matrices, descriptions, kernel
_AVERAGE = 7  # over rows and over columns: 2 descriptions, 2 kernels; cast: 2 descriptions, kernel
_JOIN = 1  # a batch of several groups: PyTorch's cat
_ROWS = 1  # the batch's row numbers

# nvJPEG's hybrid decoder, per pixel of the image a thread decodes: coefficients of 16 bits and
# planes of 8 bits, at 1.5 values for a pixel of 4:2:0, up to 3 for one of 4:4:4. (Estimated from
# the format; it has not been seen.)
_NVJPEG_BYTES_PER_PIXEL = 9
# DALI's pool takes memory from the driver in blocks of min(total / 256, 64 MiB).
_BLOCK_BYTES = 64 * 2**20
_NUM_STREAMS = 2  # whose freed memory is not interchangeable at once: DALI's, and the consumer's


@dataclass(frozen=True)
class Work:
    """What the GPU does for a batch after decoding.

    Attributes:
        launches: kernels and copies that are given to a stream.
        bytes_moved: read and written in the GPU's memory, the matrices and the like left out.
    """

    launches: int
    bytes_moved: int


def work_of(matrices: NDArray[np.float32], size_px: int, from_cache: bool) -> Work:
    """Return what it takes to warp a batch, as few groups as possible.

    Args:
        matrices: the maps of its images (N, 2, 3).
        size_px: side of the output.
        from_cache: whether the images are in the cache on the device; else they are decoded.
    """
    taps_N2 = affine.taps(matrices)
    averages = bool((taps_N2 > 1).any())
    num_groups = math.ceil(len(matrices) / (WARPED_FILES if from_cache else GROUP_FILES))
    launches = num_groups * (_WARP + from_cache * _GATHER + averages * _AVERAGE)
    launches += _ROWS + _JOIN * (num_groups > 1)

    output_bytes = 3 * size_px**2
    sampled_N = output_bytes * taps_N2.prod(1)
    # Each source pixel that is between sampled points is read once; they may be 1.5 pixels apart.
    area_N = np.abs(np.linalg.det(matrices[:, :, :2].astype(np.float64)))
    read_N = output_bytes * area_N
    bytes_N = read_N + sampled_N
    if averages:
        # The rows' sums: samples read, sums written and read; means written, read and cast.
        sums_N = _FLOAT_BYTES * output_bytes * taps_N2[:, 0]
        bytes_N += sampled_N + 2 * sums_N + (2 * _FLOAT_BYTES + 1) * output_bytes
    if from_cache:
        bytes_N += 2 * read_N  # at least: the whole image is copied, not only what the map shows
    if num_groups > 1:
        bytes_N += 2 * output_bytes
    return Work(launches, round(float(bytes_N.sum())))


def device_bytes(
    sizes_HW: NDArray[np.int64], size_px: int, batch_size: int, threads: int, *, keeps: bool
) -> int:
    """Return an upper estimate of the GPU memory that DALI takes to make batches.

    The cache is not in it (:func:`cache.plan_cache`), nor are CUDA's own context and kernels. The
    parts are the originals under way (at most two groups' at a time, see ``dali_batches``), what
    shrinking them takes (the filter's rows in float32), the working images and their copy for the
    cache, the samples and their sums, the finished images that wait, nvJPEG's buffers of each
    thread, and a block of DALI's pool per stream that may be begun.

    Args:
        sizes_HW: sizes of the originals (N, 2).
        size_px: side of the output.
        batch_size: images in a batch.
        threads: CPU threads that decode.
        keeps: whether decoded images go into a cache.
    """
    pixels_N = np.sort(sizes_HW.prod(1))[::-1]
    largest = int(pixels_N[0])
    group = max(largest, min(GROUP_PIXELS, int(pixels_N[:GROUP_FILES].sum())))
    files = int(np.clip(group // max(largest, 1), 1, min(GROUP_FILES, batch_size)))
    originals = 3 * max(group, min(PIXELS_UNDER_WAY, 2 * group))

    order = np.argsort(-sizes_HW.prod(1), kind="stable")[:GROUP_FILES]
    working_HW = affine.working_sizes(sizes_HW[order], size_px)
    is_shrunk = bool((working_HW != sizes_HW[order]).any())
    # One axis after the other: the height is shrunk, the width not yet.
    between = int(np.max(working_HW[:, 0] * sizes_HW[order][:, 1])) * files
    shrinking = 3 * _FLOAT_BYTES * between * is_shrunk
    working = 3 * int(working_HW.prod(1).max()) * files * is_shrunk

    taps_N2 = affine.taps(affine.whole_image_matrices(working_HW, size_px))
    output = 3 * size_px**2
    samples = output * int(taps_N2.prod(1).max()) * files
    sums = _FLOAT_BYTES * output * (int(taps_N2[:, 0].max()) + 1) * files
    kept = 3 * int(working_HW.prod(1).max()) * files * keeps
    under_way = ITERATIONS_UNDER_WAY * (working + samples + output * files + kept)
    waiting = output * (2 * batch_size)

    nvjpeg = _NVJPEG_BYTES_PER_PIXEL * largest * min(threads, files)
    blocks = _BLOCK_BYTES * _NUM_STREAMS
    return originals + shrinking + sums + under_way + waiting + nvjpeg + blocks
