"""How to train within a memory limit: pure choices, from what trials say."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..config import TrainConfig

# BatchNorm's statistics of fewer images are too noisy (Wu and He 2018, arXiv 1803.08494, figure 1).
_LEAST_MICRO_BATCH = 8
MAX_BATCH = 512  # that --batch-size auto looks at: no learning rate here is meant for more


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
    """A plan that fits, and the peak in bytes that its trial has shown."""

    plan: Plan
    peak: int


# Returns the peak in bytes of a plan that was tried, None if memory ran out.
Try = Callable[[Plan], int | None]


class NothingFitsError(Exception):
    """No plan fits, with what would.

    Attributes:
        least: the smallest peak in bytes that was seen, where no batch at all would fit.
    """

    def __init__(self, text: str, least: int | None) -> None:
        super().__init__(text)
        self.least = least


def choose(first: Plan, try_plan: Try, limit: int) -> Choice:
    """Return the plan nearest to ``first`` that fits the limit.

    In this order: as asked; the batch in micro-batches; the same with activation checkpointing.

    Args:
        first: what was asked for.
        try_plan: tells the peak of a plan.
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
