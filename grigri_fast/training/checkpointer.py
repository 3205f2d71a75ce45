"""What a run leaves on the disk while it goes on, so that nothing is lost when it stops."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..config import TrainConfig
from ..errors import DivergedError, GrigriError
from ..models import networks
from ..reporting import plots
from ..runs import checkpoint, run_folder, training_state
from ..runs.checkpoint import ModelInfo
from ..runs.training_state import Progress, State
from ..runtime import files
from ..runtime.units import parse_interval


class Keeper:
    """Stores a run's state and the files of its epochs.

    The state (``resume.safetensors``) comes first: from it the other files of an epoch could be
    made again, and they are (:meth:`keep_epoch`) where a run was killed between the two.

    Args:
        folder: the run folder.
        config: of the run.
        model, optimizer, scaler, progress: what changes while it trains.
        average: of the model's weights, where one is kept: then that is the model of an epoch.
        writes: whether anything is written; of several processes that train together one does.
        class_names: of the data.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        progress: Progress,
        class_names: list[str],
        average: AveragedModel | None = None,
        writes: bool = True,
    ) -> None:
        self._average, self._writes = average, writes
        self._folder, self._config, self._class_names = folder, config, class_names
        self._model, self._optimizer, self._scaler = model, optimizer, scaler
        self._progress = progress
        self._every_steps, self._every_s = parse_interval(config.checkpoint_every)
        self._steps = 0
        self._stored_s = time.perf_counter()

    @property
    def advice(self) -> str:
        """How to go on after a stop."""
        return f"go on with: grigri-fast train --resume {files.shown(self._folder)}"

    def is_due(self) -> bool:
        """Return whether a step, which has just been done, is one after which to store."""
        self._steps += 1
        if self._every_steps is not None:
            return self._steps >= self._every_steps
        return time.perf_counter() - self._stored_s >= self._every_s

    def store(self) -> None:
        """Write the state; the one before is kept until the next time."""
        now_s = time.perf_counter()
        self._progress.train_s += now_s - self._stored_s
        self._steps, self._stored_s = 0, now_s
        if not self._writes:
            return
        training_state.save(
            self._folder / run_folder.RESUME,
            self._folder / run_folder.PREVIOUS,
            self._model,
            self._optimizer,
            self._scaler,
            self._progress,
            self._average,
        )

    def keep_epoch(self) -> None:
        """Write what the last finished epoch leaves, unless it is there already."""
        history = self._progress.history
        if (
            not self._writes
            or not history
            or _text(self._folder / run_folder.RESULTS) == files.to_csv(history)
        ):
            return
        row = history[-1]
        if not self._progress.batches:  # the weights are those of the epoch's end
            info = ModelInfo(
                arch=self._config.arch,
                size_px=self._config.test_size_in(row["epoch"]),
                built_px=self._config.size,
                class_names=self._class_names,
                flip_test=self._config.flip_test,
                epoch=row["epoch"],
                scores={k.removeprefix("val_"): v for k, v in row.items() if "val_" in k},
            )
            model = networks.folded(self._model if self._average is None else self._average.module)
            if best(history) is row:
                checkpoint.save(self._folder / run_folder.BEST, model, info)
            checkpoint.save(self._folder / run_folder.LAST, model, info)
        title = f"{self._folder.name}: {self._config.arch} at {self._config.size} px"
        files.write_atomic(self._folder / run_folder.CURVES, plots.curves(history, title))
        files.write_atomic(self._folder / run_folder.RESULTS, files.to_csv(history))

    @contextlib.contextmanager
    def advice_on_errors(self) -> Iterator[None]:
        """Say in an error that ends training how to go on once its cause is gone."""
        try:
            yield
        except DivergedError:
            raise  # it would come again
        except GrigriError as e:
            if not (self._folder / run_folder.RESUME).exists():
                raise
            raise GrigriError(f"{e}; {self.advice}") from e


def best(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch with the highest micro-F1, of several the one with the lowest loss."""
    return max(history, key=lambda row: (row["val_micro_f1"], -row["val_loss"]))


def load_state(folder: Path) -> tuple[State, str]:
    """Return a run's state, and a note where it is not the last one that was written.

    Raises:
        GrigriError: if there is none that is whole.
    """
    newest, before = folder / run_folder.RESUME, folder / run_folder.PREVIOUS
    if not newest.exists() and before.exists():
        return training_state.load(before), ""  # killed between the two renames: it is the last
    try:
        return training_state.load(newest), ""
    except GrigriError as e:
        if not before.exists():
            raise GrigriError(
                f"{e}; there is nothing to resume. To repeat the run: grigri-fast train --config"
                f" {folder / run_folder.CONFIG}"
            ) from e
        return training_state.load(before), f"{e}; going on from the one before, {before.name}"


def _text(path: Path) -> str:
    with contextlib.suppress(GrigriError):
        return files.read_text(path)
    return ""
