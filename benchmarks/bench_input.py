"""(a) How fast do augmented batches come, beside torchvision and others?

    python benchmarks/bench_input.py DATA [--sizes 128 224] [--images 4000] [--repeats 7] [--out R]

Interleaved, over the same images, alone on the machine: our loader decoding, our loader from its
cache, its two halves alone (DALI with its own file reader; our warp), torchvision's transforms in a
DataLoader (Pillow and tensor back-ends, as many worker processes as we have threads, which stay
from epoch to epoch), and what peers.py finds installed. Crop, flip and rotation are drawn from the
same distributions; ours leaves the division by 255 and the normalisation to the device.

Asked for (issue 4): decoding at least 85 % of 1 / (1 / decode + 1 / warp), and at least 2.3 and 3.8
times torchvision's faster back-end at 128 and 224 px; from the cache at least 5 and 8 times.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peers
import record
import torch
from nvidia.dali import fn, pipeline_def, types

from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset
from grigri_fast.pipeline import affine, warp
from grigri_fast.profiling import baseline, benchmark, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.cpu_share import usable_cpus


@pipeline_def
def files_graph(files: list[str]):
    """Files -> decode -> uint8 RGB, HWC: DALI by itself, with its own reader, on a CPU."""
    encoded, _ = fn.readers.file(files=files)
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB)


def limit_cases(s: Setting) -> list[Case]:
    """Return the two halves of the work on a CPU: decoding alone by DALI, warping alone."""
    size_px, batch_size, threads = s.size_px, s.batch_size, s.compute.threads
    files = [str(path) for path in s.good_paths]
    decoder = files_graph(files=files, batch_size=batch_size, num_threads=threads, device_id=None)
    decoder.build()

    def decode_all() -> float:
        start_s = time.perf_counter()
        for _ in range(len(files) // batch_size):
            decoder.run()
        num_images = len(files) // batch_size * batch_size
        return num_images / (time.perf_counter() - start_s)

    sizes_HW = affine.working_sizes(s.check.sizes_HW[s.rows], size_px)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes_HW[:512]]
    pool = ThreadPoolExecutor(threads)

    def warp_batch(first: int) -> None:
        rows = range(first, min(first + batch_size, len(files)))
        out_NHWC = np.empty((len(rows), size_px, size_px, 3), dtype=np.uint8)
        some = [images[row % len(images)] for row in rows]
        some_HW = sizes_HW[[row % len(images) for row in rows]]
        matrices = affine.random_matrices(np.random.default_rng(first), some_HW, size_px)
        warp.on_host(some, matrices, out_NHWC)

    def warp_all() -> float:
        start_s = time.perf_counter()
        list(pool.map(warp_batch, range(0, len(files), batch_size)))
        return len(files) / (time.perf_counter() - start_s)

    return [
        Case("pipeline", "DALI", "decoding alone", decode_all),
        Case("pipeline", "warping alone", "", warp_all),
    ]


def measure(data: dataset.Dataset, size_px: int, options: argparse.Namespace) -> dict:
    """Measure at one size, print a table, return the figures."""
    compute = Compute.resolve(amp="fp32", threads=options.threads)
    config = TrainConfig(arch="resnet18", size=size_px)
    s = Setting.of(data.paths[: options.images], config, compute)
    decoding, cached = benchmark.pipeline_cases(s)
    halves = [] if s.device.type == "cuda" else limit_cases(s)
    theirs = [baseline.pipeline_case(s, backend) for backend in ("pil", "tensor")]
    cases = [decoding, cached, *halves, *theirs, *peers.cases(s)]
    timing.run_interleaved(cases, options.repeats)
    fastest = max(theirs, key=lambda case: case.median)
    print(f"\n{size_px} px, {len(s.rows):,} images, batch {config.batch_size}")
    print(record.table(cases, fastest))
    figures = {"size_px": size_px, "results": record.raw(cases), "fastest_usual": fastest.name}
    if halves:
        speeds = zip(*(half.images_per_s for half in halves), strict=True)
        limits = [1 / (1 / decode + 1 / warp) for decode, warp in speeds]
        limit = Case("pipeline", "limit", "", lambda: 0.0, images_per_s=limits)
        figures["share_of_limit"] = timing.ratio(decoding, limit)
        print(
            f"limit {limit.median:,.0f}; "
            + "decoding reaches {:.0%} of it ({:.0%}-{:.0%})".format(*figures["share_of_limit"])
        )
    figures["decoding_to_usual"] = timing.ratio(decoding, fastest)
    figures["cached_to_usual"] = timing.ratio(cached, fastest)
    return figures


def main() -> None:
    """Measure, print tables, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = dataset.load(options.data)
    sizes = [measure(data, size_px, options) for size_px in options.sizes]
    about = record.environment(Compute.resolve().device, "fp32")
    record.write(
        options.out,
        {**about, "data": record.data_hash(data), **vars(options) | {"out": None}, "sizes": sizes},
    )


if __name__ == "__main__":
    main()
