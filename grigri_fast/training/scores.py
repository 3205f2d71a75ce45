"""The scores of an epoch: of training, from its sums, and of validation, from logits.

Shapes: N images, C classes.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation import metrics
from .losses import Loss


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


def at_half(logits_NC: NDArray[np.float32], targets_NC: NDArray, loss_of: Loss) -> dict[str, float]:
    """Return loss, micro-F1, subset accuracy and macro-F1 of logits, at threshold 0.5."""
    predicted_NC = logits_NC >= 0
    counts = metrics.count(predicted_NC, targets_NC)
    return {
        "loss": loss_of(torch.from_numpy(logits_NC), torch.from_numpy(targets_NC)).item(),
        "micro_f1": float(metrics.micro_f1(counts)),
        "subset_accuracy": metrics.subset_accuracy(predicted_NC, targets_NC),
        "macro_f1": float(metrics.macro_f1(counts)),
    }


def validation(
    logits_NC: NDArray[np.float32], targets_NC: NDArray, loss_of: Loss
) -> dict[str, float]:
    """Return the scores of the validation part at threshold 0.5, and mAP."""
    average_precision_C = metrics.average_precision(logits_NC, targets_NC)
    return {
        **at_half(logits_NC, targets_NC, loss_of),
        "mAP": metrics.mean_average_precision(average_precision_C),
    }
