"""Optimizers, the average of the weights, and the schedule as a pure function of the step."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

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
        self.momentum, self.found_inf = _put_on_device(groups, lr, momentum)
        super().__init__(groups, momentum=1.0, weight_decay=weight_decay, fused=True)
        for group in groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def step(self) -> None:
        """Make one step."""
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in trained]
        # Buffers of a step that is left out stay as they are.
        torch._foreach_mul_(buffers, _unless(self.found_inf, 1.0, self.momentum))
        super().step()


class DeviceRMSprop(torch.optim.RMSprop):
    """RMSprop whose learning rate and momentum live on the device, as those of DeviceSGD do.

    The update and the state are those of ``torch.optim.RMSprop``, which has no fused form and takes
    no ``found_inf``.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float
    ) -> None:
        self.momentum, self.found_inf = _put_on_device(groups, lr, momentum)
        # capturable: the numbers of steps, which the state has, are on the device, too
        super().__init__(groups, momentum=momentum, weight_decay=weight_decay, capturable=True)

    @torch.no_grad()
    def step(self) -> None:
        """Make one step."""
        momentum = _unless(self.found_inf, 1.0, self.momentum)
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if not trained:
                continue
            states = [self._state_of(p, group["momentum"] > 0) for p in trained]
            squares = [state["square_avg"] for state in states]
            gradients = [p.grad for p in trained]
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, trained, alpha=group["weight_decay"])
            gradients = [_unless(self.found_inf, 0.0, gradient) for gradient in gradients]
            torch._foreach_mul_(squares, _unless(self.found_inf, 1.0, group["alpha"]))
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            updates = gradients
            torch._foreach_div_(updates, roots)
            if group["momentum"] > 0:
                buffers = [state["momentum_buffer"] for state in states]
                torch._foreach_mul_(buffers, momentum)
                torch._foreach_add_(buffers, updates)
                updates = list(buffers)
            rate = _unless(self.found_inf, 0.0, group["lr"])
            torch._foreach_sub_(trained, torch._foreach_mul(updates, rate))
            # A list, since foreach asks a single tensor for its number, and waits.
            made = [1 - self.found_inf] * len(states)
            torch._foreach_add_([state["step"] for state in states], made)

    def _state_of(self, p: nn.Parameter, has_momentum: bool) -> dict[str, torch.Tensor]:
        """Return the state of a parameter, which begins as that of ``torch.optim.RMSprop``."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["square_avg"] = torch.zeros_like(p)
            if has_momentum:
                state["momentum_buffer"] = torch.zeros_like(p)
        return state


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
        on_device: whether both live on the device, as those of DeviceSGD do, and ``found_inf`` (a
            tensor, 1 or 0) leaves a step out.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float, on_device: bool = False
    ) -> None:
        self.momentum, self.found_inf = None, None
        if on_device:
            self.momentum, self.found_inf = _put_on_device(groups, lr, momentum)
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        """Make one step."""
        for group in self.param_groups:
            momentum = group["momentum"] if self.momentum is None else self.momentum
            kept = _unless(self.found_inf, 1.0, momentum)
            rate = _unless(self.found_inf, 0.0, group["lr"])
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
                gradient = _unless(self.found_inf, 0.0, gradient)
                buffer = state["momentum_buffer"].mul_(kept).add_(gradient)
                update = _plus(gradient, buffer, momentum)
                if group["is_muon"]:
                    update = orthogonal(update.flatten(1)).view_as(p)
                    # Without a gradient (behind a BatchNorm that starts at zero) it stays zero.
                    update *= state["norm"] / update.norm().clamp(min=1e-7)
                if isinstance(rate, torch.Tensor):
                    p.addcmul_(update, rate, value=-1)
                else:
                    p.sub_(update, alpha=rate)
                if group["is_muon"]:
                    p.mul_(_unless(self.found_inf, 1.0, state["norm"] / p.norm()))


def _put_on_device(
    groups: list[dict[str, Any]], lr: float, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each group a rate on the device; return momentum and ``found_inf``, which are there."""
    device = groups[0]["params"][0].device
    for group in groups:  # a rate of its own, since each is written to
        group["lr"] = torch.full((), lr, device=device)
    return torch.full((), momentum, device=device), torch.zeros((), device=device)


def is_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether rate and momentum live on the device, so that a CUDA graph can hold a step."""
    return isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)


def leaves_out(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer itself leaves a step out where ``found_inf`` is 1."""
    return is_on_device(optimizer) or bool(optimizer.defaults.get("fused"))


def _unless(found_inf: torch.Tensor | None, otherwise: float, value: Any) -> Any:
    """Return a value, or ``otherwise`` where a step is to be left out; decided on the device."""
    return value if found_inf is None else torch.where(found_inf == 1, otherwise, value)


def _plus(a: torch.Tensor, b: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """Return a + factor * b, with a factor that may live on the device."""
    return (
        torch.addcmul(a, b, factor) if isinstance(factor, torch.Tensor) else a.add(b, alpha=factor)
    )


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
    on_device: bool | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer that a resolved ``config`` names, over ``parameters``.

    The learning rate of those that are ``of_head`` is ``head_lr_factor`` times that of the others.
    Of those that are ``of_stages``, listed from the input to the head, it is ``layer_decay`` times
    that of the next stage; of the last one, ``layer_decay`` times that of what is in none.

    ``on_device``, by default on a GPU with ``fast``: it decides on the device whether a step is
    left out (see :func:`leaves_out`), so that the host need not wait. The Adams are PyTorch's fused
    ones, which take their beta1 from the host and are no part of a CUDA graph; all others are. On a
    CPU fused ones are not faster (benchmarks/README.md).
    """
    groups = _groups(config, parameters, of_head, of_stages)
    lr, decay, momentum = config.lr, config.weight_decay, config.momentum
    if on_device is None:
        on_device = config.fast and groups[0]["params"][0].is_cuda
    if config.optimizer == "muon":
        return Muon(groups, lr=lr, momentum=momentum, on_device=on_device)
    if config.optimizer in ("sgd", "rmsprop"):
        kinds = {
            "sgd": DeviceSGD if on_device else torch.optim.SGD,
            "rmsprop": DeviceRMSprop if on_device else torch.optim.RMSprop,
        }
        return kinds[config.optimizer](groups, lr=lr, momentum=momentum, weight_decay=decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        groups,
        lr=lr,
        betas=(momentum, 0.999),
        weight_decay=decay,
        amsgrad=config.optimizer == "amsgrad",
        fused=on_device,
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


class WeightAverage(nn.Module):
    """An exponential moving average of a model's weights and buffers; see :func:`averaged`.

    What PyTorch's AveragedModel does, but for two things: that one copies the number of averaged
    models to the device in each step, and waits for the copy; and it copies the model in a way that
    fake tensors (those of an estimate) do not take.

    Attributes:
        module: the averaged model.
        n_averaged: how many models are in it (a tensor on the host).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        copies: dict[int, Any] = {
            id(p): nn.Parameter(p.detach().clone()) for p in model.parameters()
        }
        copies |= {id(b): b.detach().clone() for b in model.buffers()}
        self.module = copy.deepcopy(model, copies)
        self.n_averaged: torch.Tensor
        self.register_buffer("n_averaged", torch.tensor(0))
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model; the first time, set it to that."""
        n = int(self.n_averaged)  # lives on the host
        pairs = [
            (mine.detach(), its.detach())
            for mine, its in zip(_tensors(self.module), _tensors(model), strict=True)
        ]
        lerped = [pair for pair in pairs if n and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (n and pair[0].is_floating_point())]
        for kind in (lerped, copied):
            if not kind:
                continue
            averages, current = map(list, zip(*kind, strict=True))
            if kind is lerped:
                share = 1 - min(self._decay, (1 + n) / (10 + n))
                torch._foreach_lerp_(averages, current, share)
            else:
                torch._foreach_copy_(averages, current)
        self.n_averaged += 1


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Return the parameters and buffers of a model."""
    return itertools.chain(model.parameters(), model.buffers())


def averaged(model: nn.Module, decay: float) -> WeightAverage:
    """Return an exponential moving average of a model's weights and buffers.

    ``update_parameters`` after each step moves it by 1 - decay towards the model; by more in the
    first steps, min(decay, (1 + n) / (10 + n)), so that it forgets where it began (as in
    TensorFlow's ExponentialMovingAverage).
    """
    return WeightAverage(model, decay).requires_grad_(False)


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
    if is_on_device(optimizer):
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
