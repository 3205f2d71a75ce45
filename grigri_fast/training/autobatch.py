"""Does it fit the memory? The largest things that a run will do are done once, and measured.

Shapes: N images of a batch, C classes, HW pixels.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import record_function

from ..config import AUTO, TrainConfig
from ..errors import GrigriError
from ..inference.forward import random_images
from ..models import activation_checkpoint, factory, normalize
from ..runs import checkpoint
from ..runtime import compute as devices
from ..runtime import units
from ..runtime.memory import Budget, peak_of
from . import compilation, optim, plan
from .losses import LOSSES
from .plan import Choice, Plan
from .step import TrainStep

# With the warm-up and the capture of a CUDA graph; on a CPU until the heap grows no more.
_NUM_STEPS = {"cuda": 6, "cpu": 4}
_SHARE_OF_FREE = 0.8  # that --batch-size auto may take where there is no limit


class Prepared(NamedTuple):
    """A network with all that its training step needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: TrainStep


@dataclass(frozen=True)
class Fitted:
    """What a trial has found.

    Attributes:
        plan: how to train.
        peak: bytes that were in use at most.
        allowed: bytes that may be in use: the limit without its headroom.
    """

    plan: Plan
    peak: int
    allowed: int

    @property
    def to_spare(self) -> int:
        """Bytes that kept images may take."""
        return max(0, self.allowed - self.peak)

    def to_json(self, budget: Budget) -> dict[str, Any]:
        """Return what ``environment.json`` holds of it."""
        return {
            "limit_bytes": budget.limit,
            "trial_peak_bytes": self.peak,
            "margin_bytes": (budget.limit or self.allowed) - self.peak,
            "measured": budget.meter.how,
            "plan": asdict(self.plan),
        }


def plan_training(
    config: TrainConfig,
    budget: Budget,
    *,
    num_images: int,
    num_classes: int,
    device: torch.device,
    amp: str,
    resumed: bool,
    say: Callable[[str], None],
) -> Fitted:
    """Return how to train within the budget.

    Args:
        config: resolved; ``batch_size`` may be ``AUTO``.
        budget: its meter is read; what is in use now counts, so images are to be decoded before.
        num_images: images to train on.
        num_classes: outputs of the network.
        device, amp: what to compute on and how.
        resumed: a resumed run keeps its plan, it is only tried.
        say: told what was found.

    Raises:
        GrigriError: if nothing fits, with what would.
    """
    limit = budget.limit
    if limit is None:
        fits = budget.look() + _SHARE_OF_FREE * devices.free_bytes(device)
    else:
        fits = budget.usable

    def try_plan(tried: Plan) -> int | None:
        return peak_of(lambda: _train(tried, config, num_classes, device, amp), budget)

    choice = None
    if config.batch_size == AUTO:
        choice = plan.largest(try_plan, int(fits), num_images)
        if choice is None and limit is None:
            raise GrigriError(
                f"--batch-size auto: not even a small batch fits the"
                f" {units.format_bytes(devices.free_bytes(device))} of memory that are free; take a"
                f" smaller --size or a lighter --arch"
            )
    if choice is None:
        batch_size = 8 if config.batch_size == AUTO else config.batch_size
        first = Plan(
            batch_size, config.micro_batch_size or batch_size, config.activation_checkpointing
        )
        if resumed:
            choice = _as_before(first, try_plan(first), limit, fits)
        else:
            try:
                choice = plan.choose(first, try_plan, int(fits))
            except plan.NothingFitsError as e:
                more = (
                    f", or a limit of {units.format_bytes(e.least * limit / fits)}"
                    if e.least
                    else ""
                )
                raise GrigriError(f"--memory-limit {units.format_bytes(limit)}: {e}{more}") from e
    words = f"memory: {choice.plan.in_words()}; a trial took {units.format_bytes(choice.peak)}"
    if limit is not None:
        words += (
            f" of {units.format_bytes(limit)}, {units.format_bytes(limit - choice.peak)} to spare"
        )
    say(words)
    return Fitted(choice.plan, choice.peak, int(fits))


def _as_before(first: Plan, peak: int | None, limit: int, fits: float) -> Choice:
    if peak is not None and peak <= fits:
        return Choice(first, peak)
    takes = "more" if peak is None else units.format_bytes(peak)
    raise GrigriError(
        f"--memory-limit {units.format_bytes(limit)}: this run's {first.in_words()} takes {takes},"
        f" and a resumed run keeps its plan"
    )


def forward(model: nn.Module, images_NHWC: torch.Tensor, amp: str) -> None:
    """Make an evaluation's forward pass, and forget what comes out."""
    model.eval()
    with torch.inference_mode(), devices.autocast(images_NHWC.device, amp):
        model(normalize.normalize(images_NHWC)).float()


def build(config: TrainConfig, num_classes: int) -> nn.Module:
    """Return an untrained network of the run's shape and memory format."""
    model = factory.build(
        config.arch, num_classes, config.size, train_norms=bool(config.train_norms)
    )
    return model.to(memory_format=torch.channels_last) if config.fast else model


def prepare(
    tried: Plan,
    config: TrainConfig,
    num_classes: int,
    device: torch.device,
    amp: str,
    *,
    use_graph: bool = True,
    compile: bool = False,
    phase: Callable[[str], AbstractContextManager] = record_function,
    model: nn.Module | None = None,
) -> Prepared:
    """Return an untrained network of the run's shape (or ``model``), ready for a plan."""
    if model is None:
        model = build(config, num_classes).to(device)
    if config.freeze_backbone:
        factory.freeze_backbone(model)
    if tried.checkpointing:
        activation_checkpoint.checkpoint_activations(model)
    optimizer = optim.make_optimizer(
        config,
        [p for p in model.parameters() if p.requires_grad],
        factory.head(model)[1].parameters(),
    )
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
    step = TrainStep(
        model,
        optimizer,
        scaler,
        LOSSES[config.loss],
        device=device,
        amp=amp,
        batch_size=tried.batch_size,
        fast=config.fast,
        use_graph=use_graph and not tried.checkpointing,
        compiled=compilation.compiled(model) if compile else None,
        micro_batch_size=tried.micro_batch_size,
        phase=phase,
    )
    factory.set_training(model, config.freeze_backbone)
    return Prepared(model, optimizer, scaler, step)


def _train(
    tried: Plan, config: TrainConfig, num_classes: int, device: torch.device, amp: str
) -> None:
    """Train a network of the run's shape for some steps, evaluate a batch, store the state."""
    model, optimizer, scaler, step = prepare(tried, config, num_classes, device, amp)
    average = optim.averaged(model, config.ema) if config.ema else None
    images_NHWC = random_images(tried.batch_size, config.size, device)
    targets_NC = torch.zeros(tried.batch_size, num_classes, device=device)
    for _ in range(_NUM_STEPS[device.type]):
        step(images_NHWC, targets_NC)
    shown_NHWC = random_images(tried.micro_batch_size, config.test_size, device)
    forward(model, shown_NHWC, amp)  # beside the graph
    factory.set_training(model, config.freeze_backbone)
    if tried.batch_size > 2:
        step(images_NHWC[:-1], targets_NC[:-1])
    if device.type == "cpu":  # where the copies that are written count, too
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state"
            progress = checkpoint.Progress()
            checkpoint.save_state(file, file, model, optimizer, scaler, progress, average)
            step(images_NHWC, targets_NC)
            checkpoint.save_state(file, file, model, optimizer, scaler, progress, average)
