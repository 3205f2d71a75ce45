import pytest

from grigri_fast.data.layouts import safe_yaml
from grigri_fast.errors import GrigriError


def test_values() -> None:
    text = "names:\n  0: cat\n  1: hot dog\ntrain: [a, b]\n"
    assert safe_yaml.parse(text, "x") == {"names": {0: "cat", 1: "hot dog"}, "train": ["a", "b"]}
    assert safe_yaml.parse("", "x") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "not valid YAML"),
        ("a: !!python/name:os.system b", "not valid YAML"),
        ("names:\n  0: a\n  1: b\n  1: c\n", "a key stands twice"),
        ("a: {b: 1, b: 2}", "a key stands twice"),
        ("{[a]: b}", "not valid YAML"),
        ("a: &x [b]\nc: *x\n", "references"),
        ("a: " + "[" * 20_000, "so long or nested"),
        ("- " * 20_000, "so long or nested"),
        ("a: " + "[" * 500, "not valid YAML"),
        ("a: 2026-13-45", "not valid YAML"),
        ("a: " + "1" * 5000, "not valid YAML"),
        ("a\n" * 2**19, "so long or nested"),
    ],
)
def test_traps(text: str, message: str) -> None:
    with pytest.raises(GrigriError, match=message) as error:
        safe_yaml.parse(text, "x.yaml")
    assert str(error.value).startswith("x.yaml: ") and len(str(error.value)) < 300
