"""Labels for new images, in files or in memory.

Shapes: N images, C classes, HW pixels.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ..config import MAX_PIXELS
from ..data.images import find_images
from ..errors import GrigriError
from ..pipeline import affine, pillow, warp
from ..pipeline.batching import Batch
from ..pipeline.check import ImageCheck, check_images, without
from ..pipeline.loader import ImageLoader
from ..runs import checkpoint as checkpoints
from ..runs import run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName
from ..runtime import memory
from ..runtime.compute import AmpName, Compute, DeviceName, require_one_of
from ..runtime.files import StrPath
from ..runtime.memory import Budget
from . import forward, onnx, streaming
from .forward import Forward
from .onnx import EngineName
from .prediction import Prediction as Prediction

OneImage: TypeAlias = StrPath | NDArray[np.uint8] | Image.Image
Images: TypeAlias = OneImage | Sequence[OneImage]

_ONE_IMAGE = (str, os.PathLike, np.ndarray, Image.Image)
_BATCH_SIZE = 32
_ADVICE = "close other programs, or use --device cpu"  # where memory has run out


class Classifier:
    """A trained model, ready to label images; made by :func:`load`.

    Attributes:
        info: class names, thresholds, preprocessing, and validation scores.
        compute: what it computes on, and how.
        max_pixels: larger files are refused.
    """

    def __init__(
        self,
        forward: Forward,
        info: ModelInfo,
        compute: Compute,
        max_pixels: int = MAX_PIXELS,
        module: nn.Module | None = None,
        evaluated: nn.Module | None = None,
    ) -> None:
        # Returns logits, or probabilities where there is no module.
        self._forward, self._module = forward, module
        self._evaluated = evaluated or module  # what the logits come from
        self.info, self.compute, self.max_pixels = info, compute, max_pixels

    @classmethod
    def from_file(
        cls,
        path: Path,
        compute: Compute,
        max_pixels: int = MAX_PIXELS,
        engine: EngineName = "onnxruntime",
    ) -> "Classifier":
        """Return the model of a run's checkpoint or of an exported ONNX file.

        ``engine`` computes an exported file.

        Raises:
            GrigriError: if the file is missing, damaged or not one of ours.
        """
        if path.suffix.lower() == ".onnx":
            exported, info = onnx.load(path, compute.threads, engine, compute.amp)
            return cls(exported, info, compute, max_pixels)
        compute.keep_freed_memory()
        module, info = checkpoints.load(path, compute.device, compute.memory_format)
        evaluated = forward.prepared(module, compute, info.size_px)
        logits = forward.logits_of(evaluated, compute, flip=info.flip_test)
        return cls(logits, info, compute, max_pixels, module, evaluated)

    @property
    def module(self) -> nn.Module:
        """The network: normalised images NCHW -> logits (N, C); in eval mode, on its device.

        Raises:
            GrigriError: for a file that was exported.
        """
        if self._module is None:
            raise GrigriError("an exported file has no PyTorch module; load the run it came from")
        return self._module

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the logits."""
        return self.info.class_names

    @property
    def thresholds(self) -> dict[str, float]:
        """By class name, the least probability with which a label is given."""
        return dict(zip(self.class_names, self.info.thresholds_C.tolist(), strict=True))

    def predict(
        self,
        images: Images,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        budget: Budget | None = None,
    ) -> list[Prediction]:
        """Return a prediction per image, in order, as :func:`predict` does.

        A picture in memory gets what a file gets: the whole of it is resized to the square that the
        model takes. (The decoder first shrinks a file whose short side is more than twice that, so
        its pixels differ a little.) The budget of memory is by default one with the limit of
        ``compute``.

        Raises:
            GrigriError: for a path that names nothing, or a picture of another kind.
        """
        return list(self.iter_predict(images, on_progress, budget))

    def iter_predict(
        self,
        images: Images,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        budget: Budget | None = None,
    ) -> Iterator[Prediction]:
        """Yield the predictions that :meth:`predict` returns, one by one as they are computed.

        Memory does not depend on how many there are, but for the paths. What ends the iteration
        early (``break``, an exception) ends the work.

        Raises:
            GrigriError: as there; for paths and pictures at once.
        """
        several = [images] if isinstance(images, _ONE_IMAGE) else list(images)
        names = [os.fspath(one) for one in several if isinstance(one, str | os.PathLike)]
        if names and len(names) < len(several):
            raise GrigriError("either files or pictures in memory, not both at once")
        if several and not names:
            pictures = [_pixels(one) for one in several]
            return self._in_context(self._of_pictures, pictures, on_progress, budget)
        paths = find_images(names).images
        return self._in_context(self.parts, paths, on_progress, budget)

    def _in_context(
        self,
        parts: Callable[..., Generator[list[Prediction]]],
        images: Sequence[Any],
        on_progress: Callable[[int, int], None],
        budget: Budget | None,
    ) -> Iterator[Prediction]:
        """Yield the predictions of parts one by one, within a budget."""
        with (
            contextlib.nullcontext(budget) if budget else self.compute.open() as within,
            contextlib.closing(parts(images, within, on_progress)) as computed,
        ):
            for part in computed:
                yield from part

    def parts(
        self,
        paths: Sequence[Path],
        budget: Budget,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Generator[list[Prediction]]:
        """Yield the predictions of files, in order, in lists of about a batch as they are computed.

        Raises:
            GrigriError: if memory runs out, or not even one image fits within the limit.
        """
        computed = streaming.outputs(
            self._forward,
            paths,
            size_px=self.info.size_px,
            batch_size=_BATCH_SIZE,
            compute=self.compute,
            budget=budget,
            max_pixels=self.max_pixels,
        )
        with memory.out_of_memory_explained(_ADVICE), contextlib.closing(computed):
            for positions, bad, outputs_NC in computed:
                rows_C = iter(self._probabilities(outputs_NC))
                yield [
                    Prediction(paths[i], [], {}, bad[i])
                    if i in bad
                    else self._prediction(paths[i], next(rows_C))
                    for i in positions
                ]
                on_progress(positions.stop, len(paths))
        budget.require_within_limit()

    def _of_pictures(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        budget: Budget,
        on_progress: Callable[[int, int], None],
    ) -> Generator[list[Prediction]]:
        """Yield the predictions of pictures in memory (HWC)."""
        loader = _InMemory(pictures, self.info.size_px, self.compute.device)
        rows = np.arange(len(pictures))
        outputs_NC, _ = self._compute(self._forward, loader, rows, budget, on_progress)
        budget.require_within_limit()
        yield [self._prediction(None, row_C) for row_C in self._probabilities(outputs_NC)]

    def probabilities(
        self,
        paths: Sequence[Path],
        rows: NDArray[np.intp],
        budget: Budget,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        checked: ImageCheck | None = None,
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Return the probabilities of some rows' image files, and the files that cannot be used.

        ``checked`` is what the check of the files has found, where they are checked already.

        Returns:
            Probabilities of the usable files (C columns) in the order of ``rows``; and by row the
            reason why a file cannot be used.

        Raises:
            GrigriError: if memory runs out, or not even one image fits within the limit.
        """
        outputs_NC, bad = self._outputs(self._forward, paths, rows, budget, on_progress, checked)
        return self._probabilities(outputs_NC), bad

    def probabilities_and_features(
        self,
        paths: Sequence[Path],
        rows: NDArray[np.intp],
        budget: Budget,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32], dict[int, str]]:
        """Return what :meth:`probabilities` returns, and features between the two.

        Features are what the network's last layer takes in, (N, D).

        Raises:
            GrigriError: as there, and for a file that was exported.
        """
        if self._evaluated is None:
            raise GrigriError("an exported file has no features; take the run it came from")
        both = forward.with_features(self._forward, self._evaluated)
        outputs_NC, bad = self._outputs(both, paths, rows, budget, on_progress)
        num_classes = len(self.class_names)
        return self._probabilities(outputs_NC[:, :num_classes]), outputs_NC[:, num_classes:], bad

    def _probabilities(self, outputs_NC: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities that the outputs of the forward pass are."""
        if self._module is None:
            return outputs_NC.astype(np.float64)
        return forward.probabilities(outputs_NC)

    def _outputs(
        self,
        run: Forward,
        paths: Sequence[Path],
        rows: NDArray[np.intp],
        budget: Budget,
        on_progress: Callable[[int, int], None],
        checked: ImageCheck | None = None,
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return what a forward pass makes of some rows' files, and those that cannot be used."""
        if checked is None:
            checked = check_images(
                paths, rows, threads=self.compute.threads, max_pixels=self.max_pixels
            )
        known_bad = {row: checked.bad[row] for row in rows.tolist() if row in checked.bad}
        good = without(rows, known_bad)
        none = np.empty((0, len(self.class_names)), dtype=np.float32)
        if not len(good):
            return none, known_bad
        loader = ImageLoader(
            paths,
            checked,
            size_px=self.info.size_px,
            batch_size=_BATCH_SIZE,
            device=self.compute.device,
            threads=self.compute.threads,
        )
        if budget.limit is not None:
            with memory.out_of_memory_explained(_ADVICE):
                forward.decode_the_largest(loader, checked.sizes_HW, good)
        outputs_NC, dropped = self._compute(
            run, loader, good, budget, lambda done, total: on_progress(done, len(rows))
        )
        loader.close()
        budget.require_within_limit()
        bad = dict(sorted((known_bad | dropped).items()))
        return none if len(dropped) == len(good) else outputs_NC, bad

    def _compute(
        self,
        run: Forward,
        loader: forward.Loader,
        rows: NDArray[np.intp],
        budget: Budget,
        on_progress: Callable[[int, int], None],
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return what a forward pass makes of a loader's images, and by row why a file is bad."""
        with memory.out_of_memory_explained(_ADVICE):
            return forward.outputs(
                run,
                loader,
                rows,
                micro_batch_size=forward.micro_batch_of_evaluation(
                    run, _BATCH_SIZE, self.info.size_px, budget
                ),
                on_progress=lambda done: on_progress(done, len(rows)),
            )

    def _prediction(self, path: Path | None, probabilities_C: NDArray[np.float64]) -> Prediction:
        given = probabilities_C >= self.info.thresholds_C
        labels = [name for name, yes in zip(self.class_names, given, strict=True) if yes]
        by_name = dict(zip(self.class_names, probabilities_C.tolist(), strict=True))
        return Prediction(path, labels, by_name)


def _pixels(image: OneImage) -> NDArray[np.uint8]:
    """Return a picture's pixels (HWC, uint8 RGB)."""
    if isinstance(image, Image.Image):
        image = pillow.rgb(image)
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
    """Yields images that are in memory as :class:`ImageLoader` yields files."""

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
            maps = affine.whole_image_matrices(np.array([x.shape[:2] for x in images]), side)
            images_NHWC = np.empty((len(batch), side, side, 3), dtype=np.uint8)
            warp.on_host(images, maps, images_NHWC)
            yield Batch(torch.from_numpy(images_NHWC).to(self._device), torch.from_numpy(batch))


# ------------------------------------------------------------------------------ the command


def load(
    run: StrPath,
    *,
    checkpoint: CheckpointName = "last",
    max_pixels: int = MAX_PIXELS,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    threads: int | None = None,
    engine: EngineName = "auto",
) -> Classifier:
    """Return a run's model, ready to label images (``.predict``); its network is ``.module``.

    Args:
        run: a run folder of ``train``; or an ONNX file of ``export``, which is computed on the CPU
            and has no ``.module``.
        checkpoint: ``last``, the final epoch; or ``best``, the epoch with the best validation
            micro-F1.
        max_pixels: larger images are refused unread.
        device, amp, threads: as in :meth:`Compute.resolve`.
        engine: what computes: ``torch`` a run; an exported file ``onnxruntime``, in fp32, or
            ``openvino``. ``auto``: see :func:`onnx.pick_engine`.

    Raises:
        GrigriError: if there is no such run or file, or it is damaged.
    """
    path, compute, engine = _resolve(run, checkpoint, device, amp, threads, engine=engine)
    with compute.open():
        return Classifier.from_file(path, compute, max_pixels, engine)


def predict(
    run: StrPath | Classifier,
    images: Images,
    *,
    checkpoint: CheckpointName | None = None,
    max_pixels: int | None = None,
    device: DeviceName | None = None,
    amp: AmpName | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
    engine: EngineName | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """Label images with the stored threshold, as ``grigri-fast predict`` does.

    Args:
        run: a run folder of ``train`` or an ONNX file of ``export``; or what :func:`load` returned.
        images: one or several: files, folders (with all below them) and globs; or pictures in
            memory, as arrays (HWC, uint8 RGB, of any size) or of Pillow.
        checkpoint, max_pixels, device, amp, threads, engine: as in :func:`load`, which has them
            already where ``run`` is a loaded model.
        memory_limit: as in :meth:`Compute.resolve`.
        on_progress: called with images done and images in all.

    Returns:
        A prediction per image, in order; a file that cannot be used has its reason in ``error``.

    Raises:
        GrigriError: if there is no such run, or a path names nothing.
    """
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "max_pixels": max_pixels,
        "device": device,
        "amp": amp,
        "memory_limit": memory_limit,
        "threads": threads,
        "engine": engine,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(run, Classifier):
        with opened(run, **given) as model:
            return model.classifier.predict(images, on_progress, model.budget)
    if given:
        raise GrigriError(
            "a loaded model has the options that it was loaded with: give them to load"
        )
    return run.predict(images, on_progress)


class Opened(NamedTuple):
    """A model that is ready, its file, what computes it, and what memory it may take."""

    classifier: Classifier
    path: Path
    engine: EngineName
    budget: Budget


@contextlib.contextmanager
def opened(
    run: StrPath, *, max_pixels: int = MAX_PIXELS, memory_limit: str | None = None, **options: Any
) -> Iterator[Opened]:
    """Yield the model of a run or of an exported file; ``options``: those of :func:`load`."""
    path, compute, engine = _resolve(run, memory_limit=memory_limit, **options)
    with compute.open() as budget:  # before the model is loaded, whose memory counts
        classifier = Classifier.from_file(path, compute, max_pixels, engine)
        yield Opened(classifier, path, engine, budget)


def _resolve(
    run: StrPath,
    checkpoint: CheckpointName = "last",
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    threads: int | None = None,
    memory_limit: str | None = None,
    engine: EngineName = "auto",
) -> tuple[Path, Compute, EngineName]:
    """Return the file that holds the model, what to compute it on, and by what."""
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    require_one_of("--engine", engine, EngineName)
    path = Path(run)
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".pt2":
        raise GrigriError(f"{path}: predict takes a run folder or an ONNX file, no pt2 file")
    if suffix != ".onnx":
        if engine not in ("auto", "torch"):
            raise GrigriError(
                f"--engine {engine} computes exported files: run grigri-fast export {path}, then"
                f" grigri-fast predict {path / 'model.onnx'}"
            )
        path = run_folder.checkpoint_path(path, checkpoint)
        return path, Compute.resolve(device, amp, threads, memory_limit), "torch"
    engine, amp = onnx.pick_engine(path, engine, amp)
    for flag, value, allowed in (
        ("--checkpoint", checkpoint, ("last",)),
        ("--device", device, ("auto", "cpu")),
    ):
        if value not in allowed:
            raise GrigriError(f"{flag} {value} does not go with an exported file; leave it out")
    return path, Compute.resolve("cpu", amp, threads, memory_limit), engine
