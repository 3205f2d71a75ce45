"""One text, as Markdown and as a page."""

import re

from grigri_fast.reporting import document
from grigri_fast.reporting.document import Code, Document, Figure, Heading, Notice, Table, Text


def drawn(file_format: str) -> bytes:
    if file_format == "png":
        return b"\x89PNG"
    return (
        b'<svg viewBox="0 0 1 1"><path id="a"/><use xlink:href="#a"/><g clip-path="url(#a)"/></svg>'
    )


PAGE = Document(
    "Cats & dogs",
    [
        Notice("**Careful**: 1 < 2"),
        Heading("A first one"),
        Text("with `code <b>` and [a link](https://example.org)"),
        Table(["name", "score"], [["a|b", "0.5000 (.400-.600)"], ["`c`", "-"]]),
        Code("grigri-fast --help & more"),
        Figure("one", "What it shows", drawn),
        Figure("two", "What it shows", drawn),
    ],
)


def test_markdown_holds_it_all() -> None:
    assert document.to_markdown(PAGE, "figures").split("\n\n") == [
        "# Cats & dogs",
        "> **Careful**: 1 < 2",
        "## A first one",
        "with `code <b>` and [a link](https://example.org)",
        "| name | score |\n| --- | ---: |\n| a\\|b | 0.5000 (.400-.600) |\n| `c` | - |",
        "```sh\ngrigri-fast --help & more\n```",
        "![What it shows](figures/one.png)",
        "*What it shows*",
        "![What it shows](figures/two.png)",
        "*What it shows*\n",
    ]
    assert document.pictures(PAGE) == {"one.png": b"\x89PNG", "two.png": b"\x89PNG"}


def test_html_escapes_what_is_no_markup() -> None:
    page = document.to_html(PAGE)
    assert "<title>Cats &amp; dogs</title>" in page and "grigri-fast --help &amp; more" in page
    assert "<strong>Careful</strong>: 1 &lt; 2" in page
    assert "<code>code &lt;b&gt;</code>" in page and '<a href="https://example.org">a link' in page
    assert "<td>0.5000 <small>(.400-.600)</small></td>" in page
    assert '<a href="#a-first-one">' in page and '<section id="a-first-one"' in page


def test_the_figures_of_a_page_do_not_share_names() -> None:
    page = document.to_html(PAGE)
    assert re.findall(r'id="(\w+-a)"', page) == ["one-a", "two-a"]
    assert '"#one-a"' in page and "url(#two-a)" in page
