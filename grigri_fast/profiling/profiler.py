"""Where memory and time go: one training step and one evaluation step, measured or estimated.

Shapes: N images of a batch, C classes.
"""

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, record_function

from ..config import TrainConfig
from ..inference import forward
from ..models import normalize
from ..pipeline import loader as pipeline
from ..runtime import memory
from ..runtime.compute import Compute
from ..runtime.memory import Budget
from ..training import setup
from ..training.autobatch import Plan
from ..training.setup import Prepared
from . import benchmark, tensors
from .benchmark import Setting
from .tensors import Account, Ledger

# What an estimate takes for what has no shapes (assumed; see README.md).
CONTEXT_BYTES = 450 * 2**20  # CUDA context and kernels
INPUT_BYTES = 250 * 2**20  # DALI's decoder and a group of decoded images
WORKSPACE_BYTES = 200 * 2**20  # cuDNN and cuBLAS
FRAGMENTATION = 0.1  # of the tensors

_NUM_STEPS = 5  # that are timed
_NUM_TRACED = 2
_NUM_HEAVIEST = 6

PROGRAM, CONTEXT, INPUT_PIPELINE = "program", "CUDA context", "input pipeline (DALI)"
WORKSPACE, FRAGMENTED, UNEXPLAINED = "workspace of kernels", "fragmentation", "unexplained"
ASSUMED = (CONTEXT, INPUT_PIPELINE, WORKSPACE, FRAGMENTED)
INPUT_ALONE = "input, beside it"  # in threads and a stream of its own
COPIES = "copies to the device, beside it"
EVALUATION = "evaluation step"
NOT_IN_STEP = (INPUT_ALONE, COPIES, EVALUATION)


@dataclass(frozen=True)
class Memory:
    """Memory of a step when most of it was in use.

    Attributes:
        rows: bytes by what they are for; they add up to ``total``.
        total: bytes: the device's figure, or the estimate.
        account: the tensors over the step.
    """

    rows: dict[str, int]
    total: int
    account: Account


@dataclass(frozen=True)
class Profile:
    """What ``grigri-fast profile`` shows.

    Attributes:
        is_estimate: whether it comes from shapes, not from a measurement.
        training, evaluation: memory of a step.
        seconds: medians per part of a training step, and of what is not in it (``NOT_IN_STEP``);
            empty for an estimate.
        heaviest: operations with their seconds per step, by the profiler of PyTorch.
        how: how memory was measured, in words.
    """

    is_estimate: bool
    training: Memory
    evaluation: Memory
    seconds: dict[str, float]
    heaviest: list[tuple[str, float]]
    how: str

    def to_json(self) -> dict[str, Any]:
        """Return every figure."""
        return {
            "is_estimate": self.is_estimate,
            "how": self.how,
            "seconds": self.seconds,
            "heaviest_operations_seconds": dict(self.heaviest),
            **{
                name: {
                    "total_bytes": step.total,
                    "tensors_peak_bytes": step.account.peak,
                    "bytes": step.rows,
                }
                for name, step in (("training", self.training), ("evaluation", self.evaluation))
            },
        }


class _Phases:
    """The context of each part of a step; ``watch`` makes it, and may change between steps."""

    def __init__(self) -> None:
        self.watch: Callable[[str], AbstractContextManager] = record_function

    def __call__(self, name: str) -> AbstractContextManager:
        return self.watch(name)


# ------------------------------------------------------------------------------ the estimate


def estimate(config: TrainConfig, plan: Plan, num_classes: int, amp: str) -> Profile:
    """Return what a step would take on a GPU, from shapes alone.

    Nothing is computed: the tensors are fake ones of a CPU, in bf16 for fp16, which has as many
    bytes. What that leaves out, and what is assumed for it, stands in README.md.

    Args:
        config: resolved.
        plan: how the step is made.
        num_classes: outputs of the network.
        amp: number format.
    """
    amp = "bf16" if amp == "fp16" else amp
    phases = _Phases()
    here, fake = Compute(torch.device("cpu"), amp, threads=1), FakeTensorMode()
    model = setup.untrained(config, num_classes, here.device)
    _make_fake(model, fake)
    normalize.forget_constants()
    try:
        with fake:
            made = setup.prepare(model, _of_step(config, plan), here, phase=phases)
            images_NHWC = torch.empty(
                (plan.batch_size, config.size, config.size, 3), dtype=torch.uint8
            )
            targets_NC = torch.empty(plan.batch_size, num_classes)

            def step() -> None:
                made.step.compute_gradients(made.model, images_NHWC, targets_NC)
                with phases("optimizer"):
                    made.optimizer.step()

            step()  # makes the gradients and the optimizer's state
            training = _followed(step, made, phases, [images_NHWC, targets_NC])
            evaluation = _followed(
                lambda: _evaluate(made, images_NHWC, plan, here, phases),
                made,
                phases,
                [images_NHWC, targets_NC],
            )
    finally:
        normalize.forget_constants()
    return Profile(True, _assumed(training), _assumed(evaluation), {}, [], "estimated from shapes")


def _of_step(config: TrainConfig, plan: Plan) -> TrainConfig:
    """Return the config of a step with a plan: nothing is compiled, and there is no average."""
    return dataclasses.replace(plan.applied_to(config), compile="off", ema=0.0)


def _make_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Replace the tensors of a network by fake ones."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = nn.Parameter(fake.from_tensor(parameter.data), parameter.requires_grad)
            module.register_parameter(name, made)
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, fake.from_tensor(buffer))


def _assumed(account: Account) -> Memory:
    """Return the memory of an account with what is assumed beside it."""
    rows = {
        CONTEXT: CONTEXT_BYTES,
        INPUT_PIPELINE: INPUT_BYTES,
        **account.at_peak(),
        WORKSPACE: WORKSPACE_BYTES,
        FRAGMENTED: int(FRAGMENTATION * account.peak),
    }
    return Memory(rows, sum(rows.values()), account)


def _followed(
    work: Callable[[], None], made: Prepared, phases: _Phases, batch: list[torch.Tensor]
) -> Account:
    """Return the account of some work on a network that has made a step before."""
    book = Ledger(made.model, batch[0].device)
    book.enter((p.grad for p in made.model.parameters() if p.grad is not None), tensors.GRADIENTS)
    states = made.optimizer.state.values()
    book.enter(
        (t for state in states for t in state.values() if isinstance(t, torch.Tensor)),
        tensors.OPTIMIZER,
    )
    book.enter(batch, tensors.INPUT)
    phases.watch = book.phase
    with book.watching():
        work()
    phases.watch = record_function
    return book.account()


def _evaluate(
    made: Prepared, images_NHWC: torch.Tensor, plan: Plan, here: Compute, phases: _Phases
) -> None:
    was_training = made.model.training
    with phases("evaluation"):
        forward.logits_of(made.model, here)(images_NHWC[: plan.micro_batch_size])
    made.model.train(was_training)


# --------------------------------------------------------------------------- the measurement


def measure(
    s: Setting, config: TrainConfig, plan: Plan, budget: Budget, out: Path, snapshot: bool
) -> Profile:
    """Return what a step takes here, and write a trace of it to ``out``.

    Args:
        s: images and machine.
        config: resolved.
        plan: how the step is made. There is no CUDA graph, whose parts could not be told apart.
        budget: made before anything was put on the device.
        out: folder for ``trace.json.gz`` (for chrome://tracing or ui.perfetto.dev) and, with
            ``snapshot``, for ``snapshot.pickle`` (for pytorch.org/memory_viz).
        snapshot: let PyTorch record its allocations; on a GPU.
    """
    device, phases = s.device, _Phases()
    started_with = _beside_tensors(budget)
    loader = benchmark.make_loader(s, "off")
    forward.decode_the_largest(loader, s.found.sizes_HW, s.rows)
    beside = {
        CONTEXT if device.type == "cuda" else PROGRAM: started_with,
        INPUT_PIPELINE: max(0, _beside_tensors(budget) - started_with),
    }
    here, tried = Compute(device, s.amp, s.threads), _of_step(config, plan)
    model = setup.untrained(tried, s.num_classes, device)
    made = setup.prepare(model, tried, here, use_graph=False, phase=phases)
    images_NHWC = forward.random_images(plan.batch_size, config.size, device)
    targets_NC = benchmark.targets(s)[: plan.batch_size]

    def step() -> None:
        made.step(images_NHWC, targets_NC)

    def evaluate() -> None:
        _evaluate(made, images_NHWC, plan, here, phases)

    for _ in range(3):
        step()  # warm
    if snapshot:
        torch.cuda.memory._record_memory_history()
    of_training, of_evaluation = _peak(step, budget), _peak(evaluate, budget)
    if snapshot:
        torch.cuda.memory._dump_snapshot(str(out / "snapshot.pickle"))
        torch.cuda.memory._record_memory_history(enabled=None)
    batch = [images_NHWC, targets_NC]
    training = _explained(_followed(step, made, phases, batch), beside, of_training)
    evaluation = _explained(_followed(evaluate, made, phases, batch), beside, of_evaluation)
    seconds = {INPUT_ALONE: _seconds_of_input(loader, s)}
    heaviest, copies_s = _trace(made.step, benchmark.targets(s), loader, s, out)
    if device.type == "cuda":
        seconds[COPIES] = copies_s
    seconds |= _timed(step, phases, device)
    seconds[EVALUATION] = _timed(evaluate, phases, device)["evaluation"]
    loader.close()
    return Profile(False, training, evaluation, seconds, heaviest, budget.meter.how)


def _beside_tensors(budget: Budget) -> int:
    """Return the bytes on the device that PyTorch's allocator does not hold."""
    used, device = budget.sample(), budget.meter.device
    return used - torch.cuda.memory_reserved(device) if device.type == "cuda" else used


def _peak(work: Callable[[], None], budget: Budget) -> dict[str, int]:
    """Return the peak of some work: the device's figure, and PyTorch's where it has some."""
    device = budget.meter.device
    memory.release(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    budget.reset_peak()
    for _ in range(2):
        work()
        budget.sample()
    found = {"total": budget.peak}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        found["total"] = max(budget.peak, budget.sample())
        found["allocated"] = torch.cuda.max_memory_allocated(device)
        found["reserved"] = torch.cuda.max_memory_reserved(device)
    return found


def _explained(account: Account, beside: dict[str, int], peak: dict[str, int]) -> Memory:
    """Return what a device's figure consists of; what is left over is called unexplained."""
    rows = beside | account.at_peak()
    if "allocated" in peak:
        rows[WORKSPACE] = peak["allocated"] - account.peak
        rows[FRAGMENTED] = peak["reserved"] - peak["allocated"]
    rows[UNEXPLAINED] = peak["total"] - sum(rows.values())
    return Memory(rows, peak["total"], account)


def _timed(step: Callable[[], None], phases: _Phases, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each part of a step, as the device has spent them."""
    spans: list[tuple[str, Any, Any]] = []

    def mark() -> Any:
        if device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextlib.contextmanager
    def watch(name: str) -> Iterator[None]:
        start = mark()
        yield
        spans.append((name, start, mark()))

    found: dict[str, list[float]] = defaultdict(list)
    phases.watch = watch
    for _ in range(_NUM_STEPS):
        spans.clear()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        of_step: dict[str, float] = defaultdict(float)
        for name, start, end in spans:
            of_step[name] += end - start if device.type == "cpu" else start.elapsed_time(end) / 1000
        for name, seconds in of_step.items():
            found[name].append(seconds)
    phases.watch = record_function
    return {name: statistics.median(values) for name, values in found.items()}


def _trace(
    step: Callable[[torch.Tensor, torch.Tensor], None],
    targets_NC: torch.Tensor,
    loader: pipeline.ImageLoader,
    s: Setting,
    out: Path,
) -> tuple[list[tuple[str, float]], float]:
    """Write a Chrome trace of two steps with their input.

    Returns the heaviest operations, and the seconds that copies from the host take per step.
    """
    kinds = [ProfilerActivity.CPU]
    on_gpu = s.device.type == "cuda"
    if on_gpu:
        kinds.append(ProfilerActivity.CUDA)
    batches = loader.train_epoch(s.rows, seed=0, epoch=1, augment=True)
    with torch.profiler.profile(activities=kinds) as profiler:
        for batch in itertools.islice(batches, _NUM_TRACED):
            step(batch.images_NHWC, targets_NC[batch.rows_N])
    batches.close()
    profiler.export_chrome_trace(str(out / "trace.json.gz"))
    which = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    seconds = [(e.key, getattr(e, which) / 1e6 / _NUM_TRACED) for e in profiler.key_averages()]
    copies_s = sum(s for name, s in seconds if name.startswith("Memcpy HtoD"))
    return sorted(seconds, key=lambda pair: -pair[1])[:_NUM_HEAVIEST], copies_s


def _seconds_of_input(loader: pipeline.ImageLoader, s: Setting) -> float:
    """Return the seconds that a batch takes to be read, decoded and augmented, with all threads."""
    batches = loader.train_epoch(s.rows, seed=0, epoch=2, augment=True)
    next(batches)
    start_s, num_images = time.perf_counter(), 0
    for batch in batches:
        num_images += len(batch.rows_N)
    if s.device.type == "cuda":
        torch.cuda.synchronize(s.device)
    return (time.perf_counter() - start_s) / num_images * s.batch_size
