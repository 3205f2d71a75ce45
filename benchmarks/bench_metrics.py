"""(f) How long do threshold search and metrics take, and how much memory, at what many images?

    python benchmarks/bench_metrics.py [--images 100000] [--classes 1000] [--repeats 3]
        [--work NAME ...] [--out result.json]

Each measurement is a fresh process, which makes float32 scores and boolean targets (sparse: 2.5
labels per image, frequencies as uneven as in practice; dense: 30 % of all labels), times one piece
of work without the making, and tells its peak resident memory, the input of 5 bytes per score
included. Interleaved, alone on the machine. ``evaluate`` is what ``eval`` does with the scores, in
float64, with 1,000 bootstrap replicates; it takes minutes and is measured only where it is named.

Asked for (issue 4), on two cores: search and metrics in under 5 s and 2 GB (2e9 bytes), with
cross-fitting in under 20 s.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from grigri_fast.evaluation import metrics, thresholds
from grigri_fast.runtime import files

LABELS = {"sparse": 0.0025, "dense": 0.3}


def make(num_images: int, num_classes: int, frequency: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (N, C) float32 and targets (N, C) bool, without more memory than these."""
    rng = np.random.default_rng(0)
    uneven_C = 1 / (1 + np.arange(num_classes) / 20)  # the 20 most frequent alike, then a long tail
    frequency_C = uneven_C * frequency / uneven_C.mean() if frequency < 0.1 else frequency
    bias_C = np.broadcast_to(np.log(frequency_C / (1 - frequency_C)), num_classes)
    scores_NC = np.empty((num_images, num_classes), dtype=np.float32)
    targets_NC = np.empty((num_images, num_classes), dtype=bool)
    for first in range(0, num_images, 1000):
        rows = slice(first, first + 1000)
        targets_NC[rows] = rng.random(targets_NC[rows].shape, dtype=np.float32) < frequency_C
        logits_NC = rng.standard_normal(scores_NC[rows].shape, dtype=np.float32)
        logits_NC += bias_C + 3 * targets_NC[rows]
        scores_NC[rows] = 1 / (1 + np.exp(-logits_NC))
    return scores_NC, targets_NC


def search(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    thresholds.best_f1_threshold(scores_NC, targets_NC)


def search_per_class(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    thresholds.best_f1_thresholds(scores_NC, targets_NC)


def score(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    """Predict, and make all the scores that a table shows."""
    predicted_NC = scores_NC >= np.float64(0.3)
    counts = metrics.count(predicted_NC, targets_NC)
    for of_counts in (metrics.precision, metrics.recall, metrics.micro_f1, metrics.macro_f1):
        of_counts(counts)
    metrics.subset_accuracy(predicted_NC, targets_NC)
    metrics.mean_average_precision(metrics.average_precision(scores_NC, targets_NC))


def search_and_score(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    search(scores_NC, targets_NC)
    score(scores_NC, targets_NC)


def cross_fit(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    thresholds.cross_fit(thresholds.best_f1_threshold, scores_NC, targets_NC)


def cross_fit_per_class(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    thresholds.cross_fit(thresholds.best_f1_thresholds, scores_NC, targets_NC)


def everything(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    search_and_score(scores_NC, targets_NC)
    cross_fit(scores_NC, targets_NC)


def evaluate(scores_NC: np.ndarray, targets_NC: np.ndarray) -> None:
    from grigri_fast.evaluation import evaluator

    names = [str(c) for c in range(scores_NC.shape[1])]
    evaluator.score(scores_NC.astype(np.float64), targets_NC, names, "auto")


WORK: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "global threshold": search,
    "thresholds per class": search_per_class,
    "metrics": score,
    "global threshold, metrics": search_and_score,
    "cross-fit": cross_fit,
    "cross-fit per class": cross_fit_per_class,
    "threshold, metrics, cross-fit": everything,
    "evaluate": evaluate,
}


def measure(name: str, labels: str, num_images: int, num_classes: int) -> dict[str, float]:
    """Return seconds and peak bytes of one piece of work; for a process that does nothing else."""
    data = make(num_images, num_classes, LABELS[labels])
    start_s = time.perf_counter()
    WORK[name](*data)
    seconds = time.perf_counter() - start_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_bytes": peak_kib * 1024}


def measure_apart(name: str, labels: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what :func:`measure` does, from a fresh process."""
    sizes = [f"--images={options.images}", f"--classes={options.classes}"]
    command = [sys.executable, __file__, *sizes, "--alone", name, labels]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", nargs="+", choices=WORK, default=[*WORK][:-1], metavar="NAME")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(*options.alone, options.images, options.classes)))
        return
    load_before = os.getloadavg()
    cases = [(name, labels) for labels in LABELS for name in options.work]
    turns = [
        [measure_apart(name, labels, options) for name, labels in cases]
        for _ in range(options.repeats)
    ]
    print(
        f"{options.images:,} images x {options.classes:,} classes, float32,"
        f" {len(os.sched_getaffinity(0))} CPUs, {options.repeats} interleaved repeats"
    )
    results = []
    for (name, labels), runs in zip(cases, zip(*turns, strict=True), strict=True):
        times = sorted(run["seconds"] for run in runs)
        peak_gb = max(run["peak_bytes"] for run in runs) / 1e9
        median = statistics.median(times)
        print(
            f"{labels:7} {name:30} {median:7.2f} s  ({times[0]:.2f}-{times[-1]:.2f})"
            f"  {peak_gb:5.2f} GB"
        )
        results.append({"name": name, "labels": labels, "runs": runs})
    if options.out is not None:
        import record  # imports torch: not before the children, which would inherit its peak memory

        environment = record.environment(record.torch.device("cpu"), "fp32")
        content = {
            "images": options.images,
            "classes": options.classes,
            "numpy": np.__version__,
            "load_average_before": load_before,
            "environment": environment,
            "results": results,
        }
        files.write_atomic(options.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
