"""Other libraries' augmented batches, each as its own documentation shows it.

Every one does a random resized crop, a flip and a rotation, except where it says so. What is not
installed is left out; see benchmarks/README.md for how to install them.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case


def cases(s: Setting) -> list[Case]:
    """Return the peers that are installed, warm."""
    cases = []
    for make in (_albumentations, _timm, _spdl):
        try:
            cases.append(make(s))
        except ImportError as e:
            print(f"left out: {make.__name__[1:]} ({e})")
    return cases


def _timed(who: str, how: str, epoch: Callable[[], Iterator[int]]) -> Case:
    def run() -> float:
        start_s = time.perf_counter()
        num_images = sum(epoch())
        return num_images / (time.perf_counter() - start_s)

    return Case("pipeline", who, how, run)


def _data_loader(images: Dataset, s: Setting) -> DataLoader:
    return DataLoader(
        images,
        batch_size=s.batch_size,
        shuffle=True,
        num_workers=s.compute.threads,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )


class WithAlbumentations(Dataset):
    """OpenCV decodes, albumentations augments."""

    def __init__(self, paths: list[Path], size_px: int) -> None:
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        self._paths = [str(path) for path in paths]
        self._transform = A.Compose(
            [
                A.RandomResizedCrop(size=(size_px, size_px)),
                A.HorizontalFlip(p=0.5),
                A.Rotate(limit=25),
                A.Normalize(),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        cv2.setNumThreads(1)
        image_HWC = cv2.cvtColor(cv2.imread(self._paths[row]), cv2.COLOR_BGR2RGB)
        return self._transform(image=image_HWC)["image"], row


def _albumentations(s: Setting) -> Case:
    import albumentations

    loader = _data_loader(WithAlbumentations(s.good_paths, s.size_px), s)
    who = f"albumentations {albumentations.__version__}"
    return _timed(who, "OpenCV", lambda: (len(rows_N) for _, rows_N in loader))


class WithTimm(Dataset):
    """Pillow decodes, timm's training transform augments (it has no rotation)."""

    def __init__(self, paths: list[Path], size_px: int) -> None:
        from timm.data import create_transform

        self._paths = [str(path) for path in paths]
        self._transform = create_transform(size_px, is_training=True, color_jitter=None)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(self._paths[row]) as image:
            return self._transform(image.convert("RGB")), row


def _timm(s: Setting) -> Case:
    import timm

    loader = _data_loader(WithTimm(s.good_paths, s.size_px), s)
    who = f"timm {timm.__version__}"
    return _timed(who, "no rotation", lambda: (len(rows_N) for _, rows_N in loader))


def _spdl(s: Setting) -> Case:
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    size_px = s.size_px
    sizes = {str(path): tuple(s.check.sizes_HW[row]) for row, path in enumerate(s.paths)}
    rng = np.random.default_rng(0)

    def frames(path: str):
        height, width = sizes[path]
        blank = torch.empty(3, height, width)
        top, left, h, w = v2.RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3])
        flip = ",hflip" if torch.rand(()) < 0.5 else ""
        angle = np.radians(50 * float(torch.rand(())) - 25)
        filters = (
            f"crop={w}:{h}:{left}:{top},scale={size_px}:{size_px}:flags=bilinear"
            f"{flip},rotate={angle:.4f},format=rgb24"
        )
        return spdl.io.decode_packets(spdl.io.demux_image(path), filter_desc=filters)

    def batch(some: list) -> int:
        images = spdl.io.to_torch(spdl.io.convert_frames(some))
        return len(images)

    def epoch() -> Iterator[int]:
        pipe = (
            PipelineBuilder()
            .add_source(rng.permutation(list(sizes)).tolist())
            .pipe(frames, concurrency=s.compute.threads)
            .aggregate(s.batch_size)
            .pipe(batch)
            .add_sink(3)
            .build(num_threads=s.compute.threads)
        )
        with pipe.auto_stop():
            yield from pipe

    return _timed(f"spdl {_version('spdl')}", "FFmpeg filters", epoch)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
