"""The usual way, to compare with: torchvision's transforms in a DataLoader, a plain training loop.

What torchvision's own reference script does (pytorch/vision, references/classification), with the
augmentation of this project: RandomResizedCrop, flip, rotation, normalise.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Backend = Literal["pil", "tensor"]


class Photos(Dataset):
    """Image files as normalised float32 tensors (3, S, S), each with its row number."""

    def __init__(
        self, paths: Sequence[Path], size_px: int, backend: Backend, augment: bool = True
    ) -> None:
        self._paths, self._backend = [str(path) for path in paths], backend
        if augment:
            geometry = [
                v2.RandomResizedCrop(size_px),
                v2.RandomHorizontalFlip(),
                v2.RandomRotation(25),
            ]
        else:
            geometry = [v2.Resize((size_px, size_px))]
        to_tensor = [v2.PILToTensor()] if backend == "pil" else []
        colour = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
        self._transform = v2.Compose([*geometry, *to_tensor, *colour])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if self._backend == "tensor":
            return self._transform(decode_image(self._paths[row], ImageReadMode.RGB)), row
        with Image.open(self._paths[row]) as image:
            return self._transform(image.convert("RGB")), row


def loader(
    paths: Sequence[Path],
    size_px: int,
    *,
    batch_size: int,
    workers: int,
    backend: Backend,
    device: torch.device,
    augment: bool = True,
) -> DataLoader:
    """Return the DataLoader: shuffled, with worker processes that stay from epoch to epoch."""
    return DataLoader(
        Photos(paths, size_px, backend, augment),
        batch_size=batch_size,
        shuffle=augment,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        # Not forked: a process that has used DALI or OpenMP cannot be.
        multiprocessing_context="spawn" if workers else None,
    )


class PlainStep:
    """The plain training step: eager, NCHW, ``torch.optim.SGD``; fp32, or AMP on a GPU.

    Args:
        model: on the device.
        device: where to compute.
        amp: fp16 autocast with a GradScaler, the reference script's ``--amp``.
    """

    def __init__(self, model: nn.Module, device: torch.device, amp: bool = False) -> None:
        self._model, self._device, self._amp = model.train(), device, amp
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp)
        self._loss_of = nn.BCEWithLogitsLoss()

    def __call__(self, images_NCHW: torch.Tensor, targets_NC: torch.Tensor) -> torch.Tensor:
        """Make a step on normalised float32 images; return the loss."""
        with torch.autocast(self._device.type, dtype=torch.float16, enabled=self._amp):
            loss = self._loss_of(self._model(images_NCHW), targets_NC)
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()


def batches_on(
    device: torch.device, images: DataLoader
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches on the device."""
    for images_NCHW, rows_N in images:
        yield images_NCHW.to(device, non_blocking=True), rows_N.to(device, non_blocking=True)
