"""Training as torchvision's and timm's scripts do it, set up to be fast.

Both: a DataLoader with as many worker processes as there are cores, Pillow and transforms on the
CPU, pinned memory, copies that do not block, on a stream of their own, a batch ahead; channels_last
and bf16 autocast, fused SGD, cuDNN's own benchmark (both scripts ask for it); eager, as is their
default. Augmentation as here: random resized crop, flip, and, for torchvision, rotation; timm's
transform has none, and its images are normalised on the device.
"""

import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from grigri_fast.profiling import baseline, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case

# Workers are forked from a server that has imported what they need, and has neither used DALI nor
# CUDA, as this process has: one import instead of one for each.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torchvision.transforms.v2", "timm.data", "PIL.Image", "grigri_fast.profiling.baseline"]
)

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images (N, 3, S, S), rows_N


@dataclasses.dataclass(frozen=True)
class Peer:
    """A tool.

    Attributes:
        name: with its version.
        model: makes its network of a setting, on the host.
        batches: an epoch of augmented batches on the device; None if only steps are wanted.
    """

    name: str
    model: Callable[[Setting], nn.Module]
    batches: Batches | None = None


# ----------------------------------------------------------------------------- the training step


class UsualStep:
    """Forward, backward, update: channels_last, bf16 autocast, fused SGD, eager."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model.train().to(device, memory_format=torch.channels_last)
        self._device = device
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
        )
        self._loss_of = nn.BCEWithLogitsLoss()

    def __call__(self, images_NCHW: torch.Tensor, targets_NC: torch.Tensor) -> None:
        """Make a step on normalised images."""
        images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            loss = self._loss_of(self._model(images_NCHW), targets_NC)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


@contextlib.contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN choose by measuring, as both scripts do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def step_case(peer: Peer, s: Setting) -> Case:
    """Return the case of a step on a batch that is on the device already."""
    step = UsualStep(peer.model(s), s.device)
    images_NCHW = torch.randn(s.batch_size, 3, s.size_px, s.size_px, device=s.device)
    images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
    plain = timing.step_case(peer.name, "", step, images_NCHW, s.targets()[: s.batch_size])

    def run() -> float:
        with cudnn_benchmark():
            return plain.run()

    return dataclasses.replace(plain, run=run)


def train_case(peer: Peer, s: Setting) -> Case:
    """Return the case of training for an epoch of whole batches."""
    step, targets_NC = UsualStep(peer.model(s), s.device), s.targets()
    batches = peer.batches
    assert batches is not None

    def run() -> float:
        timing.wait_for(s.device)
        start_s, num_images = time.perf_counter(), 0
        with cudnn_benchmark():
            for images_NCHW, rows_N in batches:
                step(images_NCHW, targets_NC[rows_N])
                num_images += len(rows_N)
        timing.wait_for(s.device)
        return num_images / (time.perf_counter() - start_s)

    return Case("train", peer.name, "", run)


# ------------------------------------------------------------------------------------- the tools


def torchvision_peer(s: Setting, with_input: bool = True) -> Peer:
    """Return torchvision: its network, its transforms on Pillow's images."""
    import torchvision

    batches = None
    if with_input:
        photos = baseline.Photos(s.good_paths, s.size_px, "pil", augment=True)
        batches = Prefetched(_loader(photos, s), s.device)

    def model(s: Setting) -> nn.Module:
        torch.manual_seed(0)
        return getattr(torchvision.models, s.config.arch)(num_classes=s.num_classes)

    return Peer(f"torchvision {torchvision.__version__}", model, batches)


def timm_peer(s: Setting, with_input: bool = True) -> Peer:
    """Return timm: its network, transforms, collation and prefetcher, as ``create_loader`` does.

    That function itself would fork its workers, which a process cannot do that uses DALI. Its
    collation takes numbers of classes; here they are rows, of which the targets are gathered on the
    device, as for the others.
    """
    import timm
    from timm.data.loader import PrefetchLoader, fast_collate

    batches = None
    if with_input:
        photos = TimmPhotos(s.good_paths, s.size_px)
        loader = _loader(photos, s, collate_fn=fast_collate)
        batches = PrefetchLoader(loader, device=s.device)

    def model(s: Setting) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(s.config.arch, num_classes=s.num_classes)

    return Peer(f"timm {timm.__version__}", model, batches)


class TimmPhotos(Dataset):
    """Image files as uint8 arrays (3, S, S) after timm's training transform, with row numbers."""

    def __init__(self, paths: Sequence[Path], size_px: int) -> None:
        from timm.data import create_transform

        self._paths = [str(path) for path in paths]
        self._transform = create_transform(
            size_px, is_training=True, color_jitter=None, use_prefetcher=True
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(self._paths[row]) as image:
            return self._transform(image.convert("RGB")), row


def _loader(photos: Dataset, s: Setting, **options: object) -> DataLoader:
    """Return a loader of whole batches whose worker processes stay from epoch to epoch."""
    return DataLoader(
        photos,
        batch_size=s.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=s.compute.threads,
        persistent_workers=True,
        pin_memory=s.device.type == "cuda",
        multiprocessing_context=_CONTEXT,
        **options,
    )


class Prefetched:
    """The batches of a loader on a device, each copied while the one before it is used.

    What NVIDIA's examples and timm call a prefetcher.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        ready = None
        for batch in self._loader:
            coming = self._copied(batch)
            if ready is not None:
                yield ready
            if self._stream is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_stream(self._stream)
                for tensor in coming:
                    tensor.record_stream(current)
            ready = coming
        if ready is not None:
            yield ready

    def _copied(
        self, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        on = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with on:
            images_NCHW, rows_N = (t.to(self._device, non_blocking=True) for t in batch)
            return images_NCHW, rows_N
