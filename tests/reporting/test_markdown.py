"""One text, as Markdown and as a page."""

import re

import pytest
from pages import Page

from grigri_fast.reporting import markdown

DRAWING = '<svg class="chart" viewBox="0 0 1 1"></svg>'
TEXT = "\n\n".join(
    [
        "# Cats & dogs",
        "> **Careful**: 1 < 2",
        "## A first one",
        "with `code <b>` and [a link](https://example.org), <script>x</script>",
        "| name | score |\n| --- | ---: |\n| a\\|b | 0.5000 (.400-.600) |\n| `c` | - |",
        "```sh\ngrigri-fast --help & more\n```",
        "![What `it` shows](figures/one.png)",
        "*What `it` shows*",
        "## Another one",
        "| name | why |\n| --- | --- |\n| x | y |",
        "The end.",
    ]
)


@pytest.fixture(scope="module")
def page() -> str:
    return markdown.to_html(TEXT, {"figures/one.png": DRAWING}, "The foot.")


def test_a_page_escapes_what_is_no_markup(page: str) -> None:
    assert "<title>Cats &amp; dogs</title>" in page and "grigri-fast --help &amp; more" in page
    assert "<strong>Careful</strong>: 1 &lt; 2" in page
    assert "<code>code &lt;b&gt;</code>" in page and '<a href="https://example.org">a link' in page
    assert "<td>0.5000 <small>(.400-.600)</small></td>" in page
    assert not Page(page).all("script") and "<script>x</script>" in Page(page).text
    control = markdown.to_html("# A\n\nb\x1b[31m\n\n## C\n\nd", {}, "")
    assert "b\\x1b[31m" in control


def test_headings_are_sections_that_the_navigation_names(page: str) -> None:
    for key in ("a-first-one", "another-one"):
        assert f'<a href="#{key}">' in page and f'<section id="{key}"' in page
    assert page.index("Careful") < page.index("<main") < page.index("The end.")
    assert "The foot." in page


def test_rows_have_heads_and_are_lines(page: str) -> None:
    assert '<tr><th scope="row">a|b</th><td>0.5000' in page
    assert '<tr><th scope="col">name</th><th scope="col" class="words">why</th></tr>' in page
    assert '<tr><th scope="row">x</th><td class="words">y</td></tr>' in page
    assert [attrs["class"] for attrs in Page(page).all("table")] == ["numbers", "text"]
    assert page.count('<div class="scroll" tabindex="0"><table') == 2


def test_a_drawing_stands_in_the_place_of_its_picture_once_with_a_caption(page: str) -> None:
    assert page.count(DRAWING) == 1 and not Page(page).all("img")
    assert re.search(r"<figcaption[^>]*>What <code>it</code> shows</figcaption>", page)
    assert page.count("shows") == 1
