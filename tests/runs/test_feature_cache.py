from pathlib import Path

import numpy as np
import pytest

from grigri_fast.pipeline.image_file import identities
from grigri_fast.runs import feature_cache
from grigri_fast.runs.feature_cache import FeatureCache
from grigri_fast.runtime import files


def features(*numbers: float) -> np.ndarray:
    """Return features (2, N, 3) that a number per image fills."""
    return np.broadcast_to(np.float16(numbers)[None, :, None], (2, len(numbers), 3)).copy()


def test_what_was_added_is_found_by_content_in_any_order() -> None:
    ids = np.array([70, 10, 50])
    FeatureCache("a").add(ids, features(7, 1, 5))
    cache = FeatureCache("a")
    known, is_known = cache.read(np.array([10, 20, 70, 70]))
    assert is_known.tolist() == [True, False, True, True]
    assert np.array_equal(known, features(1, 7, 7))
    cache.add(np.array([20]), features(2))
    known, is_known = FeatureCache("a").read(np.array([50, 20]))
    assert is_known.all() and np.array_equal(known, features(5, 2))


def test_another_key_an_unknown_file_and_an_empty_cache_have_none() -> None:
    FeatureCache("a").add(np.array([1, -1]), features(1, 9))
    known, is_known = FeatureCache("b").read(np.array([1]))
    assert known is None and not is_known.any()
    _, is_known = FeatureCache("a").read(np.array([-1, 1]))
    assert is_known.tolist() == [False, True]


def test_a_damaged_file_is_as_good_as_none_and_is_replaced() -> None:
    FeatureCache("a").add(np.array([1]), features(1))
    file = files.cache_folder() / "features" / "a.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    cache = FeatureCache("a")
    known, is_known = cache.read(np.array([1]))
    assert known is None and not is_known.any()
    cache.add(np.array([1]), features(3))
    assert np.array_equal(FeatureCache("a").read(np.array([1]))[0], features(3))


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "grigri-fast").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    FeatureCache("a").add(np.array([1]), features(1))
    assert FeatureCache("a").read(np.array([1]))[0] is None


def test_files_that_were_not_used_for_longest_go(monkeypatch) -> None:
    for key in "abc":
        FeatureCache(key).add(np.array([1]), features(1))
        FeatureCache("a").read(np.array([1]))
    folder = files.cache_folder() / "features"
    size = (folder / "a.safetensors").stat().st_size
    monkeypatch.setattr(feature_cache, "_MAX_BYTES", 2 * size + 10)
    FeatureCache("d").add(np.array([1]), features(1))
    assert {file.stem for file in folder.iterdir()} == {"a", "d"}
    monkeypatch.setattr(feature_cache, "_MAX_BYTES", 3)
    FeatureCache("e").add(np.array([1]), features(1))
    assert not (folder / "e.safetensors").exists()


def test_an_identity_is_checksum_and_size(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "gone")]
    paths[0].write_bytes(b"12")
    paths[1].write_bytes(b"123")
    found = identities([*paths, paths[0]], np.array([5, 5, 5, -1]))
    assert found.tolist() == [5 * 2**31 + 2, 5 * 2**31 + 3, -1, -1]
    with pytest.raises(ValueError, match="zip"):
        identities(paths, np.array([1]))
