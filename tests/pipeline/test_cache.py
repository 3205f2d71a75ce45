from pathlib import Path

import numpy as np
import pytest
import torch
from small_loader import CPU, collect, make_loader, write_noise

from grigri_fast.errors import GrigriError
from grigri_fast.pipeline import cache
from grigri_fast.pipeline.check import check_images


def kept(capacity: int | None = None) -> cache.CachePlan:
    """Return a plan for the 37 images, or for so many bytes of them."""
    needed = sum((32 + row % 5) * 30 * 3 for row in range(37))
    return cache.CachePlan("ram", needed, needed if capacity is None else capacity)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [None, 20_000, 0])
@pytest.mark.parametrize("host_warp", [True, False])
def test_pixels_are_the_same_from_the_cache(files, capacity, host_warp: bool) -> None:
    rows = np.arange(37)
    plain = make_loader(files, host_warp=host_warp)
    cached = make_loader(files, host_warp=host_warp, cache=kept(capacity))
    for epoch in (1, 2, 3):
        options = {"seed": 0, "epoch": epoch, "augment": True}
        a, _ = collect(plain.train_epoch(rows, **options))
        b, b_rows = collect(cached.train_epoch(rows, **options))
        assert (a == b).all() and b_rows.tolist() == rows.tolist()
        a, _ = collect(plain.eval_epoch(rows[::-1]))
        b, _ = collect(cached.eval_epoch(rows[::-1]))
        assert (a == b).all()


def test_what_is_in_the_cache_is_not_read_again(files, monkeypatch) -> None:
    loader = make_loader(files, cache=kept(), batch_size=5)
    first, _ = collect(loader.eval_epoch(np.arange(20)))
    for path in files[:20]:
        path.unlink()
    (*_, last), again = list(loader.eval_epoch(np.arange(37))), None
    again, rows = collect(loader.eval_epoch(np.arange(37)))
    assert rows.tolist() == list(range(37)) and (again[:20] == first).all() and not last.dropped


def test_a_cache_that_holds_a_part_decodes_the_rest(files) -> None:
    loader = make_loader(files, cache=kept(20_000))
    list(loader.eval_epoch(np.arange(37)))
    for path in files:
        path.unlink()
    dropped = [row for batch in loader.eval_epoch(np.arange(37)) for row in batch.dropped]
    assert 0 < len(dropped) < 37


def test_a_cache_survives_an_epoch_that_was_left(files) -> None:
    loader = make_loader(files, cache=kept(), batch_size=3)
    expected, _ = collect(make_loader(files).eval_epoch(np.arange(37)))
    for _ in range(3):
        epoch = loader.eval_epoch(np.arange(37))
        next(epoch)
        epoch.close()
    images, _ = collect(loader.eval_epoch(np.arange(37)))
    assert (images == expected).all()


def test_where_the_cache_goes(files, monkeypatch) -> None:
    found = check_images(files, threads=1, max_pixels=10**8)
    needed = kept().needed_bytes
    free = {"cpu": 3 * needed, "cuda": 5 * needed}
    monkeypatch.setattr(cache.compute, "free_bytes", lambda device: free[device.type])
    cuda = torch.device("cuda")

    def plan(name: str, device: torch.device) -> tuple[str, int]:
        p = cache.plan_cache(name, found, 24, device)
        assert p.needed_bytes == needed and str(round(p.capacity_bytes / 2**20)) in p.in_words()
        return p.place, p.capacity_bytes

    assert plan("auto", CPU) == ("ram", needed)
    assert plan("auto", cuda) == ("device", needed)
    free["cuda"] = 3 * needed
    assert plan("auto", cuda) == ("ram", needed)
    assert plan("device", cuda) == ("device", needed)
    free["cpu"] = needed
    assert plan("auto", CPU) == ("ram", needed // 2)
    assert plan("ram", CPU) == ("ram", int(0.8 * needed))
    assert cache.plan_cache("off", found, 24, CPU).place == "off"
    with pytest.raises(GrigriError, match="--cache device means a GPU's memory"):
        plan("device", CPU)


def test_large_originals_are_kept_shrunk(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    write_noise(path, 300, 400, seed=0)
    found = check_images([path], threads=1, max_pixels=10**8)
    assert cache.plan_cache("ram", found, 32, CPU).needed_bytes == 64 * 85 * 3
