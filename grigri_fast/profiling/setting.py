"""What a benchmark or a profile is of: images, training options, and what to compute on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import MAX_PIXELS, TrainConfig, resolve
from ..data import dataset, demo
from ..errors import GrigriError
from ..pipeline.cache import plan_cache
from ..pipeline.check import ImageCheck, check_images
from ..pipeline.loader import ImageLoader
from ..runtime.compute import Compute, keep_freed_memory
from ..runtime.files import StrPath
from ..training.autobatch import Plan

NUM_CLASSES = 14
_TRAIN_STEPS = {"cpu": 12, "cuda": 300}  # of each repeat


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        paths, check: image files, and which of them can be used.
        config: resolved options of the training step.
        compute: what to compute on.
        num_classes: outputs of the network.
        plan: how the step is made, where memory is limited; ``config`` has it.
        cache_bytes: what kept images may take, where memory is limited.
    """

    paths: Sequence[Path]
    check: ImageCheck
    config: TrainConfig
    compute: Compute
    num_classes: int = NUM_CLASSES
    plan: Plan | None = None
    cache_bytes: int | None = None

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        config: TrainConfig,
        compute: Compute,
        num_classes: int = NUM_CLASSES,
    ) -> "Setting":
        """Return the setting for some image files, which are checked.

        Raises:
            GrigriError: if hardly any of them can be used.
        """
        check = check_images(paths, threads=compute.threads, max_pixels=MAX_PIXELS)
        setting = cls(
            paths=paths,
            check=check,
            config=resolve(config),
            compute=compute,
            num_classes=num_classes,
        )
        if config.fast and compute.device.type == "cpu" and compute.memory_limit is None:
            keep_freed_memory()  # helps everything that is measured in this process
        if len(setting.rows) < 2 * setting.batch_size:
            raise GrigriError(
                f"{len(setting.rows)} usable images are too few: a benchmark at batch size"
                f" {setting.batch_size} needs at least {2 * setting.batch_size}"
            )
        return setting

    def changed(self, **options: Any) -> "Setting":
        """Return the setting with other options of ``config``."""
        return replace(self, config=replace(self.config, **options))

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.compute.device

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return int(self.config.batch_size)

    @property
    def size_px(self) -> int:
        """Side of the images."""
        return self.config.size

    @property
    def rows(self) -> NDArray[np.intp]:
        """The rows of the images that can be used."""
        return np.flatnonzero(self.check.crc32_N >= 0)

    @property
    def good_paths(self) -> list[Path]:
        """The images that can be used."""
        return [self.paths[row] for row in self.rows]

    @property
    def num_steps(self) -> int:
        """Training steps of each repeat."""
        return _TRAIN_STEPS[self.device.type]

    def targets(self) -> torch.Tensor:
        """Return random labels of the images (N, C), on the device."""
        rng = torch.Generator().manual_seed(0)
        shape = (len(self.paths), self.num_classes)
        return (torch.rand(shape, generator=rng) < 0.1).float().to(self.device)

    def loader(self, cache: str = "off") -> ImageLoader:
        """Return the loader of the images; ``cache`` as in ``--cache``."""
        return ImageLoader(
            self.paths,
            self.check,
            size_px=self.size_px,
            batch_size=self.batch_size,
            device=self.device,
            threads=self.compute.threads,
            cache=plan_cache(cache, self.check, self.size_px, self.device, self.cache_bytes),
        )


def first_images(data: StrPath | None, limit: int) -> list[Path]:
    """Return the first images of a data set; without one, of the generated demo set."""
    return dataset.load(demo.cached_folder() if data is None else data).paths[:limit]
