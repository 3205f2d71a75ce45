"""How speeds are compared: every case is warmed up, then all run interleaved (A B C A B C ...).

A machine that is busy for a while slows down all cases alike, so the ratios within a repeat count.

Shapes: N images of a batch, C classes.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

What = Literal["pipeline", "step", "train", "evaluation"]
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images, and rows_N
Step = Callable[[torch.Tensor, torch.Tensor], object]  # of images and targets_NC

_SECONDS = {"cpu": 2.0, "cuda": 0.5}  # that a step is timed for in each repeat, at least


@dataclass(frozen=True)
class Case:
    """Something that is timed, and how fast it was.

    Attributes:
        what: the question that it answers.
        who: whose code it is.
        how: which variant of it, or "".
        run: does it once and returns images per second.
        notes: what is measured beside the speed: lists of one value per repeat.
        images_per_s: one value per repeat.
    """

    what: What
    who: str
    how: str
    run: Callable[[], float]
    notes: dict[str, list[float]] = field(default_factory=dict)
    images_per_s: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Whose code it is, and which variant."""
        return f"{self.who}, {self.how}" if self.how else self.who

    @property
    def median(self) -> float:
        """Images per second."""
        return statistics.median(self.images_per_s)


def run_interleaved(
    cases: Sequence[Case],
    repeats: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Run every case once to warm it up, then all of them ``repeats`` times, interleaved."""
    for repeat in range(repeats + 1):
        for i, case in enumerate(cases):
            if repeat == 1:
                for values in case.notes.values():
                    values.clear()  # of the warm-up
            images_per_s = case.run()
            if repeat:
                case.images_per_s.append(images_per_s)
            on_progress(repeat * len(cases) + i + 1, len(cases) * (repeats + 1))


def ratio(a: Case, b: Case) -> tuple[float, float, float]:
    """Return median, least and greatest of how many times as fast ``a`` was, by repeat."""
    ratios = sorted(x / y for x, y in zip(a.images_per_s, b.images_per_s, strict=True))
    return statistics.median(ratios), ratios[0], ratios[-1]


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches_speed(batches: Batches, device: torch.device) -> float:
    """Return images per second of going through batches."""
    start_s = time.perf_counter()
    num_images = sum(len(rows_N) for _, rows_N in batches)
    wait_for(device)
    return num_images / (time.perf_counter() - start_s)


def step_speed(step: Callable[[], object], batch_size: int, device: torch.device) -> float:
    """Return images per second of a step that is made again and again for a while."""
    wait_for(device)
    start_s, num_steps = time.perf_counter(), 0
    while num_steps < 3 or time.perf_counter() - start_s < _SECONDS[device.type]:
        for _ in range(10 if device.type == "cuda" else 1):
            step()
            num_steps += 1
        wait_for(device)
    return num_steps * batch_size / (time.perf_counter() - start_s)


def step_case(
    who: str, how: str, step: Step, images: torch.Tensor, targets_NC: torch.Tensor
) -> Case:
    """Return the case of a step on one batch that is already on the device."""
    device = targets_NC.device

    def run() -> float:
        return step_speed(lambda: step(images, targets_NC), len(images), device)

    return Case("step", who, how, run)


def training_case(
    who: str, how: str, batches: Batches, step: Step, targets_NC: torch.Tensor, num_steps: int
) -> Case:
    """Return the case of making ``num_steps`` training steps on batches, of which there is no end.

    Its note ``waiting_share`` is the share of the time that is spent waiting for batches.
    """
    batches, device = iter(batches), targets_NC.device
    waiting_shares: list[float] = []

    def run() -> float:
        wait_for(device)
        start_s, waited_s, num_images = time.perf_counter(), 0.0, 0
        for _ in range(num_steps):
            asked_s = time.perf_counter()
            images, rows_N = next(batches)
            waited_s += time.perf_counter() - asked_s
            step(images, targets_NC[rows_N])
            num_images += len(rows_N)
        wait_for(device)
        seconds = time.perf_counter() - start_s
        waiting_shares.append(waited_s / seconds)
        return num_images / seconds

    return Case("train", who, how, run, {"waiting_share": waiting_shares})
