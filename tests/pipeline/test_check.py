"""The process in which files are decoded for the first time may end, hang, or fail."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import warm_check
from small_loader import HOWS, damage
from small_set import write_image

from grigri_fast.errors import BetweenStepsError
from grigri_fast.pipeline import check
from grigri_fast.pipeline.check import ImageCheck, check_images
from grigri_fast.pipeline.decode import groups_of


def run_check(paths: list[Path], **options) -> ImageCheck:
    return check_images(paths, threads=1, max_pixels=10**8, use_cache=False, **options)


@pytest.fixture(autouse=True)
def cold_checks(monkeypatch) -> None:
    """Start the process as the program does."""
    monkeypatch.setattr(check._Process, "start", warm_check.COLD_START)


@pytest.fixture
def many_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(150)]
    for i, path in enumerate(paths):
        write_image(path, i)
    return paths


@pytest.fixture
def child_that(monkeypatch):
    """Let the process that decodes do something odd: Python code with ``path`` and ``times``."""

    def does(code: str, folder: Path) -> None:
        program = (
            "import os, signal, sys, time\n"
            f"sys.path.insert(0, {str(Path(check.__file__).parents[2])!r})\n"
            "from grigri_fast.pipeline import check_worker, image_file\n"
            "read = image_file.read\n"
            "def odd(path, max_pixels):\n"
            f"    times = {str(folder)!r} + '/times-' + path.name\n"
            f"    {code}\n"
            "    return read(path, max_pixels)\n"
            "image_file.read = odd\n"
            "check_worker.main()\n"
        )
        popen = subprocess.Popen

        def start(words: list[str], **options: object) -> subprocess.Popen:
            return popen([sys.executable, "-c", program, *words[4:]], **options)

        monkeypatch.setattr(check.subprocess, "Popen", start)

    return does


DIE = "if path.name in ('20.jpg', '100.jpg', '101.jpg'): os.kill(os.getpid(), signal.SIGSEGV)"
DIE_ONCE = (
    "if path.name == '20.jpg' and not os.path.exists(times):"
    " open(times, 'w'); os.kill(os.getpid(), signal.SIGSEGV)"
)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_files_that_crash_the_decoder_are_bad_and_the_others_are_not(
    many_files, child_that
) -> None:
    child_that(DIE, many_files[0].parent)
    progress: list[int] = []
    found = run_check(many_files, on_progress=lambda done, total: progress.append(done))
    assert found.bad == dict.fromkeys((20, 100, 101), "crashes the decoder (SIGSEGV)")
    good = [i for i in range(150) if i not in found.bad]
    assert (found.crc32_N[good] >= 0).all() and (found.sizes_HW[good] == (32, 40)).all()
    assert progress[-1] == 150 and progress == sorted(progress)


@pytest.mark.timeout(120)
def test_a_crash_that_does_not_come_again_is_no_files_fault(many_files, child_that) -> None:
    child_that(DIE_ONCE, many_files[0].parent)
    found = run_check(many_files)
    assert not found.bad and (found.crc32_N >= 0).all()


@pytest.mark.timeout(120)
def test_a_file_that_takes_too_much_memory_is_bad(many_files, child_that) -> None:
    child_that("if path.name == '20.jpg': bytearray(64 * 2**30)", many_files[0].parent)
    found = run_check(many_files)
    assert found.bad == {20: "crashes the decoder (SIGABRT)"}


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_process_that_always_ends_is_not_started_for_ever(
    many_files, child_that, monkeypatch
) -> None:
    monkeypatch.setattr(check, "_MAX_CRASHES", 5)
    child_that("os.kill(os.getpid(), signal.SIGILL)", many_files[0].parent)
    with pytest.raises(RuntimeError, match="keeps ending by SIGILL"):
        run_check(many_files)


@pytest.mark.timeout(60)
def test_an_error_of_its_own_is_told(many_files, child_that) -> None:
    child_that("raise LookupError('a bug')", many_files[0].parent)
    with pytest.raises(RuntimeError, match=r"(?s)ended with code 1: .*LookupError: a bug"):
        run_check(many_files)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_check_that_hangs_is_noticed_and_ends(many_files, child_that, monkeypatch) -> None:
    monkeypatch.setattr(check, "SLOW_S", 3.0)
    monkeypatch.setattr(check, "HANG_S", 9.0)
    child_that("if path.name == '80.jpg': time.sleep(1000)", many_files[0].parent)
    said: list[str] = []
    rows = list(range(len(many_files)))
    first = next(g[0] for g in groups_of(rows, [1] * len(rows), len(rows)) if 80 in g)
    says = rf"no images for \d+ s; being read: .*/{first}\.jpg"
    with pytest.raises(BetweenStepsError, match=says):
        run_check(many_files, on_slow=said.append)
    assert said


@pytest.mark.timeout(60)
def test_the_process_ends_with_who_asked(many_files) -> None:
    before = children()
    run_check(many_files)
    assert children() == before
    (many_files[0].parent / "x.jpg").write_text("bad")
    run_check([many_files[0].parent / "x.jpg", *many_files], max_bad=0)
    assert children() == before


def children() -> set[str]:
    task = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    return set(task.read_text().split())


@pytest.mark.timeout(60)
def test_nothing_is_imported_from_the_current_folder(many_files, monkeypatch) -> None:
    (many_files[0].parent / "json.py").write_text("raise SystemExit('a file of a stranger ran')")
    (many_files[0].parent / "numpy.py").write_text("raise SystemExit('a file of a stranger ran')")
    monkeypatch.chdir(many_files[0].parent)
    found = run_check([Path(path.name) for path in many_files[:3]])
    assert not found.bad


# ------------------------------------------------------------------- without any crash


def test_the_check_names_each_bad_file_and_decodes_each_good_one_once(files, capfd) -> None:
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
    assert found.digests_N2.any(1).tolist() == [i not in bad for i in range(37)]
    assert len(np.unique(found.digests_N2, axis=0)) == 37 - len(bad) + 1
    assert (found.crc32_N[list(bad)] == -1).all()
    assert found.sizes_HW[1].tolist() == [30, 33]
    assert progress[-1] == 37
    assert capfd.readouterr().err == ""  # the decoders' own messages are caught
