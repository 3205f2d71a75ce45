from pathlib import Path

import label_samples
import pytest
from label_samples import Sample

from grigri_fast.data.layouts import LabelOptions, detect, read_labels

SAMPLES = {**label_samples.tables(), **label_samples.folders()}
# Samples that are another form of a layout.
OF = {
    "metadata-jsonl": "metadata",
    "vertex-jsonl": "vertex",
    "voc-xml": "voc",
    "voc-beside": "voc",
    "celeba-kaggle": "celeba",
    "label-studio-min": "label-studio",
    "label-studio-csv": "label-studio",
    "hugging-face-hub": "hugging-face",
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_no_sample_can_be_two_layouts(tmp_path: Path, sample: Sample) -> None:
    data = sample.write(tmp_path)
    assert len([layout.name for layout in detect.LAYOUTS if layout.is_here(data)]) <= 1


@pytest.mark.parametrize("name", label_samples.folders())
def test_folders_are_known_by_what_only_they_have(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sample = SAMPLES[name]
    data = sample.write(tmp_path / "data")
    known = [layout.name for layout in detect.LAYOUTS if layout.is_here(data)]
    assert known == [OF.get(name, name)]
    labels = read_labels(data, LabelOptions())
    named = read_labels(data, LabelOptions(layout=known[0]))
    assert named.labels == labels.labels and named.names == labels.names
    images = {(tmp_path / "data" / image).resolve() for image in sample.images}
    assert {path.resolve() for path in labels.paths} == images
    assert any(labels.labels)
