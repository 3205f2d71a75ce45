"""(n) Does the memory of `predict` grow with the number of files, and when does the first row come?

    python benchmarks/bench_predict_growth.py [--images 10000 100000] [--repeats 1] [--threads N]
        [--out result.json]

Files are hard links to 256 small JPEGs in folders of 10,000; the network is tiny and untrained.
Each number of files is labelled by the real command with an empty cache of checks, interleaved.
Shown: seconds until the first row is in the file, and in all; CPU seconds; the resident memory of
the process at the first row and its peak, and from these bytes per image between the numbers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image

from grigri_fast.config import TrainConfig
from grigri_fast.models import factory
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.runs.checkpoint import ModelInfo
from grigri_fast.runtime.cpu_share import usable_cpus
from grigri_fast.runtime.option import write_toml

CPU = torch.device("cpu")
CLASSES = [f"class {i}" for i in range(20)]
SIZE_PX = 32
_NUM_ORIGINALS = 256  # a file system allows no more than 65,000 links to a file
_IN_A_FOLDER = 10_000


def make_run(folder: Path) -> None:
    """Write a run folder of an untrained network."""
    folder.mkdir()
    config = TrainConfig(data="photos", arch="grigri", weights="none", size=SIZE_PX)
    (folder / run_folder.CONFIG).write_text(write_toml(config))
    torch.manual_seed(0)
    model = factory.build("grigri", len(CLASSES), SIZE_PX)
    info = ModelInfo("grigri", SIZE_PX, CLASSES)
    checkpoint.save(folder / run_folder.LAST, model.eval(), info)


def make_photos(folder: Path, originals: list[Path], num_images: int) -> None:
    """Write a folder of links."""
    for i in range(num_images):
        place = folder / f"{i // _IN_A_FOLDER:03}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[i % len(originals)], place / f"DSC{i:07}.jpg")


def make_originals(folder: Path) -> list[Path]:
    """Write small JPEGs of noise."""
    folder.mkdir()
    paths = [folder / f"{i}.jpg" for i in range(_NUM_ORIGINALS)]
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 40)).save(path, quality=85)
    return paths


def resident_bytes(pid: int) -> int:
    """Return the memory of a process that is resident now; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(x.split()[1]) for x in lines if x.startswith("VmRSS:")), 0)


def measure(run: Path, photos: Path, threads: int) -> dict[str, Any]:
    """Return what a run of the command takes."""
    with tempfile.TemporaryDirectory(dir=photos.parent) as work:
        out = Path(work) / "labels.csv"
        words = ["predict", str(run), str(photos), "--out", str(out), f"--threads={threads}"]
        start_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "grigri_fast", "--quiet", *words],
            env=os.environ | {"XDG_CACHE_HOME": f"{work}/cache"},
            stdout=subprocess.DEVNULL,
        )
        first_s = first_bytes = 0.0
        head_bytes = None
        while not first_s and process.poll() is None:
            size = out.stat().st_size if out.exists() else 0
            head_bytes = head_bytes or size
            if size > (head_bytes or 0):
                first_s = time.perf_counter() - start_s
                first_bytes = resident_bytes(process.pid)
            time.sleep(0.02)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit("predict failed")
        return {
            "seconds_to_first_row": first_s,
            "seconds": time.perf_counter() - start_s,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "resident_bytes_at_first_row": first_bytes,
            "peak_bytes": 1024 * used.ru_maxrss,
        }


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--work", type=Path, help="a folder for the files")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        folder = Path(work)
        make_run(folder / "run")
        originals = make_originals(folder / "originals")
        for num in args.images:
            make_photos(folder / f"photos-{num}", originals, num)
        for repeat in range(args.repeats):
            for num in args.images:
                found = measure(folder / "run", folder / f"photos-{num}", args.threads)
                results.append({"num_images": num, "repeat": repeat} | found)
                print(
                    f"{num:>9,} images  first row {found['seconds_to_first_row']:6.1f} s"
                    f"  all {found['seconds']:8.1f} s  CPU {found['cpu_seconds']:8.1f} s"
                    f"  resident {found['resident_bytes_at_first_row'] / 2**20:6.0f} MiB at the"
                    f" first row, {found['peak_bytes'] / 2**20:6.0f} MiB at most",
                    flush=True,
                )
    peaks = [min(r["peak_bytes"] for r in results if r["num_images"] == num) for num in args.images]
    if len(peaks) > 1:
        growth = (peaks[-1] - peaks[0]) / (args.images[-1] - args.images[0])
        print(f"{growth:.0f} bytes per image")
    environment = record.environment(CPU, "auto")
    record.write(args.out, {"environment": environment, "results": results})


if __name__ == "__main__":
    main()
