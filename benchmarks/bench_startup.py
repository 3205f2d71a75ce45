"""(e) How long is it from the command to the first step?

    python benchmarks/bench_startup.py DATA [--repeats 5] [--before CLONE] [--out R]

Starts ``grigri-fast train DATA`` (resnet18 at 128 px, no download) in a process of its own, in
turn with and without a remembered check of the files, and ends it after its first step. Shown are
the seconds at which each part was done; beside them, what importing torch and torchvision takes.

With ``--before``, another clone of the repository: runs of resnet18, of grigri and of
timm/tf_efficientnet_lite0 are made of 60 images, and whole commands on them are timed, this clone
and the other in turn: from the start of the process to its end, and for ``train --resume`` to its
first step. Shown are the medians, and those less ``import torch`` of the same round.
"""

import argparse
import json
import os
import shutil
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


STEP = """
import os, sys
from grigri_fast.cli import main
from grigri_fast.training import step
plain = step.TrainStep.__call__
def first(self, *batch):
    plain(self, *batch)
    os._exit(0)
step.TrainStep.__call__ = first
main.entry()
"""


def seconds_of(clone: Path, words: list[str], cache: str, code: str = "") -> float:
    """Return how long a command of a clone takes; ``code`` instead of the program itself."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "grigri_fast"]), *words]
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(clone)}
    start_s = time.perf_counter()
    # The current folder comes before PYTHONPATH.
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-1000:]}")
    return time.perf_counter() - start_s


def make_runs(options: argparse.Namespace, folder: Path, cache: str) -> list[str]:
    """Make a small run of each kind for each clone, by the older one; return their names."""
    names = []
    for arch in ("resnet18", "grigri", "timm/tf_efficientnet_lite0"):
        name = arch.rpartition("/")[2]
        words = [
            "train",
            options.data,
            f"--arch={arch}",
            "--weights=none",
            "--recipe=report",
            "--size=96",
        ]
        words += ["--limit=60", "--threads=1", f"--out={folder / 'now'}", "--schedule=constant"]
        seconds_of(options.before, [*words, "--epochs=1", f"--name={name}"], cache)
        shutil.copytree(folder / "now" / name, folder / "before" / name)
        names.append(name)
    return names


def compare(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each command by clone, and those of ``import torch``."""
    seen: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), str(Path(name) / "cache")
        archs = make_runs(options, folder, cache)
        photos = [str(p) for p in sorted(Path(options.data).rglob("*.jpg"))[:10]]
        commands = {
            "predict --help": ["predict", "--help"],
            "data check --help": ["data", "check", "--help"],
            "data check": ["data", "check", options.data],
            "data split": ["data", "split", options.data, f"--out={folder / 'split.json'}"],
        }
        for arch in archs:
            run = f"RUNS/{arch}"  # those of the clone
            commands[f"predict {arch}"] = ["predict", run, *photos]
            commands[f"predict {arch}, new files"] = ["predict", run, *photos]
            commands[f"eval {arch}"] = ["eval", run]
            commands[f"resume {arch}"] = ["train", f"--resume={run}", "--epochs=1000"]
        clones = {"before": options.before, "now": record.ROOT}
        for i in range(-1, options.repeats):  # the first round warms the disk's cache
            start_s = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            round_s = {"import torch": {"": time.perf_counter() - start_s}}
            for title, given in commands.items():
                for clone, path in sorted(clones.items(), reverse=bool(i % 2)):
                    own = f"{cache}-new-{clone}-{i}-{title}" if "new files" in title else cache
                    code = STEP if title.startswith("resume") else ""
                    words = [word.replace("RUNS", str(folder / clone)) for word in given]
                    round_s.setdefault(title, {})[clone] = seconds_of(path, words, own, code)
            for title, by_clone in round_s.items():
                for clone, seconds in by_clone.items() if i >= 0 else ():
                    seen.setdefault(title, {}).setdefault(clone, []).append(seconds)
    torch_s = seen["import torch"][""]
    print(f"import torch {statistics.median(torch_s):.2f} s")
    for title, by_clone in seen.items():
        if title == "import torch":
            continue
        parts = [
            f"{clone} {statistics.median(s):5.2f} s"
            f" ({statistics.median(a - b for a, b in zip(s, torch_s, strict=True)):+5.2f})"
            for clone, s in by_clone.items()
        ]
        print(f"{title:45} {'   '.join(parts)}")
    return seen


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another clone, to compare commands with")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    about = record.environment(torch.device("cpu"), "auto")
    if options.before is not None:
        options.data, options.before = str(Path(options.data).resolve()), options.before.resolve()
        record.write(options.out, {**about, "seconds": compare(options)})
        return
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
