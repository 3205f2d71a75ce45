"""The wheel that is built from this tree: what is in it, and what it says of itself."""

import ast
import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

from grigri_fast import __version__

ROOT = Path(__file__).parent.parent
if int(setuptools.__version__.partition(".")[0]) < 77:
    pytest.skip("pyproject.toml needs setuptools 77 or newer", allow_module_level=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Return the wheel of a copy: what an earlier build has left behind is not in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    for name in ("grigri_fast", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "grigri_fast" / "photo.jpg").write_bytes(b"data have no place in it")
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    (path,) = (copy / "dist").iterdir()
    assert path.name == f"grigri_fast-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as file:
        yield file


def test_it_holds_the_package_and_nothing_else(wheel) -> None:
    folder = f"grigri_fast-{__version__}.dist-info"
    ours = {name for name in wheel.namelist() if not name.startswith(f"{folder}/")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "grigri_fast").rglob("*.py")}
    folders = ("reporting/templates", "serving/templates", "serving/static")
    templates = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / "grigri_fast" / folder).iterdir()
    }
    assert len(templates) > 5
    assert ours == modules | templates | {"grigri_fast/py.typed"}
    about = {name.removeprefix(f"{folder}/") for name in wheel.namelist()} - ours
    wanted = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt"}
    assert about == wanted | {"licenses/LICENSE"}
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_its_metadata_are_right(wheel) -> None:
    folder = f"grigri_fast-{__version__}.dist-info"
    about = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert (about["Name"], about["Version"]) == ("grigri-fast", __version__)
    assert (about["License-Expression"], about["License-File"]) == ("MIT", "LICENSE")
    assert about["Requires-Python"] == ">=3.11"
    assert {"dev", "tensorboard", "tune"} <= set(about.get_all("Provides-Extra"))
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert about["Summary"] and about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload().startswith("# grigri-fast")
    entry = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "grigri-fast = grigri_fast.cli.main:entry" in entry


def test_what_it_imports_it_requires(wheel) -> None:
    """Each library that a module imports is required, always or as an extra."""
    of_import = {"nvidia": "nvidia-dali-cuda120", "pynvml": "nvidia-ml-py", "PIL": "pillow"}
    of_import |= {"imagehash": "ImageHash", "pillow_heif": "pillow-heif", "yaml": "pyyaml"}
    of_import |= {"skmultilearn": "scikit-multilearn"}
    of_import |= {"cv2": "opencv-python-headless", "markdown_it": "markdown-it-py"}
    folder = f"grigri_fast-{__version__}.dist-info"
    about = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    required = {
        re.match(r"[\w.-]+", line)[0]
        for line in about.get_all("Requires-Dist")
        if 'extra == "dev"' not in line
    }
    for path in (ROOT / "grigri_fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names:
                    assert of_import.get(name, name) in required, f"{path.name} imports {name}"
