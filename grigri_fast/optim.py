"""Optimizers, and the schedule as a pure function of the step (nothing to save for a resume)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from .config import TrainConfig

# One-cycle's shape (Smith and Topin 2017, arXiv 1708.07120), with PyTorch's OneCycleLR defaults:
# 30 % of the steps go up from a 25th of the peak, the rest comes down, both along a cosine.
_RISE = 0.3
_START_DIVISOR = 25
_LAST_LR = 1e-7  # the report's


def make_optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer that a resolved ``config`` names, over ``parameters``."""
    parameters = list(parameters)
    lr, decay, momentum = config.lr, config.weight_decay, config.momentum
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, momentum=momentum, weight_decay=decay)
    return torch.optim.Adam(
        parameters,
        lr=lr,
        betas=(momentum, 0.999),
        weight_decay=decay,
        amsgrad=config.optimizer == "amsgrad",
    )


def lr_and_momentum(config: TrainConfig, step: int, num_steps: int) -> tuple[float, float]:
    """Return learning rate and momentum of ``step`` (0 to ``num_steps - 1``) of a resolved config.

    ``onecycle`` equals ``torch.optim.lr_scheduler.OneCycleLR`` (a test holds them together) with
    the rate ending at 1e-7: rate up while momentum goes down, and back.
    """
    peak, momentum = config.lr, config.momentum
    if config.schedule == "constant":
        return peak, momentum
    turn = _RISE * num_steps - 1
    last = num_steps - 1
    if step <= turn or last <= 0:
        way = step / turn if turn > 0 else 1.0
        return (
            _cosine(peak / _START_DIVISOR, peak, way),
            _cosine(momentum, config.momentum_min, way),
        )
    way = (step - turn) / (last - turn)
    return _cosine(peak, _LAST_LR, way), _cosine(config.momentum_min, momentum, way)


def set_lr_and_momentum(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Write both into every parameter group; Adam's momentum is its first beta."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _cosine(start: float, end: float, way: float) -> float:
    """Return the point at ``way`` (0 to 1) of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2
