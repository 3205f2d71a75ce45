import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from small_set import decoded, write_image

from grigri_fast.errors import GrigriError
from grigri_fast.pipeline import affine, batching, cache, check, decode
from grigri_fast.pipeline import loader as pipeline
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.loader import ImageLoader

CPU = torch.device("cpu")


def make_loader(paths: list[Path], size_px: int = 24, **options) -> ImageLoader:
    settings = {"batch_size": 8, "device": CPU, "threads": 2} | options
    return ImageLoader(
        paths, check_images(paths, threads=2, max_pixels=10**8), size_px=size_px, **settings
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return 37 images whose red channel is their row."""
    paths = [tmp_path / f"{row}.jpg" for row in range(37)]
    for row, path in enumerate(paths):
        write_image(path, row, size=(32 + row % 5, 30))
    return paths


def red(batch: batching.Batch) -> np.ndarray:
    """Return the median red value of each image: its row, up to JPEG's rounding."""
    return np.median(batch.images_NHWC[..., 0].numpy().reshape(len(batch.rows_N), -1), axis=1)


def collect(batches) -> tuple[np.ndarray, np.ndarray]:
    """Return images and rows of an epoch, sorted by row."""
    batches = list(batches)
    rows = np.concatenate([b.rows_N.numpy() for b in batches])
    images = np.concatenate([b.images_NHWC.numpy() for b in batches])
    order = np.argsort(rows, kind="stable")
    return images[order], rows[order]


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


@pytest.mark.parametrize(
    "num_rows, batch_size, sizes",
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 8, [3])],
)
def test_no_batch_of_one_is_left_over(num_rows: int, batch_size: int, sizes: list[int]) -> None:
    batches = batching.cut_batches(np.arange(num_rows), batch_size)
    assert [len(b) for b in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(num_rows))


# -------------------------------------------------------------------------------- the cache


def kept(capacity: int | None = None) -> cache.CachePlan:
    """Return a plan for the 37 images, or for so many bytes of them."""
    needed = sum((32 + row % 5) * 30 * 3 for row in range(37))
    return cache.CachePlan("ram", needed, needed if capacity is None else capacity)


@pytest.mark.parametrize("capacity", [None, 20_000, 0])
@pytest.mark.parametrize("host_warp", [True, False])
def test_pixels_are_the_same_from_the_cache(files, capacity, host_warp: bool) -> None:
    rows = np.arange(37)
    plain = make_loader(files, host_warp=host_warp)
    cached = make_loader(files, host_warp=host_warp, cache=kept(capacity))
    for epoch in (1, 2, 3):
        options = {"seed": 0, "epoch": epoch, "augment": True}
        a, _ = collect(plain.train_epoch(rows, **options))
        b, b_rows = collect(cached.train_epoch(rows, **options))
        assert (a == b).all() and b_rows.tolist() == rows.tolist()
        a, _ = collect(plain.eval_epoch(rows[::-1]))
        b, _ = collect(cached.eval_epoch(rows[::-1]))
        assert (a == b).all()


def test_what_is_in_the_cache_is_not_read_again(files, monkeypatch) -> None:
    loader = make_loader(files, cache=kept(), batch_size=5)
    first, _ = collect(loader.eval_epoch(np.arange(20)))
    for path in files[:20]:
        path.unlink()
    (*_, last), again = list(loader.eval_epoch(np.arange(37))), None
    again, rows = collect(loader.eval_epoch(np.arange(37)))
    assert rows.tolist() == list(range(37)) and (again[:20] == first).all() and not last.dropped


def test_a_cache_that_holds_a_part_decodes_the_rest(files) -> None:
    loader = make_loader(files, cache=kept(20_000))
    list(loader.eval_epoch(np.arange(37)))
    for path in files:
        path.unlink()
    dropped = [row for batch in loader.eval_epoch(np.arange(37)) for row in batch.dropped]
    assert 0 < len(dropped) < 37


def test_a_cache_survives_an_epoch_that_was_left(files) -> None:
    loader = make_loader(files, cache=kept(), batch_size=3)
    expected, _ = collect(make_loader(files).eval_epoch(np.arange(37)))
    for _ in range(3):
        epoch = loader.eval_epoch(np.arange(37))
        next(epoch)
        epoch.close()
    images, _ = collect(loader.eval_epoch(np.arange(37)))
    assert (images == expected).all()


def test_where_the_cache_goes(files, monkeypatch) -> None:
    found = check_images(files, threads=1, max_pixels=10**8)
    needed = kept().needed_bytes
    free = {"cpu": 3 * needed, "cuda": 5 * needed}
    monkeypatch.setattr(cache.compute, "free_bytes", lambda device: free[device.type])
    cuda = torch.device("cuda")

    def plan(name: str, device: torch.device) -> tuple[str, int]:
        p = cache.plan_cache(name, found, 24, device)
        assert p.needed_bytes == needed and str(round(p.capacity_bytes / 2**20)) in p.in_words()
        return p.place, p.capacity_bytes

    assert plan("auto", CPU) == ("ram", needed)
    assert plan("auto", cuda) == ("device", needed)
    free["cuda"] = 3 * needed
    assert plan("auto", cuda) == ("ram", needed)
    assert plan("device", cuda) == ("device", needed)
    free["cpu"] = needed
    assert plan("auto", CPU) == ("ram", needed // 2)
    assert plan("ram", CPU) == ("ram", int(0.8 * needed))
    assert cache.plan_cache("off", found, 24, CPU).place == "off"
    with pytest.raises(GrigriError, match="--cache device means a GPU's memory"):
        plan("device", CPU)


def test_large_originals_are_kept_shrunk(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    write_noise(path, 300, 400, seed=0)
    found = check_images([path], threads=1, max_pixels=10**8)
    assert cache.plan_cache("ram", found, 32, CPU).needed_bytes == 64 * 85 * 3


# ---------------------------------------------------------------- the two back-ends


def both_back_ends(paths: list[Path], size_px: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one training epoch as the CPU back-end makes it, and as the GPU's code does."""
    rows = np.arange(len(paths))
    epochs = []
    for host_warp in (True, False):
        loader = make_loader(paths, size_px, host_warp=host_warp)
        images, _ = collect(loader.train_epoch(rows, seed=0, epoch=epoch, augment=True))
        epochs.append(images.astype(int))
    return epochs[0], epochs[1]


def write_noise(path: Path, height: int, width: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def test_the_gpus_warp_on_a_cpu_equals_the_cpus(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(16)]
    for i, path in enumerate(paths):
        write_noise(path, 40 + 7 * i, 90 - 3 * i, seed=i)
    for epoch in range(3):
        ours, graph = both_back_ends(paths, size_px=64, epoch=epoch)
        assert np.abs(ours - graph).max() <= 1


def test_both_back_ends_are_equal_where_images_are_shrunk(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        write_noise(path, 200 + 50 * i, 420 - 60 * i, seed=i)
    sizes_HW = check_images(paths, threads=1, max_pixels=10**8).sizes_HW
    working_HW = affine.working_sizes(sizes_HW, 48)
    assert (working_HW < sizes_HW).all()
    assert affine.taps(affine.whole_image_matrices(working_HW, 48)).min() > 1
    ours, graph = both_back_ends(paths, size_px=48, epoch=1)
    assert np.abs(ours - graph).max() <= 1


def test_both_back_ends_are_equal_on_real_photographs(grigri: Path) -> None:
    paths = sorted((grigri / "images").iterdir())[:200]
    ours, graph = both_back_ends(paths, size_px=128, epoch=1)
    assert np.abs(ours - graph).max() <= 1


def test_large_images_are_anti_aliased(tmp_path: Path) -> None:
    # A one-pixel checkerboard seen from afar is gray. Bilinear sampling alone would pick black
    # and white pixels: the standard deviation shows it.
    checkers = np.indices((512, 512)).sum(0) % 2 * 255
    path = tmp_path / "checkers.png"
    Image.fromarray(checkers.astype(np.uint8)).save(path)
    (batch,) = make_loader([path], size_px=60).eval_epoch(np.array([0]))
    pixels = batch.images_NHWC.numpy().astype(float)
    assert abs(pixels.mean() - 127.5) < 2 and pixels.std() < 5


# ------------------------------------------------------------------------ kinds of files


def exif_rotated(path: Path, image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(path, exif=exif, quality=95)


KINDS = {
    "gray.jpg": lambda path, image: image.convert("L").save(path, quality=95),
    "colour.jpg": lambda path, image: image.save(path, quality=95),
    "progressive.jpg": lambda path, image: image.save(path, quality=90, progressive=True),
    "turned.jpg": exif_rotated,
    "plain.png": lambda path, image: image.save(path),
    "palette.png": lambda path, image: image.convert("P").save(path),
    "alpha.png": lambda path, image: image.convert("RGBA").save(path),
    "lossless.webp": lambda path, image: image.save(path, lossless=True),
    "plain.bmp": lambda path, image: image.save(path),
    "plain.tiff": lambda path, image: image.save(path),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_seen_as_pillow_sees_it(tmp_path: Path, name: str) -> None:
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)
    path = tmp_path / name
    KINDS[name](path, Image.fromarray(pixels))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = check_images([path], threads=1, max_pixels=10**8)
    assert not found.bad
    assert tuple(found.sizes_HW[0]) == expected.shape[:2]
    assert np.abs(decoded(path).astype(int) - expected.astype(int)).max() <= 1


# ---------------------------------------------------------------------- checking and failing


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "truncated":
        write_noise(path, 64, 64, seed=0)
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("this is no picture")
    elif how == "folder":
        path.mkdir()
    elif how == "dangling link":
        path.symlink_to("nowhere.jpg")
    elif how == "header cut":
        path.write_bytes(content[:12])
    else:
        assert how == "missing"


HOWS = ("truncated", "empty", "text", "folder", "dangling link", "header cut", "missing")


def test_inspect_names_each_bad_file_and_decodes_each_good_one_once(files, capfd) -> None:
    bad = dict(zip((0, 3, 4, 11, 12, 30, 36), HOWS, strict=True))
    for row, how in bad.items():
        damage(files[row], how)
    progress: list[int] = []
    found = check_images(
        files,
        threads=2,
        max_pixels=10**8,
        digests=True,
        on_progress=lambda done, total: progress.append(done),
    )
    assert list(found.bad) == list(bad)
    assert all(found.bad.values())
    assert "Premature end" in found.bad[0]  # the decoder's own words
    assert found.bad[3] == "empty file"
    assert sorted(found.digests) == [i for i in range(37) if i not in bad]
    assert len(set(found.digests.values())) == 37 - len(bad)
    assert (found.crc32_N[list(bad)] == -1).all()
    assert found.sizes_HW[1].tolist() == [30, 33]
    assert progress[-1] == 37
    assert capfd.readouterr().err == ""  # the decoders' own messages are caught


def test_groups_fit_the_memory_together() -> None:
    rows = [0, 2, 3, *range(4, 74)]
    weights = [32, 32, 32, *[1] * 70]
    groups = list(decode.groups_of(rows, weights, limit=64))
    assert groups[0] == [0, 2]
    assert max(map(len, groups)) <= 64
    assert [i for group in groups for i in group] == rows


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


def test_a_file_that_only_this_device_cannot_decode_is_dropped(files, monkeypatch) -> None:
    loader = make_loader(files)
    run_graph = ImageLoader._run_graph

    def picky(self, decoder, rows: list[int], encoded: list):
        if 5 in rows:
            raise RuntimeError("nvJPEG does not support this")
        return run_graph(self, decoder, rows, encoded)

    monkeypatch.setattr(ImageLoader, "_run_graph", picky)
    batches = list(loader.eval_epoch(np.arange(37)))
    assert [b.dropped for b in batches] == [{5: "cannot be decoded on cpu"}, {}, {}, {}, {}]
    _, rows = collect(batches)
    assert rows.tolist() == [i for i in range(37) if i != 5]


def test_a_device_that_decodes_nothing_is_no_files_fault(files, monkeypatch) -> None:
    loader = make_loader(files)

    def broken(*args: object) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(ImageLoader, "_run_graph", broken)
    with pytest.raises(RuntimeError, match="the device is lost"):
        list(loader.eval_epoch(np.arange(37)))


# --------------------------------------------------------------- batches around bad files


@pytest.mark.parametrize(
    "batches, bad, expected",
    [
        ([[0, 1, 2], [3, 4, 5]], [], [[0, 1, 2], [3, 4, 5]]),
        ([[0, 1, 2], [3, 4, 5]], [1], [[0, 2], [3, 4, 5]]),
        ([[0, 1], [2, 3], [4, 5]], [1], [[], [2, 3, 0], [4, 5]]),
        ([[0, 1], [2, 3], [4, 5]], [5], [[0, 1], [2, 3, 4], []]),
        ([[0, 1], [2, 3], [4, 5]], [2, 3, 4], [[0, 1, 5], [], []]),
        ([[0, 1], [2, 3], [4, 5]], [0, 2, 4], [[], [3, 1, 5], []]),
        ([[0, 1]], [1], [[0]]),
        ([[0, 1]], [0, 1], [[]]),
    ],
)
def test_without(batches: list, bad: list, expected: list) -> None:
    found = batching.drop_rows([np.array(b, dtype=np.intp) for b in batches], bad)
    assert [b.tolist() for b in found] == expected


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


# ------------------------------------------------------------------------------- hanging


@pytest.fixture
def hanging(monkeypatch):
    """Let the reading of one file hang until the test is over."""
    over = threading.Event()
    read = pipeline.files.read_bytes

    def slow(path: Path, *limit: int) -> bytes:
        if path.name == "20.jpg":
            over.wait()
        return read(path, *limit)

    yield lambda: monkeypatch.setattr(pipeline.files, "read_bytes", slow)
    over.set()


def impatient(monkeypatch) -> None:
    monkeypatch.setattr(check, "SLOW_S", 0.3)
    monkeypatch.setattr(check, "HANG_S", 1.0)
    monkeypatch.setattr(pipeline, "_LEAVE_S", 0.1)


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
    monkeypatch.setattr(pipeline, "_LEAVE_S", 0.1)
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
