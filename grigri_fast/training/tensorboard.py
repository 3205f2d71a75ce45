"""What TensorBoard shows of a run: written while it trains, into its folder. Uses tensorboard.

The step of everything is the number of training steps that are done. Tags: ``step/...`` while an
epoch goes on; ``train/...``, ``val/...`` and ``epoch/...`` are the columns of ``results.csv``.
"""

import contextlib
import dataclasses
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import TrainConfig
from ..errors import GrigriError
from ..runs import run_folder
from ..runtime import files
from . import optim
from .callbacks import Callback

FOLDER = "tensorboard"
_FLUSH_EVERY_S = 10


def require() -> None:
    """Raise GrigriError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise GrigriError("--tensorboard needs TensorBoard: pip install tensorboard")


class Tracker(Callback):
    """A callback that writes the progress for TensorBoard, and passes it on to another one.

    A resumed run goes on where its state was stored: what had been written after that is purged
    (TensorBoard's own way), so that nothing appears twice.

    Args:
        callback: the one to pass everything on to.
        folder: the run folder.
        config: of the run.
        steps_per_epoch: of the run.
        history: a row per finished epoch.
        steps_of_epoch: steps that are done of the epoch after those.
    """

    def __init__(
        self,
        callback: Callback,
        folder: Path,
        config: TrainConfig,
        steps_per_epoch: int,
        history: list[dict[str, Any]],
        steps_of_epoch: int,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._callback, self._folder, self._config = callback, folder, config
        self._steps_per_epoch = steps_per_epoch
        is_new = not any((folder / FOLDER).glob("events.*"))
        done = run_folder.num_epochs(history) * steps_per_epoch
        # It may have been killed between storing an epoch's end and writing what belongs to its
        # last step: so that is written again.
        first = done + steps_of_epoch + 1 if steps_of_epoch else done
        with self._explained():
            self._writer = SummaryWriter(
                folder / FOLDER,
                purge_step=None if is_new else first,
                flush_secs=_FLUSH_EVERY_S,
            )
            if is_new:
                for row in history:
                    self._write_row(row)
            elif history and not steps_of_epoch:
                row = history[-1]
                self._write_row(row)
                self._write_curves(done)
                self._write_step(done, row["train_loss"], row["lr"], row["images_per_s"])

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:  # that is what is worth saying
            with contextlib.suppress(Exception):
                self._writer.close()
            return
        with self._explained():
            self._write_options()
            self._writer.close()

    def log(self, text: str) -> None:
        """Pass the line on."""
        self._callback.log(text)

    def on_check(self, done: int, total: int) -> None:
        """Pass the counts on."""
        self._callback.on_check(done, total)

    def on_features(self, done: int, total: int) -> None:
        """Pass the counts on."""
        self._callback.on_features(done, total)

    def on_step(
        self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float
    ) -> None:
        """Write the epoch's mean loss so far, the learning rate and the speed."""
        lr, _ = optim.lr_and_momentum(self._config, step - 1, num_steps)
        with self._explained():
            self._write_step(step, loss, lr, images_per_s)
        self._callback.on_step(epoch, step, num_steps, loss, images_per_s)

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Write the row and the curves."""
        with self._explained():
            self._write_row(row)
            self._write_curves(row["epoch"] * self._steps_per_epoch)
            self._writer.flush()  # before the next epoch is stored
        self._callback.on_epoch(row, num_epochs, is_best)

    def _write_row(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            part, _, key = name.partition("_")
            tag = f"{part}/{key}" if part in ("train", "val") else f"epoch/{name}"
            self._writer.add_scalar(tag, value, row["epoch"] * self._steps_per_epoch)

    def _write_step(self, step: int, loss: float, lr: float, images_per_s: float) -> None:
        self._writer.add_scalar("step/loss", loss, step)
        self._writer.add_scalar("step/lr", lr, step)
        self._writer.add_scalar("step/images_per_s", images_per_s, step)

    def _write_curves(self, step: int) -> None:
        curves = Image.open(io.BytesIO(files.read_bytes(self._folder / run_folder.CURVES)))
        pixels_HWC = np.asarray(curves.convert("RGB"))
        self._writer.add_image("curves", pixels_HWC, step, dataformats="HWC")

    def _write_options(self) -> None:
        """Write the run's options beside its last scores, from its summary."""
        options = {k: v for k, v in dataclasses.asdict(self._config).items() if v is not None}
        summary = files.read_json(self._folder / run_folder.SUMMARY)
        scores = {k: v for k, v in summary["last"].items() if k.startswith("val_")}
        for way, of_way in summary["validation"]["scores"].items():
            scores[f"micro_f1 {way}"] = of_way["micro_f1"]["value"]
        metrics = {f"last/{k}": v for k, v in scores.items() if v is not None}
        step = summary["epochs"] * self._steps_per_epoch
        self._writer.add_hparams(options, metrics, run_name=".", global_step=step)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the disk says into one line."""
        try:
            yield
        except OSError as e:
            where = self._folder / FOLDER
            raise GrigriError(f"{where}: cannot be written: {e.strerror or e}") from e
