"""Versions and hardware of this machine, and what ``auto`` would choose here: for bug reports."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..errors import GrigriError
from . import compute, cpu_share, files, units

COMPILE_TIMES = "compile.json"  # in the cache: what --compile auto has measured

_PACKAGES = (
    "grigri-fast torch torchvision timm nvidia-dali-cuda120 nvidia-dali-cuda130"
    " opencv-python-headless numpy scipy safetensors matplotlib pillow typer rich"
)


def describe(device: torch.device, amp: str) -> dict[str, Any]:
    """Return what a result depends on besides config and data: versions and hardware.

    (``torch.utils.collect_env`` starts programs for the same facts, and returns text for people.)
    """
    versions = {package: _version(package) for package in _PACKAGES.split()}
    record: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["grigri-fast", *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: version for package, version in versions.items() if version},
        "device": str(device),
        "amp": amp,
        "cpu": cpu_name(),
        "cpu_threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        record["gpu"] = properties.name
        record["gpu_memory_bytes"] = properties.total_memory
        record["cuda"] = torch.version.cuda
    return record


def _version(package: str) -> str:
    """Return the version of an installed package, "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cpu_name() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def machine_name(device: torch.device) -> str:
    """Return the name of what computes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def info() -> dict[str, Any]:
    """Return versions, hardware, what would be chosen, caches and extras, as ``grigri-fast info``.

    Nothing is measured; what ``--compile auto`` has measured before on this machine is in it. Plain
    values that JSON can hold; sizes in bytes. Folders below the home start with ``~``.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    device = compute.pick_device("auto")
    amp = compute.pick_amp("auto", device)
    environment = describe(device, amp)
    # Kept between runs: ours, and the weights that torchvision and timm download.
    caches = [files.cache_folder(), Path(torch.hub.get_dir()) / "checkpoints", Path(HF_HUB_CACHE)]
    return {
        "versions": {
            "python": environment["python"],
            **environment["packages"],
            "cuda": torch.version.cuda,
        },
        "platform": environment["platform"],
        "cpu": {
            "name": environment["cpu"],
            "cores": os.cpu_count(),
            "usable_threads": cpu_share.usable_cpus(),
            "free_memory_bytes": compute.free_bytes(torch.device("cpu")),
        },
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        "chosen": {"device": str(device), "amp": amp, "amp_because": _why(amp, device)},
        "compile": {"measured": _compile_times(device)},
        "caches": {_shown(folder): _size(folder) for folder in caches},
        "extras": extras(),
    }


def extras() -> dict[str, bool]:
    """Return by name whether what an optional extra needs is installed (not ``dev``)."""
    installed: dict[str, bool] = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("grigri-fast") or []:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            if extra and extra[1] != "dev":
                package = re.match(r"[\w.-]+", line)
                is_there = package is not None and bool(_version(package[0]))
                installed[extra[1]] = installed.get(extra[1], True) and is_there
    return installed


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "free_memory_bytes": compute.free_bytes(torch.device("cuda", index)),
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def _why(amp: str, device: torch.device) -> str:
    """Return in words why :func:`compute.pick_amp` chooses a number format."""
    if device.type == "cpu":
        has = "has" if amp == "bf16" else "has no"
        return f"this processor {has} instructions for bf16 (AVX-512 BF16 or AMX)"
    name = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    if amp == "fp32":
        return f"{name} (compute capability {major}.{minor}) is not good at fp16 and has no bf16"
    return f"{name} has compute capability {major}.{minor}"


def _compile_times(device: torch.device) -> list[dict[str, Any]]:
    """Return what was measured of compiling on this machine with this PyTorch."""
    here = {"machine": machine_name(device), "torch": str(torch.__version__)}
    times: list[dict[str, Any]] = []
    with contextlib.suppress(GrigriError, ValueError, TypeError, AttributeError, RecursionError):
        for entry in json.loads(files.read_text(files.cache_folder() / COMPILE_TIMES)):
            if here.items() <= entry.items():
                times.append({name: entry[name] for name in entry if name not in here})
    return times


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; 0 if there is none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
    return total


def _shown(folder: Path) -> str:
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def in_words(info: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return what :func:`info` returned as headings and the lines under each."""
    cpu, chosen = info["cpu"], info["chosen"]
    gpus = [
        f"{gpu['name']}, {units.format_bytes(gpu['free_memory_bytes'])} of"
        f" {units.format_bytes(gpu['memory_bytes'])} free, compute capability"
        f" {gpu['compute_capability']}"
        for gpu in info["gpus"]
    ]
    compiled = [_compiled_in_words(one) for one in info["compile"]["measured"]]
    versions = [f"{name} {version or '-'}" for name, version in info["versions"].items()]
    return [
        ("versions", [", ".join(versions[i : i + 4]) for i in range(0, len(versions), 4)]),
        ("platform", [info["platform"]]),
        (
            "CPU",
            [
                f"{cpu['name']}, {cpu['cores']} cores, {cpu['usable_threads']} usable,"
                f" {units.format_bytes(cpu['free_memory_bytes'])} of memory free"
            ],
        ),
        ("GPU", gpus or ["none that PyTorch can use"]),
        ("--device auto", [chosen["device"]]),
        ("--amp auto", [f"{chosen['amp']}: {chosen['amp_because']}"]),
        ("--compile auto", compiled or ["nothing measured yet; the first long training does"]),
        ("caches", [f"{k} {units.format_bytes(v)}" for k, v in info["caches"].items()]),
        (
            "extras",
            [f"{k} {'installed' if v else 'not installed'}" for k, v in info["extras"].items()]
            or ["unknown: the package itself is not installed"],
        ),
    ]


def _compiled_in_words(one: dict[str, Any]) -> str:
    what = f"{one.get('arch')} at {one.get('size_px')} px, batch {one.get('batch_size')},"
    what += f" {one.get('amp')}, {one.get('threads')} threads"
    if one.get("compile_s") is None or one.get("compiled_step_s") is None:
        return f"{what}: does not compile here"
    saved_s = one["eager_step_s"] - one["compiled_step_s"]
    after = f"pays after {one['compile_s'] / saved_s:,.0f} steps" if saved_s > 0 else "never pays"
    return (
        f"{what}: {1000 * one['eager_step_s']:.1f} ms a step, {1000 * one['compiled_step_s']:.1f}"
        f" ms compiled, {after}"
    )
