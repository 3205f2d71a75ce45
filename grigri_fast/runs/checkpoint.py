"""A model on disk: its weights, and what is needed beside them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import GrigriError
from ..models import factory, normalize, weights
from ..models.normalize import Preprocessing
from . import sealed_file

FORMAT = "grigri-fast checkpoint 2"


@dataclass(frozen=True)
class ModelInfo:
    """What is needed beside the weights; JSON in the file's header, under ``grigri-fast``.

    Attributes:
        arch: architecture name.
        size_px: side of the square input; whole images are resized to it, bilinearly.
        built_px: side that the network was built for, ``size_px`` if None: the width of simple's
            first linear layer depends on it.
        flip_test: whether the logits are the mean of those of an image and its mirror image.
        class_names: meaning of the logits, in order.
        thresholds: least probability with which a label is given: one for all classes, or one each.
        threshold_source: where they come from, in words.
        mean, std: of the input normalisation, per RGB channel on a scale of 0 to 1.
        epoch: epochs trained.
        scores: scores on the validation part at that epoch.
    """

    arch: str
    size_px: int
    class_names: list[str]
    thresholds: float | list[float] = 0.5
    threshold_source: str = "default"
    mean: tuple[float, ...] = normalize.IMAGENET_MEAN
    std: tuple[float, ...] = normalize.IMAGENET_STD
    flip_test: bool = False
    epoch: int = 0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    built_px: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what a damaged header could hold."""
        c = len(self.class_names)
        numbers = [*self.mean, *self.std, *np.atleast_1d(self.thresholds)]
        if not (isinstance(self.class_names, list) and c):
            raise ValueError("class_names must be a list of names")
        if not all(isinstance(name, str) for name in [self.arch, *self.class_names]):
            raise ValueError("arch and class_names must be text")
        for name, side in (("size_px", self.size_px), ("built_px", self.built_px or 1)):
            if not (isinstance(side, int) and side > 0):
                raise ValueError(f"{name} must be a whole number above 0")
        if not isinstance(self.flip_test, bool):
            raise ValueError("flip_test must be true or false")
        if not all(isinstance(x, int | float) for x in numbers):
            raise ValueError("mean, std and thresholds must be numbers")
        one_each = not isinstance(self.thresholds, list) or len(self.thresholds) == c
        if len(self.mean) != 3 or len(self.std) != 3 or not one_each:
            raise ValueError("mean, std or thresholds have a wrong length")

    @property
    def thresholds_C(self) -> NDArray[np.float64]:
        """One threshold per class."""
        return np.broadcast_to(np.float64(self.thresholds), (len(self.class_names),))

    def for_others(self) -> "ModelInfo":
        """Return what an exported file tells: not where the photographs lie."""
        rule = self.threshold_source.partition(" on the ")[0]
        return dataclasses.replace(self, threshold_source=rule)


def save(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the checkpoint, whole or not at all."""
    sealed_file.write(path, model.state_dict(), dataclasses.asdict(info), FORMAT)


def load(
    path: Path, device: torch.device, memory_format: torch.memory_format = torch.channels_last
) -> tuple[nn.Module, ModelInfo]:
    """Return the model, on the device, in eval mode and a memory format, with its information.

    The model carries the preprocessing that is stored, as ``preprocessing``.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    state, info = _read_model(path)
    built_px = info.built_px or info.size_px
    model = factory.build(info.arch, len(info.class_names), built_px, is_known_to_fit=True)
    try:
        weights.load_state(model, state)
    except RuntimeError as e:
        raise GrigriError(f"{path}: the weights do not fit {info.arch}: {e}"[:300]) from e
    model.preprocessing = Preprocessing(info.mean, info.std)
    return model.to(device, memory_format=memory_format).eval(), info


def set_thresholds(path: Path, thresholds: float | list[float], source: str) -> None:
    """Store thresholds in a checkpoint; its weights stay as they are."""
    state, info = _read_model(path)
    info = dataclasses.replace(info, thresholds=thresholds, threshold_source=source)
    sealed_file.write(path, state, dataclasses.asdict(info), FORMAT)


def info_of(path: Path) -> ModelInfo | None:
    """Return a checkpoint's information, None if it is missing or damaged."""
    try:
        return _read_model(path)[1]
    except GrigriError:
        return None


def _read_model(path: Path) -> tuple[dict[str, torch.Tensor], ModelInfo]:
    tensors, fields = sealed_file.read(path, FORMAT)
    try:
        for key in ("mean", "std"):
            if key in fields:
                fields[key] = tuple(fields[key])
        return tensors, ModelInfo(**fields)
    except (ValueError, TypeError) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e
