"""The training loop: from options to a run folder.

Shapes: N images of a batch (or of the data set), C classes, HW pixels.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..config import TrainConfig, resolve
from ..data import split
from ..errors import BetweenStepsError, DivergedError, GrigriError, Interrupted
from ..evaluation import evaluator, metrics
from ..inference import forward
from ..models import factory
from ..pipeline.batching import Batch
from ..pipeline.cache import plan_cache
from ..pipeline.loader import ImageLoader
from ..runs import manifest, run_folder
from ..runs.training_state import Progress
from ..runtime import distributed, environment, files, memory, signals
from ..runtime.files import StrPath
from ..runtime.option import absolute_inputs, given_options, signature_of, write_toml
from ..runtime.signals import Stop
from . import (
    autobatch,
    checkpointer,
    collectives,
    compilation,
    optim,
    run_data,
    setup,
    tensorboard,
)
from . import (
    resume as resuming,
)
from .augment import Augmentation
from .autobatch import Fitted
from .callbacks import Callback
from .checkpointer import Checkpointer
from .losses import LOSSES, Loss
from .options import TrainArguments, train_config
from .resume import Resumed, resumed_config
from .run_data import RunData
from .sampler import Sampler
from .setup import Machine, Prepared
from .step import Sums

_MAX_SKIPPED_STEPS = 25  # in a row, in fp16: the scale has been halved to nothing by then
_SHOW_EVERY_S = 0.25  # to show a step costs a CPU-GPU synchronisation, so it is not done oftener


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes:
        folder: the run folder.
        history: a row per epoch, as in ``results.csv``.
        evaluation: the last epoch's model on the validation part, threshold tuned (``auto``).
        train_s: seconds from the first step to the last evaluation.
    """

    folder: Path
    history: list[dict[str, Any]]
    evaluation: evaluator.Evaluation
    train_s: float


@signature_of(TrainArguments)
def train(
    data: StrPath | None = None,
    *,
    config: StrPath | None = None,
    resume: StrPath | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> Result:
    """Train a multi-label classifier and leave a run folder, as ``grigri-fast train`` does.

    Args:
        data: photographs and labels: a folder or a CSV. Without it: the generated demo set.
        config: a TOML file of options; those that are given here win.
        resume: a run folder to go on in, where it was stopped.
        callback: called with the progress; see :class:`Callback`.
        options: the fields of :class:`TrainConfig`; ``None`` is the same as not given.

    Returns:
        The run ``folder``; ``history``, a row per epoch as in ``results.csv``; ``evaluation``, of
        the last epoch on the validation part, with intervals; ``train_s``, seconds of training.

    Raises:
        GrigriError: for what you can fix.
        Interrupted: (no Exception) when Ctrl-C, SIGTERM or SIGHUP has stopped it after a step; the
            state is stored, and ``resume`` goes on.
        TypeError: for an option that there is not.
    """
    callback = callback or Callback()
    given = given_options(TrainConfig, {"data": data, **options}, "train")
    if resume is None:
        return run(train_config(given, config, callback.log), callback)
    if config is not None:
        raise GrigriError("--resume takes the options of the run; leave --config out")
    return run(resumed_config(Path(resume), given), callback, Path(resume))


def run(asked: TrainConfig, callback: Callback, folder: Path | None = None) -> Result:
    """Train as a config says: set up, train, and keep what is left at the end.

    Under torchrun this is one of several processes that train together (see ``distributed``): each
    takes its part of every batch, all hold the same state, and the first one writes and logs.

    Args:
        asked: the options; of a run that goes on, see :func:`resumed_config`.
        callback: called with the progress.
        folder: the run folder to go on in; a new one is made by default.

    Raises:
        GrigriError: for whatever the user can fix, before anything is written where possible.
        Interrupted: when a signal has stopped training after a step; the state is stored.
    """
    asked = resolve(asked)
    if asked.tensorboard:
        tensorboard.require()
    with contextlib.ExitStack() as stack:
        # ---------------------------------------------------------- the machine, and the state
        machine = stack.enter_context(setup.opened(asked, callback, folder is not None))
        resumed = folder and stack.enter_context(resuming.opened(folder, machine))
        progress = resumed.progress if resumed else Progress()

        # ------------------------------------------------- the images, and a plan for the memory
        data = run_data.load(asked, machine, progress, resumed)
        fitted = autobatch.plan_run(asked, machine, data, resumed is not None)

        # --------------------------------------------------------------- the network and its step
        network = setup.load_network(asked, data.frequency_C, machine.world, bool(resumed))
        config = _decide(asked, machine, data, fitted, network)
        prepared = _prepare(network, config, machine, resumed)
        cache = plan_cache(
            config.cache,
            data.checked,
            run_data.largest_side(config),
            machine.compute.device,
            fitted and fitted.to_spare,
            num_processes=machine.world.local_size,
        )

        # ------------------------------------------------------------------------- the run folder
        folder = stack.enter_context(_folder_of(config, machine, data, fitted, resumed))
        log = machine.callback.log
        log(cache.in_words())
        log(f"run folder {folder}")
        if data.quarantine.bad:
            log(data.quarantine.in_words(folder))
        steps_per_epoch = data.steps_per_epoch(config.batch_size)
        if resumed:
            log(resumed.describe(config, steps_per_epoch))
        callback = machine.callback
        if config.tensorboard and machine.world.is_first:
            done = progress.history, progress.batches
            tracker = tensorboard.Tracker(callback, folder, config, steps_per_epoch, *done)
            callback = stack.enter_context(tracker)

        # ------------------------------------------------------------------------------- the loop
        stop = stack.enter_context(signals.deferred(callback.log))
        writer = Checkpointer(
            folder, config, prepared, progress, data.dataset.class_names, machine.world.is_first
        )
        stack.enter_context(writer.advice_on_errors())
        if resumed:
            writer.save_epoch()  # in case it was killed between the state and these
        else:
            writer.save_state()  # from here on there is something to resume
        machine.budget.reset_peak()
        loader = data.make_loader(config, machine, config.batch_size, cache=cache, give_up=stop)
        stack.callback(loader.close)
        advice = (
            f"train with a smaller --batch-size than {config.batch_size} or a smaller --size, or"
            f" free memory that others use"
        )
        stack.enter_context(memory.out_of_memory_explained(advice))
        trainer = Trainer(config, machine, data, prepared, loader, writer, progress, callback, stop)
        stack.enter_context(trainer.saving_on_errors())
        stack.enter_context(distributed.ending_with_others(stop))
        trainer.fit()
        return trainer.finish()


def _decide(
    asked: TrainConfig,
    machine: Machine,
    data: RunData,
    fitted: Fitted | None,
    network: nn.Module,
) -> TrainConfig:
    """Return the config in which nothing is open, and which repeats the run from any folder."""
    config = asked if fitted is None else fitted.plan.applied_to(asked)
    num_steps = config.epochs * data.steps_per_epoch(config.batch_size)
    compiles = compilation.decide(network, config, machine, num_steps, is_planned=bool(fitted))
    return dataclasses.replace(
        config,
        **absolute_inputs(config),
        compile="on" if compiles else "off",
        device=machine.compute.device.type,
        amp=machine.compute.amp,
        name=config.name or f"{Path(config.data).resolve().stem}-{config.arch}",
    )


def _prepare(
    network: nn.Module, config: TrainConfig, machine: Machine, resumed: Resumed | None
) -> Prepared:
    """Return the network on the device with what trains it, as it was when a run was stopped."""
    compute, world, log = machine.compute, machine.world, machine.callback.log
    prepared = setup.prepare(
        setup.placed(network, config, compute.device), config, compute, world=world
    )
    log(
        f"{config.arch} at {config.size} px, weights {config.weights}:"
        f" {prepared.num_trained:,} parameters to train on {compute.device} in {compute.amp}"
    )
    if world.is_shared:
        log(collectives.describe(world, config.batch_size))
    if resumed:
        resumed.state.restore(prepared.model, prepared.optimizer, prepared.scaler, prepared.average)
    return prepared


@contextlib.contextmanager
def _folder_of(
    config: TrainConfig,
    machine: Machine,
    data: RunData,
    fitted: Fitted | None,
    resumed: Resumed | None,
) -> Iterator[Path]:
    """Make the run folder, or take the one of the run that goes on, and describe the run in it."""
    world, dataset = machine.world, data.dataset
    record = environment.describe(machine.compute.device, machine.compute.amp)
    if fitted is not None:
        record["memory"] = fitted.to_json(machine.budget)
    if world.is_shared:
        record["processes"] = world.size
    if resumed is None:
        folder = world.from_first(lambda: run_folder.create_folder(config.out, config.name))
    else:
        folder = resumed.folder
        record = run_folder.resumed_environment(folder, record)
    with contextlib.ExitStack() as stack:
        if world.is_first:
            if resumed is None:
                stack.enter_context(run_folder.locked(folder))
                crc32_N = data.checked.crc32_N
                files.write_atomic(folder / run_folder.SPLIT, split.to_json(data.split, dataset))
                files.write_atomic(folder / run_folder.DATA, manifest.to_json(dataset, crc32_N))
            files.write_atomic(folder / run_folder.CONFIG, write_toml(config))
            files.write_json(folder / run_folder.ENVIRONMENT, record)
            data.quarantine.write(folder)
        yield folder


class Trainer:
    """The loop of a run: trains epoch by epoch, validates, and keeps what each epoch leaves.

    Args:
        config: nothing in it is open.
        machine: what to compute on.
        data: the images and their labels.
        prepared: the network and what trains it.
        loader: of the images.
        writer: saves the state and the files of an epoch.
        progress: how far the run is; kept up to date, since it is saved.
        callback: called with the progress.
        stop: whether a signal has asked to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        machine: Machine,
        data: RunData,
        prepared: Prepared,
        loader: ImageLoader,
        writer: Checkpointer,
        progress: Progress,
        callback: Callback,
        stop: Stop,
    ) -> None:
        dataset, device = data.dataset, machine.compute.device
        self.config, self.machine, self.data = config, machine, data
        self.prepared, self.loader, self.writer = prepared, loader, writer
        self.progress, self.callback, self.stop = progress, callback, stop
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.num_steps = config.epochs * self.steps_per_epoch
        self.loss_of = LOSSES[config.loss]
        self.sampler = Sampler(config, data.train_rows, dataset.targets_NC[data.train_rows])
        self.augmentation = Augmentation(config, len(dataset), device)
        self.targets_NC = torch.from_numpy(dataset.targets_NC).to(device)
        self.logits_NC: NDArray[np.float32] | None = None  # of the last validation
        # Of each step since the sums were last read: its number, rows and learning rate.
        self._unread: deque[tuple[int, torch.Tensor, float]] = deque()
        self._epoch_start_s, self._epoch_start_seen = time.perf_counter(), progress.num_seen
        self._shown_s = time.perf_counter()
        prepared.step.start_epoch(progress.totals, progress.num_seen, progress.skipped_steps)

    def fit(self) -> None:
        """Train the epochs that are left."""
        while self.progress.epoch <= self.config.epochs:
            # ------------------------------------------------ the training images, step by step
            images_per_s = self.train_epoch()

            # ----------------------------------------------------------- the validation images
            if not self.is_to_stop():
                self.validate(self.config.test_size_in(self.progress.epoch))
            if self.is_to_stop():
                self.save_and_stop()

            # ----------------------------------------------------------- the scores of the epoch
            row = self.row_of_epoch(images_per_s)

            # -------------- what stays: first the state, from which the rest could be made again
            self.progress.history.append(row)
            self.progress.epoch += 1
            self.progress.batches, self.progress.num_seen, self.progress.totals = 0, 0, []
            self.writer.save_state()
            self.writer.save_epoch()
            is_best = checkpointer.best(self.progress.history) is row
            self.callback.on_epoch(row, self.config.epochs, is_best)

    def train_epoch(self) -> float:
        """Make the steps of the current epoch that are left; return the images per second."""
        progress = self.progress
        self._epoch_start_s, self._epoch_start_seen = time.perf_counter(), progress.num_seen
        factory.set_training(self.prepared.model, self.config.freeze_backbone)
        self.prepared.step.start_epoch(progress.totals, progress.num_seen, progress.skipped_steps)
        self.augmentation.start_epoch(progress.epoch)
        batches = collectives.in_step(self.batches(), self.machine.world, self.stop)
        for batch, num_images, alone in batches:
            self.leave_out(batch.dropped)
            progress.batches = batch.position
            for row in alone:  # BatchNorm needs two
                name = self.data.dataset.names[row]
                self.callback.log(f"{name} is alone in a step: unused this epoch")
            if num_images >= 2:
                self.train_step(batch, num_images)
                self.show_and_save(batch.position)
        self.read_sums()
        return self.images_per_s()

    def batches(self) -> Iterator[Batch]:
        """Return the batches of the current epoch that are left."""
        config, epoch = self.config, self.progress.epoch
        maps = {"least_area": config.least_area, "max_angle_deg": config.rotation}
        return self.loader.train_epoch(
            self.sampler.rows_of(epoch),
            seed=config.seed,
            epoch=epoch,
            augment=config.augment,
            bad=self.data.quarantine.rows(since=1),
            first=self.progress.batches,
            size_px=config.size_in(epoch),
            **(maps if config.augment else {}),
        )

    def train_step(self, batch: Batch, num_images: int) -> None:
        """Forward, backward, update, metrics: all on the device."""
        config, prepared = self.config, self.prepared
        step = self.steps_before_epoch() + batch.position - 1
        lr, momentum = optim.lr_and_momentum(config, step, self.num_steps)
        optim.set_lr_and_momentum(prepared.optimizer, lr, momentum)
        distributed.seed_step(self.machine.world, config.seed, step)
        targets_NC = self.targets_NC[batch.rows_N]
        prepared.step(
            *self.augmentation(batch.images_NHWC, targets_NC, batch.rows_N, batch.position),
            num_images,
        )
        if prepared.average is not None:
            prepared.average.update_parameters(prepared.model)
        self._unread.append((step, batch.rows_N, lr))
        self.machine.budget.require_within_limit()

    def show_and_save(self, position: int) -> None:
        """Show the progress now and then, and save the state when that is due."""
        world, now_s = self.machine.world, time.perf_counter()
        is_shown = world.is_first and now_s - self._shown_s > _SHOW_EVERY_S
        if is_shown or self.machine.compute.device.type == "cpu":  # which has nothing to wait for
            sums = self.read_sums()
        if is_shown:
            self._shown_s = now_s
            mean_loss = sums.loss / max(1, self.progress.num_seen)
            step = self.steps_before_epoch() + position
            speed = self.images_per_s()
            self.callback.on_step(self.progress.epoch, step, self.num_steps, mean_loss, speed)
        if world.is_first and self.writer.is_due():
            self.read_sums()
            self.writer.save_state()

    def read_sums(self) -> Sums:
        """Take over the sums of the steps from the device.

        Raises:
            DivergedError: if a step was left out because its loss or gradient was not finite. In
                fp16, whose scale is found by overflowing, a few such steps are normal.
        """
        progress, amp = self.progress, self.machine.compute.amp
        sums = self.prepared.step.read_sums()  # CPU-GPU synchronisation
        progress.totals = sums.totals
        progress.num_seen = int(sums.num_images)
        progress.skipped_steps = int(sums.num_skipped)
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, self.machine.budget.peak)
        if sums.bad_step >= 0 and (amp != "fp16" or sums.streak > _MAX_SKIPPED_STEPS):
            numbers = f"loss {sums.bad_loss:.4g}, gradient norm {sums.bad_norm:.4g}"
            step, rows_N, lr = self._unread[int(sums.bad_step) - self.prepared.step.number - 1]
            # The numbers are those of all processes, the rows those of this one: no names then.
            rows = [] if self.machine.world.is_shared else rows_N.tolist()
            raise self._diverged(f"step {step + 1:,}", numbers, lr, rows)
        self._unread.clear()
        return sums

    def validate(self, size_px: int) -> None:
        """Compute the logits of the validation images; files that have turned bad are left out.

        Raises:
            BetweenStepsError: if no image is left.
        """
        predict = functools.partial(
            forward.outputs,
            forward.logits_of(
                self.prepared.evaluated, self.machine.compute, flip=self.config.flip_test
            ),
            self.loader,
            micro_batch_size=self.config.micro_batch_size,
            size_px=size_px,
        )
        self.logits_NC, dropped = collectives.predict_shared(
            predict, self.data.val_rows, self.machine.world
        )
        self.leave_out(dropped)
        if not len(self.data.val_rows):
            raise BetweenStepsError("no image is left to validate on")

    def leave_out(self, dropped: dict[int, str]) -> None:
        """Put files that have turned bad into quarantine, and log that."""
        if dropped:
            quarantine = self.data.quarantine
            quarantine.add(dropped, self.progress.epoch)
            if self.machine.world.is_first:
                quarantine.write(self.writer.folder)
            self.callback.log(quarantine.in_words(self.writer.folder))

    def row_of_epoch(self, images_per_s: float) -> dict[str, Any]:
        """Return the line of ``results.csv`` of the epoch that is done.

        Raises:
            DivergedError: if the validation loss is not finite.
        """
        epoch, dataset = self.progress.epoch, self.data.dataset
        train = training_scores(self.progress.totals, self.progress.num_seen)
        targets_NC = dataset.targets_NC[self.data.val_rows]
        val = self.machine.world.from_first(
            lambda: validation_scores(self.logits_NC, targets_NC, self.loss_of)
        )
        row = {
            "epoch": epoch,
            "lr": optim.lr_and_momentum(
                self.config, epoch * self.steps_per_epoch - 1, self.num_steps
            )[0],
            **{f"train_{k}": v for k, v in train.items()},
            **{f"val_{k}": v for k, v in val.items()},
            "images_per_s": round(images_per_s, 1),
            "seconds": round(time.perf_counter() - self._epoch_start_s, 2),
        }
        if not np.isfinite(row["val_loss"]):
            raise self._diverged("the end", f"validation loss {row['val_loss']:.4g}", row["lr"], [])
        return row

    def finish(self) -> Result:
        """Score the last epoch's model, write the summary and return what the run leaves."""
        progress, world, folder = self.progress, self.machine.world, self.writer.folder
        if self.logits_NC is None:  # nothing was left to train
            self.validate(self.config.test_size)
        evaluation = world.from_first(
            lambda: evaluator.score(
                forward.probabilities(self.logits_NC),
                self.data.dataset.targets_NC[self.data.val_rows],
                self.data.dataset.class_names,
                "auto",
            )
        )
        if world.is_first:
            summary = {
                "epochs": len(progress.history),
                "train_s": round(progress.train_s, 1),
                "images_left_out": len(progress.bad),
                "skipped_steps": progress.skipped_steps,
                "peak_memory_bytes": progress.peak_memory_bytes,
                "last": progress.history[-1],
                "best": checkpointer.best(progress.history),
                "validation": evaluation.summary(),
            }
            files.write_json(folder / run_folder.SUMMARY, summary)
            (folder / run_folder.PREVIOUS).unlink(missing_ok=True)
        return Result(folder, progress.history, evaluation, progress.train_s)

    def is_to_stop(self) -> bool:
        """Return whether a signal has asked any process to stop; all must ask at the same time."""
        return collectives.any_stop(self.stop, self.machine.world)

    def save_and_stop(self) -> None:
        """Save the state and raise Interrupted."""
        self.writer.save_state()
        self.machine.world.barrier()  # torchrun ends all when one has ended
        raise Interrupted(self.stop.signum, self.writer.advice)

    @contextlib.contextmanager
    def saving_on_errors(self) -> Iterator[None]:
        """Save the state when an error ends training between two steps."""
        try:
            yield
        except BetweenStepsError:
            self.read_sums()
            self.writer.save_state()
            self.machine.world.barrier()  # torchrun ends all when one has ended
            raise

    def steps_before_epoch(self) -> int:
        """Return the number of steps before the current epoch."""
        return (self.progress.epoch - 1) * self.steps_per_epoch

    def images_per_s(self) -> float:
        """Return the images trained on per second, in this epoch until now."""
        num_images = self.progress.num_seen - self._epoch_start_seen
        return num_images / (time.perf_counter() - self._epoch_start_s)

    def _diverged(self, where: str, numbers: str, lr: float, rows: list[int]) -> DivergedError:
        """Return the error that says where training has diverged, and on which images."""
        names = [self.data.dataset.names[row] for row in rows]
        more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
        on = f", on {', '.join(names[:4])}{more}" if names else ""
        return DivergedError(
            f"{where} of epoch {self.progress.epoch}: {numbers} at learning rate {lr:.2g} in"
            f" {self.machine.compute.amp}{on}",
            f"try a lower --lr or --amp fp32. {files.shown(self.writer.folder)} keeps the state"
            f" before",
        )


# ----------------------------------------------------------------------------------- scores


def training_scores(totals: list[float], num_images: int) -> dict[str, float]:
    """Return loss, micro-F1 and subset accuracy of an epoch's totals; NaN without images.

    In fp16 there are none where every step of a short epoch has been left out.
    """
    if not num_images:
        return dict.fromkeys(("loss", "micro_f1", "subset_accuracy"), math.nan)
    loss_sum, tp, fp, fn, right = totals
    counts = metrics.Counts(np.array([tp]), np.array([fp]), np.array([fn]))
    return {
        "loss": loss_sum / num_images,
        "micro_f1": float(metrics.micro_f1(counts)),
        "subset_accuracy": right / num_images,
    }


def validation_scores(
    logits_NC: NDArray[np.float32], targets_NC: NDArray, loss_of: Loss
) -> dict[str, float]:
    """Return the scores of the validation part at threshold 0.5, and mAP."""
    predicted_NC = logits_NC >= 0
    counts = metrics.count(predicted_NC, targets_NC)
    average_precision_C = metrics.average_precision(logits_NC, targets_NC)
    return {
        "loss": loss_of(torch.from_numpy(logits_NC), torch.from_numpy(targets_NC)).item(),
        "micro_f1": float(metrics.micro_f1(counts)),
        "subset_accuracy": metrics.subset_accuracy(predicted_NC, targets_NC),
        "macro_f1": float(metrics.macro_f1(counts)),
        "mAP": metrics.mean_average_precision(average_precision_C),
    }
