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

from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset
from grigri_fast.profiling import benchmark, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.cpu_share import usable_cpus


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


def memory(paths: list[Path], num_steps: int, compute: Compute) -> list[float]:
    """Return the resident memory every 100 steps."""
    s = Setting.of(paths[:3200], TrainConfig(arch=ARCH, size=64), compute)
    case = benchmark.train_case(s, num_steps=100)
    seen = []
    for _ in range(num_steps // 100):
        case.run()
        seen.append(round(resident_mib(), 1))
    return seen


def throughput(
    paths: list[Path], num_images: int, repeats: int, compute: Compute
) -> tuple[Case, Case]:
    """Return the cases of decoding epochs over a tenth of the images and over all."""
    with tempfile.TemporaryDirectory() as folder:
        links = linked(paths, num_images, Path(folder))
        cases = []
        for num in (num_images // 10, num_images):
            s = Setting.of(links[:num], TrainConfig(arch=ARCH, size=128), compute)
            decoding, _ = benchmark.pipeline_cases(s)
            cases.append(Case("pipeline", f"{num:,} images", "", decoding.run))
        timing.run_interleaved(cases, repeats)
        return cases[0], cases[1]


ARCH = "shufflenet_v2_x0_5"


def main() -> None:
    """Measure, print tables, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compute = Compute.resolve(threads=options.threads)
    about = record.environment(compute.device, compute.amp)
    data = dataset.load(options.data)

    seen = memory(data.paths, options.steps, compute)
    slope = np.polyfit(np.arange(len(seen))[1:], seen[1:], 1)[0] * 10 if len(seen) > 2 else 0.0
    print(f"resident MiB every 100 steps: {seen}")
    print(f"after the first 100 steps: {slope:+.1f} MiB per 1,000 steps")
    tenth, whole = throughput(data.paths, options.images, options.repeats, compute)
    print(record.table([tenth, whole], tenth))
    print(f"median share: {statistics.median(timing.ratio(whole, tenth)):.3f}")
    record.write(
        options.out,
        {
            **about,
            "data": record.data_hash(data),
            "resident_mib": seen,
            "mib_per_1000_steps": slope,
            "all_to_tenth": timing.ratio(whole, tenth),
            "results": record.raw([tenth, whole]),
        },
    )


if __name__ == "__main__":
    main()
