"""(m) How fast do augmented batches come from large photographs, and what memory does it take?

    python benchmarks/bench_large.py DATA --work FOLDER [--images 3000] [--distinct 200]
        [--size 224] [--repeats 3] [--threads N] [--before CLONE] [--out result.json]

Makes JPEGs of 4000 x 3000 px in FOLDER (about 3 MB each; they stay there for the next time): of
photographs of DATA, enlarged, with texture and noise as a phone's have. ``--distinct`` of them are
made; each file is one of these with a comment of its own, so that all files differ and lie apart on
the disk.

Interleaved, each in a process of its own: torchvision's DataLoader (Pillow and tensor back-ends),
what peers.py finds of timm and SPDL, our loader at another commit (``--before``: a clone of this
repository), and ours: the first epoch without a cache, with one in memory, with one on disk; later
epochs from memory and from disk; and the first epoch of a later run, from disk, whose files the
system still has in memory. All have run once before, and read files that the system has in memory
as far as they fit. Peak memory is the proportional set size (PSS) of a process and its workers,
sampled, once with and once without what is mapped from files, as the cache on disk is.

Asked for (issue 23): the first epoch at least 3 times torchvision's; later epochs from disk at the
rate of those from memory within 20 %; bounded memory.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import record
import torch

from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset
from grigri_fast.pipeline.check import check_images
from grigri_fast.profiling import baseline, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.cpu_share import usable_cpus

HEIGHT, WIDTH = 3000, 4000
QUALITY = 92
FIRST = {"first epoch, no cache": "off", "first epoch, ram": "ram", "first epoch, disk": "disk"}
LATER = {"later epoch, ram": "ram", "later epoch, disk": "disk"}
LATER_RUN = "first epoch of a later run, disk"
OURS = [*FIRST, *LATER, LATER_RUN]
BEFORE = "before: first epoch, no cache"
PEERS = ["torchvision, PIL", "torchvision, tensor", "timm", "spdl"]
_SAMPLED_EVERY_S = 0.25


# ---------------------------------------------------------------------------- the photographs


def photograph(path: Path, seed: int) -> bytes:
    """Return a small photograph as a JPEG of 12 Mpx with texture and noise."""
    rng = np.random.default_rng(seed)
    small = cv2.imread(str(path))
    picture = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    for step, strength in ((16, 7), (8, 5), (4, 4), (2, 4), (1, 3.5)):
        noise = rng.standard_normal((HEIGHT // step, WIDTH // step), dtype=np.float32)
        noise = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        picture += (strength * noise).astype(np.int16)[..., None]
    picture = picture.clip(0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def with_comment(jpeg: bytes, text: bytes) -> bytes:
    """Return a JPEG with a comment after its first two bytes."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + jpeg[2:]


def make_photographs(data: Path, folder: Path, num: int, num_distinct: int) -> list[Path]:
    """Return ``num`` large photographs, made if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05}.jpg" for i in range(num)]
    small = dataset.load(data).paths
    for i in range(min(num, num_distinct)):
        same = paths[i::num_distinct]
        if all(path.exists() for path in same):
            continue
        jpeg = photograph(small[i * len(small) // num_distinct], seed=i)
        for path in same:
            path.write_bytes(with_comment(jpeg, path.name.encode()))
    return paths


# ----------------------------------------------------------- the process that runs one case


def epochs_of(s: Setting, name: str, work: Path) -> Callable[[], float]:
    """Return what runs our loader for an epoch, and returns images per second."""
    numbers = itertools.count(1)

    def loader(cache: str, folder: str):
        os.environ["XDG_CACHE_HOME"] = folder
        return s.loader(cache)

    def epoch(loader: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = loader.train_epoch(s.rows, seed=0, epoch=next(numbers), augment=True)
        return ((batch.images_NHWC, batch.rows_N) for batch in batches)

    def first_epoch() -> float:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            start_s = time.perf_counter()
            new = loader(FIRST[name.removeprefix("before: ")], folder)
            timing.batches_speed(epoch(new), s.device)
            speed = len(s.rows) / (time.perf_counter() - start_s)
            new.close()
            return speed

    def first_of_a_later_run() -> float:
        start_s = time.perf_counter()
        new = loader("disk", str(work / "later"))
        timing.batches_speed(epoch(new), s.device)
        speed = len(s.rows) / (time.perf_counter() - start_s)
        new.close()
        return speed

    if name in LATER:
        kept = loader(LATER[name], str(work / "cache"))
        return lambda: timing.batches_speed(epoch(kept), s.device)
    return first_of_a_later_run if name == LATER_RUN else first_epoch


def case_of(s: Setting, name: str, work: Path) -> Callable[[], float]:
    """Return what runs a case for an epoch."""
    if name.startswith("torchvision"):
        return baseline.pipeline_case(s, "pil" if name.endswith("PIL") else "tensor").run
    if name in PEERS:
        import peers

        return {"timm": peers._timm, "spdl": peers._spdl}[name](s).run
    return epochs_of(s, name, work)


def serve(options: argparse.Namespace) -> None:
    """Run a case each time that a line comes from the parent; say how fast it was."""
    torch.set_num_threads(1)
    paths = sorted((options.work / "photographs").glob("*.jpg"))[: options.images]
    config = TrainConfig(arch="resnet18", size=options.size)
    compute = Compute.resolve(device="cpu", amp="fp32", threads=options.threads)
    try:
        run = case_of(Setting.of(paths, config, compute), options.case, options.work)
    except (ImportError, RuntimeError) as e:  # not installed, or not what it needs
        sys.exit(f"left out: {options.case} ({str(e).splitlines()[0][:100]})")
    print("ready", flush=True)
    for _ in sys.stdin:
        print(run(), flush=True)


# ------------------------------------------------------------------------------- the parent


class Process:
    """A process that runs one case; ``options``: those of this one."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.notes = name, {"peak_mib": [], "peak_own_mib": [], "cpu_s": []}
        root = options.before if name == BEFORE else record.ROOT
        search_path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": search_path}
        environment["XDG_CACHE_HOME"] = str(options.work / "cache")
        command = [sys.executable, __file__, str(options.data), f"--case={name}"]
        command += [f"--{key}={getattr(options, key)}" for key in ("work", "images", "size")]
        self._process = subprocess.Popen(
            [*command, f"--threads={options.threads}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.is_there = self._process.stdout.readline() == "ready\n"

    def run(self) -> float:
        """Return images per second of an epoch, and note its memory and processor time."""
        ended, peaks = threading.Event(), [0, 0]
        sampler = threading.Thread(target=self._sample, args=(ended, peaks))
        sampler.start()
        begin_s = self._cpu_s()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        speed = float(self._process.stdout.readline())
        self.notes["cpu_s"].append(round(self._cpu_s() - begin_s, 1))
        ended.set()
        sampler.join()
        for key, peak in zip(("peak_mib", "peak_own_mib"), peaks, strict=True):
            self.notes[key].append(round(peak / 1024))
        return speed

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _pids(self) -> list[int]:
        """Return this process and those that it has started."""
        found = [self._process.pid]
        for pid in found:  # which grows
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def _cpu_s(self) -> float:
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # with children that have ended
        return ticks / os.sysconf("SC_CLK_TCK")

    def _sample(self, ended: threading.Event, peaks: list[int]) -> None:
        """Note the highest PSS in KiB, of all memory and of what is not mapped from files."""
        while not ended.wait(_SAMPLED_EVERY_S):
            total = own = 0
            for pid in self._pids():
                with contextlib.suppress(OSError):
                    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
                    kib = {line.split()[0]: int(line.split()[1]) for line in lines}
                    total += kib["Pss:"]
                    own += kib["Pss_Anon:"] + kib["Pss_Shmem:"]
            peaks[:] = max(peaks[0], total), max(peaks[1], own)


def main() -> None:
    """Make photographs, measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--distinct", type=int, default=200)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--before", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*PEERS, BEFORE, *OURS])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.absolute()
    if options.case:
        serve(options)
        return
    about = record.environment(torch.device("cpu"), "fp32")
    start_s = time.perf_counter()
    folder = options.work / "photographs"
    paths = make_photographs(options.data, folder, options.images, options.distinct)
    sizes = np.array([path.stat().st_size for path in paths])
    print(f"{len(paths):,} photographs, {sizes.mean() / 1e6:.1f} MB each", flush=True)
    made_s, start_s = time.perf_counter() - start_s, time.perf_counter()
    os.environ["XDG_CACHE_HOME"] = str(options.work / "cache")
    check_images(paths, threads=options.threads, max_pixels=10**8, use_cache=True)
    checked_s = time.perf_counter() - start_s
    print(f"made in {made_s:.0f} s, checked in {checked_s:.0f} s", flush=True)

    names = [*PEERS, *([BEFORE] if options.before else []), *OURS]
    names = [name for name in names if not options.only or name in options.only]
    processes = [Process(name, options) for name in names]
    cases = [Case("pipeline", p.name, "", p.run, p.notes) for p in processes if p.is_there]
    timing.run_interleaved(cases, options.repeats)
    for process in processes:
        process.close()
    usual = cases[0]
    print(record.table(cases, usual))
    print("\npeak MiB (not mapped from files), CPU ms per image")
    for case in cases:
        peak, own = max(case.notes["peak_mib"]), max(case.notes["peak_own_mib"])
        cpu_ms = 1e3 * float(np.median(case.notes["cpu_s"])) / len(paths)
        print(f"{case.name:34} {peak:8,} ({own:,})  {cpu_ms:.1f}")
    by_name = {case.who: case for case in cases}
    ratios = {
        f"{name} to {other}": timing.ratio(by_name[name], by_name[other])
        for name, other in ((OURS[0], PEERS[0]), ("later epoch, disk", "later epoch, ram"))
        if {name, other} <= by_name.keys()
    }
    print(json.dumps(ratios))
    asked = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    for key in ("work", "before", "out", "case"):
        del asked[key]
    record.write(
        options.out,
        {
            **about,
            **asked,
            "bytes_per_photograph": float(sizes.mean()),
            "checked_s": checked_s,
            "results": record.raw(cases),
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
