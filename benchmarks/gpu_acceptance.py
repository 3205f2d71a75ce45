"""Everything that only a GPU can show, in one command, the most important first.

    python benchmarks/gpu_acceptance.py DATA --minutes 8 --out DIR

Each part is a process of its own with a time box; a part that fails or takes too long is recorded
as such, and the next one begins. DIR/result.json is written anew after each part, DIR/*.png are its
figures. Needs no network, no git and no installed entry point: PYTHONPATH and this tree. Without a
GPU it is a rehearsal with small sizes, which shows that the script works and nothing else.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
LIMIT = "4GiB"
GOAL_BYTES = int(2.5 * 2**30)  # for resnet34 at 224 px and batch 32 (issue 5)


@dataclass(frozen=True)
class Place:
    """What every part is given.

    Attributes:
        data: as ``train`` takes it.
        out: folder for figures.
        work: folder for whatever else is written.
        on_gpu: False for a rehearsal.
    """

    data: str
    out: Path
    work: Path
    on_gpu: bool

    def sized(self, real: Any, small: Any) -> Any:
        """Return a size: the real one, or that of a rehearsal."""
        return real if self.on_gpu else small

    def options(self, **more: Any) -> dict[str, Any]:
        """Return a config's fields for a training run from scratch."""
        small = {"size": 32, "batch_size": 4, "limit": 24, "epochs": 2, "threads": 1}
        real = {"size": 224, "batch_size": 32, "epochs": 2}
        return {
            "data": self.data,
            "weights": "none",
            "recipe": "report",
            "out": str(self.work),
            "compile": "off",
            **more,
            **self.sized({k: v for k, v in real.items() if k not in more}, small),
        }


# ------------------------------------------------------------------------------- the parts


def versions(place: Place) -> dict[str, Any]:
    """Versions and hardware."""
    import cv2
    import record
    import torch

    from grigri_fast.runtime import compute, memory

    device = compute.pick_device("auto")
    found = record.environment(device, compute.pick_amp("auto", device))
    found["opencv"] = cv2.__version__
    found["memory_measured"] = memory.Meter(device).how
    if place.on_gpu:
        found["capability"] = torch.cuda.get_device_capability(device)
        found["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return found


def tests(place: Place) -> dict[str, Any]:
    """The tests in tests/gpu."""
    words = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    require(done.returncode == 0, "tests have failed")
    return {"summary": done.stdout.strip().splitlines()[-1]}


def decoding(place: Place) -> dict[str, Any]:
    """Decoding on the GPU, while it is busy, beside that on the CPU (pytorch/vision 9606)."""
    import numpy as np
    import torch

    from grigri_fast.config import MAX_PIXELS
    from grigri_fast.pipeline import check
    from grigri_fast.pipeline import loader as pipeline
    from grigri_fast.runtime import compute

    device = compute.pick_device("auto")
    data = load(place)
    paths = data.paths[: place.sized(3000, 40)]
    found = check.check_images(paths, threads=compute.usable_threads(), max_pixels=MAX_PIXELS)
    rows = np.flatnonzero(found.crc32_N >= 0)

    def loader(where: torch.device) -> pipeline.ImageLoader:
        # The files' own size: the map is the identity, so that decoding alone is compared.
        return pipeline.ImageLoader(
            paths, found, size_px=128, batch_size=32, device=where, threads=4
        )

    reference = np.concatenate(
        [b.images_NHWC for b in loader(torch.device("cpu")).eval_epoch(rows)]
    )
    busy = torch.randn((2048, 2048), device=device)
    on_device, worst, total, num = loader(device), 0, 0.0, 0
    off: list[str] = []
    for _ in range(place.sized(5, 1)):
        first = 0
        for batch in on_device.eval_epoch(rows):
            for _ in range(place.sized(20, 1)):
                busy = torch.tanh(busy @ busy)
            images = batch.images_NHWC.cpu().numpy().astype(np.int16)
            apart = np.abs(images - reference[first : first + len(images)])
            worst, total, num = max(worst, int(apart.max())), total + apart.mean(), num + 1
            bad = np.flatnonzero(apart.mean((1, 2, 3)) > 4)
            off += [data.names[rows[first + i]] for i in bad]
            first += len(images)
    require(not off, f"{len(off)} images are decoded otherwise: {off[:5]}")
    return {"images": len(rows), "mean_difference": total / num, "worst_difference": worst}


def memory_of(arch: str) -> Callable[[Place], dict[str, Any]]:
    """Return the part that trains an architecture within four gigabytes."""

    def part(place: Place) -> dict[str, Any]:
        from grigri_fast import config as configs
        from grigri_fast.profiling import profiler

        limit = place.sized(2000, 24)
        options = place.options(arch=arch, memory_limit=LIMIT, limit=limit, name=f"memory-{arch}")
        result, environment, summary = trained(options)
        config = configs.read_toml(result.folder / "config.toml")
        plan = environment["memory"]["plan"]
        # The run's config has the plan.
        estimated = profiler.estimate_step(
            configs.resolve(configs.TrainConfig(**config)), 14, config["amp"]
        )
        peak = summary["peak_memory_bytes"]
        found = {
            "peak_bytes": peak,
            **environment["memory"],
            "estimated_bytes": max(estimated.training.total, estimated.evaluation.total),
            "images_per_s": [row["images_per_s"] for row in result.history],
        }
        print(f"{arch}: peak {peak / 2**30:.2f} GiB, {plan}")
        require(peak <= found["limit_bytes"], f"{peak:,} bytes are above {LIMIT}")
        if arch == "resnet34" and place.on_gpu:
            found["goal_bytes"], found["goal_met"] = GOAL_BYTES, peak <= GOAL_BYTES
        return found

    part.__doc__ = f"{arch} at 224 px and batch 32 within {LIMIT}, the peak at device level."
    return part


def profile(place: Place) -> dict[str, Any]:
    """Where memory and time of a training step of resnet34 at 224 px go."""
    from grigri_fast.config import TrainConfig, resolve
    from grigri_fast.profiling import profiler
    from grigri_fast.profiling.setting import Setting
    from grigri_fast.reporting import plots
    from grigri_fast.runtime.compute import Compute

    options = place.options(arch="resnet34")
    size_px, batch_size = options["size"], options["batch_size"]
    config = resolve(TrainConfig(arch="resnet34", size=size_px, batch_size=batch_size))
    compute = Compute.resolve()
    with compute.open() as budget:
        s = Setting.of(load(place).paths[: place.sized(1024, 24)], config, compute)
        usage = profiler.measure_step(s, budget, place.work, snapshot=place.on_gpu)
    timeline = usage.training.timeline
    title = f"resnet34, batch {batch_size}, {compute.amp}"
    png = plots.memory(timeline.series, timeline.phases, title)
    (place.out / "memory.png").write_bytes(png)
    estimated = profiler.estimate_step(config, s.num_classes, compute.amp)
    return {**usage.to_json(), "estimate": estimated.to_json()}


def curves(place: Place) -> dict[str, Any]:
    """Loss curves of number formats, and of CUDA graphs beside eager steps."""
    ways = {"fp32, --no-fast": ("fp32", False), "fp32": ("fp32", True), "bf16": ("bf16", True)}
    if place.on_gpu:
        ways["fp16"] = ("fp16", True)
        ways["bf16, --no-fast"] = ("bf16", False)
    found = {}
    for name, (amp, fast) in ways.items():
        options = place.options(
            arch="resnet18", size=96, epochs=3, limit=3000, amp=amp, fast=fast, name="curves"
        )
        result, _, _ = trained(options)
        found[name] = [row["train_loss"] for row in result.history]
        print(f"{name:16}", "  ".join(f"{loss:.4f}" for loss in found[name]))
    plain = found["fp32, --no-fast"]
    apart = {
        name: max(abs(a / b - 1) for a, b in zip(losses, plain, strict=True))
        for name, losses in found.items()
    }
    for name, share in apart.items() if place.on_gpu else ():  # too few images for a rehearsal
        require(share < (0.02 if name == "fp32" else 0.05), f"{name} is {share:.1%} off")
    return {"train_loss": found, "largest_difference": apart}


def script(name: str, *words: str, small: list[str]) -> Callable[[Place], dict[str, Any]]:
    """Return the part that runs another benchmark."""

    def part(place: Place) -> dict[str, Any]:
        file = place.work / f"{name}.json"
        command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
        if name != "bench_step":
            command.append(place.data)
        # Threads of several processes would wait for each other, where tests run side by side.
        command += words if place.on_gpu else [*small, "--threads=1"]
        command += ["--out", str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout[-8000:], done.stderr[-3000:])
        require(done.returncode == 0, f"{name} has ended with {done.returncode}")
        return json.loads(file.read_text())

    part.__doc__ = f"benchmarks/{name}.py."
    return part


def full(place: Place) -> dict[str, Any]:
    """A whole training of twenty epochs, with its score."""
    options = place.options(arch="resnet34", epochs=20, lr=0.05, name="full")
    started_s = time.perf_counter()
    result, _, summary = trained(options)
    return {
        "options": {k: v for k, v in options.items() if k not in ("data", "out")},
        "seconds": time.perf_counter() - started_s,
        "train_s": result.train_s,
        "history": result.history,
        "validation": summary["validation"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }


def stopping(place: Place) -> dict[str, Any]:
    """SIGTERM while it trains, and --resume."""
    options = place.options(arch="resnet18", size=96, epochs=3, limit=3000, name="stopped")
    flags = [place.data]
    for name, value in options.items():
        if name != "data" and value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    command = [sys.executable, "-m", "grigri_fast", "train"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    first = subprocess.Popen(
        [*command, *flags],
        cwd=place.work,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = []
    for line in first.stdout:
        said.append(line)
        if line.lstrip().startswith("1/"):  # an epoch is done
            first.send_signal(signal.SIGTERM)
    first.wait()
    print("".join(said))
    require(first.returncode == 143, f"it ended with {first.returncode}, not 143")
    folder = place.work / "stopped"
    words = [*command, "--resume", str(folder)]
    done = subprocess.run(words, cwd=place.work, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    require(done.returncode == 0, f"the resumed run ended with {done.returncode}")
    summary = json.loads((folder / "summary.json").read_text())
    require(summary["epochs"] == options["epochs"], "epochs are missing")
    return {"last": summary["last"]}


def flat(place: Place) -> dict[str, Any]:
    """Memory over 2,000 steps, of the host and of the device."""
    import bench_long

    from grigri_fast.config import TrainConfig
    from grigri_fast.profiling import benchmark
    from grigri_fast.profiling.setting import Setting
    from grigri_fast.runtime.compute import Compute

    config = TrainConfig(arch="resnet18", size=place.sized(128, 32), batch_size=place.sized(32, 4))
    compute = Compute.resolve()
    with compute.open() as budget:
        s = Setting.of(load(place).paths[: place.sized(3200, 24)], config, compute)
        case = benchmark.train_case(s, num_steps=place.sized(100, 2))
        seen = []
        for _ in range(20):
            case.run()
            seen.append({"host_mib": bench_long.resident_mib(), "device_bytes": budget.sample()})
    half = len(seen) // 2
    for name in ("host_mib", "device_bytes"):
        grown = seen[-1][name] / seen[half][name] - 1
        print(f"{name}: {seen[half][name]:,.0f} to {seen[-1][name]:,.0f}, {grown:+.2%}")
        if place.on_gpu:
            require(grown < 0.02, f"{name} has grown by {grown:.1%} over the second half")
    return {"every_100_steps": seen}


# Name, what to do, and the most seconds of eight minutes that it may take.
PARTS: list[tuple[str, Callable[[Place], dict[str, Any]], int]] = [
    ("versions", versions, 30),
    ("tests", tests, 120),
    ("decoding", decoding, 45),
    ("memory_resnet34", memory_of("resnet34"), 60),
    ("memory_wide_resnet50_2", memory_of("wide_resnet50_2"), 60),
    ("memory_resnet50", memory_of("resnet50"), 60),
    ("profile", profile, 45),
    ("curves", curves, 60),
    ("step", script("bench_step", small=["--models", "resnet18:32", "--repeats=1"]), 100),
    (
        "train",
        script(
            "bench_train",
            *("--arch", "resnet34", "--size", "224", "--repeats", "3"),
            small=["--size=32", "--limit=80", "--repeats=1"],
        ),
        75,
    ),
    (
        "input",
        script(
            "bench_input",
            *("--repeats", "3", "--threads", "8"),
            small=["--sizes=32", "--images=80", "--repeats=1"],
        ),
        75,
    ),
    ("full", full, 120),
    ("stopping", stopping, 60),
    ("flat", flat, 60),
]


# -------------------------------------------------------------------------------- helpers


def require(holds: bool, text: str) -> None:
    """Let the part fail unless something holds; an assert could be optimised away."""
    if not holds:
        raise SystemExit(f"FAILED: {text}")


def load(place: Place) -> Any:
    """Return the data set."""
    from grigri_fast.data import dataset

    return dataset.load(place.data)


def trained(options: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Train; return the result, environment.json and summary.json."""
    from bench_train import Rows

    from grigri_fast.config import TrainConfig
    from grigri_fast.training.trainer import run

    result = run(TrainConfig(**options), Rows())
    read = [
        json.loads((result.folder / f"{n}.json").read_text()) for n in ("environment", "summary")
    ]
    return result, *read


def usable_data(data: Path, work: Path) -> Path:
    """Return DATA, or a folder with those of its labels whose images are here.

    A part of the images may have been carried to the machine, with the labels of all.
    """
    names = {path.name for path in (data / "images").glob("im*")}
    lines = {file.name: file.read_text().split() for file in (data / "annotations").glob("*.txt")}
    here = {name: [n for n in numbers if f"im{n}.jpg" in names] for name, numbers in lines.items()}
    if here == lines:
        return data
    (work / "data" / "annotations").mkdir(parents=True)
    (work / "data" / "images").symlink_to(data / "images")
    for name, numbers in here.items():
        (work / "data" / "annotations" / name).write_text("".join(f"{n}\n" for n in numbers))
    return work / "data"


def run_part(name: str, place: Place, seconds: float) -> dict[str, Any]:
    """Run a part in a process of its own, which is killed when its time is over."""
    file = place.work / f"part-{name}.json"
    words = [sys.executable, __file__, place.data, "--out", str(place.out), "--part", name]
    words += ["--work", str(place.work)]
    log = place.work / f"part-{name}.log"
    started_s = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            words, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
            status = "ok" if code == 0 and file.exists() else f"failed (exit code {code})"
        except subprocess.TimeoutExpired:
            status = f"took more than its {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = {"status": status, "seconds": round(time.perf_counter() - started_s, 1)}
    found["output"] = log.read_text(errors="replace")[-6000:]
    if status == "ok":
        found["found"] = json.loads(file.read_text())
    return found


def main() -> None:
    """Run all parts, or in a child process one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[name for name, _, _ in PARTS])
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()

    import torch

    on_gpu = torch.cuda.is_available()
    if options.part:
        place = Place(str(options.data), options.out, options.work, on_gpu)
        if not on_gpu:
            torch.set_num_threads(1)
        work = next(work for name, work, _ in PARTS if name == options.part)
        found = work(place)
        (options.work / f"part-{options.part}.json").write_text(json.dumps(found, default=str))
        return

    end_s = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"is_rehearsal": not on_gpu, "minutes": options.minutes, "parts": {}}
    with tempfile.TemporaryDirectory() as work:
        data = usable_data(options.data.resolve(), Path(work))
        place = Place(str(data), options.out.resolve(), Path(work), on_gpu)
        for name, part, box_s in PARTS:
            if options.only and name not in options.only:
                continue
            left_s = end_s - time.monotonic()
            seconds = min(box_s * options.minutes / 8, left_s)
            found = {"status": "no time was left"}
            if seconds > 5:
                found = run_part(name, place, seconds)
            result["parts"][name] = {"what": part.__doc__.splitlines()[0], **found}
            text = json.dumps(result, indent=1).replace(work, "WORK")
            new = options.out / "result.json.new"
            new.write_text(text + "\n")
            new.replace(options.out / "result.json")
            print(f"{name:24} {found.get('seconds', 0):6.1f} s  {found['status']}", flush=True)
            if found["status"].startswith("failed"):
                print("    " + found["output"].strip().replace("\n", "\n    ")[-1500:], flush=True)
    if any(part["status"] != "ok" for part in result["parts"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
