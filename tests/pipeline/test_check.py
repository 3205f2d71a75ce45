"""The process in which files are decoded for the first time may end, hang, or fail."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_set import write_image

from grigri_fast.errors import BetweenStepsError
from grigri_fast.pipeline import check
from grigri_fast.pipeline.check import ImageCheck, check_images


def run_check(paths: list[Path], **options) -> ImageCheck:
    return check_images(paths, threads=1, max_pixels=10**8, use_cache=False, **options)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
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


@pytest.mark.timeout(120)
def test_files_that_crash_the_decoder_are_bad_and_the_others_are_not(files, child_that) -> None:
    child_that(DIE, files[0].parent)
    progress: list[int] = []
    found = run_check(files, on_progress=lambda done, total: progress.append(done))
    assert found.bad == dict.fromkeys((20, 100, 101), "crashes the decoder (SIGSEGV)")
    good = [i for i in range(150) if i not in found.bad]
    assert (found.crc32_N[good] >= 0).all() and (found.sizes_HW[good] == (32, 40)).all()
    assert progress[-1] == 150 and progress == sorted(progress)


@pytest.mark.timeout(120)
def test_a_crash_that_does_not_come_again_is_no_files_fault(files, child_that) -> None:
    child_that(DIE_ONCE, files[0].parent)
    found = run_check(files)
    assert not found.bad and (found.crc32_N >= 0).all()


@pytest.mark.timeout(120)
def test_a_file_that_takes_too_much_memory_is_bad(files, child_that) -> None:
    child_that("if path.name == '20.jpg': bytearray(64 * 2**30)", files[0].parent)
    found = run_check(files)
    assert found.bad == {20: "crashes the decoder (SIGABRT)"}


@pytest.mark.timeout(60)
def test_a_process_that_always_ends_is_not_started_for_ever(files, child_that, monkeypatch) -> None:
    monkeypatch.setattr(check, "_MAX_CRASHES", 5)
    child_that("os.kill(os.getpid(), signal.SIGILL)", files[0].parent)
    with pytest.raises(RuntimeError, match="keeps ending by SIGILL"):
        run_check(files)


@pytest.mark.timeout(60)
def test_an_error_of_its_own_is_told(files, child_that) -> None:
    child_that("raise LookupError('a bug')", files[0].parent)
    with pytest.raises(RuntimeError, match=r"(?s)ended with code 1: .*LookupError: a bug"):
        run_check(files)


@pytest.mark.timeout(60)
def test_a_check_that_hangs_is_noticed_and_ends(files, child_that, monkeypatch) -> None:
    monkeypatch.setattr(check, "SLOW_S", 3.0)
    monkeypatch.setattr(check, "HANG_S", 9.0)
    child_that("if path.name == '80.jpg': time.sleep(1000)", files[0].parent)
    said: list[str] = []
    with pytest.raises(BetweenStepsError, match=r"no images for \d+ s; being read: .*/64\.jpg"):
        run_check(files, on_slow=said.append)
    assert said


@pytest.mark.timeout(60)
def test_the_process_ends_with_who_asked(files) -> None:
    before = children()
    run_check(files)
    assert children() == before
    (files[0].parent / "x.jpg").write_text("bad")
    run_check([files[0].parent / "x.jpg", *files], max_bad=0)
    assert children() == before


def children() -> set[str]:
    task = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    return set(task.read_text().split())


@pytest.mark.timeout(60)
def test_nothing_is_imported_from_the_current_folder(files, monkeypatch) -> None:
    (files[0].parent / "json.py").write_text("raise SystemExit('a file of a stranger ran')")
    (files[0].parent / "numpy.py").write_text("raise SystemExit('a file of a stranger ran')")
    monkeypatch.chdir(files[0].parent)
    found = run_check([Path(path.name) for path in files[:3]])
    assert not found.bad
