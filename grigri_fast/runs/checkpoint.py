"""A model, or a run that stopped, on disk: a safetensors file with a checksum.

Nothing in these files is executed when they are read, and a single flipped bit is noticed.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from ..models import factory
from ..models import normalize
from ..runtime import files
from ..errors import GrigriError

_FORMAT = "grigri-fast checkpoint 2"
_STATE_FORMAT = "grigri-fast resume 3"
_KEY = "grigri-fast"  # of the header: one JSON text with everything
# The file's SHA-256, taken while these digits are zeros. JSON within JSON has escaped quotes.
_CHECKSUM = re.compile(rb'sha256\\": \\"([0-9a-f]{64})')
_HEAD_BYTES = 4096  # it stands near the beginning
_MAX_HEADER_BYTES = 100 * 2**20  # that of safetensors


@dataclass(frozen=True)
class ModelInfo:
    """What is needed beside the weights. JSON in the file's header under ``grigri-fast``.

    Attributes:
        arch: architecture name.
        size_px: side of the square input; whole images are resized to it, bilinearly.
        built_px: side that the network was made for, ``size_px`` if it is not said: simple's first
            linear layer has its width.
        flip_test: whether the logits are the mean of those of an image and its mirror image.
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


def save(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the checkpoint, whole or not at all."""
    _write(path, _on_host(model.state_dict()), dataclasses.asdict(info), _FORMAT)


def load(path: Path, device: torch.device) -> tuple[nn.Module, ModelInfo]:
    """Return the model, on the device, in eval mode and channels_last, with its information.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    state, info = _read_model(path)
    model = factory.build(info.arch, len(info.class_names), info.built_px or info.size_px)
    try:
        factory.load_state(model, state)
    except RuntimeError as e:
        raise GrigriError(f"{path}: the weights do not fit {info.arch}: {e}"[:300]) from e
    return model.to(device, memory_format=torch.channels_last).eval(), info


def set_thresholds(path: Path, thresholds: float | list[float], source: str) -> None:
    """Store thresholds in a checkpoint; its weights stay as they are."""
    state, info = _read_model(path)
    info = dataclasses.replace(info, thresholds=thresholds, threshold_source=source)
    _write(path, state, dataclasses.asdict(info), _FORMAT)


def info_of(path: Path) -> ModelInfo | None:
    """Return a checkpoint's information, None if there is no whole checkpoint."""
    try:
        return _read_model(path)[1]
    except GrigriError:
        return None


# ------------------------------------------------------------------- going on where it stopped


@dataclass
class Progress:
    """How far a run is: what is stored beside the tensors, and changes from step to step.

    Attributes:
        epoch: the epoch that is being trained, from 1.
        batches: how many of its batches are done.
        num_seen: images of the epoch that were trained on.
        totals: the epoch's sums for its training scores.
        history: a row for each finished epoch.
        bad: reason and epoch by name, for images that are not used; epoch 0: before training.
        skipped_steps: steps that the fp16 scaler left out.
        train_s: seconds of training in all.
        peak_memory_bytes: the most that was seen on the device (see ``memory.Budget``).
    """

    epoch: int = 1
    batches: int = 0
    num_seen: int = 0
    totals: list[float] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    bad: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    skipped_steps: int = 0
    train_s: float = 0.0
    peak_memory_bytes: int = 0


def save_state(
    path: Path,
    previous: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    average: nn.Module | None = None,
) -> None:
    """Write all that a run needs to go on, and keep the state before as ``previous``."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    numbers: dict[str, dict[str, Any]] = {}
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
            else:
                numbers.setdefault(str(i), {})[name] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    fields = {
        "progress": dataclasses.asdict(progress),
        "optimizer": numbers,
        "scaler": scaler.state_dict(),
    }
    _write(path, _on_host(tensors), fields, _STATE_FORMAT, previous)


@dataclass(frozen=True)
class State:
    """A run's state as it was stored; :meth:`restore` puts it back."""

    tensors: dict[str, torch.Tensor]
    fields: dict[str, Any]

    @property
    def progress(self) -> Progress:
        """How far the run was."""
        stored = dict(self.fields["progress"])
        stored["bad"] = {name: tuple(why) for name, why in stored["bad"].items()}
        return Progress(**stored)

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: nn.Module | None = None,
    ) -> None:
        """Put weights, their average, optimizer, scaler and random states back, in place."""
        factory.load_state(model, self._part("model."))
        if average is not None:
            factory.load_state(average, self._part("average."))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for key, value in self._part("optimizer.").items():
            i, name = key.split(".", 1)
            like = parameters[int(i)]
            if value.shape == like.shape:  # in the parameter's memory format, as it was
                value = torch.empty_like(like, dtype=value.dtype).copy_(value)
            state.setdefault(int(i), {})[name] = value
        for i, values in self.fields["optimizer"].items():
            state.setdefault(int(i), {}).update(values)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        scaler.load_state_dict(self.fields["scaler"])
        torch.set_rng_state(self.tensors["random.cpu"])
        if "random.cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["random.cuda"])

    def _part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def load_state(path: Path) -> State:
    """Return the state that :func:`save_state` wrote.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    state = State(*_read(path, _STATE_FORMAT))
    try:
        _ = state.progress, state.fields["optimizer"], state.fields["scaler"]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e
    return state


# ------------------------------------------------------------------------------- the file


def _write(
    path: Path,
    tensors: dict[str, torch.Tensor],
    fields: dict[str, Any],
    format_name: str,
    previous: Path | None = None,
) -> None:
    """Write a safetensors file whose header holds ``fields`` and a checksum of the whole file."""
    header = {"format": format_name, "sha256": "0" * 64} | fields
    content = bytearray(safetensors.torch.save(tensors, metadata={_KEY: json.dumps(header)}))
    where = _CHECKSUM.search(content)
    content[where.start(1) : where.end(1)] = hashlib.sha256(content).hexdigest().encode()
    files.write_atomic(path, content, previous)


def _read(path: Path, format_name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and fields of a file that :func:`_write` wrote and nothing has changed."""
    if not path.exists():
        raise GrigriError(f"{path}: no such checkpoint (has the run finished its first epoch?)")
    try:
        _require_size(path)
        content = bytearray(files.read_bytes(path))
    except GrigriError as e:
        raise GrigriError(f"{path}: {e}") from e
    where = _CHECKSUM.search(content, 0, _HEAD_BYTES)
    if where is None:
        raise GrigriError(f"{path}: damaged checkpoint, or none of grigri-fast")
    stored = bytes(where[1])
    content[where.start(1) : where.end(1)] = b"0" * 64
    if hashlib.sha256(content).hexdigest().encode() != stored:
        raise GrigriError(f"{path}: damaged checkpoint: its checksum does not fit its content")
    try:
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        if fields.pop("format") != format_name:
            raise GrigriError(f"{path}: not a file of this kind")
        fields.pop("sha256")
        return safetensors.torch.load(bytes(content)), fields
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e


def _require_size(path: Path) -> None:
    """Raise GrigriError unless a file has the size that its header says: it may be of any."""
    wrong = GrigriError("damaged checkpoint, or none of grigri-fast")
    head = files.read_bytes(path, first=_HEAD_BYTES)
    length = 8 + int.from_bytes(head[:8], "little")
    if _CHECKSUM.search(head) is None or length > _MAX_HEADER_BYTES:
        raise wrong
    try:
        header = json.loads(files.read_bytes(path, first=length)[8:])
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        size = length + max(ends)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as e:
        raise wrong from e
    if files.stamp(path)[0] != size:
        raise GrigriError("damaged checkpoint: its size is not what its header says")


def _read_model(path: Path) -> tuple[dict[str, torch.Tensor], ModelInfo]:
    tensors, fields = _read(path, _FORMAT)
    try:
        for key in ("mean", "std"):
            if key in fields:
                fields[key] = tuple(fields[key])
        return tensors, ModelInfo(**fields)
    except (ValueError, TypeError) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e


def _on_host(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
