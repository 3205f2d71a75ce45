"""How long does checking every image take, beside decoding them once?

    python benchmarks/bench_check.py FOLDER [--repeats 7] [--threads 2] [--out result.json]

Three ways to go through a folder's images, interleaved (A B C A B C ...), each in full:

- decode: read each file and decode it with DALI, 64 at a time, and nothing else;
- check: ``check.check_images`` as ``train`` calls it the first time (guard, header, sum, decode);
- known: the same with the remembered results of the run before, as ``train`` calls it from then on.

What counts is the ratio check / decode within a repeat (issue 3 asks for at most 2).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from grigri_fast.config import MAX_PIXELS
from grigri_fast.data.images import find_images
from grigri_fast.pipeline import check, decode
from grigri_fast.runtime.cpu_share import files, usable_cpus

_AT_A_TIME = 64


def decode_all(paths: list[Path], threads: int) -> None:
    """Read and decode every file."""
    graph = decode.image_graph(
        device="cpu",
        shrink=False,
        batch_size=_AT_A_TIME,
        num_threads=threads,
        device_id=None,
        prefetch_queue_depth=1,
    )
    graph.build()
    for first in range(0, len(paths), _AT_A_TIME):
        batch = [np.fromfile(p, dtype=np.uint8) for p in paths[first : first + _AT_A_TIME]]
        graph.feed_input("encoded", batch)
        graph.run()


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    paths, threads = find_images([options.folder]).images, options.threads
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        how = {"threads": threads, "max_pixels": MAX_PIXELS}
        ways = {
            "decode": lambda: decode_all(paths, threads),
            "check": lambda: check.check_images(paths, **how, use_cache=False),
            "known": lambda: check.check_images(paths, **how),
        }
        for work in ways.values():  # warm: files in the page cache, results remembered
            work()
        runs = [
            {name: seconds(work) for name, work in ways.items()} for _ in range(options.repeats)
        ]
    print(f"{len(paths):,} images, {threads} threads, {options.repeats} interleaved repeats")
    for name in ways:
        times = sorted(run[name] for run in runs)
        median = statistics.median(times)
        print(f"{name:8} {median:6.2f} s  ({times[0]:.2f}-{times[-1]:.2f})")
    ratios = sorted(run["check"] / run["decode"] for run in runs)
    median = statistics.median(ratios)
    print(f"check / decode: {median:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")
    if options.out is not None:
        record = {"images": len(paths), "threads": threads, "seconds": runs, "ratios": ratios}
        files.write_atomic(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
