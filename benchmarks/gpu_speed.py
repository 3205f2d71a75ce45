"""Stage 2: is it fast? See gpu_plan.py.

All that is compared is warmed up and then run in turns. An epoch is one of 12,800 images (with
fewer photographs, of links to them), from the call that begins it until the device is done: the
first batch is waited for, as in training.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_peers
import gpu_photographs
import gpu_trainings
import numpy as np
import record
import torch
from gpu_record import Place

from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset
from grigri_fast.profiling import benchmark, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case
from grigri_fast.runtime.compute import Compute

Put = Callable[[str, Any], None]
_REPEATS = 3
_MOST_AT_ONCE = 1024  # images of the largest batch that is tried


def setting(
    place: Place, arch: str, paths: Sequence[Path] | None = None, batch_size: int = 32
) -> Setting:
    """Return what is measured: a network at 224 px on some photographs."""
    if place.is_rehearsal:
        timing._SECONDS.update(cpu=0.0, cuda=0.0)
        arch, batch_size = {"resnet34": "resnet18"}.get(arch, arch), 4
    paths = paths or gpu_photographs.many(place, place.sized(12_800, 12))
    config = TrainConfig(arch=arch, size=place.sized(224, 32), batch_size=batch_size)
    config = dataclasses.replace(config, weights="none", recipe="report")
    compute = Compute.resolve(amp=place.sized("auto", "fp32"), threads=place.sized(None, 1))
    return Setting.of(paths, config, compute)


# ------------------------------------------------------------------------------ the parts


def products(place: Place, put: Put) -> None:
    """Put what products of two square matrices reach, timed by CUDA events."""
    device = Compute.resolve().device
    put("tf32", gpu_checks.tf32())
    put("data_sheet_flops_per_s", benchmark.peak_flops_per_s(device))
    found: dict[str, dict[str, float]] = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for side in place.sized((2048, 4096, 8192, 16384), (64, 128)):
            flops_per_s = product_flops_per_s(device, dtype, side, place.sized(10, 1))
            found.setdefault(name, {})[str(side)] = flops_per_s / 1e12
            put("tflops", found)
    put("best_bf16_flops_per_s", 1e12 * max(found["bfloat16"].values()))


def product_flops_per_s(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
    """Return the median over some runs of ten products each."""
    a = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    seconds = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(10):
                torch.mm(a, a, out=out)
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e4)
        else:
            start_s = time.perf_counter()
            torch.mm(a, a, out=out)
            seconds.append(time.perf_counter() - start_s)
    return 2 * side**3 / statistics.median(seconds[1:])  # the first one warms up


def speed_resnet34(place: Place, put: Put) -> None:
    """Measure resnet34 at batch 32."""
    measure(place, setting(place, "resnet34"), put)


def speed_resnet18(place: Place, put: Put) -> None:
    """Measure resnet18 at batch 32."""
    measure(place, setting(place, "resnet18"), put)


def speed_large(place: Place, put: Put) -> None:
    """Measure resnet34 at batch 32 on originals of 12 Mpx."""
    table, _ = gpu_photographs.large(place)
    paths = dataset.load(table).paths[: place.sized(640, 12)]
    measure(place, setting(place, "resnet34", paths), put)


def best_resnet34(place: Place, put: Put) -> None:
    """Measure resnet34 at its best batch."""
    _best(place, "resnet34", put)


def best_resnet18(place: Place, put: Put) -> None:
    """Measure resnet18 at its best batch."""
    _best(place, "resnet18", put)


def train_resnet34(place: Place, put: Put) -> None:
    """Let ``train`` itself run for three epochs, and put its speed in the fastest of the last two.

    The first one decodes, and captures the CUDA graph; from then on images come from the cache.
    """
    step = benchmark.step_case(setting(place, "resnet34"))
    speeds = [step.run(), step.run()][1:]
    table = gpu_photographs.many_with_labels(place, place.sized(12_800, 60))
    options = gpu_trainings.options(place, data=str(table), arch="resnet34", epochs=3, name="speed")
    result = gpu_trainings.trained(options)
    speeds.append(step.run())
    put("step_images_per_s", speeds)
    trained = [row["images_per_s"] for row in result.history]
    put("train_images_per_s", trained)
    put("train_to_step", max(trained[-2:]) / statistics.median(speeds))


def peers_resnet34(place: Place, put: Put) -> None:
    """Measure resnet34 beside torchvision and timm."""
    _beside_peers(place, "resnet34", put)


def peers_resnet18(place: Place, put: Put) -> None:
    """Measure resnet18 beside torchvision and timm."""
    _beside_peers(place, "resnet18", put)


# ------------------------------------------------------------------------------- measuring


def measure(place: Place, s: Setting, put: Put) -> float:
    """Put the speeds of input alone, of the step alone, and of both.

    Both: decoding every image in every epoch (``--cache off``), and from the cache that a training
    has by default, which the warm-up has filled. Returns the step's images per second.
    """
    loaders = [s.loader(cache) for cache in ("off", "off", "auto")]
    alone, decoded, cached = loaders
    try:
        step = benchmark.step_case(s)
        cases = [
            step,
            Case("pipeline", benchmark.OURS, "input", _epochs_of(s, alone, None)),
            _training(s, decoded, "decoding"),
            _training(s, cached, "cached"),
        ]

        def after_each() -> None:
            put("step_images_per_s", step.median)
            put("input_images_per_s", cases[1].median)
            put("end_to_end_images_per_s", cases[2].median)
            for figure, case in (("end_to_end", cases[2]), ("cached", cases[3])):
                median, *limits = timing.ratio(case, step)
                put(f"{figure}_to_step", median)
                put(f"{figure}_to_step_range", limits)
            put("results", record.raw(cases))

        _in_turns(cases, place.sized(_REPEATS, 1), after_each)
        print(record.table(cases, step), flush=True)
        return step.median
    finally:
        for loader in loaders:
            loader.close()


def _best(place: Place, arch: str, put: Put) -> None:
    """Find the batch with which our step is fastest, and measure that."""
    s = setting(place, arch)
    speeds: dict[int, float] = {}
    batch_size = s.batch_size
    while batch_size <= min(_MOST_AT_ONCE, len(s.rows) // 2):
        try:
            case = benchmark.step_case(s.changed(batch_size=batch_size))
            case.run()
            speeds[batch_size] = case.run()
        except torch.OutOfMemoryError:
            break
        finally:
            case = None
            timing.wait_for(s.device)
            if s.device.type == "cuda":
                torch.cuda.empty_cache()
        put("images_per_s_at_batch", speeds)
        if place.is_rehearsal or speeds[batch_size] < max(speeds.values()):
            break
        batch_size *= 2
    best = max(speeds, key=lambda batch_size: speeds[batch_size])
    put("best_batch", best)
    flops = benchmark.train_flops_per_image(s)
    put("flops_per_image", flops)
    product = product_flops_per_s(
        s.device, torch.bfloat16, place.sized(8192, 64), place.sized(10, 1)
    )
    peak = benchmark.peak_flops_per_s(s.device) or product

    def put_share(images_per_s: float) -> None:
        put("mfu", images_per_s * flops / peak)
        put("mfu_of_product", images_per_s * flops / product)

    put_share(speeds[best])  # once; the median of several below
    s = s.changed(batch_size=best)
    put_share(measure(place, s, put))
    peers = [
        make(s, with_input=False) for make in (gpu_peers.torchvision_peer, gpu_peers.timm_peer)
    ]
    found: dict[str, float] = {}
    for peer in peers:
        case = gpu_peers.step_case(peer, s)
        case.run()
        found[peer.name] = case.run()
        put("peers_step_images_per_s", found)


def _beside_peers(place: Place, arch: str, put: Put) -> None:
    """Put our speeds beside torchvision's and timm's, of the step and end to end."""
    s = setting(place, arch)
    makers = {"torchvision": gpu_peers.torchvision_peer, "timm": gpu_peers.timm_peer}
    peers = {name: _kept(name, make, s) for name, make in makers.items()}
    loader = s.loader("off")
    try:
        ours = [benchmark.step_case(s), _training(s, loader, "decoding")]
        theirs = {
            name: [gpu_peers.step_case(peer, s), gpu_peers.train_case(peer, s)]
            for name, peer in peers.items()
        }
        cases = [*ours, *(case for pair in theirs.values() for case in pair)]

        def after_each() -> None:
            for name, (step, train) in theirs.items():
                put(f"step_to_{name}", timing.ratio(ours[0], step))
                put(f"ours_to_{name}", timing.ratio(ours[1], train))
            put("results", record.raw(cases))

        _in_turns(cases, place.sized(_REPEATS, 1), after_each)
        print(record.table(cases, ours[1]), flush=True)
    finally:
        loader.close()


_peers: dict[str, gpu_peers.Peer] = {}


def _kept(name: str, make: Callable[[Setting], gpu_peers.Peer], s: Setting) -> gpu_peers.Peer:
    """Return a peer with its loader, whose worker processes take long to start: once for all."""
    if name not in _peers:
        _peers[name] = make(s)
    return _peers[name]


def _in_turns(cases: Sequence[Case], repeats: int, after_each: Callable[[], None]) -> None:
    """Warm all cases up and run them in turns; figures are put after each turn."""
    for case in cases:
        case.run()
        for values in case.notes.values():
            values.clear()
    for _ in range(repeats):
        for case in cases:
            case.images_per_s.append(case.run())
        after_each()


def _training(s: Setting, loader: Any, how: str) -> Case:
    """Return the case of training for an epoch: our input and our step."""
    _, step = benchmark.make_step(s)
    return Case("train", benchmark.OURS, how, _epochs_of(s, loader, step))


def _epochs_of(s: Setting, loader: Any, step: Callable[..., object] | None) -> Callable[[], float]:
    """Return what goes through the next epoch, with a step on each batch, and gives its speed."""
    targets_NC, epochs = s.targets(), iter(range(1, 10**9))
    num_whole = len(s.rows) // s.batch_size * s.batch_size
    rows = s.rows[:num_whole].astype(np.intp)  # the last batch is whole, as for the others

    def run() -> float:
        timing.wait_for(s.device)
        start_s, num_images = time.perf_counter(), 0
        for batch in loader.train_epoch(rows, seed=0, epoch=next(epochs), augment=True):
            num_images += len(batch.rows_N)
            if step is not None:
                step(batch.images_NHWC, targets_NC[batch.rows_N])
        timing.wait_for(s.device)
        return num_images / (time.perf_counter() - start_s)

    return run
