"""How fast it is on this machine: input, step, both together, evaluation; beside the usual way.

Every way is warmed up, then all of them run in turns (A B C A B C ...), so that a machine that is
busy for a while slows down all alike: what counts are ratios within a turn. Shapes as in ``train``.
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..config import MAX_PIXELS, TrainConfig, resolve
from ..errors import GrigriError
from ..inference import forward
from ..models import factory
from ..pipeline import affine, batching, decode, warp
from ..pipeline import loader as pipeline
from ..pipeline.cache import plan_cache
from ..pipeline.check import ImageCheck, check_images
from ..runtime import compute
from ..runtime.compute import Compute
from ..runtime.memory import Budget
from ..training import autobatch, setup
from ..training.autobatch import Plan
from ..training.step import TrainStep
from . import baseline

What = Literal["pipeline", "step", "train", "evaluation"]
WHATS: tuple[What, ...] = ("pipeline", "step", "train", "evaluation")

OURS = "grigri-fast"
_SECONDS = {"cpu": 2.0, "cuda": 0.5}  # that a step is measured for in each turn, at least
_TRAIN_STEPS = {"cpu": 12, "cuda": 300}  # of each turn
_NUM_CLASSES = 14

# Dense peaks of the tensor cores in fp16 and bf16 with fp32 sums, TFLOP/s (NVIDIA's data sheets).
_PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "T4": 65.0,
    "V100": 125.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "RTX 3060": 25.6,
}


@dataclass(frozen=True)
class Way:
    """One way of doing something, measured in turns with the others.

    Attributes:
        what: the question it belongs to.
        name: who does it, and how.
        run: does it once and returns images per second.
        notes: figures that are measured beside it: lists, one value per turn.
    """

    what: What
    name: str
    run: Callable[[], float]
    notes: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What the turns have shown of one way."""

    what: What
    name: str
    images_per_s: list[float]
    notes: dict[str, list[float]]

    @property
    def median(self) -> float:
        """Images per second."""
        return statistics.median(self.images_per_s)


def in_turns(
    ways: Sequence[Way],
    repeats: int,
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> list[Measured]:
    """Run every way once to warm it up, then all in turns; return what was seen."""
    total = len(ways) * (repeats + 1)
    seen: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats + 1):
        for i, way in enumerate(ways):
            if turn == 1:
                for values in way.notes.values():
                    values.clear()  # of the warm-up
            images_per_s = way.run()
            if turn:
                seen[i].append(images_per_s)
            on_turn(turn * len(ways) + i + 1, total)
    return [Measured(w.what, w.name, s, w.notes) for w, s in zip(ways, seen, strict=True)]


def ratio(a: Measured, b: Measured) -> tuple[float, float, float]:
    """Return median, least and greatest of how many times as fast ``a`` was, turn by turn."""
    ratios = sorted(x / y for x, y in zip(a.images_per_s, b.images_per_s, strict=True))
    return statistics.median(ratios), ratios[0], ratios[-1]


def named(results: Iterable[Measured], what: What, name: str) -> Measured | None:
    """Return one of the results."""
    return next((m for m in results if (m.what, m.name) == (what, name)), None)


# ------------------------------------------------------------------------------ what is run


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured: the images, the model, and the machine.

    Attributes:
        paths, found: image files, and what :func:`check_images` said of them.
        arch, size_px, batch_size: of the training step.
        device, amp, threads, fast: as ``train`` would have them.
        compile: whether the step is compiled.
        num_classes: outputs of the model.
        plan: how the step is made, where memory is limited.
        cache_bytes: what kept images may take, where memory is limited.
    """

    paths: Sequence[Path]
    found: ImageCheck
    arch: str
    size_px: int
    batch_size: int = 32
    device: torch.device
    amp: str
    threads: int
    fast: bool = True
    compile: bool = False
    num_classes: int = _NUM_CLASSES
    plan: Plan | None = None
    cache_bytes: int | None = None

    @property
    def rows(self) -> np.ndarray:
        """The rows that can be used."""
        return np.flatnonzero(self.found.crc32_N >= 0)


def setting_of(
    paths: Sequence[Path], threads: int, *, has_limit: bool = False, **options: Any
) -> Setting:
    """Return the setting for some image files, which are checked; ``has_limit``: of memory.

    Raises:
        GrigriError: if hardly any of them can be used.
    """
    found = check_images(paths, threads=threads, max_pixels=MAX_PIXELS)
    setting = Setting(paths=paths, found=found, threads=threads, **options)
    if setting.fast and setting.device.type == "cpu" and not has_limit:
        compute.keep_freed_memory()  # helps every way that is measured in this process
    if len(setting.rows) < 2 * setting.batch_size:
        raise GrigriError(
            f"{len(setting.rows)} usable images are too few: a benchmark at batch size"
            f" {setting.batch_size} needs at least {2 * setting.batch_size}"
        )
    return setting


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_loader(s: Setting, cache: str) -> pipeline.ImageLoader:
    """Return the loader of a setting's images; ``cache`` as in ``--cache``."""
    return pipeline.ImageLoader(
        s.paths,
        s.found,
        size_px=s.size_px,
        batch_size=s.batch_size,
        device=s.device,
        threads=s.threads,
        cache=plan_cache(cache, s.found, s.size_px, s.device, s.cache_bytes),
    )


def _epochs(loader: pipeline.ImageLoader, s: Setting) -> Iterator[Iterator[batching.Batch]]:
    epoch = 0
    while True:
        epoch += 1
        yield loader.train_epoch(s.rows, seed=0, epoch=epoch, augment=True)


def _count(batches: Iterable[batching.Batch], device: torch.device) -> float:
    """Return images per second of going through batches."""
    start_s, num_images = time.perf_counter(), 0
    for batch in batches:
        num_images += len(batch.rows_N)
    _wait_for(device)
    return num_images / (time.perf_counter() - start_s)


def input_ways(s: Setting) -> list[Way]:
    """Return our ways to get augmented batches: decoding, and from the cache."""
    decoding = _epochs(make_loader(s, "off"), s)
    cached = _epochs(make_loader(s, "auto"), s)
    return [
        Way("pipeline", f"{OURS}, decoding", lambda: _count(next(decoding), s.device)),
        Way("pipeline", f"{OURS}, from the cache", lambda: _count(next(cached), s.device)),
    ]


def limit_ways(s: Setting) -> list[Way]:
    """Return the two halves of the work on a CPU: decoding alone by DALI, warping alone."""
    paths = [s.paths[row] for row in s.rows]
    decoder = decode.files_graph(
        files=[str(path) for path in paths],
        batch_size=s.batch_size,
        num_threads=s.threads,
        device_id=None,
    )
    decoder.build()

    def decode_all() -> float:
        start_s = time.perf_counter()
        for _ in range(len(paths) // s.batch_size):
            decoder.run()
        num_images = len(paths) // s.batch_size * s.batch_size
        return num_images / (time.perf_counter() - start_s)

    sizes_HW = affine.working_sizes(s.found.sizes_HW[s.rows], s.size_px)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes_HW[:512]]
    pool = ThreadPoolExecutor(s.threads)

    def warp_batch(first: int) -> None:
        rows = range(first, min(first + s.batch_size, len(paths)))
        out_NHWC = np.empty((len(rows), s.size_px, s.size_px, 3), dtype=np.uint8)
        some = [images[row % len(images)] for row in rows]
        some_HW = sizes_HW[[row % len(images) for row in rows]]
        maps = affine.random_matrices(np.random.default_rng(first), some_HW, s.size_px)
        warp.on_host(some, maps, out_NHWC)

    def warp_all() -> float:
        start_s = time.perf_counter()
        list(pool.map(warp_batch, range(0, len(paths), s.batch_size)))
        return len(paths) / (time.perf_counter() - start_s)

    return [
        Way("pipeline", "DALI, decoding alone", decode_all),
        Way("pipeline", "warping alone", warp_all),
    ]


def usual_input_way(s: Setting, backend: baseline.Backend) -> Way:
    """Return torchvision's way to get augmented batches."""
    paths = [s.paths[row] for row in s.rows]
    images = baseline.loader(
        paths,
        s.size_px,
        batch_size=s.batch_size,
        workers=s.threads,
        backend=backend,
        device=s.device,
    )

    def run() -> float:
        start_s = time.perf_counter()
        num_images = sum(len(rows_N) for _, rows_N in baseline.batches_on(s.device, images))
        _wait_for(s.device)
        return num_images / (time.perf_counter() - start_s)

    return Way("pipeline", f"torchvision, {backend.upper() if backend == 'pil' else backend}", run)


# ------------------------------------------------------------------------------- the step


def make_step(s: Setting) -> tuple[nn.Module, TrainStep]:
    """Return an untrained model and our training step of it."""
    torch.manual_seed(0)
    config = resolve(TrainConfig(data="-", arch=s.arch, size=s.size_px, fast=s.fast))
    how = s.plan or Plan(s.batch_size, s.batch_size)
    config = replace(how.applied_to(config), compile="on" if s.compile else "off", ema=0.0)
    model = setup.untrained(config, s.num_classes, s.device)
    made = setup.prepare(model, config, Compute(s.device, s.amp, s.threads))
    return made.model, made.step


def make_plain_step(s: Setting, amp: bool = False) -> baseline.PlainStep:
    """Return torchvision's training step of the same model."""
    torch.manual_seed(0)
    model = factory.build(s.arch, s.num_classes, s.size_px).to(s.device)
    return baseline.PlainStep(model, s.device, amp)


def train_flops_per_image(s: Setting) -> float:
    """Return the floating-point operations of a training step, per image (PyTorch's counter)."""
    model = factory.build(s.arch, s.num_classes, s.size_px).train()
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


def targets(s: Setting) -> torch.Tensor:
    """Return random labels of the images, on the device."""
    rng = torch.Generator().manual_seed(0)
    shape = (len(s.paths), s.num_classes)
    return (torch.rand(shape, generator=rng) < 0.1).float().to(s.device)


def timed_step(step: Callable[[], object], s: Setting) -> float:
    """Return images per second of a step that is made again and again for a while."""
    _wait_for(s.device)
    start_s, num_steps = time.perf_counter(), 0
    while num_steps < 3 or time.perf_counter() - start_s < _SECONDS[s.device.type]:
        for _ in range(10 if s.device.type == "cuda" else 1):
            step()
            num_steps += 1
        _wait_for(s.device)
    return num_steps * s.batch_size / (time.perf_counter() - start_s)


def step_way(s: Setting) -> Way:
    """Return our step on one batch that is already on the device."""
    _, step = make_step(s)
    shape = (s.batch_size, s.size_px, s.size_px, 3)
    images_NHWC = torch.randint(0, 256, shape, dtype=torch.uint8, device=s.device)
    targets_NC = targets(s)[: s.batch_size]
    for _ in range(5):
        step(images_NHWC, targets_NC)  # warm: a CUDA graph is captured at the fourth
    return Way("step", OURS, lambda: timed_step(lambda: step(images_NHWC, targets_NC), s))


def usual_step_way(s: Setting, amp: bool = False) -> Way:
    """Return torchvision's step on one batch that is already on the device."""
    step = make_plain_step(s, amp)
    images_NCHW = torch.randn(s.batch_size, 3, s.size_px, s.size_px, device=s.device)
    targets_NC = targets(s)[: s.batch_size]
    name = f"torchvision, {'AMP' if amp else 'fp32'}"
    return Way("step", name, lambda: timed_step(lambda: step(images_NCHW, targets_NC), s))


# ------------------------------------------------------------------- training, evaluation


def _trained_through(
    batches: Iterator[Any], make: Callable[[Any], int], s: Setting, num_steps: int
) -> tuple[float, float]:
    """Return images per second of training on batches, and the share of time spent waiting."""
    _wait_for(s.device)
    start_s, waited_s, num_images = time.perf_counter(), 0.0, 0
    for _ in range(num_steps):
        asked_s = time.perf_counter()
        batch = next(batches)
        waited_s += time.perf_counter() - asked_s
        num_images += make(batch)
    _wait_for(s.device)
    seconds = time.perf_counter() - start_s
    return num_images / seconds, waited_s / seconds


def _without_end(epochs: Iterator[Iterator[Any]]) -> Iterator[Any]:
    for epoch in epochs:
        yield from epoch


def train_way(s: Setting, num_steps: int | None = None) -> Way:
    """Return real training: our input and our step together, epoch after epoch."""
    batches = _without_end(_epochs(make_loader(s, "auto"), s))
    _, step = make_step(s)
    targets_NC = targets(s)
    num_steps = num_steps or _TRAIN_STEPS[s.device.type]
    waited: list[float] = []

    def make(batch: batching.Batch) -> int:
        step(batch.images_NHWC, targets_NC[batch.rows_N])
        return len(batch.rows_N)

    def run() -> float:
        images_per_s, share = _trained_through(batches, make, s, num_steps)
        waited.append(share)
        return images_per_s

    return Way("train", OURS, run, {"waiting_share": waited})


def usual_train_way(s: Setting, amp: bool = False) -> Way:
    """Return real training in torchvision's way."""
    images = baseline.loader(
        [s.paths[row] for row in s.rows],
        s.size_px,
        batch_size=s.batch_size,
        workers=s.threads,
        backend="pil",
        device=s.device,
    )
    batches = _without_end(baseline.batches_on(s.device, images) for _ in iter(int, 1))
    step = make_plain_step(s, amp)
    targets_NC = targets(s)
    waited: list[float] = []

    def make(batch: tuple[torch.Tensor, torch.Tensor]) -> int:
        images_NCHW, rows_N = batch
        step(images_NCHW, targets_NC[rows_N])
        return len(rows_N)

    def run() -> float:
        images_per_s, share = _trained_through(batches, make, s, _TRAIN_STEPS[s.device.type])
        waited.append(share)
        return images_per_s

    return Way("train", f"torchvision, {'AMP' if amp else 'fp32'}", run, {"waiting_share": waited})


def evaluation_way(s: Setting, num_images: int) -> Way:
    """Return predicting images: decoding, and the model's forward pass."""
    model, _ = make_step(s)
    loader = make_loader(s, "off")
    rows = s.rows[:num_images]

    def run() -> float:
        start_s = time.perf_counter()
        forward.outputs(
            forward.logits_of(model, Compute(s.device, s.amp, s.threads)),
            loader,
            rows,
            micro_batch_size=s.plan and s.plan.micro_batch_size,
        )
        return len(rows) / (time.perf_counter() - start_s)

    return Way("evaluation", OURS, run)


def usual_evaluation_way(s: Setting, num_images: int, amp: bool = False) -> Way:
    """Return predicting images in torchvision's way."""
    torch.manual_seed(0)
    model = factory.build(s.arch, s.num_classes, s.size_px).to(s.device).eval()
    images = baseline.loader(
        [s.paths[row] for row in s.rows[:num_images]],
        s.size_px,
        batch_size=s.batch_size,
        workers=s.threads,
        backend="pil",
        device=s.device,
        augment=False,
    )

    def run() -> float:
        start_s, logits = time.perf_counter(), []
        with torch.inference_mode(), torch.autocast(s.device.type, torch.float16, enabled=amp):
            for images_NCHW, _ in baseline.batches_on(s.device, images):
                logits.append(model(images_NCHW).float())
        num_images = len(torch.cat(logits).cpu())
        return num_images / (time.perf_counter() - start_s)

    return Way("evaluation", f"torchvision, {'AMP' if amp else 'fp32'}", run)


# ------------------------------------------------------------------------ the whole of it


@dataclass(frozen=True)
class Report:
    """What ``grigri-fast bench`` has measured.

    Attributes:
        setting: what was measured.
        results: of every way.
        memory: peak bytes, see :func:`peak_memory`.
        train_flops: floating-point operations of a training step per image.
        bound: what bounds the speed, in words.
    """

    setting: Setting
    results: list[Measured]
    memory: dict[str, int]
    train_flops: float
    bound: str

    def pairs(self) -> list[tuple[Measured, Measured | None]]:
        """Return each of our results with the usual way's, where there is one."""
        ours = [m for m in self.results if m.name.startswith(OURS)]
        others = [m for m in self.results if m.name.startswith("torchvision")]
        return [(m, _best([o for o in others if o.what == m.what])) for m in ours]

    def to_json(self) -> dict[str, Any]:
        """Return every figure, raw."""
        s = self.setting
        return {
            "images": len(s.rows),
            **{k: getattr(s, k) for k in ("arch", "size_px", "batch_size", "amp", "threads")},
            **{k: getattr(s, k) for k in ("fast", "compile", "num_classes")},
            "device": str(s.device),
            "train_flops_per_image": self.train_flops,
            "peak_flops_per_s": peak_flops_per_s(s.device),
            "peak_memory_bytes": self.memory,
            "results": [
                {"what": m.what, "name": m.name, "images_per_s": m.images_per_s, **m.notes}
                for m in self.results
            ],
            "plan": s.plan and asdict(s.plan),
            "bound": self.bound,
        }


def measure(
    s: Setting,
    whats: Sequence[What],
    *,
    against: bool,
    repeats: int,
    budget: Budget,
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure what ``grigri-fast bench`` shows, with ``against`` also torchvision's usual way."""
    on_gpu = s.device.type == "cuda"
    ways: list[Way] = []
    if "pipeline" in whats:
        ways += input_ways(s)
        ways += [usual_input_way(s, "pil")] if against else []
    if "step" in whats:
        ways.append(step_way(s))
        ways += [usual_step_way(s, amp=on_gpu)] if against else []
    if "train" in whats:
        ways.append(train_way(s))
        ways += [usual_train_way(s, amp=on_gpu)] if against else []
    if "evaluation" in whats:
        num_images = 8 * s.batch_size
        ways.append(evaluation_way(s, num_images))
        ways += [usual_evaluation_way(s, num_images, amp=on_gpu)] if against else []
    results = in_turns(ways, repeats, on_turn)
    memory, flops = peak_memory(budget), train_flops_per_image(s)
    return Report(s, results, memory, flops, what_bounds(s, results))


def _best(results: list[Measured]) -> Measured | None:
    return max(results, key=lambda m: m.median, default=None)


# ------------------------------------------------------------------------------- in words


def fitted(s: Setting, budget: Budget, say: Callable[[str], None]) -> Setting:
    """Return the setting with the plan that a training run would have within a memory limit."""
    loader = make_loader(s, "off")
    forward.decode_the_largest(loader, s.found.sizes_HW, s.rows)
    config = TrainConfig(
        data="-", arch=s.arch, size=s.size_px, batch_size=s.batch_size, fast=s.fast
    )
    found = autobatch.plan_training(
        resolve(config),
        Compute(s.device, s.amp, s.threads),
        budget,
        num_images=len(s.rows),
        num_classes=s.num_classes,
        resumed=False,
        log=say,
    )
    loader.close()
    # The step is there twice, alone and in training; what it takes beside is not known apart.
    return replace(s, plan=found.plan, cache_bytes=found.to_spare // 2)


def peak_memory(budget: Budget) -> dict[str, int]:
    """Return the most memory in bytes that this process has taken until now."""
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    budget.sample()
    if budget.meter.device.type == "cuda":
        found["device_torch"] = torch.cuda.max_memory_reserved(budget.meter.device)
    if budget.meter.device.type == "cuda" or budget.limit is not None:
        found["limited"] = budget.peak
    return found


def what_bounds(s: Setting, results: Sequence[Measured]) -> str:
    """Return what the speed of training is bound by, and what would help, in a line."""
    step, train = named(results, "step", OURS), named(results, "train", OURS)
    cached = named(results, "pipeline", f"{OURS}, from the cache")
    if train is not None:
        waited = statistics.median(train.notes["waiting_share"])
        if waited > 0.05:
            return (
                f"Input bounds the speed: {waited:.0%} of the time is spent waiting for images."
                f" More --threads than {s.threads}, --cache ram or a smaller --size would help."
            )
    if step is None:
        return ""
    more = []
    if s.amp == "fp32" and compute.pick_amp("auto", s.device) != "fp32":
        more.append(f"--amp {compute.pick_amp('auto', s.device)}")
    if s.device.type == "cuda":
        more.append("a larger --batch-size")
    more += ["a smaller --size", "a lighter --arch"]
    spare = ""
    if cached is not None:
        spare = f" (input could feed {cached.median / step.median:.0f} times as much)"
    return f"The training step bounds the speed{spare}; what would help: {', '.join(more)}."
