"""Which image files words and lists name."""

import os
from pathlib import Path

import pytest

from grigri_fast.data.images import find_images, paths_in_list
from grigri_fast.errors import GrigriError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_folders_and_globs(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "deep/er/c.webp", "deep/notes.txt")
    a, b, c = tmp_path / "a.PNG", tmp_path / "b.jpg", tmp_path / "deep/er/c.webp"
    assert find_images([str(tmp_path)]).images == [a, b, c]
    assert find_images([str(b), str(tmp_path)]).images == [b, a, c]  # each once, first come
    assert find_images([f"{tmp_path}/*.jpg"]).images == [b]
    assert find_images([f"{tmp_path}/**/*.webp"]).images == [c]
    assert find_images([f"{tmp_path}/deep/notes.txt"]).images == [tmp_path / "deep/notes.txt"]
    touch(tmp_path, "odd[1].jpg")
    assert find_images([f"{tmp_path}/odd[1].jpg"]).images == [tmp_path / "odd[1].jpg"]


@pytest.mark.parametrize("name", ["*.bmp", "nowhere.jpg", "a**b["])
def test_what_names_nothing_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(GrigriError):
        find_images([f"{tmp_path}/{name}"])


def test_hidden_and_system_files_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", "@eaDir/a.jpg/small.jpg", "b/.ipynb_checkpoints/b.jpg")
    found = find_images([str(tmp_path)])
    assert found.images == [tmp_path / "a.jpg"]
    assert found.in_words() == "2 hidden (._a.jpg, ...), 1 system (@eaDir)"
    assert find_images([f"{tmp_path}/**/*.jpg"]).images == [tmp_path / "a.jpg"]
    assert find_images([f"{tmp_path}/._a.jpg"]).images == [tmp_path / "._a.jpg"]


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GrigriError, match=r"empty: no images \(.*\.jpg.*\)$"):
        find_images([f"{tmp_path}/empty"])
    touch(tmp_path, "other/a.gif", "other/b.txt", "other/c.txt")
    with pytest.raises(GrigriError, match=r"; it has 1 \.gif, 2 \.txt$"):
        find_images([f"{tmp_path}/other"])


def test_a_list_has_a_path_on_each_line() -> None:
    content = b"\xef\xbb\xbfa.jpg\r\n\n  \nwith space.jpg\nb/*.jpg\na.jpg\n\xff.jpg"
    assert paths_in_list(content, "list") == [
        Path("a.jpg"),
        Path("with space.jpg"),
        Path("b/*.jpg"),  # a name, no glob
        Path(os.fsdecode(b"\xff.jpg")),
    ]


def test_a_list_with_nul_may_have_names_with_line_breaks() -> None:
    assert paths_in_list(b"a\nb.jpg\0c.jpg\0", "stdin") == [Path("a\nb.jpg"), Path("c.jpg")]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\0\0"])
def test_an_empty_list_is_an_error(content: bytes) -> None:
    with pytest.raises(GrigriError, match=r"^list\.txt: an empty list; expected the path"):
        paths_in_list(content, "list.txt")


def test_a_folder_in_a_list_is_an_error(tmp_path: Path) -> None:
    content = f"a.jpg\n{tmp_path}\n".encode()
    with pytest.raises(GrigriError, match=f"^list.txt line 2: {tmp_path} is a folder; name it"):
        paths_in_list(content, "list.txt")
    with pytest.raises(GrigriError, match=f"^stdin path 1: {tmp_path} is a folder; name it"):
        paths_in_list(f"{tmp_path}\0a.jpg\0".encode(), "stdin")
