"""The scores of an epoch: of training, from its sums, and of validation, from logits.

Shapes: N images, C classes.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation import evaluator, metrics
from ..evaluation.evaluator import Evaluation
from ..inference import forward
from ..runs.trained_on import TrainedOn
from .losses import Loss, weights_of
from .run_data import RunData

Unknown = NDArray[np.bool_] | None


def training(totals: list[float], num_images: int) -> dict[str, float]:
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


def at_half(
    logits_NC: NDArray[np.float32], targets_NC: NDArray, unknown_NC: Unknown, loss_of: Loss
) -> dict[str, float]:
    """Return loss, micro-F1, subset accuracy and macro-F1 of logits, at threshold 0.5.

    An unknown label counts in none of them; None: all are known.
    """
    labels = [targets_NC]
    predicted_NC = logits_NC >= 0
    if unknown_NC is not None:
        labels.append(weights_of(unknown_NC))
        predicted_NC &= ~unknown_NC
    counts = metrics.count(predicted_NC, targets_NC)
    return {
        "loss": loss_of(torch.from_numpy(logits_NC), *map(torch.from_numpy, labels)).item(),
        "micro_f1": float(metrics.micro_f1(counts)),
        "subset_accuracy": metrics.subset_accuracy(predicted_NC, targets_NC),
        "macro_f1": float(metrics.macro_f1(counts)),
    }


def validation(
    logits_NC: NDArray[np.float32], targets_NC: NDArray, unknown_NC: Unknown, loss_of: Loss
) -> dict[str, float]:
    """Return the scores of the validation part at threshold 0.5, and mAP."""
    scores_NC = logits_NC if unknown_NC is None else np.where(unknown_NC, -np.inf, logits_NC)
    average_precision_C = metrics.average_precision(scores_NC, targets_NC)
    return {
        **at_half(logits_NC, targets_NC, unknown_NC, loss_of),
        "mAP": metrics.mean_average_precision(average_precision_C),
    }


def final(
    logits_NC: NDArray[np.float32], data: RunData, trained_on: TrainedOn | None
) -> Evaluation:
    """Return the evaluation of a run's last epoch, by its logits of the validation images.

    Those with the content of an image that it was trained on are left out, if others are left.
    """
    rows = data.val_rows
    is_seen_N = np.zeros(len(rows), dtype=bool)
    if trained_on is not None:
        is_seen_N = trained_on.has_seen(data.checked.crc32_N[rows])
    is_used_N = np.ones_like(is_seen_N) if is_seen_N.all() else ~is_seen_N
    targets_NC, unknown_NC = data.labels(rows[is_used_N])
    return evaluator.score(
        forward.probabilities(logits_NC[is_used_N]),
        targets_NC,
        data.dataset.class_names,
        "auto",
        unknown_NC=unknown_NC,
        exposure="seen" if is_seen_N.all() else "unseen",
    )
