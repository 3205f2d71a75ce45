"""The run folder: its name, its files, and how they are written (whole or not at all)."""

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .errors import GrigriError

CONFIG, SPLIT, RESULTS = "config.toml", "split.json", "results.csv"
SUMMARY, ENVIRONMENT, CURVES = "summary.json", "environment.json", "curves.png"
BEST, LAST = "best.safetensors", "last.safetensors"

_PACKAGES = (
    "grigri-fast torch torchvision nvidia-dali-cuda120 nvidia-dali-cuda130 opencv-python-headless"
    " numpy scipy scikit-learn scikit-multilearn safetensors matplotlib pillow typer rich"
)


def create_folder(parent: str | Path, name: str) -> Path:
    """Make and return ``parent/name``, or ``name-2``, ``name-3``, ... if that is taken.

    ``mkdir`` itself decides who gets a name, so two runs started at once never share a folder.

    Raises:
        GrigriError: if it cannot be written there.
    """
    parent = Path(parent)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
            return folder
    except OSError as e:
        raise GrigriError(f"--out {parent}: cannot make a run folder: {e.strerror or e}") from e


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all.

    A temporary file in the same folder, flushed to the disk, takes the name in one step; then the
    folder is flushed, so that the name survives a power cut too.

    Raises:
        GrigriError: if it cannot be written; what was at ``path`` before is intact.
    """
    # A file name that is not UTF-8 comes from the system with escapes and goes back as its bytes.
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        raise GrigriError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def to_json(content: Any) -> str:
    """Return ``content`` as JSON text; NaN, which JSON does not have, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    write_atomic(path, to_json(content))


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the CSV text of rows that share their keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown(path: str | Path) -> Path:
    """Return a path as a person would name it: relative if it is below the current folder."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def require(folder: Path) -> None:
    """Raise GrigriError unless ``folder`` is a run folder."""
    if not folder.is_dir():
        raise GrigriError(f"{folder}: no such run folder")
    if not (folder / CONFIG).is_file():
        raise GrigriError(f"{folder}: not a run folder (it has no {CONFIG})")


def environment(device: torch.device, amp: str) -> dict[str, Any]:
    """Return what a result depends on besides config and data: versions and hardware."""
    versions = {}
    for package in _PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    found: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["grigri-fast", *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": str(device),
        "amp": amp,
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_memory_bytes"] = properties.total_memory
        found["cuda"] = torch.version.cuda
    return found


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
