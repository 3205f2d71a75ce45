import json
import os
import platform
import socket
import threading
from pathlib import Path

import pytest
import torch

from grigri_fast import run
from grigri_fast.errors import GrigriError


def test_folders_get_numbers(tmp_path: Path) -> None:
    made = [run.create_folder(tmp_path / "new" / "runs", "photos").name for _ in range(3)]
    assert made == ["photos", "photos-2", "photos-3"]


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    made: list[Path] = []
    start = threading.Barrier(20)

    def create() -> None:
        start.wait()
        made.append(run.create_folder(tmp_path, "photos"))

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for parent in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(GrigriError, match="cannot make a run folder"):
            run.create_folder(parent, "photos")


def test_files_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for content in ("first", b"second \xff", "with a name that is not UTF-8: \udcff"):
        run.write_atomic(path, content)
        expected = content if isinstance(content, bytes) else os.fsencode(content)
        assert path.read_bytes() == expected
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch, failing: str) -> None:
    path = tmp_path / "x.txt"
    run.write_atomic(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(GrigriError, match=r"x\.txt: cannot be written: No space left"):
        run.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_write_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="No such file or directory"):
        run.write_atomic(tmp_path / "nowhere" / "x.txt", "x")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run.write_atomic(tmp_path / "x.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_json_has_no_nan(tmp_path: Path) -> None:
    content = {"a": float("nan"), "b": [1.5, (float("nan"), "x")], "c": {"d": True}}
    run.write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": None,
        "b": [1.5, [None, "x"]],
        "c": {"d": True},
    }


def test_paths_are_shown_as_a_person_would_name_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.shown(tmp_path / "photos") == Path("photos")
    assert run.shown("/elsewhere/photos") == Path("/elsewhere/photos")
    assert run.shown("photos") == Path("photos")


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no such run folder"):
        run.require(tmp_path / "nowhere")
    with pytest.raises(GrigriError, match=r"has no config\.toml"):
        run.require(tmp_path)


def test_the_environment_does_not_name_the_host(monkeypatch) -> None:
    named = platform.uname()._replace(node="secret-host")
    monkeypatch.setattr(platform, "uname", lambda: named)
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    monkeypatch.setattr(socket, "getfqdn", lambda: "secret-host")
    found = run.environment(torch.device("cpu"), "fp32")
    assert "secret-host" not in json.dumps(found)
    wanted = [
        "started",
        "command",
        "python",
        "platform",
        "packages",
        "device",
        "amp",
        "cpu",
        "cpu_threads",
    ]
    assert set(found) == set(wanted)


def test_a_folder_in_the_way_is_a_grigri_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(GrigriError, match="cannot be written"):
        run.write_atomic(tmp_path / "x.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_link_that_leads_nowhere_takes_a_name(tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to("nowhere")
    assert run.create_folder(tmp_path, "photos").name == "photos-2"


def test_the_folder_too_is_flushed(tmp_path: Path, monkeypatch) -> None:
    kinds = []
    flush = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (kinds.append(Path(f"/proc/self/fd/{fd}").is_dir()), flush(fd))
    )
    run.write_atomic(tmp_path / "x.txt", "new")
    assert kinds == [False, True]


def test_a_failing_flush_of_the_folder_leaves_a_whole_file(tmp_path: Path, monkeypatch) -> None:
    flush = os.fsync

    def fail_for_folders(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(5, "Input/output error")
        flush(fd)

    run.write_atomic(tmp_path / "x.txt", "old")
    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(GrigriError):
        run.write_atomic(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() in ("old", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
