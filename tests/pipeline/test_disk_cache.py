"""Images kept on disk between runs: equal pixels, and damage, full disks and other runs noticed."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_loader import CPU, collect, make_loader, write_noise

from grigri_fast.pipeline import cache, disk_cache
from grigri_fast.pipeline.check import ImageCheck, check_images
from grigri_fast.pipeline.loader import ImageLoader

ROWS = np.arange(37)
EPOCH = {"seed": 0, "epoch": 1, "augment": True}


@pytest.fixture
def checked(files: list[Path]) -> ImageCheck:
    return check_images(files, threads=1, max_pixels=10**8)


def kept_on_disk(files: list[Path], checked: ImageCheck, **options) -> ImageLoader:
    plan = cache.plan_cache("disk", checked, 24, CPU)
    return make_loader(files, checked=checked, **({"cache": plan} | options))


def pairs() -> list[str]:
    """Return the suffixes of all that is kept, by name."""
    return [path.suffix for path in sorted(disk_cache.folder().glob("*/*"))]


def seen(loader: ImageLoader) -> np.ndarray:
    """Return the images of a training epoch and of an evaluation; all of them."""
    images = [collect(e) for e in (loader.train_epoch(ROWS, **EPOCH), loader.eval_epoch(ROWS))]
    assert all(rows.tolist() == ROWS.tolist() for _, rows in images)
    return np.concatenate([some for some, _ in images])


def fill(files: list[Path], checked: ImageCheck, **options) -> np.ndarray:
    """Run a loader that keeps all images; return what it shows."""
    loader = kept_on_disk(files, checked, **options)
    images = seen(loader)
    loader.close()
    loader.close()  # nothing happens
    return images


@pytest.mark.parametrize("host_warp", [True, False])
def test_a_later_run_reads_no_image_file(
    files: list[Path], checked: ImageCheck, host_warp: bool
) -> None:
    expected = seen(make_loader(files, checked=checked, host_warp=host_warp))
    assert (fill(files, checked, host_warp=host_warp) == expected).all()
    assert pairs() == [".index", ".pixels"]
    used = sum(path.stat().st_size for path in disk_cache.folder().glob("*/*.pixels"))
    assert used == cache.plan_cache("ram", checked, 24, CPU).needed_bytes
    later = kept_on_disk(files, checked, host_warp=host_warp)
    for path in files:
        path.rename(path.with_suffix(".away"))
    assert (seen(later) == expected).all()
    later.close()
    assert pairs() == [".index", ".pixels"]  # it has added nothing


def test_other_content_or_size_is_decoded(files: list[Path], checked: ImageCheck) -> None:
    fill(files, checked)
    for row in range(30):
        write_noise(files[row], 32 + row % 5, 30, seed=row)  # the size is the same
    files[33].write_bytes(files[34].read_bytes())
    again = check_images(files, threads=1, max_pixels=10**8)
    assert (fill(files, again) == seen(make_loader(files, checked=again))).all()
    other = cache.plan_cache("disk", again, 12, CPU)
    assert (
        seen(make_loader(files, 12, again, cache=other)) == seen(make_loader(files, 12, again))
    ).all()


@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "no pixels", "index", "index cut"])
def test_damage_is_noticed_and_mended(files: list[Path], checked: ImageCheck, how: str) -> None:
    expected = fill(files, checked)
    (pixels,) = disk_cache.folder().glob("*/*.pixels")
    path = pixels.with_suffix(".index") if how.startswith("index") else pixels
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "index":  # two images change their names
        entries = np.frombuffer(content, disk_cache._ENTRY, offset=disk_cache._DIGEST_BYTES)
        entries["identity"][[0, 5]] = entries["identity"][[5, 0]]
    if how == "no pixels":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if "cut" in how else content)
    assert (fill(files, checked) == expected).all()
    later = kept_on_disk(files, checked)
    for path in files:
        path.unlink()
    assert (seen(later) == expected).all()


def test_a_full_disk_costs_one_line(files: list[Path], checked: ImageCheck, monkeypatch) -> None:
    expected = seen(make_loader(files, checked=checked))
    real, written = os.pwrite, []

    def until_full(descriptor: int, data: memoryview, at: int) -> int:
        if sum(written) > 40_000:
            raise OSError(28, os.strerror(28))
        written.append(real(descriptor, data[:7001], at))  # a part, as a system may
        return written[-1]

    monkeypatch.setattr(disk_cache.os, "pwrite", until_full)
    lines: list[str] = []
    assert (fill(files, checked, on_slow=lines.append) == expected).all()
    assert len(lines) == 1 and "No space left on device" in lines[0]
    monkeypatch.undo()
    later = kept_on_disk(files, checked)
    assert (seen(later) == expected).all()  # from the part that was written, and the files


def test_a_folder_that_cannot_be_written_costs_one_line(
    files: list[Path], checked: ImageCheck
) -> None:
    folder = disk_cache.folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file")
    lines: list[str] = []
    plan = cache.CachePlan("disk", 10**6, 10**6)
    images = fill(files, checked, cache=plan, on_slow=lines.append)
    assert (images == seen(make_loader(files, checked=checked))).all()
    assert len(lines) == 1 and str(folder) in lines[0]


def test_runs_at_the_same_time_share_what_they_have(files: list[Path], checked: ImageCheck) -> None:
    one, two = (kept_on_disk(files, checked) for _ in range(2))
    expected = seen(make_loader(files, checked=checked))
    list(one.eval_epoch(ROWS[:20]))
    list(two.eval_epoch(ROWS[20:]))
    for path in files:
        path.unlink()
    assert (seen(one) == expected).all() and (seen(two) == expected).all()
    one.close()
    two.close()
    assert pairs() == [".index", ".pixels"] * 2


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_used_or_removed(
    files: list[Path], checked: ImageCheck
) -> None:
    expected = seen(make_loader(files, checked=checked))
    folder = fill_until_killed(files)
    assert pairs() == [".index", ".pixels", ".pixels"]
    later = kept_on_disk(files, checked)
    assert len(list(folder.glob("*.pixels"))) == 2  # that of the first epoch, and its own
    for path in files[:20]:
        path.unlink()
    assert (seen(later) == expected).all()


def fill_until_killed(files: list[Path]) -> Path:
    """Kill a process whose first epoch was saved, and which another file was made beside."""
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from grigri_fast.pipeline import cache, disk_cache
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.loader import ImageLoader
import torch
files = [Path(line) for line in {[str(f) for f in files]!r}]
checked = check_images(files, threads=1, max_pixels=10**8)
cpu = torch.device("cpu")
plan = cache.plan_cache("disk", checked, 24, cpu)
loaders = [
    ImageLoader(
        files, checked, size_px=24, batch_size=8, device=cpu, threads=1, cache=plan
    )
    for _ in range(2)
]
list(loaders[0].eval_epoch(np.arange(20)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    (folder,) = disk_cache.folder().iterdir()
    return folder


def test_the_oldest_make_room_unless_they_are_used(
    files: list[Path], checked: ImageCheck, monkeypatch
) -> None:
    needed = cache.plan_cache("ram", checked, 24, CPU).needed_bytes
    folder = disk_cache.folder() / "others"
    folder.mkdir(parents=True)
    for i, name in enumerate("abc"):
        for suffix in (".pixels", ".index"):
            (folder / f"{name}{suffix}").write_bytes(bytes(200_000))
            os.utime(folder / f"{name}{suffix}", (i, i))
    # All of the disk: what is free after these, and they; half of it is for the cache.
    taken = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    usage = shutil_usage(free=2 * needed)
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", usage)
    assert taken > 2 * needed
    with (folder / "a.pixels").open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        fill(files, checked, cache=cache.CachePlan("disk", needed, needed))
    assert (folder / "a.pixels").exists() and not (folder / "b.pixels").exists()
    later = kept_on_disk(files, checked)
    for path in files:
        path.unlink()
    seen(later)


def shutil_usage(free: int):
    """Return a disk of a size: what the cache gives up becomes free."""
    begin = disk_cache._taken_bytes()

    def usage(path: Path):
        class Usage:
            pass

        answer = Usage()
        answer.free = free + begin - disk_cache._taken_bytes()
        return answer

    return usage


def test_where_auto_takes_the_disk(files: list[Path], checked: ImageCheck, monkeypatch) -> None:
    large = ImageCheck(np.full((37, 2), 4000), checked.crc32_N, {}, 10**8)
    needed = 37 * 448 * 448 * 3
    free = {"ram": 3 * needed, "disk": 10 * needed}
    monkeypatch.setattr(cache.compute, "free_bytes", lambda device: free["ram"])
    monkeypatch.setattr(disk_cache, "room_bytes", lambda: free["disk"])

    def place(images: ImageCheck, **options) -> str:
        return cache.plan_cache("auto", images, 224, torch.device("cpu"), **options).place

    assert place(large) == "ram"
    assert place(large, max_bytes=needed // 2) == "disk"
    free["ram"] = needed
    assert place(large) == "disk"
    free["disk"] = needed - 1
    assert place(large) == "ram"
    free["ram"], free["disk"] = 1000, 10**9
    assert place(checked) == "ram"  # kept, these take more than their files
