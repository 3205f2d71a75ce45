"""Stage 1: is it right, and does it fit the memory? See gpu_plan.py."""

import importlib.metadata
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import gpu_photographs
import gpu_trainings
import numpy as np
import record
import torch
from gpu_record import Place, SkippedError
from numpy.typing import NDArray

from grigri_fast.config import MAX_PIXELS
from grigri_fast.data import dataset
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.loader import ImageLoader
from grigri_fast.runtime import compute, memory
from grigri_fast.runtime.cpu_share import usable_cpus

ROOT = Path(__file__).resolve().parent.parent
LIMIT = "4GiB"
Put = Callable[[str, Any], None]


# ------------------------------------------------------------------------- versions and hardware


def versions(place: Place, put: Put) -> None:
    """Put versions, hardware, and what the data are."""
    device = compute.pick_device("auto")
    found = record.environment(device, compute.pick_amp("auto", device))
    del found["command"]  # a child's; that of the call is in the record
    found |= {"opencv": cv2.__version__, "memory_measured": memory.Meter(device).how}
    found["dali"] = _version("nvidia-dali-cuda130") or _version("nvidia-dali-cuda120")
    found["cudnn"] = torch.backends.cudnn.version()
    put("environment", found)
    on_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    put("capability", torch.cuda.get_device_capability(device) if on_gpu else [])
    put("memory_bytes", properties.total_memory if properties else 0)
    put("driver", _driver() if on_gpu else "none")
    put("tf32", tf32())
    data = gpu_photographs.load(place)
    put("data", {"hash": record.data_hash(data), "images": len(data), "classes": data.class_names})


def tf32() -> dict[str, Any]:
    """Return whether products and convolutions in fp32 may use TF32, as this process has it."""
    return {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "cudnn": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _driver() -> str:
    import pynvml

    pynvml.nvmlInit()
    version = pynvml.nvmlSystemGetDriverVersion()
    return version.decode() if isinstance(version, bytes) else version


# ---------------------------------------------------------------------------------- tests/gpu

_OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


def tests(place: Place, put: Put) -> None:
    """Run tests/gpu, and put after each test how many have passed, failed and were skipped.

    A machine may have neither of pytest's plug-ins that pyproject.toml has options for.
    """
    if not _version("pytest"):
        raise SkippedError("pytest is not installed here")
    words = [sys.executable, "-m", "pytest", "tests/gpu", "-v", "--tb=short", "--color=no"]
    words += ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]
    words += ["-p", "no:xdist"]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures: list[str] = []
    last = ""
    with subprocess.Popen(
        words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            last = line.strip() or last
            if (found := _OUTCOME.match(line)) is None:
                continue
            name, outcome = found.groups()
            is_bad = outcome in ("FAILED", "ERROR", "XPASS")
            counts["failed" if is_bad else outcome.lower().replace("xfail", "skipped")] += 1
            failures += [name] if is_bad else []
            put("failures", failures)
            for kind, number in counts.items():
                put(kind, number)
    put("summary", last)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {process.returncode}: {last}")


# -------------------------------------------------------------------------------- decoding


def decoding(place: Place, put: Put) -> None:
    """Compare decoding on the device with that on the CPU, while the device is busy.

    On H100s nvJPEG has returned corrupted pixels when buffers were used again under load
    (pytorch/vision 9606). Where the output has the files' own size, the map is the identity, and
    decoding alone is compared. What may differ: the inverse DCT and the interpolation of chroma are
    rounded, by a level at most (NVIDIA's own test, test_fancy_upsampling, allows that); the
    conversion to RGB adds up to 1.772 times the error of chroma to that of luma and rounds, which
    gives 3 levels. A corrupted block is off by dozens.

    Originals of 12 Mpx are compared at 224 px, through decoding, shrinking and warping.
    """
    data = gpu_photographs.load(place)
    paths = data.paths[: place.sized(3000, 12)]
    check = check_images(paths, threads=usable_cpus(), max_pixels=MAX_PIXELS)
    sizes, counts = np.unique(check.sizes_HW[check.crc32_N >= 0], axis=0, return_counts=True)
    squares = [s for s in np.argsort(counts)[::-1] if sizes[s][0] == sizes[s][1]]
    side = int(sizes[squares[0]][0]) if squares else 128
    of_size = (check.sizes_HW == side).all(1) if squares else np.ones(len(paths), dtype=bool)
    rows = np.flatnonzero((check.crc32_N >= 0) & of_size)
    put("images", len(rows))
    found = _Differences()
    for _ in range(place.sized(3, 1)):
        found.compare(paths, check, rows, side)
    put("mean_levels", found.sum_levels / found.num_values)
    put("worst_levels", int(np.flatnonzero(found.counts)[-1]))
    put("values_by_levels", {int(i): int(found.counts[i]) for i in np.flatnonzero(found.counts)})
    worst = sorted(found.by_row, key=lambda row: found.by_row[row])[::-1]
    put("worst_image_mean_levels", found.by_row[worst[0]])
    put("worst_images", {data.names[row]: found.by_row[row] for row in worst[:10]})

    table, seconds = gpu_photographs.large(place)
    put("seconds_to_generate", seconds)
    large = dataset.load(table).paths[: place.sized(64, 4)]
    check = check_images(large, threads=usable_cpus(), max_pixels=MAX_PIXELS)
    found = _Differences()
    found.compare(large, check, np.flatnonzero(check.crc32_N >= 0), place.sized(224, 32))
    put("large_mean_levels", found.sum_levels / found.num_values)
    put("large_worst_levels", int(np.flatnonzero(found.counts)[-1]))


class _Differences:
    """How far apart two loaders' images are, in levels: counts, their sum, means by row."""

    def __init__(self) -> None:
        self.counts = np.zeros(256, dtype=np.int64)
        self.by_row: dict[int, float] = {}

    @property
    def num_values(self) -> int:
        return int(self.counts.sum())

    @property
    def sum_levels(self) -> float:
        return float(self.counts @ np.arange(256))

    def compare(self, paths: list[Path], check: Any, rows: NDArray[np.intp], size_px: int) -> None:
        """Go through an epoch on the CPU and on the device, which multiplies matrices meanwhile."""
        device = compute.pick_device("auto")
        loaders = [
            ImageLoader(paths, check, size_px=size_px, batch_size=32, device=d, threads=4)
            for d in (torch.device("cpu"), device)
        ]
        busy = torch.randn((2048, 2048) if device.type == "cuda" else (64, 64), device=device)
        epochs = zip(*(loader.eval_epoch(rows) for loader in loaders), strict=True)
        for on_cpu, on_device in epochs:
            for _ in range(20):
                busy = torch.tanh(busy @ busy)
            if not torch.equal(on_cpu.rows_N, on_device.rows_N.cpu()):
                raise RuntimeError("the rows differ")
            pairs = (on_cpu.images_NHWC.numpy(), on_device.images_NHWC.cpu().numpy())
            apart_NHWC = np.abs(pairs[0].astype(np.int16) - pairs[1])
            self.counts += np.bincount(apart_NHWC.ravel(), minlength=256)
            for row, mean in zip(on_cpu.rows_N.tolist(), apart_NHWC.mean((1, 2, 3)), strict=True):
                self.by_row[row] = max(float(mean), self.by_row.get(row, 0.0))
        for loader in loaders:
            loader.close()


# ---------------------------------------------------------------------------------- memory


def memory_large(place: Place, put: Put) -> None:
    """Train on originals of 12 Mpx within four gigabytes."""
    table, _ = gpu_photographs.large(place)
    put("original_px", place.sized(gpu_photographs.LARGE_PX, (400, 300)))
    folder = _memory(table, "memory-large", place, put)
    put("estimated_bytes", gpu_trainings.estimated_bytes(folder))


def memory_small(place: Place, put: Put) -> None:
    """Train on the photographs as they are within four gigabytes."""
    _memory(place.data, "memory-small", place, put)


def _memory(data: Path, name: str, place: Place, put: Put) -> Path:
    """Train by the command, in a process of its own, whose memory alone is measured.

    Nothing is cached: kept images may fill what a limit leaves. Returns the run folder.

    Two measurements: by the run itself (NVML, this process, where the driver tells processes
    apart), and from here, by how much less of the device is free while it runs.
    """
    options = gpu_trainings.options(place, arch="resnet34", data=str(data), name=name)
    options |= {"memory_limit": LIMIT, "limit": place.sized(2000, 12), "cache": "off"}
    with _DeviceMemory(compute.pick_device("auto")) as sampled:
        gpu_trainings.command(place, *gpu_trainings.flags(options), must_end_with=0)
    folder = Path(options["out"]) / name
    summary, about = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("summary", "environment")
    )
    found = about["memory"]
    put("peak_bytes", summary["peak_memory_bytes"])
    put("sampled_peak_bytes", sampled.peak)
    put("limit_bytes", found["limit_bytes"])
    put("plan", found["plan"])
    put("trial", found)
    put("how_measured", found["measured"])
    put("images_per_s", gpu_trainings.speeds(folder))
    return folder


class _DeviceMemory:
    """Samples by how much less of the device is free than at the start; on a CPU it stays at 0.

    Attributes:
        peak: in bytes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._ended = device, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._at_start, self.peak = self._free(), 0

    def _free(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else 0

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.peak = max(self.peak, self._at_start - self._free())
            time.sleep(0.01)

    def __enter__(self) -> "_DeviceMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
