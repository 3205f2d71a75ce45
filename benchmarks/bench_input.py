"""(a) How fast do augmented batches come, beside the usual way and others?

    python benchmarks/bench_input.py DATA [--sizes 128 224] [--images 4000] [--repeats 7] [--out R]

In turns, each over the same images, alone on the machine: our loader decoding, our loader from its
cache, its two halves alone (DALI with its own file reader; our warp), torchvision's transforms in a
DataLoader (Pillow and tensor back-ends, as many worker processes as we have threads, which stay
from epoch to epoch), and what peers.py finds installed. Crop, flip and rotation are drawn from the
same distributions; ours leaves the division by 255 and the normalisation to the device.

Asked for (issue 4): decoding at least 85 % of 1 / (1 / decode + 1 / warp), and at least 2.3 and 3.8
times torchvision's faster back-end at 128 and 224 px; from the cache at least 5 and 8 times.
"""

import argparse
from pathlib import Path

import peers
import record
import torch

from grigri_fast.data import dataset
from grigri_fast.profiling import benchmark
from grigri_fast.runtime import compute


def measure(data: dataset.Dataset, size_px: int, options: argparse.Namespace) -> dict:
    """Measure at one size, print a table, return the figures."""
    device = compute.pick_device("auto")
    s = benchmark.setting_of(
        data.paths[: options.images],
        options.threads,
        arch="resnet18",
        size_px=size_px,
        device=device,
        amp="fp32",
    )
    ours = benchmark.input_ways(s)
    halves = [] if device.type == "cuda" else benchmark.limit_ways(s)
    usual = [benchmark.usual_input_way(s, backend) for backend in ("pil", "tensor")]
    results = benchmark.in_turns([*ours, *halves, *usual, *peers.ways(s)], options.repeats)
    decoding, cached = results[:2]
    fastest = max((m for m in results if m.name.startswith("torchvision")), key=lambda m: m.median)
    print(f"\n{size_px} px, {len(s.rows):,} images, batch {s.batch_size}, {s.threads} threads")
    print(record.table(results, fastest))
    found = {"size_px": size_px, "results": record.raw(results), "fastest_usual": fastest.name}
    if halves:
        decode, warp = results[2:4]
        limits = [
            1 / (1 / d + 1 / w) for d, w in zip(decode.images_per_s, warp.images_per_s, strict=True)
        ]
        limit = benchmark.Measured("pipeline", "limit", limits, {})
        found["share_of_limit"] = benchmark.ratio(decoding, limit)
        print(
            f"limit {limit.median:,.0f}; "
            + "decoding reaches {:.0%} of it ({:.0%}-{:.0%})".format(*found["share_of_limit"])
        )
    found["decoding_to_usual"] = benchmark.ratio(decoding, fastest)
    found["cached_to_usual"] = benchmark.ratio(cached, fastest)
    return found


def main() -> None:
    """Measure, print tables, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=compute.usable_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = dataset.load(options.data)
    sizes = [measure(data, size_px, options) for size_px in options.sizes]
    about = record.environment(compute.pick_device("auto"), "fp32")
    record.write(
        options.out,
        {**about, "data": record.data_hash(data), **vars(options) | {"out": None}, "sizes": sizes},
    )


if __name__ == "__main__":
    main()
