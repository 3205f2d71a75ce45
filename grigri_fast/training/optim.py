"""Optimizers, the average of the weights, and the schedule as a pure function of the step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..config import TrainConfig

# One-cycle's shape (Smith and Topin 2017, arXiv 1708.07120), with PyTorch's OneCycleLR defaults:
# some of the steps go up from a 25th of the peak, the rest comes down, both along a cosine.
_START_DIVISOR = 25
_LAST_LR = 1e-7  # the report's
# How much higher the rate of all other parameters is where convolutions are trained by Muon.
_SGD_IN_MUON = 2.0


class DeviceSGD(torch.optim.SGD):
    """SGD whose learning rate and momentum live on the device, so that a CUDA graph can hold it.

    The update is that of ``torch.optim.SGD``: b = momentum * b + gradient + decay * w, then
    w -= lr * b. PyTorch's fused kernel takes the rate from a tensor but not the momentum, so the
    buffers are multiplied by it here, and the kernel's own momentum is 1. As in every fused
    optimizer of PyTorch, ``found_inf`` (a tensor, 1 or 0) leaves the step out.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float
    ) -> None:
        device = groups[0]["params"][0].device
        for group in groups:  # a rate of its own, since each is written to
            group["lr"] = torch.tensor(lr, device=device)
        super().__init__(groups, momentum=1.0, weight_decay=weight_decay, fused=True)
        self.momentum = torch.tensor(momentum, device=device)
        self.found_inf = torch.zeros((), device=device)
        for group in groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def step(self) -> None:
        """Make one step."""
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in trained]
        # Buffers of a step that is left out stay as they are.
        torch._foreach_mul_(buffers, torch.where(self.found_inf == 1, 1.0, self.momentum))
        super().step()


class Muon(torch.optim.Optimizer):
    """Momentum that is made orthogonal, for the filters of convolutions; SGD for all the rest.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon; for such networks "airbench94_muon"): a
    layer's filters are the rows of a matrix, and instead of its Nesterov momentum the nearest
    orthogonal matrix is taken as the step, so that all directions are learned at the same pace. Our
    deviations: the step's length is the learning rate times the norm of the filters, and their norm
    stays what it was at the start (BatchNorm does not see it), so that the rate is the angle by
    which they turn, whatever the layer's shape. Three iterations instead of five are enough.

    Args:
        groups: parameter groups; ``is_muon`` says which kind they are, and the weight decay of
            those that are is not used, since their norm stays.
        lr, momentum: of both kinds; a group's ``lr_factor`` is the caller's.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        """Make one step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                    if group["is_muon"]:
                        state["norm"] = p.norm()
                gradient = p.grad
                if not group["is_muon"]:
                    gradient = gradient.add(p, alpha=group["weight_decay"])
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
                update = gradient.add(buffer, alpha=group["momentum"])
                if group["is_muon"]:
                    update = orthogonal(update.flatten(1)).view_as(p)
                    # Without a gradient (behind a BatchNorm that starts at zero) it stays zero.
                    update *= state["norm"] / update.norm().clamp(min=1e-7)
                p.sub_(update, alpha=group["lr"])
                if group["is_muon"]:
                    p.mul_(state["norm"] / p.norm())


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly the orthogonal matrix next to one: its singular values become about 1.

    By three Newton-Schulz iterations in bf16, x <- (a + b s + c s^2) x with s = x x', and the
    coefficients of the source of :class:`Muon`: singular values end between 0.3 and 1.2, unless
    they were under a thousandth of the norm. All that is done to x is to multiply it from the left,
    so its factor and s, which are small, are iterated, and x is multiplied once: half the work.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    square = x @ x.T
    factor = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(3):
        step = b * square + c * square @ square
        step.diagonal().add_(a)
        square, factor = step @ square @ step, step @ factor
    x = factor @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def make_optimizer(
    config: TrainConfig,
    parameters: Iterable[nn.Parameter],
    of_head: Iterable[nn.Parameter] = (),
    of_stages: Sequence[Iterable[nn.Parameter]] = (),
) -> torch.optim.Optimizer:
    """Return the optimizer that a resolved ``config`` names, over ``parameters``.

    The learning rate of those that are ``of_head`` is ``head_lr_factor`` times that of the others.
    Of those that are ``of_stages``, listed from the input to the head, it is ``layer_decay`` times
    that of the next stage; of the last one, ``layer_decay`` times that of what is in none.
    On a GPU, with ``fast``, it is fused; RMSprop has no fused form. On a CPU fused ones are not
    faster (benchmarks/README.md).
    """
    groups = _groups(config, parameters, of_head, of_stages)
    lr, decay, momentum = config.lr, config.weight_decay, config.momentum
    fused = config.fast and groups[0]["params"][0].is_cuda
    if config.optimizer == "muon":
        return Muon(groups, lr=lr, momentum=momentum)
    if config.optimizer == "sgd" and fused:
        return DeviceSGD(groups, lr=lr, momentum=momentum, weight_decay=decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum, weight_decay=decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        groups,
        lr=lr,
        betas=(momentum, 0.999),
        weight_decay=decay,
        amsgrad=config.optimizer == "amsgrad",
        fused=fused,
    )


def _groups(
    config: TrainConfig,
    parameters: Iterable[nn.Parameter],
    of_head: Iterable[nn.Parameter],
    of_stages: Sequence[Iterable[nn.Parameter]],
) -> list[dict[str, Any]]:
    """Return the parameters in groups, each with its weight decay and ``lr_factor``.

    Vectors (biases, the scales of norms) have no decay unless ``decay_all``.
    """
    of_head = {id(p) for p in of_head}
    distances = {id(p): len(of_stages) - i for i, stage in enumerate(of_stages) for p in stage}
    groups: dict[tuple[bool, bool, bool, float], list[nn.Parameter]] = {}
    for p in parameters:
        is_head = id(p) in of_head and config.head_lr_factor != 1
        # Filters of convolutions, but not those of the first, which see three colours.
        is_muon = config.optimizer == "muon" and p.ndim == 4 and p.shape[1] > 3
        is_muon = is_muon and id(p) not in of_head
        of_stage = config.layer_decay ** distances.get(id(p), 0)
        key = (config.decay_all or p.ndim > 1, is_head, is_muon, of_stage)
        groups.setdefault(key, []).append(p)
    return [
        {
            "params": params,
            "weight_decay": config.weight_decay if has_decay else 0.0,
            "lr_factor": of_stage
            * (config.head_lr_factor if is_head else 1.0)
            * (_SGD_IN_MUON if config.optimizer == "muon" and not is_muon else 1.0),
            "is_muon": is_muon,
        }
        for (has_decay, is_head, is_muon, of_stage), params in groups.items()
    ]


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a model's weights and buffers.

    ``update_parameters`` after each step moves it by 1 - decay towards the model; by more in the
    first steps, min(decay, (1 + n) / (10 + n)), so that it forgets where it began (as in
    TensorFlow's ExponentialMovingAverage).
    """

    def blend(averages: list[torch.Tensor], current: list[torch.Tensor], _: object) -> None:
        n = int(average.n_averaged)  # lives on the host
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averages, current)

    average = AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
    return average.requires_grad_(False)


def lr_and_momentum(config: TrainConfig, step: int, num_steps: int) -> tuple[float, float]:
    """Return learning rate and momentum of ``step`` (0 to ``num_steps - 1``) of a resolved config.

    ``onecycle`` equals ``torch.optim.lr_scheduler.OneCycleLR`` (a test compares them) with
    the rate ending at 1e-7: rate up while momentum goes down, and back.
    """
    peak, momentum = config.lr, config.momentum
    if config.schedule == "constant":
        return peak, momentum
    turn = config.warm_up * num_steps - 1
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
        for group in optimizer.param_groups:
            group["lr"].fill_(lr * group["lr_factor"])
        optimizer.momentum.fill_(momentum)
        return
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _cosine(start: float, end: float, way: float) -> float:
    """Return the point at ``way`` (0 to 1) of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2
