"""The GPU acceptance run, rehearsed where there is no GPU, so that the script never is at fault."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_set import write_image

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_acceptance.py"
PARTS = re.findall(r'^    \("(\w+)", ', SCRIPT.read_text(), re.MULTILINE)
PARTS += re.findall(r'^    \(\n        "(\w+)",', SCRIPT.read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal is for where there is no GPU")
def test_every_part_is_rehearsed(photos: Path, tmp_path: Path) -> None:
    for row in range(48, 80):
        write_image(photos / "images" / f"im{row + 1}.jpg", row)
    (photos / "images" / "im1.jpg").unlink()  # as where a part of the images was carried
    # The two that are left out are the one of resnet34 with another name.
    parts = [name for name in PARTS if name not in ("memory_resnet50", "memory_wide_resnet50_2")]
    assert len(parts) == 12
    halves = [parts[::2], parts[1::2]]  # at the same time: each uses one thread
    time = ["--minutes=16"]  # twice what a GPU has: other tests run beside it
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, photos, *time, "--out", tmp_path / half[0], "--only", *half],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for half in halves
    ]
    for half, process in zip(halves, running, strict=True):
        said, _ = process.communicate()
        assert process.returncode == 0, said
        result = json.loads((tmp_path / half[0] / "result.json").read_text())
        assert result["is_rehearsal"] and set(result["parts"]) == set(half)
        assert all(part["status"] == "ok" and part["found"] for part in result["parts"].values())
    (picture,) = tmp_path.glob("*/memory.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "images" / "im1.jpg").write_bytes(b"no image")
    words = ["--only", "versions", "decoding", "flat", "--minutes", "0.25", "--out", tmp_path / "o"]
    done = subprocess.run(
        [sys.executable, SCRIPT, photos, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    parts = json.loads((tmp_path / "o" / "result.json").read_text())["parts"]
    assert list(parts) == ["versions", "decoding", "flat"]
    assert any(part["status"] != "ok" for part in parts.values())
