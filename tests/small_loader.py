"""A loader for small images, what its batches show, and ways to damage a file."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from grigri_fast.pipeline import batching
from grigri_fast.pipeline.check import ImageCheck, check_images
from grigri_fast.pipeline.loader import ImageLoader

CPU = torch.device("cpu")
HOWS = ("truncated", "empty", "text", "folder", "dangling link", "header cut", "missing")


def make_loader(
    paths: list[Path], size_px: int = 24, checked: ImageCheck | None = None, **options
) -> ImageLoader:
    """Return a loader of checked files, on the CPU if nothing else is asked for."""
    settings = {"batch_size": 8, "device": CPU, "threads": 2} | options
    checked = checked or check_images(paths, threads=2, max_pixels=10**8)
    return ImageLoader(paths, checked, size_px=size_px, **settings)


def red(batch: batching.Batch) -> np.ndarray:
    """Return the median red value of each image: its row, up to JPEG's rounding."""
    return np.median(batch.images_NHWC[..., 0].numpy().reshape(len(batch.rows_N), -1), axis=1)


def collect(batches) -> tuple[np.ndarray, np.ndarray]:
    """Return images and rows of an epoch, sorted by row."""
    batches = list(batches)
    rows = np.concatenate([b.rows_N.numpy() for b in batches])
    images = np.concatenate([b.images_NHWC.numpy() for b in batches])
    order = np.argsort(rows, kind="stable")
    return images[order], rows[order]


def write_noise(path: Path, height: int, width: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def damage(path: Path, how: str) -> None:
    """Damage a file in one of the ways of ``HOWS``."""
    content = path.read_bytes()
    path.unlink()
    if how == "truncated":
        write_noise(path, 64, 64, seed=0)
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("this is no picture")
    elif how == "folder":
        path.mkdir()
    elif how == "dangling link":
        path.symlink_to("nowhere.jpg")
    elif how == "header cut":
        path.write_bytes(content[:12])
    else:
        assert how == "missing"
