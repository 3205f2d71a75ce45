"""DALI's graphs, from encoded bytes to pixels. No other module imports nvidia.dali."""

from collections.abc import Iterator
from typing import Literal

from nvidia.dali import Pipeline as Pipeline  # the type that the loader names
from nvidia.dali import __version__ as dali_version
from nvidia.dali import backend, fn, pipeline_def, types

DECODER = f"dali-{dali_version}"
GROUP_FILES = 64  # files decoded at a time ...
GROUP_PIXELS = 64 * 2**20  # ... and at most so many pixels (192 MiB)


@pipeline_def
def image_graph(device: Literal["gpu", "cpu"], shrink: bool):
    """Encoded bytes -> decode (-> shrink, anti-aliased) -> uint8 RGB, HWC.

    Fed by name with ``encoded`` (uint8 bytes) and, where it is asked for, ``shrunk_HW`` (float32,
    2).
    """
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    if device == "gpu":
        # hw_decoder_load=0: the H100's JPEG hardware has returned corrupted pixels when buffers
        # were reused (pytorch/vision 9606). Padding 0: no 16 MiB per thread in advance. Fancy
        # upsampling is what the CPU decoder does.
        images = fn.decoders.image(
            encoded,
            device="mixed",
            output_type=types.RGB,
            hw_decoder_load=0.0,
            jpeg_fancy_upsampling=True,
            device_memory_padding=0,
            host_memory_padding=0,
        )
    else:
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    if shrink:
        shrunk_HW = fn.external_source(name="shrunk_HW", dtype=types.FLOAT, ndim=1)
        images = fn.resize(images, size=shrunk_HW, antialias=True)
    return images


@pipeline_def
def shape_graph():
    """Encoded bytes (``encoded``) -> (height, width, channels) as they will be decoded."""
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1))


def release_unused_memory() -> None:
    """Let DALI give back what it keeps for later."""
    backend.ReleaseUnusedMemory()


def groups_of(rows: list[int], sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Yield the rows in groups of at most 64 whose sizes sum up to at most ``limit``.

    A row that is larger than ``limit`` is a group by itself.
    """
    group: list[int] = []
    total = 0
    for row, size in zip(rows, sizes, strict=True):
        if group and (len(group) == GROUP_FILES or total + size > limit):
            yield group
            group, total = [], 0
        group.append(row)
        total += size
    if group:
        yield group
