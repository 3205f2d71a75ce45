"""The baseline: torchvision's transforms in a DataLoader, and its plain training loop.

What torchvision's own reference script does (pytorch/vision, references/classification), with the
augmentation of this project: RandomResizedCrop, flip, rotation, normalise.
"""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from ..models import factory, normalize
from . import timing
from .setting import Setting
from .timing import Batches, Case

WHO = "torchvision"
Backend = Literal["pil", "tensor"]


class Photos(Dataset):
    """Image files as normalised float32 tensors (3, S, S), each with its row number."""

    def __init__(
        self, paths: Sequence[Path], size_px: int, backend: Backend, augment: bool
    ) -> None:
        self._paths, self._backend = [str(path) for path in paths], backend
        steps = [v2.Resize((size_px, size_px))]
        if augment:
            flip, rotate = v2.RandomHorizontalFlip(), v2.RandomRotation(25)
            steps = [v2.RandomResizedCrop(size_px), flip, rotate]
        if backend == "pil":
            steps.append(v2.PILToTensor())
        normalise = v2.Normalize(normalize.IMAGENET_MEAN, normalize.IMAGENET_STD)
        self._transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), normalise])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if self._backend == "tensor":
            return self._transform(decode_image(self._paths[row], ImageReadMode.RGB)), row
        with Image.open(self._paths[row]) as image:
            return self._transform(image.convert("RGB")), row


class PlainStep:
    """The plain training step: eager, NCHW, ``torch.optim.SGD``; fp32, or AMP on a GPU.

    ``amp``: fp16 autocast with a GradScaler, the reference script's ``--amp``.
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


def make_model(s: Setting) -> nn.Module:
    """Return the untrained network of a setting, on the device."""
    torch.manual_seed(0)
    return factory.build(s.config.arch, s.num_classes, s.size_px).to(s.device)


def _loader(s: Setting, paths: Sequence[Path], backend: Backend, augment: bool) -> DataLoader:
    """Return a DataLoader with worker processes that stay from epoch to epoch."""
    return DataLoader(
        Photos(paths, s.size_px, backend, augment),
        batch_size=s.batch_size,
        shuffle=augment,
        num_workers=s.compute.threads,
        pin_memory=s.device.type == "cuda",
        persistent_workers=s.compute.threads > 0,
        # Not forked: a process that has used DALI or OpenMP cannot be.
        multiprocessing_context="spawn" if s.compute.threads else None,
    )


def _on_device(images: DataLoader, device: torch.device) -> Batches:
    """Yield the batches on the device."""
    for images_NCHW, rows_N in images:
        yield images_NCHW.to(device, non_blocking=True), rows_N.to(device, non_blocking=True)


def pipeline_case(s: Setting, backend: Backend = "pil") -> Case:
    """Return the case of getting augmented batches."""
    loader = _loader(s, s.good_paths, backend, augment=True)
    how = backend.upper() if backend == "pil" else backend

    def run() -> float:
        return timing.batches_speed(_on_device(loader, s.device), s.device)

    return Case("pipeline", WHO, how, run)


def step_case(s: Setting, amp: bool = False) -> Case:
    """Return the case of its step; see :func:`timing.step_case`."""
    step = PlainStep(make_model(s), s.device, amp)
    images_NCHW = torch.randn(s.batch_size, 3, s.size_px, s.size_px, device=s.device)
    return timing.step_case(WHO, _format(amp), step, images_NCHW, s.targets()[: s.batch_size])


def train_case(s: Setting, amp: bool = False) -> Case:
    """Return the case of real training: its input and its step, epoch after epoch."""
    loader = _loader(s, s.good_paths, "pil", augment=True)
    epochs = (_on_device(loader, s.device) for _ in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    step = PlainStep(make_model(s), s.device, amp)
    return timing.training_case(WHO, _format(amp), batches, step, s.targets(), s.num_steps)


def evaluation_case(s: Setting, num_images: int, amp: bool = False) -> Case:
    """Return the case of predicting images."""
    model = make_model(s).eval()
    loader = _loader(s, s.good_paths[:num_images], "pil", augment=False)

    def run() -> float:
        start_s, logits = time.perf_counter(), []
        with torch.inference_mode(), torch.autocast(s.device.type, torch.float16, enabled=amp):
            for images_NCHW, _ in _on_device(loader, s.device):
                logits.append(model(images_NCHW).float())
        return len(torch.cat(logits).cpu()) / (time.perf_counter() - start_s)

    return Case("evaluation", WHO, _format(amp), run)


def _format(amp: bool) -> str:
    return "AMP" if amp else "fp32"
