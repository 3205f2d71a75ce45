"""Markdown, and a page of it: one text for a file and for the browser."""

import re
from collections.abc import Mapping, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from . import html

_INTERVAL = re.compile(r"(?<=\d) (\([-.0-9]+\))(?=</td>)")
_SPECIAL = re.compile(r"([\\`*_\[\]<|~])")


def escape(text: str) -> str:
    """Return text that means nothing but itself in Markdown."""
    return _SPECIAL.sub(r"\\\1", text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], num_text: int = 1) -> str:
    """Return a table of Markdown; the first ``num_text`` columns stand on the left."""
    rules = ["---"] * num_text + ["---:"] * (len(columns) - num_text)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows))


def to_html(markdown: str, drawings: Mapping[str, str], foot: str) -> str:
    """Return a page of a text with one title, whose headings of the second level are its sections.

    Args:
        markdown: the text; HTML in it is shown as it is. A picture alone in its paragraph is
            followed by one with its caption.
        drawings: by the name of a picture's file, the ``<svg>`` that stands in its place.
        foot: the page's last line.
    """
    engine = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = engine.parse("\n".join(map(html.printable, markdown.split("\n"))))
    _arrange_tables(tokens)
    _insert_drawings(engine, tokens, drawings)

    def rendered(start: int, end: int) -> Markup:
        text = engine.renderer.render(tokens[start:end], engine.options, {})
        return Markup(_INTERVAL.sub(r" <small>\1</small>", text))

    starts = [i for i, token in enumerate(tokens) if (token.type, token.tag) == (_HEADING, "h2")]
    names = [tokens[start + 1].content for start in starts]
    bodies = [rendered(i + 3, j) for i, j in zip(starts, [*starts[1:], len(tokens)], strict=True)]
    keys = [re.sub(r"\W+", "-", name.lower()).strip("-") for name in names]
    return html.render(
        "document.html.j2",
        title=tokens[1].content,
        opening=rendered(3, starts[0]),
        sections=list(zip(keys, names, strict=True)),
        bodies=bodies,
        foot=foot,
    )


_HEADING = "heading_open"


def _arrange_tables(tokens: list[Token]) -> None:
    """Let tables scroll, and give their cells the scopes and classes that the style knows."""
    for before, token in zip([tokens[0], *tokens], list(tokens), strict=False):
        if token.type == "table_open":
            token.attrSet("class", "numbers")
        elif token.type in ("tr_open", "td_open", "th_open", "td_close", "th_close"):
            token.block = False  # a row is a line
        if token.type in ("td_open", "th_open"):
            is_first, is_number = before.type == "tr_open", token.attrs.pop("style", "")
            if token.type == "th_open":
                token.attrSet("scope", "col")
            elif is_first:
                token.tag = "th"
                token.attrSet("scope", "row")
            if not is_first and not is_number:
                token.attrSet("class", "words")
        elif token.type == "td_close":
            token.tag = _tag_of_cell(tokens, token)


def _tag_of_cell(tokens: list[Token], close: Token) -> str:
    """Return the tag of a cell that ends with a token: opening, content and end are three."""
    return next(tokens[i - 2].tag for i, token in enumerate(tokens) if token is close)


def _insert_drawings(engine: MarkdownIt, tokens: list[Token], drawings: Mapping[str, str]) -> None:
    """Put drawings in the place of pictures and of the captions that follow them."""
    for i in range(len(tokens) - 1, -1, -1):
        children = tokens[i].children or []
        if [child.type for child in children] == ["image"]:
            picture = children[0]
            caption = engine.renderer.renderInline(picture.children, engine.options, {})
            drawing = drawings[str(picture.attrs["src"])]
            figure = Token("html_block", "", 0)
            figure.content = (
                f'<figure class="card below"><div class="scroll" tabindex="0">{drawing}</div>'
                f'<figcaption class="note">{caption}</figcaption></figure>\n'
            )
            tokens[i - 1 : i + 5] = [figure]
