"""What every benchmark here writes: its figures, raw, and all that they depend on."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from grigri_fast.data.dataset import Dataset
from grigri_fast.profiling.benchmark import Measured, ratio
from grigri_fast.runtime import compute, files
from grigri_fast.runtime.environment import describe

ROOT = Path(__file__).parent.parent


def environment(device: torch.device, amp: str) -> dict[str, Any]:
    """Return commit, hardware, versions, load of the machine."""
    found = {k: v for k, v in describe(device, amp).items() if k != "platform"}
    found["command"] = " ".join(["python", *(Path(a).name for a in sys.argv[:1]), *sys.argv[1:]])
    found["commit"] = _git("rev-parse", "HEAD") or "unknown"
    found["dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    found["load_average"] = os.getloadavg()
    found["free_memory_bytes"] = compute.free_bytes(torch.device("cpu"))
    return found


def data_hash(data: Dataset) -> str:
    """Return a hash of names, labels and sizes of a data set's files."""
    digest = hashlib.blake2b(digest_size=16)
    for name, path in zip(data.names, data.paths, strict=True):
        digest.update(f"{name} {path.stat().st_size}\n".encode())
    digest.update(data.targets_NC.tobytes())
    return digest.hexdigest()


def write(out: Path | None, content: dict[str, Any]) -> None:
    """Write a result.json, if one was asked for."""
    if out is not None:
        files.write_atomic(out, json.dumps(content, indent=1) + "\n")


def table(results: list[Measured], beside: Measured | None = None) -> str:
    """Return results as lines of text, each with its ratio to one of them."""
    lines = []
    for m in results:
        low, high = min(m.images_per_s), max(m.images_per_s)
        line = f"{m.name:34} {m.median:10,.1f}  ({low:,.1f}-{high:,.1f})"
        if beside is not None and m is not beside:
            line += "   {:.2f}x ({:.2f}-{:.2f})".format(*ratio(m, beside))
        lines.append(line)
    return "\n".join(lines)


def raw(results: list[Measured]) -> list[dict[str, Any]]:
    """Return every repeat of results."""
    return [{"name": m.name, "images_per_s": m.images_per_s, **m.notes} for m in results]


def _git(*words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
