"""(d) Does anything grow: memory over 2,000 steps, time per image from 10,000 to 100,000 images?

    python benchmarks/bench_long.py DATA [--steps 2000] [--images 100000] [--repeats 3] [--out R]

Memory: resident bytes of the process while a small network (shufflenet_v2_x0_5 at 64 px) trains.
Throughput: one decoding epoch over 10,000 and over 100,000 images, in turns; the set is repeated by
links, so that every one is a file of its own.

Asked for (issue 4): flat memory; throughput within 5 %.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import record
import torch

from grigri_fast.data import dataset
from grigri_fast.profiling import benchmark
from grigri_fast.runtime import compute


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def linked(paths: list[Path], num: int, folder: Path) -> list[Path]:
    """Return ``num`` links to the files."""
    links = [folder / f"{i}{paths[i % len(paths)].suffix}" for i in range(num)]
    for i, link in enumerate(links):
        link.symlink_to(paths[i % len(paths)].resolve())
    return links


def memory(paths: list[Path], options: argparse.Namespace, setting: dict) -> list[float]:
    """Return the resident memory every 100 steps."""
    s = benchmark.setting_of(paths[:3200], options.threads, arch=ARCH, size_px=64, **setting)
    way = benchmark.train_way(s, num_steps=100)
    seen = []
    for _ in range(options.steps // 100):
        way.run()
        seen.append(round(resident_mib(), 1))
    return seen


def throughput(paths: list[Path], options: argparse.Namespace, setting: dict) -> list:
    """Return the results of decoding epochs over a tenth of the images and over all."""
    with tempfile.TemporaryDirectory() as folder:
        links = linked(paths, options.images, Path(folder))
        ways = []
        for num in (options.images // 10, options.images):
            s = benchmark.setting_of(
                links[:num], options.threads, arch=ARCH, size_px=128, **setting
            )
            decoding, _ = benchmark.input_ways(s)
            ways.append(benchmark.Way("pipeline", f"{num:,} images", decoding.run))
        return benchmark.in_turns(ways, options.repeats)


ARCH = "shufflenet_v2_x0_5"


def main() -> None:
    """Measure, print tables, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=compute.usable_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = compute.pick_device("auto")
    setting = {"device": device, "amp": compute.pick_amp("auto", device)}
    about = record.environment(device, setting["amp"])
    data = dataset.load(options.data)

    seen = memory(data.paths, options, setting)
    slope = np.polyfit(np.arange(len(seen))[1:], seen[1:], 1)[0] * 10 if len(seen) > 2 else 0.0
    print(f"resident MiB every 100 steps: {seen}")
    print(f"after the first 100 steps: {slope:+.1f} MiB per 1,000 steps")
    results = throughput(data.paths, options, setting)
    print(record.table(results, results[0]))
    print(
        f"median share: {statistics.median(r for r in benchmark.ratio(results[1], results[0])):.3f}"
    )
    record.write(
        options.out,
        {
            **about,
            "data": record.data_hash(data),
            "resident_mib": seen,
            "mib_per_1000_steps": slope,
            "all_to_tenth": benchmark.ratio(results[1], results[0]),
            "results": record.raw(results),
        },
    )


if __name__ == "__main__":
    main()
