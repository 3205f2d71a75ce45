"""A million images: no stage keeps Python objects for each of them, or makes many.

Memory is counted (``tracemalloc`` counts NumPy's, too) with some thousand images and with more; the
difference is what an image takes. Nothing is timed. How the stages grow up to a million images and
to 10,000 classes is measured by ``benchmarks/bench_growth.py``.
"""

import functools
import importlib.util
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from small_set import write_image

from grigri_fast.data import dataset, split
from grigri_fast.data.dataset import Dataset
from grigri_fast.pipeline import check
from grigri_fast.pipeline.check_cache import CheckCache
from grigri_fast.pipeline.image_file import FileCheck, stamp
from grigri_fast.runs import manifest
from grigri_fast.training.quarantine import Quarantine

FEW, MANY = 3_000, 8_000
NUM_CLASSES = 8
PATH_BYTES = 120  # at most, of the images here

Files = Callable[[int], tuple[Path, Path]]


@pytest.fixture(scope="module")
def files_of(tmp_path_factory) -> Files:
    """Return a function that returns a CSV of so many images and their folder: links to one."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "images").mkdir()
    write_image(folder / "one.jpg", 1, (8, 8))
    names = [f"photo_{i:07}.jpg" for i in range(MANY)]
    for name in names:
        (folder / "images" / name).hardlink_to(folder / "one.jpg")
    assert len(str(folder / "images" / names[0])) < PATH_BYTES

    @functools.cache
    def of(num_images: int) -> tuple[Path, Path]:
        header = ",".join(["image", *(f"class {c}" for c in range(NUM_CLASSES))])
        lines = [
            ",".join([name, *("01"[(i + c) % 5 == 0] for c in range(NUM_CLASSES))])
            for i, name in enumerate(names[:num_images])
        ]
        file = folder / f"{num_images}.csv"
        file.write_text("\n".join([header, *lines]))
        return file, folder / "images"

    return of


@pytest.fixture(scope="module")
def data_of(files_of: Files) -> Callable[[int], Dataset]:
    return functools.cache(lambda num_images: dataset.load(*files_of(num_images)))


def bytes_per_image(prepare: Callable[[int], Callable[[], Any]]) -> tuple[float, float]:
    """Return what an image more takes at the peak of some work, and in its result."""
    took = []
    for num_images in (FEW, FEW, MANY):  # the first also makes what all others use
        work = prepare(num_images)
        tracemalloc.start()
        result = work()
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        took.append((peak, kept))
        del result
    peak, kept = ((many - few) / (MANY - FEW) for few, many in zip(*took[1:], strict=True))
    return peak, kept


@pytest.mark.slow
def test_a_data_set_keeps_the_bytes_of_its_names_and_paths(files_of: Files) -> None:
    peak, kept = bytes_per_image(lambda n: lambda: dataset.load(*files_of(n)))
    assert kept < 4 * NUM_CLASSES + 2 * (PATH_BYTES + 8)
    assert peak < 900


@pytest.mark.slow
def test_known_files_are_known_by_a_few_numbers_each(
    data_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def prepare(num_images: int) -> Callable[[], Any]:
        paths = data_of(num_images).paths
        with CheckCache(check.DECODERS) as cache:
            for path in paths:
                cache.add(path, stamp(path), FileCheck(1, 8, 8))
        return lambda: check.check_images(paths, threads=1, max_pixels=100)

    peak, kept = bytes_per_image(prepare)
    assert kept < 60
    assert peak < 150


def test_the_manifest_is_compared_without_an_object_per_image(data_of, tmp_path: Path) -> None:
    file = tmp_path / "data.json"

    def prepare(num_images: int) -> Callable[[], Any]:
        data, crc32_N = data_of(num_images), np.arange(num_images)
        file.write_text(manifest.to_json(data, crc32_N))
        return lambda: manifest.difference(file, data, crc32_N)

    peak, kept = bytes_per_image(prepare)
    assert kept < 1
    assert peak < 250


@pytest.mark.slow
def test_a_split_and_the_quarantine_keep_a_few_bytes_per_image(data_of) -> None:
    peak, kept = bytes_per_image(lambda n: lambda: split.choose(data_of(n)))
    assert kept < 16
    assert peak < 700
    peak, kept = bytes_per_image(lambda n: lambda: Quarantine(data_of(n), n, 0.1, {}))
    assert kept < 1
    assert peak < 20


# ------------------------------------------------------------------- the benchmark of a million


@pytest.fixture(scope="module")
def growth() -> ModuleType:
    """Return the benchmark that measures how stages grow."""
    file = Path(__file__).parent.parent / "benchmarks" / "bench_growth.py"
    spec = importlib.util.spec_from_file_location("bench_growth", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_stage_of_the_benchmark_can_be_run(growth: ModuleType, tmp_path: Path) -> None:
    """It is run by hand, now and then: what it calls may have changed since."""
    folder = tmp_path / "200x5"
    growth.make_data(folder, 200, 5)
    for name, prepare in growth.STAGES.items():
        try:
            prepare(folder)()
        except BaseException as e:
            e.add_note(f"stage {name!r}")
            raise
