"""A run that stopped, on disk: all that training needs to go on, bit for bit."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import GrigriError
from ..models import weights
from ..models.normalize import Preprocessing, preprocessing_of
from . import sealed_file

FORMAT = "grigri-fast resume 3"


@dataclass
class Progress:
    """How far a run is: what is stored beside the tensors and changes from step to step.

    Attributes:
        epoch: the epoch that is being trained, from 1.
        batches: how many of its batches are done.
        num_seen: images that were trained on in this epoch.
        totals: sums over this epoch, for its training scores.
        history: a row for each finished epoch.
        bad: by name, why an image is not used, and since which epoch; 0 is before training.
        skipped_steps: steps that the fp16 scaler left out.
        train_s: seconds of training in all.
        peak_memory_bytes: the largest use of the device's memory (see ``memory.Budget``).
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


def save(
    path: Path,
    previous: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    average: nn.Module | None = None,
) -> None:
    """Write all that a run needs to go on, and rename the state before to ``previous``."""
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
        "preprocessing": dataclasses.asdict(preprocessing_of(model)),
    }
    sealed_file.write(path, tensors, fields, FORMAT, previous)


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

    @property
    def preprocessing(self) -> Preprocessing:
        """The network's preprocessing; ImageNet's in a state from before it was stored."""
        stored = self.fields.get("preprocessing", {})
        return Preprocessing(**{name: tuple(values) for name, values in stored.items()})

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: nn.Module | None = None,
    ) -> None:
        """Put weights, their average, optimizer, scaler and random states back, in place."""
        weights.load_state(model, self._part("model."))
        if average is not None:
            weights.load_state(average, self._part("average."))
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


def load(path: Path) -> State:
    """Return the state that :func:`save` wrote.

    Raises:
        GrigriError: if the file is missing, damaged or not one of ours.
    """
    state = State(*sealed_file.read(path, FORMAT))
    try:
        _ = state.progress, state.preprocessing, state.fields["optimizer"], state.fields["scaler"]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e
    return state
