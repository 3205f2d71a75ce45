"""A run that the tests of the commands share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import RESNET18, run_of


@pytest.fixture(scope="session")
def trained(tmp_path_factory, photos_once: Path) -> tuple[Path, Path]:
    """Return (data, run): a run on 48 images that has learned something."""
    data, folder = photos_once, tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "grigri_fast", "train", data, *RESNET18, "--test=0.2"]
    command += ["--epochs=8", "--lr=0.05", "--no-augment", "--out", folder / "runs"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return data, run_of(done.stdout)


@pytest.fixture
def run(trained, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may change."""
    return Path(shutil.copytree(trained[1], tmp_path / "run"))
