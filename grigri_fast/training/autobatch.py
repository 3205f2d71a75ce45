"""Does it fit the memory? Choices of how to train, made from trials of the largest step of a run.

Shapes: N images of a batch, C classes, HW pixels.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import AUTO, TrainConfig
from ..errors import GrigriError
from ..inference import forward
from ..inference.forward import random_images
from ..runs import training_state
from ..runtime import compute as devices
from ..runtime import memory
from ..runtime.compute import Compute
from ..runtime.memory import Budget
from ..runtime.units import format_bytes
from . import setup
from .run_data import RunData
from .session import Session

# BatchNorm's statistics of fewer images are too noisy (Wu and He 2018, arXiv 1803.08494, figure 1).
_LEAST_MICRO_BATCH = 8
MAX_BATCH = 512  # of --batch-size auto: no learning rate here is meant for more
# With the warm-up and the capture of a CUDA graph; on a CPU until the heap grows no more.
_NUM_STEPS = {"cuda": 6, "cpu": 4}
_SHARE_OF_FREE = 0.8  # that --batch-size auto may take where there is no limit


@dataclass(frozen=True)
class Plan:
    """How a training step is made.

    Attributes:
        batch_size: images per step.
        micro_batch_size: images that go through the network at once; gradients of several are
            summed, so that the step is that of the whole batch.
        checkpointing: whether activations are computed a second time in the backward pass instead
            of being kept (Chen et al. 2016, arXiv 1604.06174).
    """

    batch_size: int
    micro_batch_size: int
    checkpointing: bool = False

    def applied_to(self, config: TrainConfig) -> TrainConfig:
        """Return the config with this plan."""
        is_split = self.micro_batch_size < self.batch_size
        return replace(
            config,
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size if is_split else None,
            activation_checkpointing=self.checkpointing,
        )

    def in_words(self) -> str:
        """Return the plan for the user, with what it costs."""
        text = f"batch {self.batch_size}"
        if self.micro_batch_size < self.batch_size:
            text += f" in micro-batches of {self.micro_batch_size} (BatchNorm sees those alone)"
        if self.checkpointing:
            text += ", activation checkpointing (about a third slower)"
        return text


@dataclass(frozen=True)
class Choice:
    """A plan that fits.

    Attributes:
        plan: how to train.
        peak: bytes that were in use at most in its trial.
    """

    plan: Plan
    peak: int


@dataclass(frozen=True)
class Fitted(Choice):
    """A plan that fits, and what it has to fit.

    Attributes:
        allowed: bytes that may be in use: the limit without its headroom.
    """

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


# Returns the peak in bytes of a plan that was tried, None if memory ran out.
Try = Callable[[Plan], int | None]


class NothingFitsError(Exception):
    """No plan fits; the message names what would.

    Attributes:
        least: the smallest peak in bytes of a trial, where not even the smallest batch fits.
    """

    def __init__(self, text: str, least: int | None) -> None:
        super().__init__(text)
        self.least = least


# ------------------------------------------------------------------------------ the choices


def choose(first: Plan, try_plan: Try, limit: int) -> Choice:
    """Return the plan nearest to ``first`` that fits the limit.

    In this order: as asked; the batch in micro-batches; the same with activation checkpointing.

    Args:
        first: what was asked for.
        try_plan: returns the peak of a plan.
        limit: in bytes.

    Raises:
        NothingFitsError: if none does; the message names what would fit.
    """
    micro_batches = [first.micro_batch_size]
    while micro_batches[-1] > _LEAST_MICRO_BATCH:
        micro_batches.append(max(_LEAST_MICRO_BATCH, -(-micro_batches[-1] // 2)))
    least = None
    for checkpointing in dict.fromkeys([first.checkpointing, True]):
        for micro_batch in micro_batches:
            plan = replace(first, micro_batch_size=micro_batch, checkpointing=checkpointing)
            peak = try_plan(plan)
            if peak is not None and peak <= limit:
                return Choice(plan, peak)
            least = peak if least is None or peak is None else min(least, peak)
    batch_size = min(micro_batches[-1], _LEAST_MICRO_BATCH) // 2
    while batch_size >= 2:
        peak = try_plan(Plan(batch_size, batch_size, True))
        if peak is not None and peak <= limit:
            advice, least = f"what fits: --batch-size {batch_size} --activation-checkpointing", None
            break
        least = peak if least is None or peak is None else min(least, peak)
        batch_size //= 2
    else:
        advice = "nothing fits but a smaller --size or a lighter --arch"
    raise NothingFitsError(
        f"this does not fit, also not in micro-batches of {micro_batches[-1]} with activation"
        f" checkpointing; {advice}",
        least,
    )


def largest(try_plan: Try, limit: int, num_images: int) -> Choice | None:
    """Return the plan with the largest batch that fits whole, None if not even the least does.

    Batch sizes are powers of two, from 8 to the number of images or 512.
    """
    best = None
    batch_size = _LEAST_MICRO_BATCH
    while batch_size <= max(_LEAST_MICRO_BATCH, min(num_images, MAX_BATCH)):
        plan = Plan(batch_size, batch_size)
        peak = try_plan(plan)
        if peak is None or peak > limit:
            break
        best = Choice(plan, peak)
        batch_size *= 2
    return best


def plan_run(session: Session, data: RunData) -> Fitted | None:
    """Return how to train a run within the memory; None if there is no need to ask.

    Without a limit, and with a batch size that is given, the run is made as it was asked for.

    Raises:
        GrigriError: as :func:`plan_training`.
    """
    config, budget = session.asked, session.budget
    if budget.limit is None and config.batch_size != AUTO:
        return None
    before = budget.sample()
    loader = data.make_loader(session, config.batch_size or TrainConfig.batch_size)
    rows = np.append(data.train_rows, data.val_rows)
    forward.decode_the_largest(loader, data.checked.sizes_HW, rows)
    taken = budget.sample() - before
    fitted = plan_training(
        config,
        session.compute,
        budget,
        num_images=len(data.train_rows),
        num_classes=data.num_classes,
        resumed=session.resumed is not None,
        log=session.callback.log,
        set_aside=max(0, loader.device_bytes - taken),
    )
    loader.close()
    return fitted


def plan_training(
    config: TrainConfig,
    compute: Compute,
    budget: Budget,
    *,
    num_images: int,
    num_classes: int,
    resumed: bool,
    log: Callable[[str], None],
    set_aside: int = 0,
) -> Fitted:
    """Return how to train within the budget.

    Args:
        config: resolved; ``batch_size`` may be ``AUTO``.
        compute: what to compute on.
        budget: of that memory; what is in use now counts, so images are to be decoded before.
        num_images: images to train on.
        num_classes: outputs of the network.
        resumed: a resumed run keeps its plan, which is only tried.
        log: takes a line about the plan.
        set_aside: bytes that a run may take at other times and the trial does not show: what
            decoding is estimated to take (``ImageLoader.device_bytes``) beyond what it has taken.

    Raises:
        GrigriError: if nothing fits; the message names what would.
    """
    limit = budget.limit
    if limit is None:
        allowed = int(budget.sample() + _SHARE_OF_FREE * devices.free_bytes(compute.device))
    else:
        allowed = budget.usable
    allowed -= set_aside

    def try_plan(plan: Plan) -> int | None:
        return memory.peak_of(lambda: _train(plan.applied_to(config), compute, num_classes), budget)

    choice = None
    if config.batch_size == AUTO:
        choice = largest(try_plan, allowed, num_images)
    if choice is None and limit is None:
        raise GrigriError(
            f"--batch-size auto: not even a small batch fits the"
            f" {format_bytes(devices.free_bytes(compute.device))} of memory that are free; take a"
            f" smaller --size or a lighter --arch"
        )
    if choice is None:
        batch_size = config.batch_size or _LEAST_MICRO_BATCH
        first = Plan(
            batch_size, config.micro_batch_size or batch_size, config.activation_checkpointing
        )
        choice = (_as_before if resumed else _within)(first, try_plan, limit, allowed, set_aside)
    words = f"memory: {choice.plan.in_words()}; a trial took {format_bytes(choice.peak)}"
    if limit is not None:
        words += f" of {format_bytes(limit)}, {format_bytes(limit - choice.peak)} to spare"
    if set_aside:
        words += f", {format_bytes(set_aside)} of it for decoding"
    log(words)
    return Fitted(choice.plan, choice.peak, allowed)


def _within(first: Plan, try_plan: Try, limit: int, allowed: int, set_aside: int) -> Choice:
    """Return the plan nearest to ``first`` that fits; raise GrigriError if none does."""
    try:
        return choose(first, try_plan, allowed)
    except NothingFitsError as e:
        more = ""
        if e.least:
            least = (e.least + set_aside) * limit / (allowed + set_aside)
            more = f", or a limit of {format_bytes(least)}"
        raise GrigriError(f"--memory-limit {format_bytes(limit)}: {e}{more}") from e


def _as_before(plan: Plan, try_plan: Try, limit: int, allowed: int, set_aside: int) -> Choice:
    """Return the plan of a run that is resumed; raise GrigriError if it does not fit."""
    peak = try_plan(plan)
    if peak is not None and peak <= allowed:
        return Choice(plan, peak)
    takes = "more" if peak is None else format_bytes(peak + set_aside)
    raise GrigriError(
        f"--memory-limit {format_bytes(limit)}: this run's {plan.in_words()} takes {takes},"
        f" and a resumed run keeps its plan"
    )


# -------------------------------------------------------------------------------- the trial


def _train(config: TrainConfig, compute: Compute, num_classes: int) -> None:
    """Train a network of the run's shape for some steps, evaluate a batch, store the state."""
    device, batch_size = compute.device, config.batch_size
    # No trial has compiled anything.
    model = setup.untrained(config, num_classes, compute)
    tried = setup.prepare(model, replace(config, compile="off"), compute)
    images_NHWC = random_images(batch_size, config.size, device)
    targets_NC = torch.zeros(batch_size, num_classes, device=device)
    whole, last = (images_NHWC, targets_NC), (images_NHWC[:-1], targets_NC[:-1])
    for _ in range(_NUM_STEPS[device.type]):
        tried.step(*whole)
    if device.type == "cuda" and batch_size > 2:  # both graphs, as from the second epoch on
        for batch in (last, whole, last):
            tried.step(*batch)
    shown_NHWC = random_images(config.micro_batch_size or batch_size, config.test_size, device)
    forward.logits_of(tried.model, compute)(shown_NHWC)  # beside the graphs
    setup.set_training(tried.model, config)
    if batch_size > 2:
        tried.step(*last)
    if device.type == "cpu":  # where the copies that are written count, too
        state = tried.model, tried.optimizer, tried.scaler, training_state.Progress(), tried.average
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state"
            training_state.save(file, file, *state)
            tried.step(*whole)
            training_state.save(file, file, *state)
