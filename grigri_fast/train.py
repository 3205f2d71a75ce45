"""The training loop: one straight road from a config to a run folder.

Shapes: N images of a batch (or of the data set), C classes, HW pixels.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from . import (
    checkpoint,
    dataset,
    devices,
    evaluate,
    figures,
    metrics,
    models,
    optim,
    pipeline,
    run,
    split,
)
from .config import TrainConfig, resolve, write_toml
from .errors import GrigriError
from .losses import LOSSES

_SHOW_EVERY_S = 0.25  # the display costs a CPU-GPU synchronisation, so it is not asked for oftener


class Watcher(Protocol):
    """What the loop tells whoever watches; the command line shows it."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    def checking(self, done: int, total: int) -> None:
        """``done`` of ``total`` images have been checked."""

    def step(self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float) -> None:
        """Step ``step`` of ``num_steps`` of the whole run is done; loss: mean over this epoch."""

    def epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """An epoch is done; ``row`` is its line of ``results.csv``."""


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
    evaluation: evaluate.Evaluation
    train_s: float


def train(config: TrainConfig, watch: Watcher) -> Result:
    """Train a classifier and leave a run folder.

    Raises:
        GrigriError: for whatever the user can fix, before anything is written where possible.
    """
    config = resolve(config)
    device = devices.pick_device(config.device)
    amp = devices.pick_amp(config.amp, device)
    threads = config.threads or pipeline.usable_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)

    # ------------------------------------------------------------------------------ the data
    data = dataset.load(config.data, config.images)
    if config.split is None:
        parts = split.stratify(data, config.val, config.test, config.seed)
    else:
        parts = split.read(config.split, data)
    if config.limit is not None:
        parts = parts.limited(config.limit, config.seed)
    train_rows, val_rows = parts.parts["train"], parts.parts["val"]
    watch.note(
        f"{data.layout}: {len(data):,} images, {len(data.class_names)} classes; "
        + ", ".join(f"{len(rows):,} {name}" for name, rows in parts.parts.items())
    )
    data.require_files()

    # ----------------------------------------------------------------------------- the model
    num_classes = len(data.class_names)
    if config.weights == "none":
        model = models.build(config.arch, num_classes, config.size)
    else:
        model = models.build_pretrained(config.arch, num_classes, config.size, config.weights)
    models.start_bias_at_log_odds(model, data.targets_NC[train_rows].mean(0))
    if config.freeze_backbone:
        models.freeze_backbone(model)
    model.to(device, memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    watch.note(
        f"{config.arch} at {config.size} px, weights {config.weights}: "
        f"{sum(p.numel() for p in trained):,} parameters to train on {device} in {amp}"
    )
    optimizer = optim.make_optimizer(config, trained)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
    loss_of = LOSSES[config.loss]

    # ------------------------------------------------------- the images, and the run folder
    sizes_HW = _checked_sizes(data, np.concatenate([train_rows, val_rows]), threads, watch)
    targets_NC = torch.from_numpy(data.targets_NC).to(device)
    val_targets_NC = data.targets_NC[val_rows]
    config = _fully_resolved(config, device, amp)
    folder = run.create_folder(config.out, config.name)
    watch.note(f"run folder {folder}")
    run.write_atomic(folder / run.CONFIG, write_toml(config))
    run.write_atomic(folder / run.SPLIT, split.to_json(parts, data))
    run.write_json(folder / run.ENVIRONMENT, run.environment(device, amp))

    # ------------------------------------------------------------------------- the main loop
    loader = pipeline.ImageLoader(
        data.paths,
        sizes_HW,
        size_px=config.size,
        batch_size=config.batch_size,
        device=device,
        threads=threads,
    )
    num_steps = config.epochs * len(pipeline.cut(train_rows, config.batch_size))
    history: list[dict[str, Any]] = []
    step = 0
    start_s = shown_s = time.perf_counter()
    for epoch in range(1, config.epochs + 1):
        epoch_start_s = time.perf_counter()
        models.set_training(model, config.freeze_backbone)
        totals = torch.zeros(_NUM_TOTALS, dtype=torch.float64, device=device)
        num_seen = 0
        batches = loader.train_epoch(
            train_rows, seed=config.seed, epoch=epoch, augment=config.augment
        )
        for batch in batches:
            lr, momentum = optim.lr_and_momentum(config, step, num_steps)
            optim.set_lr_and_momentum(optimizer, lr, momentum)

            # --- forward and backward
            batch_targets_NC = targets_NC[batch.rows_N]
            with devices.autocast(device, amp):
                logits_NC = model(models.normalise(batch.images_NHWC))
            loss = loss_of(logits_NC.float(), batch_targets_NC)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

            # --- metrics stay on the device
            with torch.no_grad():
                totals += _batch_totals(loss, logits_NC, batch_targets_NC)
            step += 1
            num_seen += len(batch.rows_N)
            now_s = time.perf_counter()
            if now_s - shown_s > _SHOW_EVERY_S:
                shown_s = now_s
                mean_loss = totals[0].item() / num_seen  # CPU-GPU synchronisation: the display
                watch.step(epoch, step, num_steps, mean_loss, num_seen / (now_s - epoch_start_s))

        # --- scores of the epoch
        train_scores = _scores_of_totals(totals.tolist(), num_seen)
        train_s = time.perf_counter() - epoch_start_s
        logits_NC = evaluate.predict_logits(model, loader, val_rows, device=device, amp=amp)
        val_scores = _val_scores(logits_NC, val_targets_NC, loss_of)
        row = {
            "epoch": epoch,
            "lr": lr,
            **{f"train_{k}": v for k, v in train_scores.items()},
            **{f"val_{k}": v for k, v in val_scores.items()},
            "images_per_s": round(num_seen / train_s, 1),
            "seconds": round(time.perf_counter() - epoch_start_s, 2),
        }
        if not np.isfinite(row["train_loss"]) or not np.isfinite(row["val_loss"]):
            raise GrigriError(
                f"the loss is no number any more in epoch {epoch} (lr {lr:.2g}, {amp}): try a lower"
                f" --lr or --amp fp32; {folder} keeps the epochs before"
            )

        # --- what stays
        history.append(row)
        info = checkpoint.ModelInfo(
            arch=config.arch,
            size_px=config.size,
            class_names=data.class_names,
            epoch=epoch,
            scores=val_scores,
        )
        is_best = _best(history) is row
        if is_best:
            checkpoint.save(folder / run.BEST, model, info)
        checkpoint.save(folder / run.LAST, model, info)
        run.write_atomic(folder / run.RESULTS, run.to_csv(history))
        title = f"{folder.name}: {config.arch} at {config.size} px"
        run.write_atomic(folder / run.CURVES, figures.curves(history, title))
        watch.epoch(row, config.epochs, is_best)

    # --------------------------------------------------------------------------- the summary
    train_s = time.perf_counter() - start_s
    loader.close()
    evaluation = evaluate.evaluate(
        evaluate.probabilities(logits_NC), val_targets_NC, data.class_names, "auto", config.seed
    )
    result = Result(folder, history, evaluation, train_s)
    run.write_json(folder / run.SUMMARY, _summary(result))
    return result


# ----------------------------------------------------------------------------------- helpers

_NUM_TOTALS = 5  # loss x images, true positives, false positives, false negatives, images right


def _batch_totals(
    loss: torch.Tensor, logits_NC: torch.Tensor, targets_NC: torch.Tensor
) -> torch.Tensor:
    """Return one batch's share of the epoch's totals, float64 on the device."""
    predicted_NC, true_NC = logits_NC > 0, targets_NC > 0
    return torch.stack(
        [
            loss.double() * len(logits_NC),
            (predicted_NC & true_NC).sum(),
            (predicted_NC & ~true_NC).sum(),
            (~predicted_NC & true_NC).sum(),
            (predicted_NC == true_NC).all(1).sum(),
        ]
    )


def _scores_of_totals(totals: list[float], num_images: int) -> dict[str, float]:
    """Return loss, micro-F1 and subset accuracy of an epoch's totals."""
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


def _checked_sizes(
    data: dataset.Dataset, rows: np.ndarray, threads: int, watch: Watcher
) -> np.ndarray:
    """Return the images' sizes (len(data), 2); rows that are not used have the size 1 x 1.

    Raises:
        GrigriError: if an image cannot be used, naming the first.
    """
    paths = [data.paths[i] for i in rows]
    found = pipeline.inspect(
        paths, threads=threads, on_progress=lambda done: watch.checking(done, len(rows))
    )
    if found.bad:
        raise found.error(paths)
    sizes_HW = np.ones((len(data), 2), dtype=np.int64)
    sizes_HW[rows] = found.sizes_HW
    return sizes_HW


def _fully_resolved(config: TrainConfig, device: torch.device, amp: str) -> TrainConfig:
    """Return the config with which this run can be repeated from any folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    weights = config.weights
    if weights not in ("imagenet", "none"):
        weights = absolute(weights)
    return dataclasses.replace(
        config,
        data=absolute(config.data),
        images=absolute(config.images),
        split=absolute(config.split),
        weights=weights,
        device=device.type,
        amp=amp,
        name=config.name or f"{Path(config.data).resolve().stem}-{config.arch}",
    )


def _best(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch with the highest micro-F1, of several the one with the lowest loss."""
    return max(history, key=lambda row: (row["val_micro_f1"], -row["val_loss"]))


def _summary(result: Result) -> dict[str, Any]:
    """Return what ``summary.json`` holds."""
    return {
        "epochs": len(result.history),
        "train_s": round(result.train_s, 1),
        "last": result.history[-1],
        "best": _best(result.history),
        "validation": {
            "num_images": result.evaluation.num_images,
            "threshold": result.evaluation.thresholds,
            "scores": {k: dataclasses.asdict(v) for k, v in result.evaluation.scores.items()},
        },
    }
