"""PATH... of predict and suggest: lists in files and on stdin, and what is left out aloud."""

import csv
import io
import sys
from pathlib import Path

import pytest
from small_set import write_image

from grigri_fast.cli.paths import found_images
from grigri_fast.errors import GrigriError


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for row, name in enumerate(("a.jpg", "b.jpg", "@x.jpg", "-", "deep/c.jpg", "deep/._c.jpg")):
        write_image(tmp_path / "any.jpg", row)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "any.jpg").rename(tmp_path / name)
    return tmp_path


def names(*words: str) -> list[str]:
    return [str(path) for path in found_images(words).images]


def say_on_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_list_in_a_file(here: Path) -> None:
    (here / "list.txt").write_text("b.jpg\n\ngone.jpg\n")
    assert names("@list.txt") == ["b.jpg", "gone.jpg"]
    assert names("a.jpg", "@list.txt", "deep", "b.jpg") == [
        *("a.jpg", "b.jpg", "gone.jpg", "deep/c.jpg")
    ]


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_a_list_on_stdin(here: Path, monkeypatch, end: bytes) -> None:
    say_on_stdin(monkeypatch, b"b.jpg" + end + b"deep/c.jpg" + end)
    assert names("-") == ["b.jpg", "deep/c.jpg"]


def test_files_with_such_names_are_reached_by_their_folder(here: Path) -> None:
    assert names("./@x.jpg", "./-") == ["@x.jpg", "-"]


def test_a_wrong_list_is_one_line(here: Path, monkeypatch) -> None:
    with pytest.raises(GrigriError, match=r"^no\.txt: No such file.*; @no\.txt means the list of"):
        names("@no.txt")
    with pytest.raises(GrigriError, match=r"^deep: not a regular file; @deep means the list"):
        names("@deep")
    with pytest.raises(GrigriError, match=r"^@: .*an image of this name"):
        names("@")
    say_on_stdin(monkeypatch, b"")
    with pytest.raises(GrigriError, match=r"^stdin: an empty list"):
        names("-")


def test_what_is_left_out_is_known(here: Path) -> None:
    (here / "deep/notes.txt").touch()
    found = found_images(["deep", "a.jpg"])
    assert [str(path) for path in found.images] == ["deep/c.jpg", "a.jpg"]
    assert found.in_words() == "1 hidden (._c.jpg), 1 .txt"


@pytest.mark.slow
def test_predict_labels_a_list(cli, trained, here: Path, monkeypatch) -> None:
    """A file of the list that is gone has a row with the reason; the others are labelled."""
    say_on_stdin(monkeypatch, b"b.jpg\0gone.jpg\0")
    code, out, err = cli("predict", trained[1], "-", "deep", "--threads=1")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["image"] for row in rows] == ["b.jpg", "gone.jpg", "deep/c.jpg"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert code == 1
    left_out, error = err.splitlines()
    assert left_out == "left out: 1 hidden (._c.jpg)"
    assert error == "error: gone.jpg: No such file or directory; the others were labelled"
