"""Images through a network, within the memory that there is.

Shapes: N images, C classes.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import GrigriError
from ..models import fold, heads, normalize
from ..pipeline.batching import Batch
from ..pipeline.loader import ImageLoader
from ..runtime import units
from ..runtime.compute import Compute, autocast
from ..runtime.memory import Budget, peak_of

Forward = Callable[[torch.Tensor], torch.Tensor]  # uint8 (N, size, size, 3) -> float32 (N, C)


def prepared(model: nn.Module, compute: Compute, size_px: int) -> nn.Module:
    """Return a network in eval mode that evaluates images of a size as ``model`` does, but faster.

    On a CPU it is a copy without BatchNorms (:func:`fold.folded`) and, in bf16, with weights that
    are in bf16 already, where autocast would convert them in every call. Logits differ from the
    model's by what its number format rounds. Elsewhere, and within a limit of memory, of which a
    copy would take some, it is the model itself.
    """
    model.eval()
    if compute.device.type != "cpu" or compute.memory_limit is not None:
        return model
    return fold.in_format(fold.folded(model, size_px), compute.amp)


def logits_of(
    model: nn.Module,
    compute: Compute,
    *,
    flip: bool = False,
) -> Forward:
    """Return a function that computes a model's logits; the model is put in eval mode.

    Args:
        model: a network, on the device of ``compute``, which carries its preprocessing.
        flip: whether to average the logits of each image and its mirror image.
    """
    model.eval()
    pixels = normalize.preprocessing_of(model)

    @torch.inference_mode()
    def forward(images_NHWC: torch.Tensor) -> torch.Tensor:
        compute.adapt_threads()
        inputs_NCHW = normalize.normalize(images_NHWC, pixels.mean, pixels.std)
        inputs_NCHW = inputs_NCHW.contiguous(memory_format=compute.memory_format)
        with autocast(compute.device, compute.amp):
            logits_NC = model(inputs_NCHW).float()
            if flip:
                logits_NC = (logits_NC + model(inputs_NCHW.flip(3)).float()) / 2
        return logits_NC

    return forward


def with_features(logits: Forward, model: nn.Module) -> Forward:
    """Return a function that computes logits and, in the columns after them, features.

    Features are what the model's heads take in, which ``logits`` runs; the mean over places where
    they have some, and over the image and its mirror image where both are run.
    """
    num_heads = len(heads.heads(model))

    @torch.inference_mode()
    def forward(images_NHWC: torch.Tensor) -> torch.Tensor:
        with heads.inputs_taken(model) as taken:
            logits_NC = logits(images_NHWC)
        views = [torch.cat(taken[i : i + num_heads], 1) for i in range(0, len(taken), num_heads)]
        return torch.cat([logits_NC, torch.stack(views).mean(0)], 1)

    return forward


class Loader(Protocol):
    """Where images to evaluate come from: an :class:`ImageLoader`, or what is in memory."""

    def eval_epoch(self, rows: NDArray[np.intp], size_px: int | None = None) -> Iterator[Batch]:
        """Yield every row exactly once, in order, as whole images of ``size_px``."""


@torch.inference_mode()
def outputs(
    forward: Forward,
    loader: Loader,
    rows: NDArray[np.intp],
    *,
    micro_batch_size: int | None = None,
    size_px: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return what ``forward`` computes for some rows' images, and those that could not be read.

    ``micro_batch_size`` images go through the model at once, a whole batch by default. The side of
    the images is the loader's by default. ``on_progress`` gets the number of images done.

    Returns:
        Outputs on the host in the order of ``rows``, without the images that could not be read; and
        by row the reason why one could not. Outputs are collected on the device and copied once.
    """
    collected = []
    dropped: dict[int, str] = {}
    done = 0
    for batch in loader.eval_epoch(rows, size_px):
        dropped |= batch.dropped
        if len(batch.rows_N):
            for images_NHWC in batch.images_NHWC.split(micro_batch_size or len(batch.rows_N)):
                collected.append(forward(images_NHWC))
        done += len(batch.rows_N) + len(batch.dropped)
        on_progress(done)
    return torch.cat(collected).cpu().numpy() if collected else np.empty((0, 0)), dropped


def probabilities(logits_NC: NDArray) -> NDArray[np.float64]:
    """Return the sigmoid in float64, where different logits stay different probabilities."""
    with np.errstate(over="ignore"):  # below a logit of -709
        return 1 / (1 + np.exp(-logits_NC.astype(np.float64)))


def micro_batch_of_evaluation(
    forward: Callable[[torch.Tensor], torch.Tensor], batch_size: int, size_px: int, budget: Budget
) -> int:
    """Return how many images of a batch may go through ``forward`` at once.

    Raises:
        GrigriError: if the limit does not even allow one.
    """
    if budget.limit is None:
        return batch_size
    device = budget.meter.device
    micro_batch, peak = batch_size, None
    while micro_batch:
        images_NHWC = random_images(micro_batch, size_px, device)
        peak = peak_of(lambda images=images_NHWC: forward(images), budget)
        if peak is not None and peak <= budget.usable:
            return micro_batch
        micro_batch //= 2
    least = "" if peak is None else f"; that takes {units.format_bytes(peak)} and some to spare"
    raise GrigriError(
        f"--memory-limit {units.format_bytes(budget.limit)}: not even one image at a time"
        f" fits{least}"
    )


def decode_the_largest(
    loader: ImageLoader, sizes_HW: NDArray[np.int64], rows: NDArray[np.intp]
) -> None:
    """Decode the batches with the largest images, so that DALI takes the memory it will need."""
    largest = rows[np.argsort(-sizes_HW[rows].prod(1), kind="stable")]
    for _ in loader.eval_epoch(largest[: 2 * loader.num_at_once]):
        pass


def random_images(num_images: int, size_px: int, device: torch.device) -> torch.Tensor:
    """Return uint8 noise, (N, size, size, 3)."""
    shape = (num_images, size_px, size_px, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
