"""(e) How long is it from the command to the first step?

    python benchmarks/bench_startup.py DATA [--repeats 5] [--out R]

Starts ``grigri-fast train DATA`` (resnet18 at 128 px, no download) in a process of its own, in
turn with and without a remembered check of the files, and ends it after its first step. Shown are
the seconds at which each part was done; beside them, what importing torch and torchvision takes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import torch

PROGRAM = """
import json, os, sys, time
marks = {}
from grigri_fast.cli.main import main
from grigri_fast.training import trainer
marks["imports"] = time.time()
from grigri_fast.data import split
from grigri_fast.models import factory
from grigri_fast.pipeline import check, loader
from grigri_fast.training import step
def mark(owner, name, part):
    plain = getattr(owner, name)
    def timed(*args, **options):
        result = plain(*args, **options)
        marks.setdefault(part, time.time())
        return result
    setattr(owner, name, timed)
mark(split, "stratify", "labels and split")
mark(check, "check_images", "files checked")
mark(factory, "build", "model")
mark(loader.ImageLoader, "__init__", "loader")
plain = step.TrainStep.__call__
def first(self, *batch):
    plain(self, *batch)
    marks["first step"] = time.time()
    print(json.dumps(marks), file=sys.stderr, flush=True)
    os._exit(0)
step.TrainStep.__call__ = first
main(sys.argv[1:])
"""


def marks_of(data: str, cache: str, out: str) -> dict[str, float]:
    """Return the seconds from the start at which each part was done."""
    words = [
        "train",
        data,
        "--arch=resnet18",
        "--size=128",
        "--weights=none",
        "--recipe=report",
        "--out",
        out,
    ]
    start_s = time.time()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env={**os.environ, "XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
    )
    return {k: v - start_s for k, v in json.loads(done.stderr.splitlines()[-1]).items()}


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    about = record.environment(torch.device("cpu"), "auto")
    seen: dict[str, list[dict[str, float]]] = {"first time": [], "again": [], "imports alone": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("first time", "again"):
                seen[name].append(marks_of(options.data, folder, folder))
        start_s = time.time()
        subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)
        seen["imports alone"].append({"torch and torchvision": time.time() - start_s})
    for name, runs in seen.items():
        parts = [f"{p} {statistics.median(r[p] for r in runs):.2f} s" for p in runs[0]]
        print(f"{name:14} {', '.join(parts)}")
    record.write(options.out, {**about, "seconds": seen})


if __name__ == "__main__":
    main()
