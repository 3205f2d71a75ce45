"""(o) Does any stage cost more than its share at 1,000,000 images, or at 10,000 classes?

    python benchmarks/bench_growth.py --work DIR [--images 1000000] [--classes 20]
        [--stages NAME ...] [--repeats 1] [--out result.json]

Makes a data set of hard links to a few JPEGs of 32 px, and one of a tenth of its images, in DIR
(kept, and used again). Each stage runs in a process of its own, first on the tenth, then on the
whole. Its inputs are there before the measurement begins; measured are the CPU seconds (user and
system, the processes that it starts included, one thread), the seconds, the peak of its resident
memory above what it was before, and what of that is kept by the result.

Growth is what the whole takes, divided by ten times what the tenth takes. Stages about scores are
of the validation part, a fifth of the images, as after a training.

Asked for (issue 23): growth of at most 1.1 in time and memory.
"""

import argparse
import ctypes
import gc
import json
import os
import pickle
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TENTH = 10
_FILES_PER_FOLDER = 1000
_LINKS = 50_000  # of one file; ext4 allows 65,000
_LABELS_PER_IMAGE = 2.5
_THREADS = 1
_ONE_HOT_AT_MOST = 100  # classes; a table with more has a column of labels, as people write it
Stage = Callable[[Path], Callable[[], Any]]
STAGES: dict[str, Stage] = {}


def stage(name: str) -> Callable[[Stage], Stage]:
    """Enter a function that prepares a stage in a folder and returns what is to be measured."""

    def enter(prepare: Stage) -> Stage:
        STAGES[name] = prepare
        return prepare

    return enter


# --------------------------------------------------------------------------------- the data


def frequencies(num_classes: int) -> np.ndarray:
    """Return the share of the images that have each class: few frequent ones, and a long tail."""
    uneven_C = 1 / (1 + np.arange(num_classes) / 5)
    return np.minimum(0.5, uneven_C * _LABELS_PER_IMAGE / uneven_C.sum())


def labels_of(num_images: int, num_classes: int) -> list[np.ndarray]:
    """Return the classes of each image."""
    rng = np.random.default_rng(0)
    rows, classes = [], []
    for c, share in enumerate(frequencies(num_classes)):
        count = max(10, rng.binomial(num_images, share))  # no class without images
        rows.append(rng.choice(num_images, min(count, num_images), replace=False))
        classes.append(np.full(len(rows[-1]), c))
    row_L, class_L = np.concatenate(rows), np.concatenate(classes)
    order = np.lexsort((class_L, row_L))
    ends = np.searchsorted(row_L[order], np.arange(1, num_images))
    return np.split(class_L[order], ends)


def make_data(folder: Path, num_images: int, num_classes: int) -> None:
    """Write images in folders of a thousand, and ``labels.csv``, unless they are there."""
    from PIL import Image

    if (folder / "labels.csv").exists():
        return
    rng = np.random.default_rng(0)
    originals = folder / "originals"
    originals.mkdir(parents=True)
    (folder / "images").mkdir()
    names = []
    for i in range(num_images):
        original = originals / f"{i // _LINKS}.jpg"
        if i % _LINKS == 0:
            pixels_HWC = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels_HWC).resize((32, 32)).save(original)
        name = f"{i // _FILES_PER_FOLDER:04}/photo_{i:07}.jpg"
        names.append(name)
        if i % _FILES_PER_FOLDER == 0:
            (folder / "images" / name).parent.mkdir()
        (folder / "images" / name).hardlink_to(original)
    class_names = [f"class {c:05}" for c in range(num_classes)]
    written = folder / "labels.csv.tmp"
    with written.open("w") as file:
        one_hot = num_classes <= _ONE_HOT_AT_MOST
        file.write(f"image,{','.join(class_names) if one_hot else 'labels'}\n")
        for name, classes in zip(names, labels_of(num_images, num_classes), strict=True):
            if one_hot:
                flags = np.zeros(num_classes, dtype=int)
                flags[classes] = 1
                words = ",".join(map(str, flags))
            else:
                words = "|".join(class_names[c] for c in classes)
            file.write(f"{name},{words}\n")
    written.rename(folder / "labels.csv")


def stored(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns, kept in the folder: what one stage makes for the next."""
    file = folder / f"{name}.pickle"
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as opened:
            pickle.dump(make(), opened, protocol=5)
        temporary.rename(file)
    with file.open("rb") as opened:
        return pickle.load(opened)


def loaded(folder: Path) -> Any:
    """Return the data set."""
    from grigri_fast.data import dataset

    return dataset.load(folder / "labels.csv", folder / "images")


def checked_of(folder: Path) -> Any:
    """Return a check in which all images are good; their contents are different ones."""
    from grigri_fast.pipeline.check import ImageCheck

    n = num_images_of(folder)
    return ImageCheck(np.full((n, 2), 32), np.arange(n, dtype=np.int64) + 10**8, {}, 10**8)


def split_of(folder: Path) -> Any:
    """Return a split, which the stage ``split`` makes."""
    from grigri_fast.data import split

    return stored(folder, "split", lambda: split.choose(loaded(folder)))


def num_images_of(folder: Path) -> int:
    """Return how many images a data set has."""
    return int(folder.name.split("x")[0])


def scores_of(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return probabilities (float64) and targets (bool) of the validation part, and the classes."""
    num_images, num_classes = (int(n) for n in folder.name.split("x"))
    n, rng = num_images // 5, np.random.default_rng(1)
    targets_NC = np.zeros((n, num_classes), dtype=bool)
    for row, classes in enumerate(labels_of(num_images, num_classes)[:n]):
        targets_NC[row, classes] = True
    share_C = frequencies(num_classes)
    bias_C = np.log(share_C / (1 - share_C)).astype(np.float32)
    probabilities_NC = np.empty(targets_NC.shape)
    for first in range(0, n, 1000):
        rows = slice(first, first + 1000)
        logits_NC = rng.standard_normal(targets_NC[rows].shape, dtype=np.float32)
        probabilities_NC[rows] = 1 / (1 + np.exp(-(logits_NC + bias_C + 4 * targets_NC[rows])))
    return probabilities_NC, targets_NC, [f"class {c:05}" for c in range(num_classes)]


# ------------------------------------------------------------------- stages about the images


@stage("read a table")
def read_table(folder: Path) -> Callable[[], Any]:
    return lambda: loaded(folder)


@stage("find images in folders")
def find_images(folder: Path) -> Callable[[], Any]:
    from grigri_fast.data.images import find_images

    return lambda: find_images([str(folder / "images")])


@stage("split")
def split_images(folder: Path) -> Callable[[], Any]:
    import skmultilearn.model_selection.iterative_stratification  # noqa: F401 (not what is measured)

    from grigri_fast.data import split

    data = loaded(folder)
    return lambda: split.choose(data)


@stage("split file, written and read")
def split_file(folder: Path) -> Callable[[], Any]:
    from grigri_fast.data import split

    data, parts = loaded(folder), split_of(folder)
    file = folder / "split.json"

    def write_and_read() -> Any:
        file.write_text(split.to_json(parts, data))
        return split.read(file, data)

    return write_and_read


def _check(folder: Path, **how: Any) -> Any:
    from grigri_fast.pipeline import check

    data = loaded(folder)
    return lambda: check.check_images(data.paths, threads=_THREADS, max_pixels=10**8, **how)


@stage("check, the first time")
def check_first(folder: Path) -> Callable[[], Any]:
    from grigri_fast.runtime import files

    for file in files.cache_folder().glob("checked-*"):
        file.unlink()
    return _check(folder)


@stage("check, known files")
def check_known(folder: Path) -> Callable[[], Any]:
    _check(folder)()  # known already, if the first time was measured
    return _check(folder)


@stage("data check")
def data_check(folder: Path) -> Callable[[], Any]:
    from grigri_fast.curation.summary import summarize

    data = loaded(folder)
    return lambda: summarize(data, threads=_THREADS, max_pixels=10**8)


@stage("frequencies, balanced sampler")
def sampler(folder: Path) -> Callable[[], Any]:
    from grigri_fast.config import TrainConfig, resolve
    from grigri_fast.training import run_data
    from grigri_fast.training.sampler import Sampler

    data, rows = loaded(folder), split_of(folder).parts["train"]
    config = resolve(TrainConfig(data="x", sampler="balanced"))

    def draw() -> Any:
        targets_NC = data.targets_NC[rows]
        frequency_C = run_data.frequencies(targets_NC, None)
        return Sampler(config, rows, targets_NC, frequency_C).rows_of(1)

    return draw


@stage("order, maps and batches of an epoch")
def order(folder: Path) -> Callable[[], Any]:
    from grigri_fast.pipeline.loader import ImageLoader

    checked, rows = checked_of(folder), split_of(folder).parts["train"]
    some_bad = rows[::100].tolist()

    class Made:
        """Takes the place of what makes the batches: the loader's own work is measured."""

        def make_ahead(self, todo: Any, matrices: Any, size_px: int) -> Any:
            self.todo, self.matrices = todo, matrices
            yield from ()

    loader = object.__new__(ImageLoader)
    loader._size_px, loader._batch_size, loader._rank, loader._num_ranks = 128, 32, 0, 1
    loader._batches = Made()

    class Files:
        sizes_HW = checked.sizes_HW

    loader._files = Files()
    return lambda: list(loader.train_epoch(rows, seed=0, epoch=1, augment=True, bad=some_bad))


@stage("cache: plan and table of contents")
def cache(folder: Path) -> Callable[[], Any]:
    import torch

    from grigri_fast.pipeline.cache import PixelCache, plan_cache

    checked, cpu = checked_of(folder), torch.device("cpu")

    def plan() -> Any:
        planned = plan_cache("ram", checked, 128, cpu, max_bytes=3 * 32 * 32)
        kept = PixelCache(len(checked.crc32_N), planned, cpu)
        place = slice(0, 1024)
        kept.enter([0], np.array([1024]), place, kept.room(place))
        return kept

    return plan


@stage("manifest, written and compared")
def manifest(folder: Path) -> Callable[[], Any]:
    from grigri_fast.runs import manifest

    data, checked = loaded(folder), checked_of(folder)
    file = folder / "data.json"

    def write_and_compare() -> None:
        file.write_text(manifest.to_json(data, checked.crc32_N))
        manifest.require_same(file, data, checked.crc32_N)

    return write_and_compare


@stage("which images the run has seen")
def trained_on(folder: Path) -> Callable[[], Any]:
    from grigri_fast.data import split
    from grigri_fast.runs import manifest
    from grigri_fast.runs.trained_on import TrainedOn

    data, checked, parts = loaded(folder), checked_of(folder), split_of(folder)
    (folder / "data.json").write_text(manifest.to_json(data, checked.crc32_N))
    (folder / "split.json").write_text(split.to_json(parts, data))

    def look() -> Any:
        found = TrainedOn.read(folder)
        assert found is not None
        return found.has_seen(checked.crc32_N).sum()

    return look


# ------------------------------------------------------------------- stages about the scores


@stage("loss of 100 batches")
def loss(folder: Path) -> Callable[[], Any]:
    import torch

    from grigri_fast.training.losses import LOSSES

    num_classes = int(folder.name.split("x")[1])
    logits_NC = torch.randn(32, num_classes, requires_grad=True)
    targets_NC = (torch.rand(32, num_classes) < 0.01).float()

    def run() -> None:
        for _ in range(100):
            for of in LOSSES.values():
                of(logits_NC, targets_NC).backward()

    return run


@stage("thresholds, one and per class")
def find_thresholds(folder: Path) -> Callable[[], Any]:
    from grigri_fast.evaluation import thresholds

    scores_NC, targets_NC, _ = scores_of(folder)

    def find() -> Any:
        one = thresholds.best_f1_threshold(scores_NC, targets_NC)
        return one, thresholds.best_f1_thresholds(scores_NC, targets_NC)

    return find


@stage("metrics")
def find_metrics(folder: Path) -> Callable[[], Any]:
    from grigri_fast.evaluation import metrics

    scores_NC, targets_NC, _ = scores_of(folder)

    def find() -> Any:
        predicted_NC = scores_NC >= np.float64(0.3)
        counts = metrics.count(predicted_NC, targets_NC)
        scores = [metrics.micro_f1(counts), metrics.macro_f1(counts)]
        scores.append(metrics.subset_accuracy(predicted_NC, targets_NC))
        return scores, metrics.average_precision(scores_NC, targets_NC)

    return find


@stage("evaluation with intervals")
def evaluation(folder: Path) -> Callable[[], Any]:
    from grigri_fast.evaluation import evaluator

    scores_NC, targets_NC, names = scores_of(folder)
    return lambda: evaluator.score(scores_NC, targets_NC, names, "auto")


def scored_of(folder: Path) -> Any:
    """Return an evaluation as the page gets it; its intervals rest on few replicates."""
    from grigri_fast.evaluation import bootstrap, evaluator
    from grigri_fast.runs.checkpoint import ModelInfo

    scores_NC, targets_NC, names = scores_of(folder)
    draw = bootstrap.draw_weights
    bootstrap.draw_weights = lambda num_images: draw(num_images, 10)
    try:
        made = evaluator.score(scores_NC, targets_NC, names, "auto")
    finally:
        bootstrap.draw_weights = draw
    return evaluator.RunEvaluation(
        checkpoint=Path("last.safetensors"),
        evaluation=made,
        info=ModelInfo("resnet18", 32, names, epoch=1),
        images="val part",
        bad={},
        paths=loaded(folder).paths[: len(targets_NC)],
        probabilities_NC=scores_NC,
        targets_NC=targets_NC,
    )


@stage("report page")
def report(folder: Path) -> Callable[[], Any]:
    from grigri_fast.config import TrainConfig, resolve
    from grigri_fast.reporting import photographs, run_report

    scored = scored_of(folder)
    record = run_report.Record(
        "run", "last.safetensors", resolve(TrainConfig(data="x")), [], {}, {}
    )

    def make() -> str:
        picks = run_report.pick_all(scored)
        rows = sorted({row for picked in picks.values() for row in picked.rows})
        photos = photographs.read(scored.paths, rows, threads=_THREADS, max_pixels=10**8)
        page = run_report.to_html(record, scored, picks, photos)
        (folder / "report.html").write_text(page)
        return page

    return make


@stage("eval --json")
def eval_json(folder: Path) -> Callable[[], Any]:
    scored = scored_of(folder)
    return lambda: json.dumps(scored.to_json())


@stage("checkpoint, written and read")
def checkpoint(folder: Path) -> Callable[[], Any]:
    import torch

    from grigri_fast.models import factory
    from grigri_fast.runs import checkpoint
    from grigri_fast.runs.checkpoint import ModelInfo

    num_classes = int(folder.name.split("x")[1])
    info = ModelInfo("shufflenet_v2_x0_5", 32, [f"class {c:05}" for c in range(num_classes)])
    model = factory.build(info.arch, num_classes, info.size_px)

    def write_and_read() -> Any:
        checkpoint.save(folder / "last.safetensors", model, info)
        return checkpoint.load(folder / "last.safetensors", torch.device("cpu"))

    return write_and_read


@stage("export to ONNX")
def export(folder: Path) -> Callable[[], Any]:
    import onnxruntime  # noqa: F401 (not what is measured)
    import torch.onnx  # noqa: F401

    from grigri_fast.inference import exporter

    checkpoint(folder)()
    (folder / "config.toml").touch()  # a run that does not say which data: random images are taken
    return lambda: exporter.export(folder, format="onnx", threads=_THREADS)


# ------------------------------------------------------------------------------ measurement


def resident() -> dict[str, int]:
    """Return resident bytes of this process, now and at their peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {
        name: text.split()[0] for name, _, text in (s.partition(":") for s in lines) if text.split()
    }
    return {"now": int(kib["VmRSS"]) * 1024, "peak": int(kib["VmHWM"]) * 1024}


def cpu_seconds() -> float:
    """Return CPU seconds of this process and those that it has waited for."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(w)[:2]) for w in who)


def tidy() -> None:
    """Give unused memory back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(name: str, folder: Path) -> dict[str, float]:
    """Return what a stage takes; for a process that does nothing else."""
    work = STAGES[name](folder)
    tidy()
    before = resident()["now"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    start_s, start_cpu_s = time.perf_counter(), cpu_seconds()
    result = work()
    seconds, cpu_s = time.perf_counter() - start_s, cpu_seconds() - start_cpu_s
    peak = resident()["peak"] - before
    tidy()
    kept = resident()["now"] - before
    del result
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_bytes": peak, "kept_bytes": kept}


def measure_apart(name: str, folder: Path) -> dict[str, float]:
    """Return what :func:`measure` does, from a fresh process."""
    # Memory that goes back at once shows what is in use, not what malloc keeps for later.
    setting = {"OMP_NUM_THREADS": str(_THREADS), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, __file__, "--alone", name, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | setting)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES], metavar="NAME")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        name, folder = options.alone
        print(json.dumps(measure(name, Path(folder))))
        return
    sizes = [options.images // TENTH, options.images]
    folders = [options.work / f"{n}x{options.classes}" for n in sizes]
    for folder, n in zip(folders, sizes, strict=True):
        make_data(folder, n, options.classes)
    print(f"{options.images:,} images x {options.classes:,} classes, and a tenth of the images")
    print(f"{'stage':36} {'CPU s':>16} growth {'peak MiB':>16} growth {'bytes per image':>16}")
    results = []
    for name in options.stages:
        runs = [[measure_apart(name, f) for f in folders] for _ in range(options.repeats)]
        results.append(
            {"stage": name, "tenth": [r[0] for r in runs], "whole": [r[1] for r in runs]}
        )
        print(line_of(results[-1], options.images), flush=True)
    if options.out is not None:
        import record  # imports torch, which no stage is to inherit

        about = record.environment(record.torch.device("cpu"), "fp32")
        sizes_of = {"images": options.images, "classes": options.classes}
        record.write(options.out, {**about, **sizes_of, "results": results})


def line_of(result: dict[str, Any], num_images: int) -> str:
    """Return a line of the table: medians of the repeats."""

    def median(which: str, what: str) -> float:
        return statistics.median(run[what] for run in result[which])

    line = f"{result['stage']:36}"
    for what, unit in (("cpu_s", 1.0), ("peak_bytes", 2.0**20)):
        tenth, whole = (median(which, what) / unit for which in ("tenth", "whole"))
        line += f" {tenth:7.2f} {whole:8.2f} {whole / tenth / TENTH if tenth > 0 else 0:6.2f}"
    peak, kept = (median("whole", what) / num_images for what in ("peak_bytes", "kept_bytes"))
    return f"{line} {peak:8,.0f} {kept:7,.0f}"


if __name__ == "__main__":
    main()
