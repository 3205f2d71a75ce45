"""Fixtures of the pipeline's tests."""

from pathlib import Path

import pytest
from small_set import write_image


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return 37 images whose red channel is their row."""
    paths = [tmp_path / f"{row}.jpg" for row in range(37)]
    for row, path in enumerate(paths):
        write_image(path, row, size=(32 + row % 5, 30))
    return paths
