import os
import threading
from pathlib import Path

import pytest

from grigri_fast.errors import GrigriError
from grigri_fast.runtime import files


def test_files_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for content in ("first", b"second \xff", "with a name that is not UTF-8: \udcff"):
        files.write_atomic(path, content)
        expected = content if isinstance(content, bytes) else os.fsencode(content)
        assert path.read_bytes() == expected
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch, failing: str) -> None:
    path = tmp_path / "x.txt"
    files.write_atomic(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(GrigriError, match=r"x\.txt: cannot be written: No space left"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_write_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="No such file or directory"):
        files.write_atomic(tmp_path / "nowhere" / "x.txt", "x")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "x.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_in_the_way_is_a_grigri_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(GrigriError, match="cannot be written"):
        files.write_atomic(tmp_path / "x.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_the_folder_too_is_flushed(tmp_path: Path, monkeypatch) -> None:
    kinds = []
    flush = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (kinds.append(Path(f"/proc/self/fd/{fd}").is_dir()), flush(fd))
    )
    files.write_atomic(tmp_path / "x.txt", "new")
    assert kinds == [False, True]


def test_a_failing_flush_of_the_folder_leaves_a_whole_file(tmp_path: Path, monkeypatch) -> None:
    flush = os.fsync

    def fail_for_folders(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(5, "Input/output error")
        flush(fd)

    files.write_atomic(tmp_path / "x.txt", "old")
    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(GrigriError):
        files.write_atomic(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() in ("old", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_the_file_before_is_kept(tmp_path: Path) -> None:
    path, before = tmp_path / "x", tmp_path / "x-previous"
    for content, kept in (("one", None), ("two", "one"), ("three", "two")):
        files.write_atomic(path, content, before)
        assert path.read_text() == content
        assert (before.read_text() if before.exists() else None) == kept


@pytest.mark.parametrize("failing", ["os.fsync", "os.open"])
def test_a_failed_write_keeps_both_files(tmp_path: Path, monkeypatch, failing: str) -> None:
    path, before = tmp_path / "x", tmp_path / "x-previous"
    files.write_atomic(path, "one", before)
    files.write_atomic(path, "two", before)

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(GrigriError, match="No space left"):
        files.write_atomic(path, "three", before)
    monkeypatch.undo()
    assert (path.read_text(), before.read_text()) == ("two", "one")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".x.unfinished-abc", ".y.unfinished-abc", ".x.other", "x"):
        (tmp_path / name).write_text("")
    files.remove_unfinished(tmp_path, ["x"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x.other", ".y.unfinished-abc", "x"]


NO_FILES = {
    "folder": (lambda p: p.mkdir(), "not a regular file"),
    "fifo": (lambda p: os.mkfifo(p), "not a regular file"),
    "dangling": (lambda p: p.symlink_to("nowhere"), "No such file"),
    "loop": (lambda p: p.symlink_to(p.name), "symbolic links"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    "missing": (lambda p: None, "No such file"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    make, says = NO_FILES[kind]
    make(tmp_path / "x")
    for read in (files.read_bytes, files.read_text, files.stamp):
        with pytest.raises(GrigriError, match=says):
            read(tmp_path / "x")


@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_fifo_while_it_is_opened(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x"
    path.write_text("file")

    def replaced(path: Path) -> tuple[int, int]:
        path.unlink()
        os.mkfifo(path)
        return 4, 0

    monkeypatch.setattr(files, "stamp", replaced)
    with pytest.raises(GrigriError, match="not a regular file"):
        files.read_bytes(path)


def test_a_name_with_nul_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not this one")
    with pytest.raises(GrigriError, match="NUL"):
        files.read_bytes(f"{tmp_path}/x\0.jpg")


def test_reading_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(GrigriError, match="5 bytes, more than the 4"):
        files.read_bytes(tmp_path / "x", 4)


def test_text_is_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\n")
    assert files.read_text(tmp_path / "x") == "a\r\n"
    (tmp_path / "x").write_bytes(b"ab\xff")
    with pytest.raises(GrigriError, match="byte 2"):
        files.read_text(tmp_path / "x")


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [
        threading.Thread(target=files.write_atomic, args=(tmp_path / "x", c)) for c in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_first_bytes_alone(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(b"12345")
        file.truncate(10**12)
    with files.open_regular(tmp_path / "x") as opened:
        assert opened.read(4) == b"1234"
    with pytest.raises(GrigriError, match="more than the 1,073,741,824 that are read"):
        files.read_text(tmp_path / "x")
