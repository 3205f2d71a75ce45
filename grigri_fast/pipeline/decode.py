"""DALI's graphs, from encoded bytes to pixels and batches. No other module imports nvidia.dali."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline as Pipeline  # the type that others name
from nvidia.dali import __version__ as dali_version
from nvidia.dali import backend, fn, pipeline_def, tensors, types

from . import affine

Device = Literal["gpu", "cpu"]

DECODER = f"dali-{dali_version}"
# Files decoded at a time. Of 32 and more, DALI 2.4.0 prepares a part on its threads, and when one
# cannot be decoded it does not wait for them: of runs with a bad file among 32 to 64, most soon
# ended in a segmentation fault, of those with 31 none (test_decode.py).
GROUP_FILES = 31
WARPED_FILES = 64  # images warped at a time where none is decoded
GROUP_PIXELS = 64 * 2**20  # decoded at a time, at most (192 MiB)


@pipeline_def
def image_graph(device: Device, shrink: bool):
    """Encoded bytes -> decode (-> shrink, anti-aliased) -> uint8 RGB, HWC.

    Fed by name with ``encoded`` (uint8 bytes) and, where it is asked for, ``shrunk_HW`` (float32,
    2).
    """
    return _decoded(device, shrink)


@pipeline_def
def batch_graph(device: Device, shrink: bool, keep: bool):
    """Encoded bytes -> decode (-> shrink) -> warp -> uint8 RGB (S, S, 3); all on one device.

    Fed like :func:`image_graph`, and by :func:`feed_maps`. It returns what :func:`warped_of` picks
    the images from, the decoded images' shapes and, with ``keep``, those images for the cache.
    """
    images = _decoded(device, shrink)
    returned = [*_warped(images), images.shape(dtype=types.INT32)]
    return tuple([*returned, images] if keep else returned)


@pipeline_def
def look_graph(device: Device, kept_on: Device):
    """Decoded images, ``images`` (uint8, HWC), -> warp as in :func:`batch_graph`."""
    images = fn.external_source(
        name="images", device=kept_on, dtype=types.UINT8, ndim=3, layout="HWC"
    )
    if device != kept_on:
        images = images.gpu()
    return _warped(images)


def _decoded(device: Device, shrink: bool):
    """Return the decoded images (HWC), on the device."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    if device == "gpu":
        # hw_decoder_load=0: the H100's JPEG hardware has returned corrupted pixels when buffers
        # were reused (pytorch/vision 9606). Padding 0: no 16 MiB per thread in advance. Fancy
        # upsampling is what the CPU decoder does. affine=False: threads are not tied to cores, of
        # which a container may miss some, about which DALI would print a line.
        images = fn.decoders.image(
            encoded,
            device="mixed",
            output_type=types.RGB,
            hw_decoder_load=0.0,
            jpeg_fancy_upsampling=True,
            device_memory_padding=0,
            host_memory_padding=0,
            affine=False,
        )
    else:
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    if shrink:
        shrunk_HW = fn.external_source(name="shrunk_HW", dtype=types.FLOAT, ndim=1)
        images = fn.resize(images, size=shrunk_HW, antialias=True)
    return images


def _warped(images):
    """Return the images sampled by their maps (:func:`feed_maps`), and averages of the samples.

    DALI samples bilinearly and repeats the edge where no ``fill_value`` is given; its coordinates
    are those of ``affine``. It does not anti-alias, so where any map of a batch shrinks, all are
    sampled at all their taps, which are averaged: the box of :func:`warp.on_host`. Where none does,
    the part of the batch that is averaged is empty, and DALI leaves out an operator whose batch is
    empty. (DALI's own ``if`` is such a split and a merge; the merged batch would be copied, image
    by image.)
    """
    matrices = fn.external_source(name="matrices", dtype=types.FLOAT, ndim=2)
    tapped_HW = fn.external_source(name="tapped_HW", dtype=types.FLOAT, ndim=1)
    split_shape = fn.external_source(name="split_shape", dtype=types.INT32, ndim=1)
    is_averaged = fn.external_source(name="is_averaged", dtype=types.BOOL, ndim=0)
    sampled = fn.warp_affine(
        images, matrix=matrices, size=tapped_HW, interp_type=types.INTERP_LINEAR
    )
    taps, _ = fn._conditional.split(sampled, predicate=is_averaged)
    shape, _ = fn._conditional.split(split_shape, predicate=is_averaged)
    means = fn.reductions.mean(fn.reshape(taps, shape=shape, layout=""), axes=(1, 3))
    return sampled, fn.cast(means, dtype=types.UINT8)


def warped_of(outputs: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """Return the warped images (N, S, S, 3) from a graph's outputs, and what else there is."""
    sampled, means, *more = outputs
    return (means if len(means) else sampled).as_tensor(), more


def feed_maps(graph: Pipeline, matrices: NDArray[np.float32], size_px: int) -> None:
    """Feed a graph the maps (N, 2, 3) of its images, and the side S of its output."""
    taps_N2 = affine.taps(matrices)  # x, y
    maps = matrices.copy()
    maps[:, :, :2] /= taps_N2[:, None, :]
    split_shape = np.full((len(maps), 5), size_px, dtype=np.int32)
    split_shape[:, 1], split_shape[:, 3], split_shape[:, 4] = taps_N2[:, 1], taps_N2[:, 0], 3
    graph.feed_input("matrices", maps)
    graph.feed_input("tapped_HW", (size_px * taps_N2[:, ::-1]).astype(np.float32))
    graph.feed_input("split_shape", split_shape)
    graph.feed_input("is_averaged", np.full(len(maps), taps_N2.max() > 1))


def images_on(device: Device, images: list[Any]) -> Any:
    """Return tensors (HWC) in what :func:`look_graph` can be fed with, without a copy."""
    if device == "gpu":
        return tensors.TensorListGPU.from_dlpack_list(images, "HWC")
    return tensors.TensorListCPU.from_dlpack_list(images, "HWC")


@pipeline_def
def shape_graph():
    """Encoded bytes (``encoded``) -> (height, width, channels) as they will be decoded."""
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1))


def release_unused_memory() -> None:
    """Let DALI give back what it keeps for later."""
    backend.ReleaseUnusedMemory()


def groups_of(
    rows: Sequence[int], sizes: Sequence[int], limit: int, most: int = GROUP_FILES
) -> Iterator[list[int]]:
    """Yield the rows in groups, about equal, of at most ``most`` whose sizes sum up to ``limit``.

    A row that is larger than ``limit`` is a group by itself.
    """
    if not rows:
        return
    most = math.ceil(len(rows) / math.ceil(len(rows) / most))
    group: list[int] = []
    total = 0
    for row, size in zip(rows, sizes, strict=True):
        if group and (len(group) == most or total + size > limit):
            yield group
            group, total = [], 0
        group.append(row)
        total += size
    yield group
