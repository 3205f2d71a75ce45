"""How fast it is on this machine: input, step, training and evaluation; beside torchvision."""

import itertools
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..config import TrainConfig, resolve
from ..errors import GrigriError
from ..inference import forward
from ..models import factory
from ..runtime import environment, files
from ..runtime.compute import AmpName, Compute, DeviceName, pick_amp, require_one_of
from ..runtime.files import StrPath
from ..runtime.memory import Budget
from ..training import autobatch, setup
from ..training.step import TrainStep
from . import baseline, timing
from .options import bench_config
from .setting import Setting, first_images
from .timing import Batches, Case

OURS = "grigri-fast"
CACHED = "from the cache"
WhatToTime = Literal["pipeline", "step", "train", "all"]

# Dense peaks of the tensor cores in fp16 and bf16 with fp32 sums, TFLOP/s (NVIDIA's data sheets).
_PEAK_TFLOPS = {
    **{"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0},
    **{"T4": 65.0, "V100": 125.0, "RTX 4090": 165.2, "RTX 3090": 71.0, "RTX 3060": 25.6},
}


@dataclass(frozen=True)
class Benchmark:
    """What ``grigri-fast bench`` has measured.

    Attributes:
        setting: what was measured.
        environment: hardware and versions.
        cases: with the speed of each.
        memory: peak bytes, see :func:`peak_memory`.
        train_flops: floating-point operations of a training step per image.
        bound: what bounds the speed, in words.
        exceeded: what to say if more memory than the limit was in use, else "".
    """

    setting: Setting
    environment: dict[str, Any]
    cases: list[Case]
    memory: dict[str, int]
    train_flops: float
    bound: str
    exceeded: str

    def pairs(self) -> list[tuple[Case, Case | None]]:
        """Return each of our cases with the baseline's fastest, where there is one."""
        pairs = []
        for ours in (case for case in self.cases if case.who == OURS):
            theirs = [c for c in self.cases if (c.what, c.who) == (ours.what, baseline.WHO)]
            pairs.append((ours, max(theirs, key=lambda case: case.median, default=None)))
        return pairs

    def to_json(self) -> dict[str, Any]:
        """Return every figure, raw."""
        s = self.setting
        return {
            "environment": self.environment,
            "images": len(s.rows),
            "arch": s.config.arch,
            "size_px": s.size_px,
            "batch_size": s.batch_size,
            "amp": s.compute.amp,
            "threads": s.compute.threads,
            "fast": s.config.fast,
            "compile": s.config.compile == "on",
            "num_classes": s.num_classes,
            "device": str(s.device),
            "train_flops_per_image": self.train_flops,
            "peak_flops_per_s": peak_flops_per_s(s.device),
            "peak_memory_bytes": self.memory,
            "results": [
                {"what": c.what, "name": c.name, "images_per_s": c.images_per_s, **c.notes}
                for c in self.cases
            ],
            "plan": s.plan and asdict(s.plan),
            "bound": self.bound,
        }


def bench(
    what: WhatToTime = "all",
    data: StrPath | None = None,
    *,
    against: Literal["torchvision"] | None = None,
    json: StrPath | None = None,
    arch: str = TrainConfig.arch,
    size: int | None = TrainConfig.size,
    batch_size: int = TrainConfig.batch_size,
    repeats: int = 5,
    limit: int = 2000,
    fast: bool = True,
    compile: bool = False,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    log: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Benchmark:
    """Measure how fast it is on this machine, as ``grigri-fast bench`` does.

    Args:
        what: ``pipeline``, images without a model; ``step``, one batch that is there already;
            ``train``, training and evaluation; or ``all``.
        data: photographs and labels: a folder or a CSV. Without it: the generated demo set.
        against: also measure torchvision's transforms in a DataLoader, and its plain loop.
        json: a file for every figure.
        arch, size, batch_size, fast, device, amp, memory_limit, threads: as in ``train``.
        repeats: how often everything is measured, interleaved.
        limit: use only so many images.
        compile: use torch.compile in the step.
        log: takes a line about how training fits the memory limit, and whether it is captured.
        on_progress: called with runs done and runs in all.

    Raises:
        GrigriError: if an option is wrong, or there are too few images.
    """
    require_one_of("WHAT", what, WhatToTime)
    config = bench_config(
        json=json,
        compile=compile,
        arch=arch,
        size=size,
        batch_size=batch_size,
        fast=fast,
        amp=amp,
    )
    compute = Compute.resolve(device, config.amp, threads, memory_limit)
    compute = replace(compute, adapts=False)
    config = resolve(setup.with_network(config, compute.device, log))
    factory.build(config.arch, 1, config.size_px)  # an error if the two do not go with each other
    with compute.open() as budget:
        setting = Setting.of(first_images(data, limit), config, compute)
        if budget.limit is not None:
            setting = fitted(setting, budget, log)
        cases = _cases(setting, what, against is not None, log)
        timing.run_interleaved(cases, repeats, on_progress)
        memory, flops = peak_memory(budget), train_flops_per_image(setting)
        described = environment.describe(compute.device, compute.amp)
    try:
        budget.require_within_limit()
        exceeded = ""
    except GrigriError as e:
        exceeded = str(e)
    bound = what_bounds(setting, cases)
    result = Benchmark(setting, described, cases, memory, flops, bound, exceeded)
    if json is not None:
        files.write_json(Path(json), result.to_json())
    return result


def fitted(s: Setting, budget: Budget, log: Callable[[str], None]) -> Setting:
    """Return the setting with the plan that a training run would have within a memory limit."""
    loader = s.loader()
    forward.decode_the_largest(loader, s.check.sizes_HW, s.rows)
    fit = autobatch.plan_training(
        s.config,
        s.compute,
        budget,
        num_images=len(s.rows),
        num_classes=s.num_classes,
        resumed=False,
        log=log,
    )
    loader.close()
    # The step is there twice, alone and in training; how much of that it shares is not known.
    config = fit.plan.applied_to(s.config)
    return replace(s, config=config, plan=fit.plan, cache_bytes=fit.to_spare // 2)


# -------------------------------------------------------------------------------- our cases


def _cases(s: Setting, what: WhatToTime, against: bool, log: Callable[[str], None]) -> list[Case]:
    """Return what is timed, each beside the baseline if that was asked for."""
    amp, num_images = s.device.type == "cuda", 8 * s.batch_size
    cases: list[Case] = []
    if what in ("pipeline", "all"):
        cases += pipeline_cases(s)
        cases += [baseline.pipeline_case(s)] if against else []
    if what in ("step", "all"):
        cases.append(step_case(s, log))
        cases += [baseline.step_case(s, amp)] if against else []
    if what in ("train", "all"):
        cases.append(train_case(s, note=log))
        cases += [baseline.train_case(s, amp)] if against else []
        cases.append(evaluation_case(s, num_images))
        cases += [baseline.evaluation_case(s, num_images, amp)] if against else []
    return cases


def _epochs(s: Setting, cache: str) -> Iterator[Batches]:
    """Yield epochs of augmented batches, without end."""
    loader = s.loader(cache)
    for epoch in itertools.count(1):
        batches = loader.train_epoch(s.rows, seed=0, epoch=epoch, augment=True)
        yield ((batch.images_NHWC, batch.rows_N) for batch in batches)


def pipeline_cases(s: Setting) -> list[Case]:
    """Return the cases of getting augmented batches: decoding, and from the cache."""

    def case(how: str, cache: str) -> Case:
        epochs = _epochs(s, cache)
        return Case("pipeline", OURS, how, lambda: timing.batches_speed(next(epochs), s.device))

    return [case("decoding", "off"), case(CACHED, "auto")]


def make_step(
    s: Setting, note: Callable[[str], None] = lambda text: None
) -> tuple[nn.Module, TrainStep]:
    """Return an untrained model and our training step of it, which ``note`` gets lines of."""
    torch.manual_seed(0)
    model = setup.untrained(s.config, s.num_classes, s.compute)
    prepared = setup.prepare(model, s.config, s.compute, note=note)
    return prepared.model, prepared.step


def step_case(s: Setting, note: Callable[[str], None] = lambda text: None) -> Case:
    """Return the case of our step; see :func:`timing.step_case`."""
    _, step = make_step(s, note)
    images_NHWC = forward.random_images(s.batch_size, s.size_px, s.device)
    targets_NC = s.targets()[: s.batch_size]
    for _ in range(5):
        step(images_NHWC, targets_NC)  # warm: a CUDA graph is captured at the fourth
    return timing.step_case(OURS, "", step, images_NHWC, targets_NC)


def train_case(
    s: Setting, num_steps: int | None = None, note: Callable[[str], None] = lambda text: None
) -> Case:
    """Return the case of real training: our input and our step, epoch after epoch."""
    batches = itertools.chain.from_iterable(_epochs(s, "auto"))
    _, step = make_step(s, note)
    return timing.training_case(OURS, "", batches, step, s.targets(), num_steps or s.num_steps)


def evaluation_case(s: Setting, num_images: int) -> Case:
    """Return the case of predicting images: decoding, and the model's forward pass."""
    model, _ = make_step(s)
    loader, rows = s.loader(), s.rows[:num_images]

    def run() -> float:
        start_s = time.perf_counter()
        logits = forward.logits_of(model, s.compute)
        forward.outputs(logits, loader, rows, micro_batch_size=s.config.micro_batch_size)
        return len(rows) / (time.perf_counter() - start_s)

    return Case("evaluation", OURS, "", run)


# ------------------------------------------------------------------------- beside the speed


def train_flops_per_image(s: Setting) -> float:
    """Return the floating-point operations of a training step, per image (PyTorch's counter)."""
    model = factory.build(s.config.arch, s.num_classes, s.size_px).train()
    images_NCHW = torch.zeros(2, 3, s.size_px, s.size_px)
    with FlopCounterMode(display=False) as counter:
        model(images_NCHW).sum().backward()
    return counter.get_total_flops() / 2


def peak_flops_per_s(device: torch.device) -> float | None:
    """Return the device's dense fp16 peak, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for key, peak in _PEAK_TFLOPS.items() if key in name), None)


def peak_memory(budget: Budget) -> dict[str, int]:
    """Return the most memory in bytes that this process has taken until now.

    ``host``: all of it. ``device_torch``: PyTorch's on a GPU. ``limited``: what a memory limit is
    about, where there is a GPU or a limit.
    """
    peaks = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    budget.sample()
    if budget.meter.device.type == "cuda":
        peaks["device_torch"] = torch.cuda.max_memory_reserved(budget.meter.device)
    if budget.meter.device.type == "cuda" or budget.limit is not None:
        peaks["limited"] = budget.peak
    return peaks


def what_bounds(s: Setting, cases: Sequence[Case]) -> str:
    """Return what the speed of training is bound by, and what would help, in a line."""
    ours = {(case.what, case.how): case for case in cases if case.who == OURS}
    step, train = ours.get(("step", "")), ours.get(("train", ""))
    cached = ours.get(("pipeline", CACHED))
    if train is not None:
        waited = statistics.median(train.notes["waiting_share"])
        if waited > 0.05:
            return (
                f"Input bounds the speed: {waited:.0%} of the time is spent waiting for images."
                f" More --threads than {s.compute.threads}, --cache ram or a smaller --size would"
                f" help."
            )
    if step is None:
        return ""
    more = []
    fast_amp = pick_amp("auto", s.device)
    if s.compute.amp == "fp32" and fast_amp != "fp32":
        more.append(f"--amp {fast_amp}")
    if s.device.type == "cuda":
        more.append("a larger --batch-size")
    more += ["a smaller --size", "a lighter --arch"]
    spare = ""
    if cached is not None:
        spare = f" (input could feed {cached.median / step.median:.0f} times as much)"
    return f"The training step bounds the speed{spare}; what would help: {', '.join(more)}."
