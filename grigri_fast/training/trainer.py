"""The training loop: from options to a run folder.

Shapes: N images of a batch (or of the data set), C classes, HW pixels.
"""

import contextlib
import dataclasses
import functools
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
from ..errors import BetweenStepsError, DivergedError, GrigriError, Interrupted
from ..evaluation import evaluator
from ..inference import forward
from ..models.normalize import preprocessing_of
from ..pipeline.batching import Batch
from ..pipeline.cache import CachePlan, plan_cache
from ..runs import run_folder
from ..runs.trained_on import TrainedOn
from ..runtime import compute, distributed, files, memory, signals
from ..runtime.files import StrPath
from ..runtime.option import absolute_inputs, given_options, signature_of
from ..runtime.units import format_bytes
from . import (
    autobatch,
    checkpointer,
    collectives,
    compilation,
    linear_probe,
    optim,
    run_data,
    scores,
    setup,
    tensorboard,
)
from .augment import Augmentation
from .autobatch import Fitted
from .callbacks import Callback
from .checkpointer import Checkpointer
from .linear_probe import Probed
from .losses import LOSSES, labels_of
from .options import TrainArguments, train_config
from .resume import resumed_config
from .run_data import RunData
from .sampler import Sampler
from .session import Session, open_session
from .setup import Prepared
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


def run(config: TrainConfig, callback: Callback, folder: Path | None = None) -> Result:
    """Train as a config says: set up, train, and keep what is left at the end.

    Under torchrun this is one of several processes that train one model (see ``distributed``): each
    takes its part of every batch, all hold the same state, and the first one writes and logs.

    Args:
        config: the options; of a run that goes on, see :func:`resumed_config`.
        callback: called with the progress.
        folder: the run folder to go on in; a new one is made by default.

    Raises:
        GrigriError: for whatever the user can fix, before anything is written where possible.
        Interrupted: when a signal has stopped training after a step; the state is stored.
    """
    if config.tensorboard:
        tensorboard.require()
    with contextlib.ExitStack() as stack:
        # ---------------------------------------------------------- the machine, and the state
        config = setup.with_network(config, compute.pick_device(config.device), callback.log)
        session = stack.enter_context(open_session(resolve(config), callback, folder))

        # ------------------------------------------------- the images, and a plan for the memory
        data = run_data.load(session)
        fitted = autobatch.plan_run(session, data)

        # --------------------------------------------------------------- the network and its step
        network = setup.load_network(session, data.frequency_C)
        decided = _decide(session, data, fitted, network)
        probed = None
        if decided.probe and not session.resumed:
            setup.placed(network, decided, session.compute)
            probed = linear_probe.fit(session, decided, data, network)
        prepared = setup.prepare_run(session, decided, network)

        # ------------------------------------------------------ the place of pixels and of files
        cache = plan_cache(
            decided.cache,
            data.checked,
            run_data.largest_side(decided),
            session.compute.device,
            fitted and fitted.to_spare,
            num_processes=session.world.local_size,
        )
        session.callback.log(cache.in_words())
        folder = stack.enter_context(checkpointer.open_folder(session, decided, data, fitted))

        # ------------------------------------------------------------------------------- the loop
        trainer = Trainer(session, decided, data, prepared, folder, cache, stack, probed)
        trainer.fit()
        return trainer.finish()


def _decide(
    session: Session, data: RunData, fitted: Fitted | None, network: nn.Module
) -> TrainConfig:
    """Return the config in which nothing is open, and which repeats the run from any folder."""
    config = session.asked if fitted is None else fitted.plan.applied_to(session.asked)
    num_frozen = setup.num_frozen(network, config, session.compute.device)
    config = dataclasses.replace(config, freeze_stages=num_frozen)
    config = run_data.with_shares(config, data.split)
    num_steps = config.epochs * data.steps_per_epoch(config.batch_size)
    compiles = compilation.decide(network, config, session, num_steps, is_planned=bool(fitted))
    return dataclasses.replace(
        config,
        **absolute_inputs(config),
        compile="on" if compiles else "off",
        device=session.compute.device.type,
        amp=session.compute.amp,
        name=config.name or run_folder.name_of(config.data, config.arch),
    )


class Trainer:
    """The loop of a run: trains epoch by epoch, validates, and keeps what each epoch leaves.

    Args:
        session: what the run has before its first step.
        config: the options; none is open.
        data: the images and their labels.
        prepared: the network and what trains it.
        folder: the run folder.
        cache: where decoded images are kept.
        stack: where what must be undone at the end is entered: signals are deferred until then, and
            errors say how to go on.
        probed: the linear probe that a new run has begun with.
    """

    def __init__(
        self,
        session: Session,
        config: TrainConfig,
        data: RunData,
        prepared: Prepared,
        folder: Path,
        cache: CachePlan,
        stack: contextlib.ExitStack,
        probed: Probed | None = None,
    ) -> None:
        self.config, self.data, self.prepared, self.folder = config, data, prepared, folder
        self.world, self.compute, self.budget = session.world, session.compute, session.budget
        self.callback, self.progress = session.callback, session.progress
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.num_steps = config.epochs * self.steps_per_epoch
        if config.tensorboard and self.world.is_first:
            done = self.progress.history, self.progress.batches
            self.callback = stack.enter_context(
                tensorboard.Tracker(self.callback, folder, config, self.steps_per_epoch, *done)
            )
        self.stop = stack.enter_context(signals.deferred(self.callback.log))
        names = data.dataset.class_names
        self.writer = Checkpointer(
            folder, config, prepared, self.progress, names, self.world.is_first
        )
        stack.enter_context(self.writer.advice_on_errors())
        if session.resumed:
            self.writer.save_epoch()  # in case it was killed between the state and these
        else:
            self.writer.save_state()  # from here on there is something to resume
            self.writer.save_epoch()  # the linear probe's
        self.budget.reset_peak()
        self.loader = data.make_loader(session, config.batch_size, cache=cache, give_up=self.stop)
        stack.callback(self.loader.close)
        if self.loader.device_bytes:
            estimate = format_bytes(self.loader.device_bytes)
            self.callback.log(f"decoding: at most {estimate} of the GPU's memory by estimate")
        advice = f"a smaller --batch-size than {config.batch_size} or a smaller --size"
        stack.enter_context(
            memory.out_of_memory_explained(f"train with {advice}, or free memory that others use")
        )
        dataset, rows = data.dataset, data.train_rows
        self.loss_of = LOSSES[config.loss]
        self.sampler = Sampler(config, rows, dataset.targets_NC[rows], data.frequency_C)
        self.augmentation = Augmentation(
            config, len(dataset), self.compute.device, preprocessing_of(prepared.model).mean
        )
        labels = labels_of(dataset.targets_NC, dataset.unknown_NC, rows)
        self.labels = labels.to(self.compute.device)
        self.probed = probed
        # Of the last validation.
        self.logits_NC: NDArray[np.float32] | None = probed and probed.val_logits_NC
        # Of each step since the sums were last read: its number, rows and learning rate.
        self._unread: deque[tuple[int, torch.Tensor, float]] = deque()
        self._epoch_start_s = self._shown_s = time.perf_counter()
        self._epoch_start_seen = self.progress.num_seen
        self._start_sums()
        stack.enter_context(self._saving_on_errors())
        stack.enter_context(distributed.ending_with_others(self.stop))

    def fit(self) -> None:
        """Train the epochs that are left."""
        if self.probed is not None:
            self.callback.on_epoch(self.probed.row, self.config.epochs, True)
        while self.progress.epoch <= self.config.epochs:
            # ------------------------------------------------ the training images, step by step
            images_per_s = self.train_epoch()

            # ----------------------------------------------------------- the validation images
            if not collectives.any_stop(self.stop, self.world):
                self.validate(self.config.test_size_in(self.progress.epoch))
            self.stop_if_asked()

            # ----------------------------------------------------------- the scores of the epoch
            row = self.row_of_epoch(images_per_s)

            # -------------- what stays: first the state, from which the rest could be made again
            self.progress.history.append(row)
            self.progress.epoch += 1
            self.progress.batches, self.progress.num_seen, self.progress.totals = 0, 0, []
            self.writer.save_state()
            self.writer.save_epoch()
            is_best = run_folder.best_row(self.progress.history) is row
            self.callback.on_epoch(row, self.config.epochs, is_best)

    def train_epoch(self) -> float:
        """Make the steps of the current epoch that are left; return the images per second."""
        progress = self.progress
        self._epoch_start_s, self._epoch_start_seen = time.perf_counter(), progress.num_seen
        setup.set_training(self.prepared.model, self.config)
        self._start_sums()
        self.augmentation.start_epoch(progress.epoch)
        batches = collectives.in_step(self.batches(), self.world, self.stop)
        for batch, num_images, alone in batches:
            self.leave_out(batch.dropped)
            progress.batches = batch.position
            for row in alone:  # BatchNorm needs two
                name = self.data.dataset.names[row]
                self.callback.log(f"{name} is alone in a step: unused this epoch")
            if num_images >= 2:
                step = self.train_step(batch, num_images)
                self.show_and_save(step + 1)
        self.read_sums()
        return self.images_per_s()

    def batches(self) -> Iterator[Batch]:
        """Return the batches of the current epoch that are left."""
        config, epoch = self.config, self.progress.epoch
        maps = {}
        if config.augment:
            maps = {"least_area": config.least_area, "max_angle_deg": config.rotation}
        return self.loader.train_epoch(
            self.sampler.rows_of(epoch),
            seed=config.seed,
            epoch=epoch,
            augment=config.augment,
            bad=self.data.quarantine.rows(since=1),
            first=self.progress.batches,
            size_px=config.size_in(epoch),
            **maps,
        )

    def train_step(self, batch: Batch, num_images: int) -> int:
        """Forward, backward, update, metrics: all on the device; return the step's number."""
        config, prepared = self.config, self.prepared
        if self.compute.adapt_threads():
            self.callback.log(self.compute.threads_in_words() or "threads: all again")
        step = (self.progress.epoch - 1) * self.steps_per_epoch + batch.position - 1
        lr, momentum = optim.lr_and_momentum(config, step, self.num_steps)
        optim.set_lr_and_momentum(prepared.optimizer, lr, momentum)
        distributed.seed_step(self.world, config.seed, step)
        labels = self.labels[batch.rows_N]
        prepared.step(
            *self.augmentation(batch.images_NHWC, labels, batch.rows_N, batch.position),
            num_images,
        )
        if prepared.average is not None:
            prepared.average.update_parameters(prepared.model)
        self._unread.append((step, batch.rows_N, lr))
        self.budget.require_within_limit()
        return step

    def show_and_save(self, num_done: int) -> None:
        """Show after how many steps the run is, now and then; save the state when that is due."""
        now_s = time.perf_counter()
        is_shown = self.world.is_first and now_s - self._shown_s > _SHOW_EVERY_S
        if is_shown or self.compute.device.type == "cpu":  # which has nothing to wait for
            sums = self.read_sums()
        if is_shown:
            self._shown_s = now_s
            loss, speed = sums.loss / max(1, self.progress.num_seen), self.images_per_s()
            self.callback.on_step(self.progress.epoch, num_done, self.num_steps, loss, speed)
        if self.world.is_first and self.writer.is_due():
            self.read_sums()
            self.writer.save_state()

    def read_sums(self) -> Sums:
        """Take over the sums of the steps from the device.

        Raises:
            DivergedError: if a step was left out because its loss or gradient was not finite. In
                fp16, whose scale is lowered by overflows, a few such steps are normal.
        """
        progress, amp = self.progress, self.compute.amp
        sums = self.prepared.step.read_sums()  # CPU-GPU synchronisation
        progress.totals = sums.totals
        progress.num_seen = int(sums.num_images)
        progress.skipped_steps = int(sums.num_skipped)
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, self.budget.peak)
        if sums.bad_step >= 0 and (amp != "fp16" or sums.streak > _MAX_SKIPPED_STEPS):
            numbers = f"loss {sums.bad_loss:.4g}, gradient norm {sums.bad_norm:.4g}"
            step, rows_N, lr = self._unread[int(sums.bad_step) - self.prepared.step.number - 1]
            # The numbers are those of all processes, the rows those of this one: no names then.
            rows = [] if self.world.is_shared else rows_N.tolist()
            raise self._diverged(f"step {step + 1:,}", numbers, lr, rows)
        self._unread.clear()
        return sums

    def validate(self, size_px: int) -> None:
        """Compute the logits of the validation images; files that have turned bad are left out.

        Raises:
            BetweenStepsError: if no image is left.
        """
        model = forward.prepared(self.prepared.evaluated, self.compute, size_px)
        logits = forward.logits_of(model, self.compute, flip=self.config.flip_test)
        sizes = {"micro_batch_size": self.config.micro_batch_size, "size_px": size_px}
        predict = functools.partial(forward.outputs, logits, self.loader, **sizes)
        self.logits_NC, dropped = collectives.predict_shared(
            predict, self.data.val_rows, self.world
        )
        self.leave_out(dropped)
        if not len(self.data.val_rows):
            raise BetweenStepsError("no image is left to validate on")

    def leave_out(self, dropped: dict[int, str]) -> None:
        """Put files that have turned bad into quarantine, and log that."""
        if dropped:
            quarantine = self.data.quarantine
            quarantine.add(dropped, self.progress.epoch)
            if self.world.is_first:
                quarantine.write(self.folder)
            self.callback.log(quarantine.in_words(self.folder))

    def row_of_epoch(self, images_per_s: float) -> dict[str, Any]:
        """Return the line of ``results.csv`` of the epoch that is done.

        Raises:
            DivergedError: if the validation loss is not finite.
        """
        epoch = self.progress.epoch
        train = scores.training(self.progress.totals, self.progress.num_seen)
        labels = self.data.labels(self.data.val_rows)
        val = self.world.from_first(
            lambda: scores.validation(self.logits_NC, *labels, self.loss_of)
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
        progress = self.progress
        if self.logits_NC is None:  # nothing was left to train
            self.validate(self.config.test_size)
        evaluation = self.world.from_first(
            lambda: scores.final(self.logits_NC, self.data, TrainedOn.read(self.folder))
        )
        if self.world.is_first:
            summary = {
                "epochs": run_folder.num_epochs(progress.history),
                "train_s": round(progress.train_s, 1),
                "images_left_out": len(progress.bad),
                "skipped_steps": progress.skipped_steps,
                "peak_memory_bytes": progress.peak_memory_bytes,
                "last": progress.history[-1],
                "best": run_folder.best_row(progress.history),
                "validation": evaluation.summary(),
            }
            files.write_json(self.folder / run_folder.SUMMARY, summary)
            (self.folder / run_folder.PREVIOUS).unlink(missing_ok=True)
        return Result(self.folder, progress.history, evaluation, progress.train_s)

    def stop_if_asked(self) -> None:
        """Save the state and raise Interrupted, if a signal has asked any process to stop."""
        if collectives.any_stop(self.stop, self.world):
            self.writer.save_state()
            self.world.barrier()  # torchrun ends all when one has ended
            raise Interrupted(self.stop.signum, self.writer.advice)

    @contextlib.contextmanager
    def _saving_on_errors(self) -> Iterator[None]:
        """Save the state when an error ends training between two steps."""
        try:
            yield
        except BetweenStepsError:
            self.read_sums()
            self.writer.save_state()
            self.world.barrier()  # torchrun ends all when one has ended
            raise

    def _start_sums(self) -> None:
        """Set the sums on the device to those of the epoch so far."""
        progress = self.progress
        self.prepared.step.start_epoch(progress.totals, progress.num_seen, progress.skipped_steps)

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
            f" {self.compute.amp}{on}",
            f"try a lower --lr or --amp fp32. {files.shown(self.folder)} keeps the state before",
        )
