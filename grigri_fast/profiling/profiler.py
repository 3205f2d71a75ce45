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

from ..config import TrainConfig, resolve
from ..errors import GrigriError
from ..inference import forward
from ..models import factory, normalize
from ..pipeline.loader import ImageLoader
from ..reporting import plots
from ..runs import run_folder
from ..runtime import environment, files, memory
from ..runtime.compute import AmpName, Compute, DeviceName, pick_device
from ..runtime.files import StrPath
from ..runtime.memory import Budget
from ..training import setup
from ..training.autobatch import Plan
from . import tensors, timing
from .options import profile_config
from .setting import NUM_CLASSES, Setting, first_images
from .tensors import TensorTracker, Timeline

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
ASSUMED = (CONTEXT, INPUT_PIPELINE, WORKSPACE, FRAGMENTED)  # in an estimate
INPUT_ALONE = "input, beside it"  # in threads and a stream of its own
COPIES = "copies to the device, beside it"
EVALUATION = "evaluation step"
_NOT_IN_STEP = (INPUT_ALONE, COPIES, EVALUATION)


@dataclass(frozen=True)
class StepMemory:
    """Memory of a step when most of it was in use.

    Attributes:
        rows: bytes by what they are for; they add up to ``total``.
        total: bytes: the device's figure, or the estimate.
        timeline: the tensors over the step.
    """

    rows: dict[str, int]
    total: int
    timeline: Timeline

    def to_json(self) -> dict[str, Any]:
        """Return every figure."""
        return {
            "total_bytes": self.total,
            "tensors_peak_bytes": self.timeline.peak,
            "bytes": self.rows,
        }


@dataclass(frozen=True)
class Usage:
    """What a training step and an evaluation step take.

    Attributes:
        training, evaluation: memory of a step.
        how: how memory was measured, in words; "" for an estimate from shapes.
        seconds: medians per part of a training step, and of what is not in it; empty for an
            estimate.
        heaviest: operations with their seconds per step, by the profiler of PyTorch.
    """

    training: StepMemory
    evaluation: StepMemory
    how: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    heaviest: list[tuple[str, float]] = dataclasses.field(default_factory=list)

    @property
    def is_estimate(self) -> bool:
        """Whether it comes from shapes, not from a measurement."""
        return not self.how

    def memory_rows(self) -> Iterator[tuple[str, bool, int, int]]:
        """Yield what memory is for, whether that is assumed, and the bytes in both steps."""
        for name in self.training.rows | self.evaluation.rows:
            steps = (step.rows.get(name, 0) for step in (self.training, self.evaluation))
            yield name, self.is_estimate and name in ASSUMED, *steps

    def time_rows(self) -> Iterator[tuple[str, float, float | None]]:
        """Yield what time is for, the seconds, and their share of the training step if in it."""
        step_s = sum(s for name, s in self.seconds.items() if name not in _NOT_IN_STEP)
        rows = {**self.seconds, "training step": step_s}
        rows[EVALUATION] = rows.pop(EVALUATION)  # after it
        for name, seconds in rows.items():
            yield name, seconds, None if name in _NOT_IN_STEP else seconds / step_s

    def to_json(self) -> dict[str, Any]:
        """Return every figure."""
        return {
            "is_estimate": self.is_estimate,
            "how": self.how or "estimated from shapes",
            "seconds": self.seconds,
            "heaviest_operations_seconds": dict(self.heaviest),
            "training": self.training.to_json(),
            "evaluation": self.evaluation.to_json(),
        }


@dataclass(frozen=True)
class Profile:
    """What ``grigri-fast profile`` shows.

    Attributes:
        title: network, size, batch and number format.
        num_classes: outputs of the network.
        usage: what the steps take.
        device_memory: bytes that it has to fit, None where none were named.
        folder: of the results.
    """

    title: str
    num_classes: int
    usage: Usage
    device_memory: int | None
    folder: Path


def profile(
    data: StrPath | None = None,
    *,
    arch: str = TrainConfig.arch,
    size: int | None = TrainConfig.size,
    batch_size: int = TrainConfig.batch_size,
    micro_batch_size: int | None = None,
    activation_checkpointing: bool = False,
    classes: int = NUM_CLASSES,
    estimate: bool = False,
    device_memory: str | None = None,
    snapshot: bool = False,
    out: StrPath = "runs",
    limit: int = 512,
    fast: bool = True,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    threads: int | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Find out where memory and time of a step go, as ``grigri-fast profile`` does.

    Writes ``profile.json``, ``memory.png`` and, where it measures, ``trace.json.gz``.

    Args:
        data: photographs and labels: a folder or a CSV. Without it: the generated demo set.
        arch, size, batch_size, micro_batch_size, activation_checkpointing, fast: as in ``train``.
        classes: outputs of the network.
        estimate: for a GPU, from shapes alone; nothing is computed.
        device_memory: an amount like ``4GiB`` that it has to fit.
        snapshot: also PyTorch's memory snapshot, on a GPU.
        out: folder for the folder of results.
        limit: use only so many images.
        device, amp, threads: as in ``train``.
        log: takes a line about a network that was chosen here.

    Raises:
        GrigriError: if an option is wrong, or there are too few images.
    """
    config, must_fit = profile_config(
        estimate=estimate,
        device_memory=device_memory,
        snapshot=snapshot,
        arch=arch,
        size=size,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        activation_checkpointing=activation_checkpointing,
        fast=fast,
        amp=amp,
    )
    on = torch.device("cuda") if estimate else pick_device(device)
    config = resolve(setup.with_network(config, on, log))
    arch, size = config.arch, config.size
    factory.build(arch, 1, size)  # an error if the two do not go with each other
    short_name = arch.rpartition("/")[2]
    if estimate:
        amp = "bf16" if config.amp == "auto" else config.amp
        compute = Compute(torch.device("cpu"), amp, threads=1)
        usage = estimate_step(config, classes, amp)
        folder = run_folder.create_folder(Path(out), f"estimate-{short_name}")
    else:
        compute = dataclasses.replace(Compute.resolve(device, config.amp, threads), adapts=False)
        if snapshot and compute.device.type != "cuda":
            raise GrigriError("--snapshot is of a GPU's memory, and there is none here")
        with compute.open() as budget:
            setting = Setting.of(first_images(data, limit), config, compute, classes)
            folder = run_folder.create_folder(Path(out), f"profile-{short_name}")
            usage = measure_step(setting, budget, folder, snapshot)
    plan = Plan(batch_size, micro_batch_size or batch_size, activation_checkpointing)
    title = f"{arch} at {size} px, {plan.in_words()}, {compute.amp}"
    timeline = usage.training.timeline
    png = plots.memory(timeline.series, timeline.phases, title)
    files.write_atomic(folder / "memory.png", png)
    described = environment.describe(compute.device, compute.amp)
    content = {"title": title, "environment": described, **usage.to_json()}
    files.write_json(folder / "profile.json", content)
    return Profile(title, classes, usage, must_fit, folder)


class _Steps:
    """A training step and an evaluation step of the same batch, whose parts can be watched.

    The model is untrained, on the device (or fake); a batch is images_NHWC and targets_NC.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, compute: Compute, *batch: torch.Tensor
    ) -> None:
        self.batch, self._config, self._compute = batch, config, compute
        self._phase: Callable[[str], AbstractContextManager] = record_function
        self.prepared = setup.prepare(
            model, config, compute, use_graph=False, phase=lambda name: self._phase(name)
        )

    def train(self) -> None:
        """Make a training step."""
        self.prepared.step(*self.batch)

    def train_unchecked(self) -> None:
        """Make a training step whose numbers are not looked at, which fake ones cannot be."""
        self.prepared.step.compute_gradients(self.prepared.model, *self.batch)
        with self._phase("optimizer"):
            self.prepared.optimizer.step()

    def evaluate(self) -> None:
        """Make the forward pass of as many images as go through the network at once."""
        model = self.prepared.model
        with self._phase("evaluation"):
            images_NHWC = self.batch[0][: self._config.micro_batch_size]
            forward.logits_of(model, self._compute)(images_NHWC)
        model.train()

    def timeline(self, work: Callable[[], None]) -> Timeline:
        """Return the memory of one of the steps. A training step has been made before."""
        model, states = self.prepared.model, self.prepared.optimizer.state.values()
        tracker = TensorTracker(model, self._compute.device)
        gradients = (p.grad for p in model.parameters() if p.grad is not None)
        tracker.label(gradients, tensors.GRADIENTS)
        values = (value for state in states for value in state.values())
        tracker.label((v for v in values if isinstance(v, torch.Tensor)), tensors.OPTIMIZER)
        tracker.label(self.batch, tensors.INPUT)
        self._phase = tracker.phase
        with tracker.active():
            work()
        self._phase = record_function
        return tracker.timeline()

    def seconds(self, work: Callable[[], None]) -> dict[str, float]:
        """Return the median seconds of each part of a step, as the device has spent them."""
        spans: list[tuple[str, Any, Any]] = []
        device = self._compute.device
        on_cpu = device.type == "cpu"

        def mark() -> Any:
            if on_cpu:
                return time.perf_counter()
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        @contextlib.contextmanager
        def span(name: str) -> Iterator[None]:
            start = mark()
            yield
            spans.append((name, start, mark()))

        seconds: dict[str, list[float]] = defaultdict(list)
        self._phase = span
        for _ in range(_NUM_STEPS):
            spans.clear()
            work()
            timing.wait_for(device)
            of_step: dict[str, float] = defaultdict(float)
            for name, start, end in spans:
                of_step[name] += end - start if on_cpu else start.elapsed_time(end) / 1000
            for name, part_s in of_step.items():
                seconds[name].append(part_s)
        self._phase = record_function
        return {name: statistics.median(values) for name, values in seconds.items()}


# ------------------------------------------------------------------------------ the estimate


def estimate_step(config: TrainConfig, num_classes: int, amp: str) -> Usage:
    """Return what the steps would take on a GPU, from shapes alone.

    Nothing is computed: the tensors are fake ones of a CPU, in bf16 for fp16, which has as many
    bytes. What that leaves out, and what is assumed for it, stands in README.md.
    """
    fake = FakeTensorMode()
    compute = Compute(torch.device("cpu"), "bf16" if amp == "fp16" else amp, threads=1)
    model = setup.untrained(config, num_classes, compute)
    _make_fake(model, fake)
    normalize.forget_constants()
    try:
        with fake:
            shape = (config.batch_size, config.size, config.size, 3)
            images_NHWC = torch.empty(shape, dtype=torch.uint8)
            targets_NC = torch.empty(config.batch_size, num_classes)
            steps = _Steps(model, config, compute, images_NHWC, targets_NC)
            steps.train_unchecked()  # makes the gradients and the optimizer's state
            training = steps.timeline(steps.train_unchecked)
            evaluation = steps.timeline(steps.evaluate)
    finally:
        normalize.forget_constants()
    return Usage(_with_assumed(training), _with_assumed(evaluation))


def _make_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Replace the tensors of a network by fake ones."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = nn.Parameter(fake.from_tensor(parameter.data), parameter.requires_grad)
            module.register_parameter(name, made)
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, fake.from_tensor(buffer))


def _with_assumed(timeline: Timeline) -> StepMemory:
    """Return the memory of a step with what is assumed beside its tensors."""
    rows = {
        CONTEXT: CONTEXT_BYTES,
        INPUT_PIPELINE: INPUT_BYTES,
        **timeline.at_peak(),
        WORKSPACE: WORKSPACE_BYTES,
        FRAGMENTED: int(FRAGMENTATION * timeline.peak),
    }
    return StepMemory(rows, sum(rows.values()), timeline)


# --------------------------------------------------------------------------- the measurement


def measure_step(s: Setting, budget: Budget, out: Path, snapshot: bool) -> Usage:
    """Return what the steps take here, and write a trace of them to ``out``.

    There is no CUDA graph: its parts could not be timed. The trace is ``trace.json.gz`` (for
    chrome://tracing or ui.perfetto.dev). With ``snapshot``, on a GPU, PyTorch records its
    allocations as ``snapshot.pickle`` (for pytorch.org/memory_viz). ``budget`` was made before
    anything was put on the device.
    """
    on_gpu, started_with = s.device.type == "cuda", _beside_tensors(budget)
    loader = s.loader()
    forward.decode_the_largest(loader, s.check.sizes_HW, s.rows)
    beside = {
        CONTEXT if on_gpu else PROGRAM: started_with,
        INPUT_PIPELINE: max(0, _beside_tensors(budget) - started_with),
    }
    model = setup.untrained(s.config, s.num_classes, s.compute)
    images_NHWC = forward.random_images(s.batch_size, s.size_px, s.device)
    targets_NC = s.targets()
    steps = _Steps(model, s.config, s.compute, images_NHWC, targets_NC[: s.batch_size])
    for _ in range(3):
        steps.train()  # warm
    with _allocations_recorded(out / "snapshot.pickle") if snapshot else contextlib.nullcontext():
        peaks = _peak(steps.train, budget), _peak(steps.evaluate, budget)
    training = _explained(steps.timeline(steps.train), beside, peaks[0])
    evaluation = _explained(steps.timeline(steps.evaluate), beside, peaks[1])
    seconds = {INPUT_ALONE: _input_seconds(loader, s)}
    heaviest, copies_s = _trace(steps.prepared.step, targets_NC, loader, s, out)
    if on_gpu:
        seconds[COPIES] = copies_s
    seconds |= steps.seconds(steps.train)
    seconds[EVALUATION] = steps.seconds(steps.evaluate)["evaluation"]
    loader.close()
    return Usage(training, evaluation, budget.meter.how, seconds, heaviest)


@contextlib.contextmanager
def _allocations_recorded(file: Path) -> Iterator[None]:
    """Let PyTorch record its allocations on a GPU, and write them to a file."""
    torch.cuda.memory._record_memory_history()
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(file))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


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
    timing.wait_for(device)
    budget.sample()
    peak = {"total": budget.peak}
    if device.type == "cuda":
        peak["allocated"] = torch.cuda.max_memory_allocated(device)
        peak["reserved"] = torch.cuda.max_memory_reserved(device)
    return peak


def _explained(timeline: Timeline, beside: dict[str, int], peak: dict[str, int]) -> StepMemory:
    """Return what a device's figure consists of; what is left over is called unexplained."""
    rows = beside | timeline.at_peak()
    if "allocated" in peak:
        rows[WORKSPACE] = peak["allocated"] - timeline.peak
        rows[FRAGMENTED] = peak["reserved"] - peak["allocated"]
    rows[UNEXPLAINED] = peak["total"] - sum(rows.values())
    return StepMemory(rows, peak["total"], timeline)


def _trace(
    step: timing.Step, targets_NC: torch.Tensor, loader: ImageLoader, s: Setting, out: Path
) -> tuple[list[tuple[str, float]], float]:
    """Write a Chrome trace of two steps with their input.

    Returns the heaviest operations, and the seconds that copies from the host take per step.
    """
    on_gpu = s.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
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


def _input_seconds(loader: ImageLoader, s: Setting) -> float:
    """Return the seconds that a batch takes to be read, decoded and augmented, with all threads."""
    batches = loader.train_epoch(s.rows, seed=0, epoch=2, augment=True)
    next(batches)
    speed = timing.batches_speed(((b.images_NHWC, b.rows_N) for b in batches), s.device)
    return s.batch_size / speed
