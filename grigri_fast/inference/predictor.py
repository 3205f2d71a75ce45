"""Labels for new images.

Shapes: N images, C classes, HW pixels.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ..config import MAX_PIXELS
from ..data.dataset import find_images
from ..errors import GrigriError
from ..pipeline import affine, warp
from ..pipeline.loader import Batch
from ..runs import checkpoint
from ..runs.checkpoint import ModelInfo
from ..runtime import files, memory
from ..runtime.memory import Budget
from . import exporter
from .forward import (
    Forward,
    logits_of,
    micro_batch_of_evaluation,
    outputs,
    outputs_of_files,
    probabilities,
)

OneImage: TypeAlias = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image
Images: TypeAlias = OneImage | Sequence[OneImage]

_ONE_IMAGE = (str, os.PathLike, np.ndarray, Image.Image)
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """One image's labels and probabilities, or the reason why it has none.

    Attributes:
        path: the file as it was named; None for an image that came as pixels.
        labels: classes whose probability reaches their threshold.
        probabilities: by class name; empty with an error.
        error: why the file cannot be used, or "".
    """

    path: Path | None
    labels: list[str]
    probabilities: dict[str, float]
    error: str = ""


class Classifier:
    """A trained model, ready to label images; made by :func:`load` or :func:`load_exported`.

    Attributes:
        info: class names, thresholds, preprocessing, and how good it was.
        device, amp: what it computes on, and in which number format.
    """

    def __init__(
        self,
        forward: Forward,
        module: nn.Module | None,
        info: ModelInfo,
        *,
        device: torch.device,
        amp: str,
        threads: int,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        # Returns logits, or probabilities where there is no module.
        self._forward = forward
        self._module, self.info = module, info
        self.device, self.amp = device, amp
        self._threads, self._max_pixels = threads, max_pixels

    @property
    def module(self) -> nn.Module:
        """The network: normalised images NCHW -> logits (N, C); in eval mode, on ``device``.

        Raises:
            GrigriError: for a file that was exported.
        """
        if self._module is None:
            raise GrigriError("an exported file has no PyTorch module; load the run it came from")
        return self._module

    @property
    def class_names(self) -> list[str]:
        """Meaning of the logits, in order."""
        return self.info.class_names

    @property
    def thresholds(self) -> dict[str, float]:
        """From which probability on a label is given, by class name."""
        return dict(zip(self.class_names, self.info.thresholds_C.tolist(), strict=True))

    def predict(
        self,
        images: Images,
        watch: Callable[[int, int], None] | None = None,
        budget: Budget | None = None,
    ) -> list[Prediction]:
        """Return a prediction per image, in order.

        Args:
            images: one or several: files, folders (searched to the bottom) and globs; or pictures
                in memory, as arrays (HWC, uint8 RGB, of any size) or of Pillow.
            watch: called with images done and images in all.
            budget: of memory; no limit by default.

        A file that cannot be used gets a prediction with its reason; the others are unharmed. A
        picture gets what a file gets: the whole of it is resized to the square that the model
        knows. (The decoder shrinks a file with a short side of more than twice that first, so its
        pixels differ a little.)

        Raises:
            GrigriError: for a path that names nothing, or a picture of another kind.
        """
        several = [images] if isinstance(images, _ONE_IMAGE) else list(images)
        names = [os.fspath(one) for one in several if isinstance(one, str | os.PathLike)]
        if names and len(names) < len(several):
            raise GrigriError("either files or pictures in memory, not both at once")
        with contextlib.nullcontext(budget) if budget else Budget(self.device) as held:
            if names or not several:
                return self._label_files(find_images(names), watch or _nobody, held)
            return self._label_pixels([_pixels(one) for one in several], watch or _nobody, held)

    def _label_files(
        self, paths: Sequence[Path], watch: Callable[[int, int], None], budget: Budget
    ) -> list[Prediction]:
        outputs_NC, bad = outputs_of_files(
            self._forward,
            self.info,
            paths,
            np.arange(len(paths)),
            device=self.device,
            threads=self._threads,
            max_pixels=self._max_pixels,
            budget=budget,
            on_progress=lambda done: watch(done, len(paths)),
        )
        rows_C = iter(self._probabilities(outputs_NC))
        return [
            Prediction(path, [], {}, bad[i]) if i in bad else self._prediction(path, next(rows_C))
            for i, path in enumerate(paths)
        ]

    def _label_pixels(
        self,
        images: Sequence[NDArray[np.uint8]],
        watch: Callable[[int, int], None],
        budget: Budget,
    ) -> list[Prediction]:
        size_px = self.info.size_px
        with memory.out_of_memory_explained("close other programs, or use the CPU"):
            outputs_NC, _ = outputs(
                self._forward,
                _InMemory(images, size_px, self.device),
                np.arange(len(images)),
                micro_batch_size=micro_batch_of_evaluation(
                    self._forward, _BATCH_SIZE, size_px, budget
                ),
                on_progress=lambda done: watch(done, len(images)),
            )
        budget.require_held()
        return [self._prediction(None, row_C) for row_C in self._probabilities(outputs_NC)]

    def _probabilities(self, outputs_NC: NDArray[np.float32]) -> NDArray[np.float64]:
        if self._module is None:
            return outputs_NC.astype(np.float64)
        return probabilities(outputs_NC)

    def _prediction(self, path: Path | None, probabilities_C: NDArray[np.float64]) -> Prediction:
        given = probabilities_C >= self.info.thresholds_C
        labels = [name for name, yes in zip(self.class_names, given, strict=True) if yes]
        by_name = dict(zip(self.class_names, probabilities_C.tolist(), strict=True))
        return Prediction(path, labels, by_name)


def _nobody(done: int, total: int) -> None:
    """Be told of progress, and do nothing."""


def _pixels(image: OneImage) -> NDArray[np.uint8]:
    """Return a picture's pixels (HWC, uint8 RGB)."""
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise GrigriError(
            f"expected a path, an array or a Pillow image, not {type(image).__name__}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise GrigriError(
            f"expected pixels of height x width x 3 in uint8 (RGB), not {image.shape} in"
            f" {image.dtype}"
        )
    return np.ascontiguousarray(image)


class _InMemory:
    """Yields images that are in memory as :class:`pipeline.ImageLoader` yields files."""

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], size_px: int, device: torch.device
    ) -> None:
        self._images, self._size_px, self._device = images, size_px, device

    def eval_epoch(self, rows: NDArray[np.intp], size_px: int | None = None) -> Iterator[Batch]:
        """Yield every row exactly once, in order, as whole images of ``size_px``."""
        for first in range(0, len(rows), _BATCH_SIZE):
            batch = rows[first : first + _BATCH_SIZE]
            images = [self._images[row] for row in batch]
            side = size_px or self._size_px
            maps = affine.whole_image_maps(np.array([x.shape[:2] for x in images]), side)
            images_NHWC = np.empty((len(batch), side, side, 3), dtype=np.uint8)
            warp.on_host(images, maps, images_NHWC)
            yield Batch(torch.from_numpy(images_NHWC).to(self._device), torch.from_numpy(batch))


def load(
    checkpoint_path: Path,
    *,
    device: torch.device,
    amp: str,
    threads: int,
    max_pixels: int = MAX_PIXELS,
) -> Classifier:
    """Return the model of a checkpoint, ready to label images.

    Args:
        checkpoint_path: a ``last`` or ``best`` of a run.
        device, amp, threads: what to compute on and how.
        max_pixels: larger files are refused.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    torch.set_num_threads(threads)
    module, info = checkpoint.load(checkpoint_path, device)
    forward = logits_of(
        module, device=device, amp=amp, mean=info.mean, std=info.std, flip=info.flip_test
    )
    return Classifier(
        forward, module, info, device=device, amp=amp, threads=threads, max_pixels=max_pixels
    )


def load_exported(path: Path, *, threads: int, max_pixels: int = MAX_PIXELS) -> Classifier:
    """Return the model of an ONNX file of ``export``; ONNX Runtime computes it on the CPU, in fp32.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    torch.set_num_threads(threads)
    forward, info = exporter.load_onnx(path, threads)
    cpu = torch.device("cpu")
    return Classifier(
        forward, None, info, device=cpu, amp="fp32", threads=threads, max_pixels=max_pixels
    )


def is_exported(path: Path) -> bool:
    """Return whether a path, by its name, is an exported file and not a run folder.

    Raises:
        GrigriError: for a pt2 file, which only PyTorch reads.
    """
    if path.is_dir():
        return False
    if path.suffix.lower() == ".pt2":
        raise GrigriError(f"{path}: predict takes a run folder or an ONNX file, no pt2 file")
    return path.suffix.lower() == ".onnx"


def to_text(predictions: Sequence[Prediction], class_names: Sequence[str], suffix: str) -> str:
    """Return predictions as CSV (``.csv``) or JSON (``.json``).

    CSV: ``image,labels,error`` and a column of probabilities per class; labels are separated by
    ``|``. JSON: a list of objects with the same.
    """
    if suffix == ".json":
        return files.to_json(
            [
                {
                    "image": str(p.path),
                    "labels": p.labels,
                    "error": p.error or None,
                    "probabilities": p.probabilities,
                }
                for p in predictions
            ]
        )
    rows: list[dict[str, Any]] = []
    for p in predictions:
        row = {"image": str(p.path), "labels": "|".join(p.labels), "error": p.error}
        rows.append(row | {f"p({name})": _rounded(p, name) for name in class_names})
    return files.to_csv(rows)


def check_out(out: Path) -> None:
    """Raise GrigriError, before the work, if predictions could not be written to ``out``."""
    if out.suffix.lower() not in (".csv", ".json"):
        raise GrigriError(f"--out {out}: expected a name that ends in .csv or .json")
    if not out.parent.is_dir():
        raise GrigriError(f"--out {out}: there is no folder {out.parent}")


def _rounded(prediction: Prediction, name: str) -> str:
    return f"{prediction.probabilities[name]:.6f}" if prediction.probabilities else ""
