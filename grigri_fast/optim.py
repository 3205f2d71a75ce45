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


class DeviceSGD(torch.optim.SGD):
    """SGD whose learning rate and momentum live on the device, so that a CUDA graph can hold it.

    The update is that of ``torch.optim.SGD``: b = momentum * b + gradient + decay * w, then
    w -= lr * b. PyTorch's fused kernel takes the rate from a tensor but not the momentum, so the
    buffers are multiplied by it here, and the kernel's own momentum is 1. As in every fused
    optimizer of PyTorch, ``found_inf`` (a tensor, 1 or 0) leaves the step out.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        device = params[0].device
        rate = torch.tensor(lr, device=device)
        super().__init__(params, lr=rate, momentum=1.0, weight_decay=weight_decay, fused=True)
        self.momentum = torch.tensor(momentum, device=device)
        self.found_inf = torch.zeros((), device=device)
        for p in params:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def step(self) -> None:
        """Make one step."""
        trained = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in trained]
        # Buffers of a step that is left out stay as they are.
        torch._foreach_mul_(buffers, torch.where(self.found_inf == 1, 1.0, self.momentum))
        super().step()


def make_optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer that a resolved ``config`` names, over ``parameters``.

    On a GPU, with ``fast``, it is fused; RMSprop has no fused form. On a CPU fused ones are not
    faster (benchmarks/README.md).
    """
    parameters = list(parameters)
    lr, decay, momentum = config.lr, config.weight_decay, config.momentum
    fused = config.fast and parameters[0].is_cuda
    if config.optimizer == "sgd" and fused:
        return DeviceSGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)
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
        fused=fused,
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
    if isinstance(optimizer, DeviceSGD):
        optimizer.param_groups[0]["lr"].fill_(lr)
        optimizer.momentum.fill_(momentum)
        return
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _cosine(start: float, end: float, way: float) -> float:
    """Return the point at ``way`` (0 to 1) of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2
