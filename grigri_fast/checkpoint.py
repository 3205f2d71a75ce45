"""A model on disk: one safetensors file with the weights and all that prediction needs."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from . import models, run
from .errors import GrigriError

_FORMAT = "grigri-fast checkpoint 1"


@dataclass(frozen=True)
class ModelInfo:
    """What is needed beside the weights. JSON in the file's header under ``grigri-fast``.

    Attributes:
        arch: architecture name.
        size_px: side of the square input; whole images are resized to it, bilinearly.
        class_names: meaning of the logits, in order.
        thresholds: a label is given from this probability on: one for all classes, or one each.
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
    mean: tuple[float, ...] = models.IMAGENET_MEAN
    std: tuple[float, ...] = models.IMAGENET_STD
    epoch: int = 0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for what a damaged header could hold."""
        c = len(self.class_names)
        numbers = [*self.mean, *self.std, *np.atleast_1d(self.thresholds)]
        if not (isinstance(self.class_names, list) and c):
            raise ValueError("class_names must be a list of names")
        if not all(isinstance(name, str) for name in [self.arch, *self.class_names]):
            raise ValueError("arch and class_names must be text")
        if not (isinstance(self.size_px, int) and self.size_px > 0):
            raise ValueError("size_px must be a whole number above 0")
        if not all(isinstance(x, int | float) for x in numbers):
            raise ValueError("mean, std and thresholds must be numbers")
        one_each = not isinstance(self.thresholds, list) or len(self.thresholds) == c
        if len(self.mean) != 3 or len(self.std) != 3 or not one_each:
            raise ValueError("mean, std or thresholds have a wrong length")

    @property
    def thresholds_C(self) -> NDArray[np.float64]:
        """One threshold per class."""
        return np.broadcast_to(np.float64(self.thresholds), (len(self.class_names),))


def save(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the checkpoint, whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    _write(path, state, info)


def load(path: Path, device: torch.device) -> tuple[nn.Module, ModelInfo]:
    """Return the model, on the device, in eval mode and channels_last, with its information.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    state, info = _read(path)
    model = models.build(info.arch, len(info.class_names), info.size_px)
    try:
        models.load_state(model, state)
    except RuntimeError as e:
        raise GrigriError(f"{path}: the weights do not fit {info.arch}: {e}"[:300]) from e
    return model.to(device, memory_format=torch.channels_last).eval(), info


def set_thresholds(path: Path, thresholds: float | list[float], source: str) -> None:
    """Store thresholds in a checkpoint; its weights stay as they are."""
    state, info = _read(path)
    _write(
        path,
        state,
        dataclasses.replace(info, thresholds=thresholds, threshold_source=source),
    )


def _write(path: Path, state: dict[str, torch.Tensor], info: ModelInfo) -> None:
    header = {"format": _FORMAT, "grigri-fast": json.dumps(dataclasses.asdict(info))}
    run.write_atomic(path, safetensors.torch.save(state, metadata=header))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], ModelInfo]:
    if not path.is_file():
        raise GrigriError(f"{path}: no such checkpoint (has the run finished its first epoch?)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise GrigriError(f"{path}: not a checkpoint of grigri-fast")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
        fields: dict[str, Any] = json.loads(header["grigri-fast"])
        for key in ("mean", "std"):
            if key in fields:
                fields[key] = tuple(fields[key])
        return state, ModelInfo(**fields)
    except (OSError, safetensors.SafetensorError) as e:
        raise GrigriError(f"{path}: damaged checkpoint: {e}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e
