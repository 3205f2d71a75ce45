"""(j) What do depthwise convolutions cost in a training step in bf16 on a CPU?

    python benchmarks/bench_depthwise.py [--batch-size 32] [--repeats 5] [--threads N]
        [--arch timm/NAME] [--size 224] [--out result.json]

Two things, each with PyTorch's gradients and with those of ``models.depthwise``, interleaved:
milliseconds of the forward pass and of both gradients of single layers of EfficientNet-Lite; and
images per second of a whole forward and backward pass of a network with random weights. Beside
them images per second of evaluation, with norms and with norms folded (``models.fold``).
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch

from grigri_fast.models import factory, fold
from grigri_fast.models.depthwise import FastGradients
from grigri_fast.runtime import compute
from grigri_fast.runtime.cpu_share import usable_cpus

CPU = torch.device("cpu")
# Channels, side of the input, kernel, stride: layers of EfficientNet-Lite2 at 260 px.
LAYERS = [
    *((144, 65, 3, 1), (288, 33, 3, 2), (144, 65, 5, 2), (288, 33, 5, 1)),
    *((720, 17, 5, 1), (720, 17, 5, 2), (1248, 9, 5, 1), (1248, 9, 3, 1)),
]
WAYS: dict[str, Callable[[], Any]] = {
    "PyTorch's": contextlib.nullcontext,
    "ours": FastGradients,
}


def seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def measure_layer(
    channels: int, side: int, kernel: int, stride: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    """Return milliseconds of a layer: ``forward``, and ``backward`` by each way."""
    layer = torch.nn.Conv2d(
        channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
    ).to(memory_format=torch.channels_last)
    images_NCHW = torch.randn(batch_size, channels, side, side).to(
        torch.bfloat16, memory_format=torch.channels_last
    )
    images_NCHW.requires_grad_()
    times_ms: dict[str, list[float]] = {"forward": [], **{way: [] for way in WAYS}}
    for repeat in range(repeats + 1):  # the first one warms up
        for way, context in WAYS.items():
            with context(), torch.autocast("cpu", torch.bfloat16):
                start_s = time.perf_counter()
                output = layer(images_NCHW)
                forward_ms = 1e3 * (time.perf_counter() - start_s)
            gradient = torch.ones_like(output)
            backward_ms = 1e3 * seconds(lambda o=output, g=gradient: o.backward(g))
            if repeat:
                times_ms[way].append(backward_ms)
                times_ms["forward"].append(forward_ms)
    return {
        "layer": f"{kernel}x{kernel}, stride {stride}, {channels} channels, {side} px",
        "milliseconds": times_ms,
    }


def measure_network(arch: str, size_px: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Return images per second of forward and backward passes by each way."""
    model = factory.build(arch, 14, size_px).to(memory_format=torch.channels_last).train()
    images_NCHW = torch.randn(batch_size, 3, size_px, size_px).to(memory_format=torch.channels_last)

    def step(context: Callable[[], Any]) -> None:
        with context(), torch.autocast("cpu", torch.bfloat16):
            logits_NC = model(images_NCHW)
        logits_NC.float().pow(2).sum().backward()

    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for repeat in range(repeats + 1):
        for way, context in WAYS.items():
            speed = batch_size / seconds(lambda c=context: step(c))
            if repeat:
                speeds[way].append(speed)
    return {"arch": arch, "size_px": size_px, "images_per_s": speeds}


def measure_forward(arch: str, size_px: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Return images per second of evaluation, with norms and with norms folded."""
    plain = factory.build(arch, 14, size_px).to(memory_format=torch.channels_last).eval()
    models = {"with norms": plain, "folded": fold.folded(plain, size_px)}
    images_NCHW = torch.randn(batch_size, 3, size_px, size_px).to(memory_format=torch.channels_last)
    speeds: dict[str, list[float]] = {way: [] for way in models}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for repeat in range(repeats + 1):
            for way, model in models.items():
                speed = 4 * batch_size / seconds(lambda m=model: [m(images_NCHW) for _ in range(4)])
                if repeat:
                    speeds[way].append(speed)
    return {"arch": arch, "size_px": size_px, "images_per_s": speeds}


def show(name: str, speeds: dict[str, list[float]]) -> None:
    """Print two medians, and the ratio within the repeats."""
    plain, ours = speeds.values()
    ratios = [b / a for a, b in zip(plain, ours, strict=True)]
    print(
        f"{name}: {statistics.median(plain):.1f} and {statistics.median(ours):.1f} img/s,"
        f" {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--arch", action="append")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or usable_cpus())
    compute.keep_freed_memory()
    about = record.environment(CPU, "bf16")
    layers = [measure_layer(*layer, args.batch_size, args.repeats) for layer in LAYERS]
    print("milliseconds, median: forward, backward by PyTorch, backward by ours")
    for layer in layers:
        medians = [statistics.median(ms) for ms in layer["milliseconds"].values()]
        print(f"{layer['layer']:42}" + "".join(f"{ms:9.1f}" for ms in medians))
    networks, forwards = [], []
    for arch in args.arch or ["timm/tf_efficientnet_lite0", "mobilenet_v3_large", "resnet18"]:
        network = measure_network(arch, args.size, args.batch_size, args.repeats)
        networks.append(network)
        show(f"{arch} at {args.size} px, training", network["images_per_s"])
        forward = measure_forward(arch, args.size, args.batch_size, args.repeats)
        forwards.append(forward)
        show(f"{arch} at {args.size} px, evaluation with norms and folded", forward["images_per_s"])
    record.write(
        args.out, {**about, "layers": layers, "networks": networks, "evaluation": forwards}
    )


if __name__ == "__main__":
    main()
