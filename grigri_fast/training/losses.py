"""Losses of a multi-label classifier, on logits, and the labels that they compare them with.

Labels of a batch are targets (N, C); where some are unknown, a pair of numbers for each (N, C, 2):
the target times its weight, and its weight, which is 0 where the label is unknown. Both may be
blended with those of other images.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Of logits, targets and perhaps weights.
Loss = Callable[..., Tensor]


def bce(logits_NC: Tensor, targets_NC: Tensor, weights_NC: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy, averaged over images and classes (a scalar)."""
    return F.binary_cross_entropy_with_logits(logits_NC, targets_NC, weights_NC)


def mse(logits_NC: Tensor, targets_NC: Tensor, weights_NC: Tensor | None = None) -> Tensor:
    """Return the mean squared error of the probabilities (a scalar), as in the 2020 report."""
    if weights_NC is None:
        return F.mse_loss(torch.sigmoid(logits_NC), targets_NC)
    return _mean((torch.sigmoid(logits_NC) - targets_NC) ** 2, weights_NC)


def focal(logits_NC: Tensor, targets_NC: Tensor, weights_NC: Tensor | None = None) -> Tensor:
    """Return the focal loss with gamma = 2, averaged over images and classes (a scalar).

    Lin et al. 2017, arXiv 1708.02002: cross-entropy times (1 - probability of the truth)^2. Without
    their alpha, which would shift all thresholds.
    """
    losses = F.binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
    wrong = (torch.sigmoid(logits_NC) - targets_NC).abs()
    return _mean(losses * wrong**2, weights_NC)


def asl(logits_NC: Tensor, targets_NC: Tensor, weights_NC: Tensor | None = None) -> Tensor:
    """Return the asymmetric loss, averaged over images and classes (a scalar).

    Ridnik et al. 2021, arXiv 2009.14119: for negatives the probability is lowered by 0.05 and the
    loss weighted with its 4th power; for positives it is weighted with (1 - p). Their settings.
    """
    p = torch.sigmoid(logits_NC)
    lowered = (p - 0.05).clamp(min=0)
    positive = -F.logsigmoid(logits_NC) * (1 - p)
    negative = -torch.log1p(-lowered) * lowered**4
    return _mean(targets_NC * positive + (1 - targets_NC) * negative, weights_NC)


def _mean(losses_NC: Tensor, weights_NC: Tensor | None) -> Tensor:
    """Return the mean of losses, each times its weight."""
    return (losses_NC if weights_NC is None else losses_NC * weights_NC).mean()


LOSSES: dict[str, Loss] = {"bce": bce, "mse": mse, "focal": focal, "asl": asl}


# --------------------------------------------------------------------------------- the labels


def labels_of(
    targets_NC: NDArray[np.float32],
    unknown_NC: NDArray[np.bool_] | None,
    rows: NDArray[np.intp],
) -> Tensor:
    """Return labels for a loss: the targets, or (N, C, 2) with weights where some are unknown.

    The mean weight over the labels of ``rows``, the images to train on, is 1. So a loss is, over an
    epoch, a mean over the known labels, and parts of a batch can be added up.
    """
    if unknown_NC is None:
        return torch.from_numpy(targets_NC)
    known_NC = (~unknown_NC).astype(np.float32)
    weights_NC = known_NC / max(float(known_NC[rows].mean()), 1e-12)
    return torch.from_numpy(np.stack([targets_NC * weights_NC, weights_NC], axis=-1))


def weights_of(unknown_NC: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return weights of labels whose mean is 1: 0 for unknown ones, the same for all others."""
    known_NC = (~unknown_NC).astype(np.float32)
    return known_NC / max(float(known_NC.mean()), 1e-12)


def parted(labels: Tensor) -> tuple[Tensor, ...]:
    """Return the targets (N, C) in labels, and if there are, their weights."""
    if labels.ndim == 2:
        return (labels,)
    weights_NC = labels[..., 1]
    return labels[..., 0] / weights_NC.clamp(min=1e-12), weights_NC


def smoothed(labels: Tensor, amount: float) -> Tensor:
    """Return labels whose targets are moved by a share towards a half."""
    if labels.ndim == 2:
        return labels * (1 - amount) + amount / 2
    targets_NC, weights_NC = labels.unbind(-1)
    return torch.stack([targets_NC * (1 - amount) + weights_NC * (amount / 2), weights_NC], -1)
