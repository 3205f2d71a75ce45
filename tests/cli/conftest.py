"""A run that the tests of the commands share."""

import shutil
from pathlib import Path

import pytest
from small_runs import QUICK, run_of, start


@pytest.fixture(scope="session")
def trained(tmp_path_factory, photos_once: Path) -> tuple[Path, Path]:
    """Return (data, run): a run on 48 images that has learned something."""
    data, folder = photos_once, tmp_path_factory.mktemp("trained")
    words = ["train", data, *QUICK, "--arch=resnet18", "--test=0.2", "--epochs=8", "--lr=0.05"]
    words += ["--no-augment"]
    process = start(*words, "--out", folder / "runs")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    return data, run_of(out)


@pytest.fixture
def run(trained, tmp_path: Path) -> Path:
    """Return a copy of the run, without its states to go on with, that a test may change."""
    left_out = shutil.ignore_patterns("resume*")
    return Path(shutil.copytree(trained[1], tmp_path / "run", ignore=left_out))
