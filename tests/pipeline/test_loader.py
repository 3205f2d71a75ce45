import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_loader import HOWS, collect, damage, make_loader, red

from grigri_fast.errors import GrigriError
from grigri_fast.pipeline import batching, check, reading


def test_evaluation_sees_each_row_once_in_order_with_its_own_image(files) -> None:
    rows = np.array([30, 2, 3, 5, 7, 11, 13, 17, 19, 23, 36])
    batches = list(make_loader(files, batch_size=4).eval_epoch(rows))
    assert [len(b.rows_N) for b in batches] == [4, 4, 3]
    assert np.concatenate([b.rows_N for b in batches]).tolist() == rows.tolist()
    for batch in batches:
        assert batch.images_NHWC.dtype == torch.uint8
        assert batch.images_NHWC.shape == (len(batch.rows_N), 24, 24, 3)
        np.testing.assert_allclose(red(batch), batch.rows_N, atol=3)


def test_training_sees_each_row_once_in_a_new_order_each_epoch(files) -> None:
    loader, rows = make_loader(files), np.arange(1, 36)
    orders = []
    for epoch in (1, 2, 1):
        batches = list(loader.train_epoch(rows, seed=0, epoch=epoch, augment=True))
        orders.append(np.concatenate([b.rows_N for b in batches]).tolist())
        assert sorted(orders[-1]) == rows.tolist()
        for batch in batches:
            np.testing.assert_allclose(red(batch), batch.rows_N, atol=3)
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != sorted(orders[0])
    other_seed = loader.train_epoch(rows, seed=1, epoch=1, augment=True)
    assert np.concatenate([b.rows_N for b in other_seed]).tolist() != orders[0]


def test_the_shuffle_is_global(files) -> None:
    # Every row is as likely in the first batch as in the last: means of ranks over many epochs.
    loader, rows = make_loader(files[:12], batch_size=12), np.arange(12)
    ranks = np.zeros(12)
    for epoch in range(200):
        (batch,) = loader.train_epoch(rows, seed=0, epoch=epoch, augment=False)
        ranks[batch.rows_N] += np.arange(12) / 200
    assert np.abs(ranks - 5.5).max() < 1.0  # the standard error is 0.24


def test_pixels_depend_on_seed_epoch_and_row_alone(files) -> None:
    rows = np.arange(len(files))
    one, _ = collect(make_loader(files).train_epoch(rows, seed=3, epoch=5, augment=True))
    for options in ({"batch_size": 5}, {"threads": 1}, {"batch_size": 37, "threads": 3}):
        loader = make_loader(files, **options)
        again, _ = collect(loader.train_epoch(rows, seed=3, epoch=5, augment=True))
        assert (again == one).all()
    later, _ = collect(make_loader(files).train_epoch(rows, seed=3, epoch=6, augment=True))
    assert (later != one).any()


def test_without_augmentation_training_images_are_the_evaluation_images(files) -> None:
    loader, rows = make_loader(files), np.arange(len(files))
    plain, _ = collect(loader.train_epoch(rows, seed=0, epoch=1, augment=False))
    shown, _ = collect(loader.eval_epoch(rows))
    assert (plain == shown).all()


@pytest.mark.slow
@pytest.mark.parametrize("host_warp", [True, False])
@pytest.mark.parametrize("how", HOWS)
def test_a_file_that_turns_bad_is_dropped_and_named(
    files, how: str, host_warp: bool, capfd
) -> None:
    # At 12 px the images are shrunk first, so every input of the graph is in play.
    loader = make_loader(files, size_px=12, host_warp=host_warp)
    expected, _ = collect(loader.eval_epoch(np.arange(37)))
    damage(files[20], how)
    for _ in range(2):
        batches = list(loader.eval_epoch(np.arange(37)))
        dropped = {row: reason for batch in batches for row, reason in batch.dropped.items()}
        assert list(dropped) == [20] and dropped[20]
        images, rows = collect(batches)
        good = [i for i in range(37) if i != 20]
        assert rows.tolist() == good
        assert (images == expected[good]).all()
        assert [b.position for b in batches] == [1, 2, 3, 4, 5]
    assert capfd.readouterr().err == ""


def test_another_picture_in_a_file_is_not_what_was_checked(files) -> None:
    loader = make_loader(files)
    before = files[3].stat()
    content = bytearray(files[3].read_bytes())
    content[-30] ^= 1  # as the disk might; size and time stay
    files[3].write_bytes(content)
    os.utime(files[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    dropped = [b.dropped for b in loader.eval_epoch(np.arange(8))]
    assert dropped == [{3: "its content has changed since it was checked"}]


def test_the_same_picture_written_again_is_used(files) -> None:
    loader = make_loader(files)
    files[3].write_bytes(files[3].read_bytes())
    os.utime(files[3], (0, 0))
    (batch,) = loader.eval_epoch(np.arange(8))
    assert len(batch.rows_N) == 8 and not batch.dropped


@pytest.mark.parametrize("batch_size", [2, 3, 8])
@pytest.mark.parametrize("when", ["before", "during"])
def test_each_good_image_is_seen_once_around_bad_ones(files, batch_size: int, when: str) -> None:
    loader = make_loader(files, batch_size=batch_size)
    whole = list(loader.train_epoch(np.arange(37), seed=0, epoch=1, augment=True))
    order = np.concatenate([b.rows_N for b in whole]).tolist()
    pixels, _ = collect(whole)
    bad = [order[i] for i in (1, 2, 3, 10, 17, 36)]
    known = bad if when == "before" else []
    for row in bad if when == "during" else []:
        damage(files[row], "missing")
    batches = list(loader.train_epoch(np.arange(37), seed=0, epoch=1, augment=True, bad=known))
    good = [row for row in order if row not in bad]
    seen = np.concatenate([b.rows_N for b in batches]).tolist()
    assert sorted(seen) == sorted(good)
    images, rows = collect(batches)
    assert (images == pixels[rows]).all()  # the others' pixels are what they were
    if when == "before":
        assert all(len(b.rows_N) > 1 and not b.dropped for b in batches)
    else:
        assert sorted(row for b in batches for row in b.dropped) == sorted(bad)
        assert all(len(b.rows_N) > 1 for b in batches[:-1])
    positions = [b.position for b in batches]
    assert positions == sorted(set(positions)) and positions[-1] == len(whole)


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_an_epoch_goes_on_where_it_was_left(files, batch_size: int) -> None:
    loader = make_loader(files, batch_size=batch_size)

    def epoch(first: int = 0) -> list[batching.Batch]:
        options = {"seed": 0, "epoch": 4, "augment": True, "bad": [5, 6, 7, 20]}
        return list(loader.train_epoch(np.arange(37), first=first, **options))

    whole = epoch()
    for done in range(len(whole) + 1):
        rest = epoch(first=whole[done - 1].position if done else 0)
        assert len(rest) == len(whole) - done
        for a, b in zip(rest, whole[done:], strict=True):
            assert (a.images_NHWC == b.images_NHWC).all() and a.position == b.position
            assert a.rows_N.tolist() == b.rows_N.tolist()


@pytest.fixture
def hanging(monkeypatch):
    """Let the reading of one file hang until the test is over."""
    over = threading.Event()
    read = reading.files.read_bytes

    def slow(path: Path, *limit: int) -> bytes:
        if path.name == "20.jpg":
            over.wait()
        return read(path, *limit)

    yield lambda: monkeypatch.setattr(reading.files, "read_bytes", slow)
    over.set()


def impatient(monkeypatch) -> None:
    monkeypatch.setattr(check, "SLOW_S", 0.3)
    monkeypatch.setattr(check, "HANG_S", 1.0)
    monkeypatch.setattr(reading, "LEAVE_S", 0.1)


@pytest.mark.timeout(60)
def test_a_reader_that_hangs_is_noticed_and_ends(files, hanging, monkeypatch) -> None:
    said = []
    loader = make_loader(files, on_slow=said.append)
    hanging()
    impatient(monkeypatch)
    with pytest.raises(GrigriError, match=r"no images for 1 s; being read: .*20\.jpg"):
        list(loader.eval_epoch(np.arange(37)))
    assert 2 <= len(said) <= 3 and "20.jpg" in said[0]


@pytest.mark.timeout(60)
def test_a_reader_that_hangs_does_not_block_giving_up(files, hanging, monkeypatch) -> None:
    stop = threading.Event()
    loader = make_loader(files, give_up=stop.is_set)
    hanging()
    monkeypatch.setattr(reading, "LEAVE_S", 0.1)
    threading.Timer(0.5, stop.set).start()
    seen = list(loader.eval_epoch(np.arange(37)))
    assert sum(len(b.rows_N) for b in seen) == 16  # what came before the file that hangs


def test_giving_up_ends_an_epoch_between_two_batches(files) -> None:
    done = []
    loader = make_loader(files, give_up=lambda: len(done) == 2)
    for batch in loader.eval_epoch(np.arange(37)):
        done.append(batch)
    assert len(done) == 2


def test_leaving_an_epoch_early_ends_its_thread(files) -> None:
    loader = make_loader(files, batch_size=2)
    before = threading.active_count()
    epoch = loader.eval_epoch(np.arange(37))
    next(epoch)
    epoch.close()
    assert threading.active_count() <= before + 2  # the pool's own two threads may have started
    assert not [t for t in threading.enumerate() if t.name == "grigri-loader"]
    _, rows = collect(loader.eval_epoch(np.arange(37)))
    assert rows.tolist() == list(range(37))
