from pathlib import Path

import label_samples
import pytest
from label_samples import Sample

from grigri_fast.data import dataset
from grigri_fast.data.layouts import LabelOptions, detect, read_labels
from grigri_fast.errors import GrigriError

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


# Options that fit some samples and not others.
OPTIONS = [
    *({"layout": name} for name in detect.NAMES),
    *({"label_columns": names} for names in ("labels", "cat,dog", "image")),
    *({"separator": separator} for separator in ("space", "|", "")),
    *({"no_label": words} for words in ("cat", "")),
    *({"split_column": name} for name in ("none", "split", "labels", "image")),
    *({"group_column": name} for name in ("none", "image", "labels")),
    *({"image_column": name} for name in ("image", "labels", "cat")),
    *({"classes": names} for names in ("cat", "dog,cat", "cat,cat", "zebra")),
]


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_any_option_reads_or_is_refused_in_one_line(
    tmp_path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = sample.write(tmp_path / "data")
    for how in OPTIONS:
        try:
            dataset.load(data, **how)
        except GrigriError as error:
            assert "\n" not in str(error), how
