"""Features of image files: computed once per content, whatever happens to files and to the pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_loader import CPU, make_loader
from small_set import write_photos
from torch import nn

from grigri_fast.inference import features, forward
from grigri_fast.inference.features import Features, compute_features
from grigri_fast.models import factory
from grigri_fast.models.normalize import Preprocessing
from grigri_fast.pipeline.check import ImageCheck, check_images
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.memory import Budget

HERE = Compute(CPU, "fp32", 1)
WANTED = np.array([5, 3, 8])


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return factory.build("shufflenet_v2_x0_5", 3, 32).eval()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = write_photos(tmp_path / "photos")
    return [folder / "images" / f"im{i + 1}.jpg" for i in range(48)]


@pytest.fixture
def checked(paths) -> ImageCheck:
    return check_images(paths, threads=1, max_pixels=10**8)


@pytest.fixture
def ran(monkeypatch) -> list[int]:
    """Return a list that gets the rows that go through the network."""
    rows: list[int] = []
    outputs = forward.outputs

    def noted(run, loader, asked, **options):
        rows.extend(asked.tolist())
        return outputs(run, loader, asked, **options)

    monkeypatch.setattr(forward, "outputs", noted)
    return rows


def compute(network, paths, checked, rows=WANTED, **options) -> Features:
    settings = {"size_px": 32, "views": ("whole", "mirror"), "compute": HERE} | options
    with Budget(CPU) as budget:
        return compute_features(network, paths, checked, rows, budget=budget, **settings)


def test_a_networks_head_makes_its_logits_of_them(network, paths, checked) -> None:
    found = compute(network, paths, checked)
    assert found.features_VND.shape == (2, 3, 1024) and found.features_VND.dtype == np.float16
    (batch,) = make_loader(paths, 32).eval_epoch(WANTED)
    run = forward.logits_of(network, HERE)
    for view, images in enumerate((batch.images_NHWC, batch.images_NHWC.flip(2))):
        logits = network.fc(torch.from_numpy(found.features_VND[view]).float())
        torch.testing.assert_close(logits, run(images), atol=2e-3, rtol=0)


def test_what_decides_features_decides_what_is_known(network, paths, checked, ran) -> None:
    first = compute(network, paths, checked)
    shown: list[tuple[int, int]] = []
    again = compute(network, paths, checked, on_progress=lambda *done: shown.append(done))
    assert ran == [5, 3, 8] and shown == [(3, 3)]
    assert np.array_equal(first.features_VND, again.features_VND)
    more = compute(network, paths, checked, np.array([8, 9, 5]))
    assert ran == [5, 3, 8, 9]
    assert np.array_equal(more.features_VND[:, [0, 2]], first.features_VND[:, [2, 0]])
    with torch.no_grad():
        network.fc.weight.add_(1)
    compute(network, paths, checked)
    assert ran == [5, 3, 8, 9]  # the head is no part of it
    network.branch = nn.ReLU()  # layers without weights are
    compute(network, paths, checked)
    network.preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3)
    compute(network, paths, checked)
    compute(network, paths, checked, size_px=48)
    compute(network, paths, checked, views=("whole",))
    assert ran == [5, 3, 8, 9, *[5, 3, 8] * 4]


@pytest.mark.parametrize("rows", [WANTED, np.array([3, 8])])
def test_files_that_have_gone_bad_are_dropped(network, paths, checked, rows) -> None:
    compute(network, paths, checked, np.array([5]))
    paths[3].write_bytes(paths[3].read_bytes() + b"more")
    paths[8].unlink()
    found = compute(network, paths, checked, rows)
    assert found.dropped.keys() == {3, 8}
    assert found.features_VND.shape[1] == len(rows) - 2


def test_a_bad_file_is_dropped_though_another_has_the_content_it_had(network, paths) -> None:
    paths[3].write_bytes(paths[5].read_bytes())
    checked = check_images(paths, threads=1, max_pixels=10**8)
    content = bytearray(paths[3].read_bytes())
    content[-3] ^= 1
    paths[3].write_bytes(content)  # of the same size
    found = compute(network, paths, checked)
    assert found.dropped.keys() == {3} and found.features_VND.shape[1] == 2


def test_a_pass_that_is_stopped_goes_on_from_there(
    network, paths, checked, ran, monkeypatch
) -> None:
    monkeypatch.setattr(features, "_KEPT_EVERY", 2)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(network, paths, checked, on_progress=stop)
    ran.clear()
    shown: list[tuple[int, int]] = []
    compute(network, paths, checked, on_progress=lambda *done: shown.append(done))
    assert ran == [8] and shown == [(2, 3), (3, 3)]


def test_numbers_beyond_half_precision_stay_finite(network, paths, checked) -> None:
    with torch.no_grad():
        network.conv5[1].weight.mul_(1e9)
    found = compute(network, paths, checked)
    assert np.isfinite(found.features_VND).all() and found.features_VND.max() == 65504
