"""The way in which batches are made on a GPU, with DALI's operators for a CPU.

All of it runs here as it does there, but for streams and for the cache in a GPU's memory.
"""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_loader import collect, damage, make_loader, red

from grigri_fast.pipeline import dali_batches, decode, reading
from grigri_fast.pipeline.cache import CachePlan
from grigri_fast.pipeline.loader import ImageLoader

ROWS = np.arange(37)


def make(files: list[Path], **options) -> ImageLoader:
    return make_loader(files, host_warp=False, **options)


def small_groups(monkeypatch, num_pixels: int = 3000) -> None:
    """Let an iteration have at most two or three of the 37 images."""
    monkeypatch.setattr(dali_batches, "GROUP_PIXELS", num_pixels)
    monkeypatch.setattr(dali_batches, "PIXELS_UNDER_WAY", 2 * num_pixels)


@pytest.fixture
def iterations(monkeypatch) -> list[tuple[int, int]]:
    """Record, at each start of an iteration, how many are under way, and their pixels."""
    seen = []
    start = dali_batches.DaliBatches._start

    def recorded(self, group, epoch) -> None:
        start(self, group, epoch)
        seen.append((len(epoch.running), sum(g.num_pixels for g in epoch.running)))

    monkeypatch.setattr(dali_batches.DaliBatches, "_start", recorded)
    return seen


def test_each_row_comes_once_in_order_with_its_own_image(files) -> None:
    rows = np.array([30, 2, 3, 5, 7, 11, 13, 17, 19, 23, 36])
    loader = make(files, batch_size=4)
    for _ in range(2):
        batches = list(loader.eval_epoch(rows))
        assert [batch.rows_N.tolist() for batch in batches] == [
            [30, 2, 3, 5],
            [7, 11, 13, 17],
            [19, 23, 36],
        ]
        assert [batch.position for batch in batches] == [1, 2, 3]
        for batch in batches:
            assert batch.images_NHWC.shape == (len(batch.rows_N), 24, 24, 3)
            np.testing.assert_allclose(red(batch), batch.rows_N, atol=3)


def test_an_epoch_goes_on_where_it_was_left_in_any_groups(files, monkeypatch) -> None:
    loader = make(files)
    epoch = {"seed": 0, "epoch": 4, "augment": True, "bad": [5, 6, 7, 20]}
    whole = list(loader.train_epoch(ROWS, **epoch))
    for done in (0, 2, len(whole)):
        small_groups(monkeypatch, 2000 + 1000 * done)
        rest = list(loader.train_epoch(ROWS, first=done, **epoch))
        for a, b in zip(rest, whole[done:], strict=True):
            assert (a.images_NHWC == b.images_NHWC).all() and a.position == b.position
            assert a.rows_N.tolist() == b.rows_N.tolist()


def test_a_row_that_is_drawn_twice_is_seen_twice(files) -> None:
    rows = np.array([3, 9, 3, 3, 5, 9, 4, 3])
    for plan in (None, CachePlan("ram", 0, 200_000)):
        loader = make(files, batch_size=5, cache=plan)
        for _ in range(2):
            batches = list(loader.eval_epoch(rows))
            assert np.concatenate([b.rows_N for b in batches]).tolist() == rows.tolist()
            for batch in batches:
                np.testing.assert_allclose(red(batch), batch.rows_N, atol=3)


def test_iterations_are_started_ahead_but_not_too_many(files, iterations, monkeypatch) -> None:
    """While the first batch is worked on, the iterations of the next ones are under way."""
    loader = make(files, batch_size=4)
    epoch = loader.eval_epoch(ROWS)
    next(epoch)
    until = time.monotonic() + 20
    while len(iterations) < 4 and time.monotonic() < until:
        time.sleep(0.01)  # files are read
        next(epoch)
    list(epoch)
    assert max(number for number, _ in iterations) == dali_batches.ITERATIONS_UNDER_WAY
    iterations.clear()
    small_groups(monkeypatch)
    list(loader.eval_epoch(ROWS))
    assert len(iterations) > 12
    assert max(pixels for _, pixels in iterations) <= dali_batches.PIXELS_UNDER_WAY


def test_an_image_larger_than_all_may_be_together_is_made_alone(
    files, iterations, monkeypatch
) -> None:
    small_groups(monkeypatch, 100)
    expected, _ = collect(make(files).eval_epoch(ROWS))
    images, rows = collect(make(files).eval_epoch(ROWS))
    assert rows.tolist() == ROWS.tolist() and (images == expected).all()
    assert {number for number, _ in iterations} == {1}


@pytest.mark.parametrize("capacity", [200_000, 40_000, 0])
def test_a_cache_that_has_all_some_or_nothing_changes_nothing(
    files, capacity: int, monkeypatch
) -> None:
    small_groups(monkeypatch)
    plain, cached = make(files), make(files, cache=CachePlan("ram", 0, capacity))
    for epoch in (1, 2, 3):
        options = {"seed": 0, "epoch": epoch, "augment": True}
        a = list(plain.train_epoch(ROWS, **options))
        b = list(cached.train_epoch(ROWS, **options))
        for one, other in zip(a, b, strict=True):
            assert one.rows_N.tolist() == other.rows_N.tolist()
            assert (one.images_NHWC == other.images_NHWC).all()
    for path in files:
        path.unlink()
    left = [row for batch in cached.eval_epoch(ROWS) for row in batch.rows_N.tolist()]
    assert (len(left) == 37) if capacity == 200_000 else (len(left) < 37)
    assert bool(left) == bool(capacity)


def test_batches_outlive_the_loader_and_its_later_iterations(files) -> None:
    loader = make(files, batch_size=4)
    batches = [batch for _ in range(20) for batch in loader.eval_epoch(ROWS)]
    loader.close()
    loader.close()  # twice is as good as once
    del loader
    for batch in batches:
        np.testing.assert_allclose(red(batch), batch.rows_N, atol=3)


def test_a_batch_of_bad_files_alone_joins_the_next(files) -> None:
    loader = make(files, batch_size=4)
    for row in range(4):
        damage(files[row], "missing")
    batches = list(loader.eval_epoch(ROWS))
    assert sorted(batches[0].dropped) == [0, 1, 2, 3] and batches[0].position == 2
    assert [row for b in batches for row in b.rows_N.tolist()] == list(range(4, 37))
    for row in range(4, 37):
        damage(files[row], "missing")
    (batch,) = loader.eval_epoch(ROWS)
    assert batch.images_NHWC.shape == (0, 24, 24, 3) and len(batch.dropped) == 37


def test_an_epoch_that_is_left_leaves_nothing_in_the_graph(files) -> None:
    loader = make(files, batch_size=4)
    expected, _ = collect(make(files).eval_epoch(ROWS))
    for num_batches in (1, 2, 3):
        epoch = loader.eval_epoch(ROWS[::-1])
        for _ in range(num_batches):
            next(epoch)
        epoch.close()
        images, rows = collect(loader.eval_epoch(ROWS))
        assert rows.tolist() == ROWS.tolist() and (images == expected).all()


def test_giving_up_ends_an_epoch_between_two_batches(files) -> None:
    done: list = []
    loader = make(files, give_up=lambda: len(done) == 2)
    for batch in loader.eval_epoch(ROWS):
        done.append(batch)
    assert len(done) == 2


@pytest.mark.timeout(60)
def test_a_reader_that_hangs_does_not_block_giving_up(files, monkeypatch) -> None:
    over, stop = threading.Event(), threading.Event()
    read = reading.files.read_bytes

    def slow(path: Path, *limit: int) -> bytes:
        if path.name == "20.jpg":
            over.wait()
        return read(path, *limit)

    loader = make(files, give_up=stop.is_set)
    monkeypatch.setattr(reading.files, "read_bytes", slow)
    monkeypatch.setattr(reading, "LEAVE_S", 0.1)
    threading.Timer(0.5, stop.set).start()
    seen = list(loader.eval_epoch(ROWS))
    over.set()
    assert sum(len(batch.rows_N) for batch in seen) == 16  # what came before the file that hangs


def test_one_thread_alone_uses_the_graph(files, monkeypatch) -> None:
    """It is the one that asks for batches: DALI's queue of iterations has no lock."""
    used = set()
    for name in ("feed_input", "schedule_run", "outputs"):
        plain = getattr(decode.Pipeline, name)

        def recorded(self, *args, plain=plain, name=name, **options):
            used.add((name, threading.current_thread()))
            return plain(self, *args, **options)

        monkeypatch.setattr(decode.Pipeline, name, recorded)
    loader = make(files, threads=3, cache=CachePlan("ram", 0, 40_000))
    for _ in range(2):
        list(loader.eval_epoch(ROWS))
    me = threading.current_thread()
    assert used == {(name, me) for name in ("feed_input", "schedule_run", "outputs")}
