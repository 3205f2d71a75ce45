"""The training loop: one straight road from a config to a run folder.

Shapes: N images of a batch (or of the data set), C classes, HW pixels.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import AUTO, OPTIONS, TrainConfig, read_toml, resolve
from ..data import dataset, split
from ..errors import BetweenStepsError, DivergedError, GrigriError, Interrupted
from ..evaluation import evaluator, metrics
from ..inference import forward
from ..models import activation_checkpoint, factory
from ..pipeline import batching, check
from ..pipeline import loader as pipeline
from ..pipeline.cache import plan_cache
from ..runs import manifest, run_folder
from ..runs.training_state import Progress
from ..runtime import compute, distributed, environment, files, memory, signals
from ..runtime.compute import Compute
from ..runtime.distributed import World
from ..runtime.memory import Budget
from ..runtime.option import absolute_inputs, write_toml
from ..runtime.units import parse_bytes
from . import autobatch, checkpointer, collectives, compilation, optim, sampler, setup, tensorboard
from .augment import Augmentation
from .callbacks import Callback
from .losses import LOSSES
from .quarantine import BEFORE, Quarantine
from .step import Sums, TrainStep

_MAX_SKIPPED_STEPS = 25  # in a row, in fp16: the scale has been halved to nothing by then
_SHOW_EVERY_S = 0.25  # the display costs a CPU-GPU synchronisation, so it is not asked for oftener


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


def train(config: TrainConfig, callback: Callback, resume: Path | None = None) -> Result:
    """Train a classifier and leave a run folder.

    Under torchrun this is one of several processes that train together (see ``distributed``): each
    takes its part of every batch, all hold the same state, and the first one writes and speaks.

    Args:
        config: what to train. With ``resume``, see :func:`resumed_config`.
        callback: told of the progress.
        resume: a run folder to go on in.

    Raises:
        GrigriError: for whatever the user can fix, before anything is written where possible.
        Interrupted: when a signal has stopped training after a step; the state is stored.
    """
    config = resolve(config)
    if config.tensorboard:
        tensorboard.require()
    world = World.from_environment()
    config = collectives.config_for(config, world, resumed=resume is not None)
    device = distributed.device_of_process(world, compute.pick_device(config.device))
    limit = config.memory_limit and parse_bytes(config.memory_limit, "--memory-limit")
    threads = config.threads or max(1, compute.usable_threads() // world.local_size)
    torch.set_num_threads(threads)
    if config.fast and device.type == "cpu" and limit is None:  # it would count
        compute.keep_freed_memory()
    torch.manual_seed(config.seed)
    with contextlib.ExitStack() as stack:
        budget = stack.enter_context(Budget(device, limit))
        if device.type == "cuda":  # one for everything, and not the default one: see TrainStep
            stack.enter_context(torch.cuda.stream(torch.cuda.Stream(device)))
        stack.enter_context(distributed.process_group(world, device))
        amp = world.from_first(lambda: compute.pick_amp(config.amp, device))
        here = Compute(device, amp, threads, limit)
        callback, say_from_here = collectives.callback_of(callback, world)
        state = None
        if resume is not None:
            if world.is_first:
                stack.enter_context(run_folder.locked(resume))
            state, note = checkpointer.load_state(resume)
            if note:
                callback.log(note)
        progress = state.progress if state else Progress()

        # -------------------------------------------------------------------------- the data
        data = dataset.load(config.data, config.images)
        if resume is not None:
            # Whether images or labels have changed is said first, and better than by the split.
            manifest.require_same(resume / run_folder.DATA, data)
            parts = split.read(resume / run_folder.SPLIT, data)
        elif config.split is not None:
            parts = split.read(config.split, data)
        else:
            parts = split.stratify(data, config.val, config.test, config.seed)
        if config.limit is not None and resume is None:
            parts = parts.limited(config.limit, config.seed)
        collectives.require_same(world, config, data, parts, progress)
        callback.log(
            f"{data.layout}: {len(data):,} images, {len(data.class_names)} classes; "
            + ", ".join(f"{len(rows):,} {name}" for name, rows in parts.parts.items())
        )

        # -------------------------------------------------------- the images: all are checked
        rows = np.concatenate([parts.parts["train"], parts.parts["val"]])
        quarantine = Quarantine(data, len(rows), config.max_bad, progress.bad)
        own_rows = np.array_split(quarantine.good(rows), world.size)[world.rank]
        found = check.check_images(
            data.paths,
            own_rows,
            threads=threads,
            max_pixels=config.max_pixels,
            max_bad=quarantine.num_allowed,
            on_progress=callback.on_check,
            on_slow=say_from_here,
        )
        if world.is_shared:
            found = check.merge(world.all_gather_object(found))
        if resume is not None:
            manifest.require_same(resume / run_folder.DATA, data, found.crc32_N)
        quarantine.add(found.bad, progress.epoch if state else BEFORE)
        # What was bad from the start has no place in the order of an epoch; what turns bad later
        # keeps its place, so that all others keep theirs.
        train_rows = quarantine.good_before(parts.parts["train"])
        val_rows = quarantine.good(parts.parts["val"])
        num_classes = len(data.class_names)

        # ------------------------------------------------------------------------ the memory
        largest = max(config.size, config.test_size)
        make_loader = functools.partial(
            pipeline.ImageLoader,
            data.paths,
            found,
            size_px=largest,
            device=device,
            threads=threads,
            rank=world.rank,
            num_ranks=world.size,
            on_slow=say_from_here,
        )
        fitted = None
        if budget.limit is not None or config.batch_size == AUTO:
            loader = make_loader(batch_size=config.batch_size or TrainConfig.batch_size)
            forward.decode_the_largest(loader, found.sizes_HW, np.append(train_rows, val_rows))
            fitted = autobatch.plan_training(
                config,
                here,
                budget,
                num_images=len(train_rows),
                num_classes=num_classes,
                resumed=resume is not None,
                log=callback.log,
            )
            loader.close()
            config = fitted.plan.applied_to(config)
        steps_per_epoch = len(batching.cut_batches(train_rows, config.batch_size))
        num_steps = config.epochs * steps_per_epoch
        if len(train_rows) < 2 or not len(val_rows):
            raise GrigriError("too few images can be used: at least 2 to train on and 1 to score")

        # ------------------------------------------------------------------------- the model
        if config.weights == "none" or state is not None or not world.is_first:
            model = factory.build(
                config.arch, num_classes, config.size, config.init, config.train_norms
            )
        else:
            model = factory.build_pretrained(config.arch, num_classes, config.size, config.weights)
        factory.check_size(model, config.arch, config.start_size, "--start-size")
        factory.check_size(model, config.arch, config.test_size, "--test-size")
        factory.start_bias_at_log_odds(model, data.targets_NC[train_rows].mean(0))
        if config.freeze_backbone:
            factory.freeze_backbone(model)
        if config.activation_checkpointing:
            activation_checkpoint.checkpoint_activations(model)
        model.to(device)
        if config.fast:
            model.to(memory_format=torch.channels_last)
        replica = distributed.replicate(model, world, device)
        trained = [p for p in model.parameters() if p.requires_grad]
        callback.log(
            f"{config.arch} at {config.size} px, weights {config.weights}: "
            f"{sum(p.numel() for p in trained):,} parameters to train on {device} in {amp}"
        )
        if world.is_shared:
            callback.log(collectives.in_words(world, config.batch_size))
        optimizer = optim.make_optimizer(config, trained, factory.head(model)[1].parameters())
        average = optim.averaged(model, config.ema) if config.ema else None
        shown_model = model if average is None else average.module
        scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        loss_of = LOSSES[config.loss]
        if state is not None:
            state.restore(model, optimizer, scaler, average)

        if config.compile == "auto" and (fitted or config.activation_checkpointing):
            config = dataclasses.replace(config, compile="off")  # no trial has compiled anything
        if config.compile == "auto":
            pays = compilation.pays_to_compile(
                model,
                config,
                here,
                num_steps=num_steps,
                num_classes=num_classes,
                log=callback.log,
            )
            config = dataclasses.replace(config, compile="on" if pays else "off")

        most = None if fitted is None else fitted.to_spare
        cache = plan_cache(
            config.cache, found, largest, device, most, num_processes=world.local_size
        )

        # -------------------------------------------------------------------- the run folder
        config = _fully_resolved(config, device, amp)
        described = environment.describe(device, amp)
        if fitted is not None:
            described["memory"] = fitted.to_json(budget)
        if world.is_shared:
            described["processes"] = world.size
        if resume is None:
            folder = world.from_first(lambda: run_folder.create_folder(config.out, config.name))
        else:
            folder = resume
            described = run_folder.resumed_environment(folder, described)
        if world.is_first:
            if resume is None:
                stack.enter_context(run_folder.locked(folder))
                files.write_atomic(folder / run_folder.SPLIT, split.to_json(parts, data))
                files.write_atomic(folder / run_folder.DATA, manifest.to_json(data, found.crc32_N))
            files.write_atomic(folder / run_folder.CONFIG, write_toml(config))
            files.write_json(folder / run_folder.ENVIRONMENT, described)
            quarantine.write(folder)
        callback.log(cache.in_words())
        callback.log(f"run folder {folder}")
        if quarantine.bad:
            callback.log(quarantine.in_words(folder))
        if state is not None:
            callback.log(_where(progress, config, steps_per_epoch))
        if config.tensorboard and world.is_first:
            done = progress.history, progress.batches
            callback = tensorboard.Tracker(callback, folder, config, steps_per_epoch, *done)
            stack.enter_context(callback)

        # --------------------------------------------------------------------- the main loop
        stop = stack.enter_context(signals.deferred(callback.log))
        keeper = checkpointer.Keeper(
            folder,
            config,
            model,
            optimizer,
            scaler,
            progress,
            data.class_names,
            average,
            writes=world.is_first,
        )
        stack.enter_context(keeper.advice_on_errors())
        if state is None:
            keeper.store()  # from here on there is something to resume
        else:
            keeper.keep_epoch()  # in case it was killed between the state and these
        budget.reset_peak()
        loader = make_loader(batch_size=config.batch_size, cache=cache, give_up=stop)
        stack.callback(loader.close)
        advice = (
            f"train with a smaller --batch-size than {config.batch_size} or a smaller --size, or"
            f" free memory that others use"
        )
        stack.enter_context(memory.out_of_memory_explained(advice))
        make_step = TrainStep(
            replica,
            optimizer,
            scaler,
            loss_of,
            device=device,
            amp=amp,
            batch_size=config.batch_size,
            fast=config.fast,
            use_graph=not config.activation_checkpointing,
            micro_batch_size=config.micro_batch_size,
            compiled=setup.compiled(model) if config.compile == "on" else None,
            world=world,
        )
        make_step.start_epoch(progress.totals, progress.num_seen, progress.skipped_steps)

        def predicted(size_px: int) -> tuple[np.ndarray, dict[int, str]]:
            """Return the logits of the validation part, and its bad files."""
            predict_logits = functools.partial(
                forward.outputs,
                forward.logits_of(shown_model, here, flip=config.flip_test),
                loader,
                micro_batch_size=config.micro_batch_size,
                size_px=size_px,
            )
            return collectives.predicted_by_all(predict_logits, val_rows, world)

        def store_after_the_last_step(kind: object, error: object, trace: object) -> None:
            if isinstance(error, BetweenStepsError):
                look()
                keeper.store()
                world.barrier()  # torchrun ends all when one has ended

        # Rows and learning rates of the steps that were made since the last look.
        unseen: deque[tuple[int, torch.Tensor, float]] = deque()

        def look() -> Sums:
            """Take over what the device has summed up; end the run if numbers have ended."""
            sums = make_step.read_sums()  # CPU-GPU synchronisation
            progress.totals = list(sums[:_NUM_TOTALS])
            progress.num_seen = int(sums.num_images)
            progress.skipped_steps = int(sums.num_skipped)
            progress.peak_memory_bytes = max(progress.peak_memory_bytes, budget.peak)
            # The scale of fp16 is found by overflowing: a few steps left out are normal.
            if sums.bad_step >= 0 and (amp != "fp16" or sums.streak > _MAX_SKIPPED_STEPS):
                numbers = f"loss {sums.bad_loss:.4g}, gradient norm {sums.bad_norm:.4g}"
                step, rows_N, lr = unseen[int(sums.bad_step) - make_step.number - 1]
                # The numbers are those of all, the rows those of this process: no names then.
                names = [] if world.is_shared else [data.names[row] for row in rows_N.tolist()]
                raise _diverged(
                    f"step {step + 1:,}", progress.epoch, numbers, lr, amp, names, folder
                )
            unseen.clear()
            return sums

        def leave_out(dropped: dict[int, str], epoch: int) -> None:
            """Enter files that have turned bad, and say so."""
            if dropped:
                quarantine.add(dropped, epoch)
                if world.is_first:
                    quarantine.write(folder)
                callback.log(quarantine.in_words(folder))

        stack.push(store_after_the_last_step)
        stack.enter_context(distributed.ending_with_others(stop))
        targets_NC = torch.from_numpy(data.targets_NC).to(device)
        augmentation = Augmentation(config, len(data), device)
        factors_N = None
        if config.sampler == "balanced":
            factors_N = sampler.repeat_factors(data.targets_NC[train_rows], config.most_repeats)
        logits_NC = None
        shown_s = time.perf_counter()
        for epoch in range(progress.epoch, config.epochs + 1):
            epoch_start_s, seen_before = time.perf_counter(), progress.num_seen
            factory.set_training(model, config.freeze_backbone)
            make_step.start_epoch(progress.totals, progress.num_seen, progress.skipped_steps)
            augmentation.start_epoch(epoch)
            rows = train_rows
            if factors_N is not None:
                rng = batching.epoch_rng(config.seed, epoch, "sampling")
                rows = sampler.drawn(rng, train_rows, factors_N)
            batches = loader.train_epoch(
                rows,
                seed=config.seed,
                epoch=epoch,
                augment=config.augment,
                bad=quarantine.rows(since=1),
                first=progress.batches,
                size_px=config.size_in(epoch),
                **_maps_of(config),
            )
            for batch, num_images, alone in collectives.in_turn(batches, world, stop):
                leave_out(batch.dropped, epoch)
                progress.batches = batch.position
                for left in alone:  # BatchNorm needs two
                    callback.log(f"{data.names[left]} is alone in a step: unused this epoch")
                if num_images < 2:
                    continue
                step = (epoch - 1) * steps_per_epoch + batch.position - 1
                lr, momentum = optim.lr_and_momentum(config, step, num_steps)
                optim.set_lr_and_momentum(optimizer, lr, momentum)

                # --- forward, backward, update, metrics: all on the device
                distributed.seed_step(world, config.seed, step)
                make_step(
                    *augmentation(
                        batch.images_NHWC, targets_NC[batch.rows_N], batch.rows_N, batch.position
                    ),
                    num_images,
                )
                if average is not None:
                    average.update_parameters(model)
                unseen.append((step, batch.rows_N, lr))
                budget.require_within_limit()

                # --- a look at it: on a CPU, which does not wait for that, after every step
                now_s = time.perf_counter()
                is_shown = world.is_first and now_s - shown_s > _SHOW_EVERY_S
                if is_shown or device.type == "cpu":
                    sums = look()
                if is_shown:
                    shown_s = now_s
                    speed = (progress.num_seen - seen_before) / (now_s - epoch_start_s)
                    mean_loss = sums.loss / max(1, progress.num_seen)
                    callback.on_step(epoch, step + 1, num_steps, mean_loss, speed)
                if world.is_first and keeper.is_due():
                    look()
                    keeper.store()

            # --- scores of the epoch
            look()
            train_s = time.perf_counter() - epoch_start_s
            if not collectives.any_stop(stop, world):
                logits_NC, dropped = predicted(config.test_size_in(epoch))
                leave_out(dropped, epoch)
                val_rows = quarantine.good(val_rows)
                if not len(val_rows):
                    raise BetweenStepsError("no image is left to validate on")
            if collectives.any_stop(stop, world):
                keeper.store()
                world.barrier()  # torchrun ends all when one has ended
                raise Interrupted(stop.signum, keeper.advice)
            train_scores = _scores_of_totals(progress.totals, progress.num_seen)
            val_scores = world.from_first(
                functools.partial(_val_scores, logits_NC, data.targets_NC[val_rows], loss_of)
            )
            row = {
                "epoch": epoch,
                "lr": optim.lr_and_momentum(config, epoch * steps_per_epoch - 1, num_steps)[0],
                **{f"train_{k}": v for k, v in train_scores.items()},
                **{f"val_{k}": v for k, v in val_scores.items()},
                "images_per_s": round((progress.num_seen - seen_before) / train_s, 1),
                "seconds": round(time.perf_counter() - epoch_start_s, 2),
            }
            if not np.isfinite(row["val_loss"]):
                numbers = f"validation loss {row['val_loss']:.4g}"
                raise _diverged("the end", epoch, numbers, row["lr"], amp, [], folder)

            # --- what stays: first the state, from which the other files could be made again
            progress.history.append(row)
            progress.epoch, progress.batches, progress.num_seen = epoch + 1, 0, 0
            progress.totals = []
            keeper.store()
            keeper.keep_epoch()
            callback.on_epoch(row, config.epochs, checkpointer.best(progress.history) is row)

        # ----------------------------------------------------------------------- the summary
        if logits_NC is None:  # nothing was left to do
            logits_NC, dropped = predicted(config.test_size)
            leave_out(dropped, progress.epoch)
            val_rows = quarantine.good(val_rows)
        evaluation = world.from_first(
            lambda: evaluator.score(
                forward.probabilities(logits_NC),
                data.targets_NC[val_rows],
                data.class_names,
                "auto",
            )
        )
        result = Result(folder, progress.history, evaluation, progress.train_s)
        if world.is_first:
            files.write_json(folder / run_folder.SUMMARY, _summary(result, progress))
            (folder / run_folder.PREVIOUS).unlink(missing_ok=True)
        return result


# ----------------------------------------------------------------------------------- helpers


def _maps_of(config: TrainConfig) -> dict[str, float]:
    """Return what the random maps are drawn with; nothing without augmentation."""
    if not config.augment:
        return {}
    return {"least_area": config.least_area, "max_angle_deg": config.rotation}


_NUM_TOTALS = 5  # of the sums: those that make the epoch's training scores


def _scores_of_totals(totals: list[float], num_images: int) -> dict[str, float]:
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


def _val_scores(logits_NC: np.ndarray, targets_NC: np.ndarray, loss_of) -> dict[str, float]:
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


def _diverged(
    where: str, epoch: int, numbers: str, lr: float, amp: str, names: list[str], folder: Path
) -> DivergedError:
    """Return the error that names where training has gone wrong, and on what."""
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    images = f", on {', '.join(names[:4])}{more}" if names else ""
    return DivergedError(
        f"{where} of epoch {epoch}: {numbers} at learning rate {lr:.2g} in {amp}{images}",
        f"try a lower --lr or --amp fp32. {files.shown(folder)} keeps the state before",
    )


def _where(progress: Progress, config: TrainConfig, steps_per_epoch: int) -> str:
    """Return in words where a resumed run goes on."""
    if progress.epoch > config.epochs:
        return f"all {config.epochs} epochs are done"
    where = f"going on in epoch {progress.epoch} of {config.epochs}"
    if progress.batches:
        where += f", after {progress.batches:,} of its {steps_per_epoch:,} steps"
    if progress.history:
        row = checkpointer.best(progress.history)
        where += f"; best micro-F1 so far {row['val_micro_f1']:.4f} (epoch {row['epoch']})"
    return where


def resumed_config(folder: Path, given: dict[str, Any]) -> TrainConfig:
    """Return a run's config with the options that were given now.

    ``epochs`` may grow where the learning rate of the epochs before does not depend on their
    number: with ``--schedule constant``.

    Raises:
        GrigriError: if there is no such run, or an option would make it another one.
    """
    run_folder.require(folder)
    stored = read_toml(folder / run_folder.CONFIG)
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


def _fully_resolved(config: TrainConfig, device: torch.device, amp: str) -> TrainConfig:
    """Return the config with which this run can be repeated from any folder."""
    return dataclasses.replace(
        config,
        **absolute_inputs(config),
        device=device.type,
        amp=amp,
        name=config.name or f"{Path(config.data).resolve().stem}-{config.arch}",
    )


def _summary(result: Result, progress: Progress) -> dict[str, Any]:
    """Return what ``summary.json`` holds."""
    return {
        "epochs": len(result.history),
        "train_s": round(result.train_s, 1),
        "images_left_out": len(progress.bad),
        "skipped_steps": progress.skipped_steps,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "last": result.history[-1],
        "best": checkpointer.best(result.history),
        "validation": result.evaluation.summary(),
    }
