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


LOSSES: dict[str, Loss] = {"bce": bce, "mse": mse}
