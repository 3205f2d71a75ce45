"""What this machine and installation are, and what would be chosen here: for bug reports."""

import contextlib
import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

import torch

from ..pipeline import loader
from ..runs import run_folder
from ..training import compilation
from . import compute, files, memory


def info() -> dict[str, Any]:
    """Return versions, hardware, what would be chosen, caches and extras; nothing is measured.

    Plain values that JSON can hold; sizes in bytes. Folders below the home start with ``~``.
    """
    device = compute.pick_device("auto")
    amp = compute.pick_amp("auto", device)
    environment = run_folder.environment(device, amp)
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
            "usable_threads": loader.usable_threads(),
            "free_memory_bytes": compute.free_bytes(torch.device("cpu")),
        },
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        "chosen": {"device": str(device), "amp": amp, "amp_because": _why(amp, device)},
        "compile": {"measured": _compiled(device)},
        "caches": {_shown(folder): _size(folder) for folder in _caches()},
        "extras": extras(),
    }


def extras() -> dict[str, bool]:
    """Return by name whether what an optional extra needs is installed (not ``dev``)."""
    found: dict[str, bool] = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("grigri-fast") or []:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            if extra and extra[1] != "dev":
                package = re.match(r"[\w.-]+", line)
                is_there = package is not None and _is_installed(package[0])
                found[extra[1]] = found.get(extra[1], True) and is_there
    return found


def _is_installed(package: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(package))
    return False


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "free_memory_bytes": compute.free_bytes(torch.device("cuda", index)),
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def _why(amp: str, device: torch.device) -> str:
    """Return in words why :func:`devices.pick_amp` chooses a number format."""
    if device.type == "cpu":
        has = "has" if amp == "bf16" else "has no"
        return f"this processor {has} instructions for bf16 (AVX-512 BF16 or AMX)"
    name = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    if amp == "fp32":
        return f"{name} (compute capability {major}.{minor}) is not good at fp16 and has no bf16"
    return f"{name} has compute capability {major}.{minor}"


def _compiled(device: torch.device) -> list[dict[str, Any]]:
    """Return what ``--compile auto`` has measured on this machine with this PyTorch."""
    here = compilation.machine(device), torch.__version__
    names = ("machine", "torch", "arch", "size_px", "batch_size", "amp", "threads")
    found = []
    for key, measured in compilation.remembered().items():
        what = dict(zip(names, key.split(" | "), strict=False))
        if (what.get("machine"), what.get("torch")) == here and isinstance(measured, dict):
            found.append({k: what[k] for k in names[2:] if k in what} | measured)
    return found


def _caches() -> list[Path]:
    """Return what is kept between runs: ours, and the weights that torchvision downloads."""
    return [files.cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"]


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; 0 if there is none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                total += path.stat().st_size
    return total


def _shown(folder: Path) -> str:
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def in_words(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return headings, and the lines under each, of what :func:`info` has found."""
    cpu, chosen = found["cpu"], found["chosen"]
    gpus = [
        f"{gpu['name']}, {memory.in_words(gpu['free_memory_bytes'])} of"
        f" {memory.in_words(gpu['memory_bytes'])} free, compute capability"
        f" {gpu['compute_capability']}"
        for gpu in found["gpus"]
    ]
    compiled = [_compiled_in_words(one) for one in found["compile"]["measured"]]
    versions = [f"{name} {version or '-'}" for name, version in found["versions"].items()]
    return [
        ("versions", [", ".join(versions[i : i + 4]) for i in range(0, len(versions), 4)]),
        ("platform", [found["platform"]]),
        (
            "CPU",
            [
                f"{cpu['name']}, {cpu['cores']} cores, {cpu['usable_threads']} usable,"
                f" {memory.in_words(cpu['free_memory_bytes'])} of memory free"
            ],
        ),
        ("GPU", gpus or ["none that PyTorch can use"]),
        ("--device auto", [chosen["device"]]),
        ("--amp auto", [f"{chosen['amp']}: {chosen['amp_because']}"]),
        ("--compile auto", compiled or ["nothing measured yet; the first long training does"]),
        ("caches", [f"{k} {memory.in_words(v)}" for k, v in found["caches"].items()]),
        (
            "extras",
            [f"{k} {'installed' if v else 'not installed'}" for k, v in found["extras"].items()]
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
