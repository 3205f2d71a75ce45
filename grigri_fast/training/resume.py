"""Going on with a run where it was stopped: all that a resume checks, and its state.

A resume is refused, before anything is written, if

- the folder is no run, or an option would make it another run (:func:`resumed_config`);
- another process trains in it (:func:`run_folder.locked`), or no whole state is left
  (:func:`load_state`);
- images were added, removed, put in another order or relabelled (:meth:`Resumed.read_split`), or
  the content of one has changed (:meth:`Resumed.require_same_content`);
- with a memory limit, the run's plan does not fit it (:func:`autobatch.plan_run`);
- of several processes, not all see the same (:func:`collectives.require_same`).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import OPTIONS, TrainConfig, read_toml, resolve
from ..data import split
from ..data.dataset import Dataset
from ..errors import GrigriError
from ..runs import manifest, run_folder, training_state
from ..runs.training_state import Progress, State
from ..runtime import files

# What runs did that are older than these options; a run stores all of its options.
_NOT_THERE_BEFORE = {"probe": False, "freeze_stages": 0, "freeze_norms": False, "layer_decay": 1.0}


def resumed_config(folder: Path, given: dict[str, Any]) -> TrainConfig:
    """Return a run's config, resolved, with the options that are given now.

    Options that say what a run is cannot change (``may_change`` in their declaration). ``epochs``
    may grow where the learning rate of the epochs before does not depend on their number: with
    ``--schedule constant``.

    Raises:
        GrigriError: if there is no such run, or an option would make it another one.
    """
    run_folder.require(folder)
    stored = _NOT_THERE_BEFORE | read_toml(folder / run_folder.CONFIG)
    if "data" not in stored | given:
        raise GrigriError(
            f"{folder / run_folder.CONFIG} does not say which data; name them as DATA"
        )
    before = resolve(TrainConfig(**stored))
    if "strict" in given or "max_bad" in given:
        stored = {k: v for k, v in stored.items() if k not in ("strict", "max_bad")}
    config = resolve(TrainConfig(**stored | given))
    for name in given:
        was, now = getattr(before, name), getattr(config, name)
        if not OPTIONS[name].may_change and was != now:
            raise GrigriError(
                f"{OPTIONS[name].flag} was {was} in {folder}, not {now}: a resumed run keeps its"
                f" options (to go on from its weights in a new run: train --weights"
                f" {folder / run_folder.LAST})"
            )
    if config.epochs != before.epochs and config.schedule != "constant":
        raise GrigriError(
            f"--epochs was {before.epochs} in {folder}, not {config.epochs}: the learning rate of"
            f" one-cycle is planned from the number of epochs, so it cannot change now (with"
            f" --schedule constant it can grow; to go on from the weights in a new run: train"
            f" --weights {folder / run_folder.LAST})"
        )
    if config.epochs < before.epochs:
        raise GrigriError(f"--epochs was {before.epochs} in {folder}; it can only grow")
    return dataclasses.replace(config, data=str(files.shown(config.data)))


@dataclass(frozen=True)
class Resumed:
    """A run that goes on.

    Attributes:
        folder: the run folder.
        state: what was stored; ``state.restore`` puts it back.
        progress: how far the run is.
    """

    folder: Path
    state: State
    progress: Progress

    def read_split(self, data: Dataset) -> split.Split:
        """Return the run's split, after checking names and labels of the images.

        Raises:
            GrigriError: if they have changed; the message names how.
        """
        # Before the split, which could only say that it does not fit.
        manifest.require_same(self.folder / run_folder.DATA, data)
        return split.read(self.folder / run_folder.SPLIT, data)

    def require_same_content(self, data: Dataset, crc32_N: NDArray[np.int64]) -> None:
        """Raise GrigriError if an image has another checksum than when the run began."""
        manifest.require_same(self.folder / run_folder.DATA, data, crc32_N)

    def describe(self, config: TrainConfig, steps_per_epoch: int) -> str:
        """Return in words where the run goes on."""
        progress = self.progress
        if progress.epoch > config.epochs:
            return f"all {config.epochs} epochs are done"
        text = f"going on in epoch {progress.epoch} of {config.epochs}"
        if progress.batches:
            text += f", after {progress.batches:,} of its {steps_per_epoch:,} steps"
        if progress.history:
            row = run_folder.best_row(progress.history)
            text += f"; best micro-F1 so far {row['val_micro_f1']:.4f} (epoch {row['epoch']})"
        return text


def load_state(
    folder: Path, log: Callable[[str], None] = lambda text: None
) -> tuple[State, Progress]:
    """Return a run's state, and how far it is; ``log`` is called if it is not the newest.

    Raises:
        GrigriError: if there is none that is whole.
    """
    newest, before = folder / run_folder.RESUME, folder / run_folder.PREVIOUS
    if before.exists() and not newest.exists():  # killed between the two renames
        newest = before
    try:
        state = training_state.load(newest)
    except GrigriError as e:
        if newest == before or not before.exists():
            raise GrigriError(
                f"{e}; there is nothing to resume. To repeat the run: grigri-fast train --config"
                f" {folder / run_folder.CONFIG}"
            ) from e
        state = training_state.load(before)
        log(f"{e}; going on from the one before, {before.name}")
    return state, state.progress
