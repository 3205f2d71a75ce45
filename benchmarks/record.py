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
from grigri_fast.profiling.timing import Case, ratio
from grigri_fast.runtime import compute, files
from grigri_fast.runtime.environment import describe

ROOT = Path(__file__).parent.parent


def environment(device: torch.device, amp: str) -> dict[str, Any]:
    """Return commit, hardware, versions, load of the machine."""
    about = {k: v for k, v in describe(device, amp).items() if k != "platform"}
    about["command"] = " ".join(["python", *(Path(a).name for a in sys.argv[:1]), *sys.argv[1:]])
    about["commit"] = _git("rev-parse", "HEAD") or "unknown"
    about["dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    about["load_average"] = os.getloadavg()
    about["free_memory_bytes"] = compute.free_bytes(torch.device("cpu"))
    return about


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


def table(cases: list[Case], beside: Case | None = None) -> str:
    """Return the speeds of cases as lines of text, each with its ratio to one of them."""
    lines = []
    for case in cases:
        low, high = min(case.images_per_s), max(case.images_per_s)
        line = f"{case.name:34} {case.median:10,.1f}  ({low:,.1f}-{high:,.1f})"
        if beside is not None and case is not beside:
            line += "   {:.2f}x ({:.2f}-{:.2f})".format(*ratio(case, beside))
        lines.append(line)
    return "\n".join(lines)


def raw(cases: list[Case]) -> list[dict[str, Any]]:
    """Return every repeat of the cases."""
    return [{"name": c.name, "images_per_s": c.images_per_s, **c.notes} for c in cases]


def _git(*words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
