import json
import platform
import socket
import threading
from pathlib import Path

import pytest
import torch

from grigri_fast.data import dataset, split
from grigri_fast.errors import GrigriError
from grigri_fast.runs import run_folder
from grigri_fast.runtime import environment, files


def test_folders_get_numbers(tmp_path: Path) -> None:
    made = [run_folder.create_folder(tmp_path / "new" / "runs", "photos").name for _ in range(3)]
    assert made == ["photos", "photos-2", "photos-3"]


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    made: list[Path] = []
    start = threading.Barrier(20)

    def create() -> None:
        start.wait()
        made.append(run_folder.create_folder(tmp_path, "photos"))

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
            run_folder.create_folder(parent, "photos")


def test_json_has_no_nan(tmp_path: Path) -> None:
    content = {"a": float("nan"), "b": [1.5, (float("nan"), "x")], "c": {"d": True}}
    files.write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": None,
        "b": [1.5, [None, "x"]],
        "c": {"d": True},
    }


def test_paths_are_shown_as_a_person_would_name_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.shown(tmp_path / "photos") == Path("photos")
    assert files.shown("/elsewhere/photos") == Path("/elsewhere/photos")
    assert files.shown("photos") == Path("photos")


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no such run folder"):
        run_folder.require(tmp_path / "nowhere")
    with pytest.raises(GrigriError, match=r"has no config\.toml"):
        run_folder.require(tmp_path)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(GrigriError, match=r"labels\.csv: not a run folder"):
        run_folder.require(tmp_path / "labels.csv")


def test_the_environment_does_not_name_the_host(monkeypatch) -> None:
    named = platform.uname()._replace(node="secret-host")
    monkeypatch.setattr(platform, "uname", lambda: named)
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    monkeypatch.setattr(socket, "getfqdn", lambda: "secret-host")
    found = environment.describe(torch.device("cpu"), "fp32")
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


def test_a_link_that_leads_nowhere_takes_a_name(tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to("nowhere")
    assert run_folder.create_folder(tmp_path, "photos").name == "photos-2"


def test_a_part_of_a_runs_own_data(photos_once: Path, tmp_path: Path) -> None:
    data = dataset.load(str(photos_once))
    parts = split.stratify(data, 0.25, 0.0, 0)
    (tmp_path / run_folder.CONFIG).write_text(f'data = "{photos_once}"\n')
    (tmp_path / run_folder.SPLIT).write_text(split.to_json(parts, data))
    for part in (run_folder.open_part(tmp_path), run_folder.open_part(tmp_path, "val", data)):
        assert part.data.names == data.names
        assert part.rows.tolist() == part.split.parts["val"].tolist() == parts.parts["val"].tolist()
    with pytest.raises(GrigriError, match="its split has no test part, only train, val"):
        run_folder.open_part(tmp_path, "test")
    (tmp_path / run_folder.CONFIG).write_text("")
    with pytest.raises(GrigriError, match="does not say which data"):
        run_folder.open_part(tmp_path)
