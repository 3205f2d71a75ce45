"""Losses of a multi-label classifier, on logits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def bce(logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
    """Return the binary cross-entropy, averaged over images and classes (a scalar)."""
    return F.binary_cross_entropy_with_logits(logits_NC, targets_NC)


def mse(logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
    """Return the mean squared error of the probabilities (a scalar), as in the 2020 report."""
    return F.mse_loss(torch.sigmoid(logits_NC), targets_NC)


def focal(logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
    """Return the focal loss with gamma = 2, averaged over images and classes (a scalar).

    Lin et al. 2017, arXiv 1708.02002: cross-entropy times (1 - probability of the truth)^2. Without
    their alpha, which would shift all thresholds.
    """
    losses = F.binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
    wrong = (torch.sigmoid(logits_NC) - targets_NC).abs()
    return (losses * wrong**2).mean()


def asl(logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
    """Return the asymmetric loss, averaged over images and classes (a scalar).

    Ridnik et al. 2021, arXiv 2009.14119: for negatives the probability is lowered by 0.05 and the
    loss weighted with its 4th power; for positives it is weighted with (1 - p). Their settings.
    """
    p = torch.sigmoid(logits_NC)
    lowered = (p - 0.05).clamp(min=0)
    positive = -F.logsigmoid(logits_NC) * (1 - p)
    negative = -torch.log1p(-lowered) * lowered**4
    return (targets_NC * positive + (1 - targets_NC) * negative).mean()


LOSSES: dict[str, Loss] = {"bce": bce, "mse": mse, "focal": focal, "asl": asl}
