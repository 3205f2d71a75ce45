"""(d) How does cost grow with image size, number of classes, batch size and threads?

    python benchmarks/bench_scaling.py DATA [--images 2000] [--repeats 3] [--out R]

One thing at a time is changed from resnet18 at 128 px, 14 classes, batch 32, all threads: our step
on a resident batch, and our input (decoding, and from the cache) where it depends on that. All
interleaved, alone on the machine. How it grows with the number of images is in bench_long.py.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import record
import torch

from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset
from grigri_fast.profiling import benchmark, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.cpu_share import usable_cpus

SIZES = [64, 96, 128, 160, 224]
CLASSES = [14, 100, 1000]
BATCHES = [8, 16, 32, 64, 128]


def with_threads(case: Case, threads: int) -> Case:
    """Return a case that runs with so many threads of PyTorch."""

    def run() -> float:
        torch.set_num_threads(threads)
        return case.run()

    return replace(case, run=run)


def settings(base: Setting) -> dict[str, list[tuple[int, Setting]]]:
    """Return what is changed, and the settings with each of its values."""
    compute = base.compute
    threads = [2**i for i in range(6) if 2**i <= compute.threads]
    return {
        "size_px": [(v, base.changed(size=v, start_size=v, test_size=v)) for v in SIZES],
        "num_classes": [(v, replace(base, num_classes=v)) for v in CLASSES],
        "batch_size": [(v, base.changed(batch_size=v)) for v in BATCHES],
        "threads": [(v, replace(base, compute=replace(compute, threads=v))) for v in threads],
    }


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compute = Compute.resolve(threads=options.threads)
    about = record.environment(compute.device, compute.amp)
    data = dataset.load(options.data)
    paths = data.paths[: options.images]
    base = Setting.of(paths, TrainConfig(arch="resnet18", size=128), compute)
    cases, about_cases = [], []
    for what, values in settings(base).items():
        for value, s in values:
            of_value = [benchmark.step_case(s)]
            of_value += benchmark.pipeline_cases(s) if what != "num_classes" else []
            for case in of_value:
                kind = case.how or case.what
                about_cases.append({"what": what, "value": value, "kind": kind})
                cases.append(with_threads(case, s.compute.threads))
    timing.run_interleaved(cases, options.repeats)
    for about_case, case in zip(about_cases, cases, strict=True):
        about_case["images_per_s"] = case.images_per_s
    for what, values in settings(base).items():
        print(
            f"\n{what:12} {'step':>18} {'decoding':>18} {'from the cache':>18}   images/s (ms each)"
        )
        for value, _ in values:
            line = f"{value:12,}"
            for kind in ("step", "decoding", "from the cache"):
                of_kind = [
                    c["images_per_s"]
                    for c in about_cases
                    if (c["what"], c["value"], c["kind"]) == (what, value, kind)
                ]
                median = statistics.median(of_kind[0]) if of_kind else None
                line += f" {median:8,.0f} ({1000 / median:6.2f})" if median else " " * 18
            print(line)
    record.write(options.out, {**about, "data": record.data_hash(data), "cases": about_cases})


if __name__ == "__main__":
    main()
