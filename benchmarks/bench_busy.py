"""(q) What is left of a training's speed on a machine that others use as well?

    python benchmarks/bench_busy.py DATA [--limit 2000] [--seconds 30] [--rounds 3] [--out R]

Trains resnet18 at 96 px in bf16 (where the CPU has it) in processes of their own, in interleaved
rounds: one alone; two at once; one beside a program that uses one CPU fully; one alone with
``--threads 1``. Counted are the training steps in ``--seconds`` seconds that begin 15 s after the
first step, when the threads have adapted. Shown are the medians of the ratios within a round:

- two at once, together, to one alone: at least 0.7 is wanted;
- beside a busy program to what is left of two CPUs, which is ``--threads 1`` alone: at least 0.8.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import record
import torch

SETTLE_S = 15.0  # the threads look at the CPUs every five seconds
BATCH_SIZE = 32

PROGRAM = """
import os, sys, time
from grigri_fast.cli.main import main
from grigri_fast.training.step import TrainStep
settle_s, seconds = float(sys.argv[1]), float(sys.argv[2])
plain, start_s, num = TrainStep.__call__, None, 0
def counted(self, images, *more):
    global start_s, num
    result = plain(self, images, *more)
    now_s = time.monotonic()
    start_s = start_s or now_s
    if now_s - start_s >= settle_s:
        num += len(images)
    if now_s - start_s >= settle_s + seconds:
        print("\\nimages/s", num / (now_s - start_s - settle_s), flush=True)
        os._exit(0)
    return result
TrainStep.__call__ = counted
main(sys.argv[3:])
"""
BUSY = "while True: pass"


def start(options: argparse.Namespace, folder: str, *more: str) -> subprocess.Popen[str]:
    """Start a training; it ends by itself."""
    words = ["train", options.data, f"--arch={options.arch}", "--weights=none", "--recipe=report"]
    words += [f"--size={options.size}", f"--batch-size={BATCH_SIZE}", f"--limit={options.limit}"]
    words += ["--epochs=1000", "--out", folder, *more]
    command = [sys.executable, "-c", PROGRAM, str(SETTLE_S), str(options.seconds), *words]
    # What the shell asks for would count as --threads for OpenMP.
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def speed_of(training: subprocess.Popen[str]) -> float:
    """Wait for a training; return its images per second."""
    printed, _ = training.communicate()
    lines = [line for line in printed.splitlines() if line.startswith("images/s ")]
    if not lines:
        raise SystemExit(f"a training ended without its figure:\n{printed[-2000:]}")
    return float(lines[-1].split()[1])


def measure(options: argparse.Namespace, case: str) -> list[float]:
    """Return the images per second of each training of a case."""
    with tempfile.TemporaryDirectory() as folder:
        busy = subprocess.Popen([sys.executable, "-c", BUSY]) if case == "beside busy" else None
        try:
            more = ["--threads=1"] if case == "one thread" else []
            trainings = [start(options, folder, *more) for _ in range(1 + (case == "two at once"))]
            return [speed_of(training) for training in trainings]
        finally:
            if busy is not None:
                busy.kill()
                busy.wait()


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    about = record.environment(torch.device("cpu"), "auto")
    rounds = []
    for _ in range(options.rounds):
        seen = {}
        for case in ("alone", "two at once", "beside busy", "one thread"):
            seen[case] = measure(options, case)
            print(case, *(f"{speed:.1f} img/s" for speed in seen[case]), flush=True)
        rounds.append(seen)
    ratios = {
        "two at once / alone": [sum(r["two at once"]) / r["alone"][0] for r in rounds],
        "beside busy / one thread": [r["beside busy"][0] / r["one thread"][0] for r in rounds],
    }
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    asked = {k: v for k, v in vars(options).items() if k != "out"}
    record.write(options.out, {**about, "asked": asked, "images_per_s": rounds, "ratios": ratios})


if __name__ == "__main__":
    main()
