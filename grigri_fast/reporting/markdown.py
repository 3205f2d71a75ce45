"""A page of a text in Markdown."""

import re
from collections.abc import Mapping
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from . import html

_INTERVAL = re.compile(r"(?<=\d) (\([-.0-9]+\)|\([-+.0-9]+ to [-+.0-9]+\))(?=</td>)")


def to_html(markdown: str, drawings: Mapping[str, str], foot: str) -> str:
    """Return a page of a text with one title, whose headings of the second level are its sections.

    Args:
        markdown: the text; HTML in it is shown as it is. A picture alone in its paragraph is
            followed by one with its caption.
        drawings: by the name of a picture's file, the ``<svg>`` that stands in its place.
        foot: the page's last line.
    """
    engine = MarkdownIt("commonmark", {"html": False}).enable("table")
    engine.add_render_rule("table_open", _open_table)
    engine.add_render_rule("table_close", _close_table)
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
    """Give tables and their cells the scopes and classes that the style knows."""
    before, table, tag = tokens[0], tokens[0], ""
    for token in tokens:
        is_first = before.type == "tr_open"
        if token.type == "table_open":
            table = token
            table.attrSet("class", "text")
        elif token.type in ("tr_open", "td_close", "th_close"):
            token.block = False  # a row is a line
            token.tag = tag if token.type == "td_close" else token.tag
        elif token.type in ("td_open", "th_open"):
            token.block = False
            is_number = token.attrs.pop("style", "")  # to the right
            if token.type == "th_open" or is_first:
                token.attrSet("scope", "col" if token.type == "th_open" else "row")
            if is_number:
                table.attrSet("class", "numbers")
            elif not is_first:
                token.attrSet("class", "words")
            token.tag = tag = "th" if is_first else token.tag
        before = token


def _open_table(renderer: RendererHTML, tokens: list[Token], i: int, *rest: Any) -> str:
    table = renderer.renderToken(tokens, i, *rest)
    return f'<div class="card below"><div class="scroll" tabindex="0">{table}'


def _close_table(renderer: RendererHTML, tokens: list[Token], i: int, *rest: Any) -> str:
    return f"{renderer.renderToken(tokens, i, *rest)}</div></div>\n"


def _insert_drawings(engine: MarkdownIt, tokens: list[Token], drawings: Mapping[str, str]) -> None:
    """Put drawings in the place of pictures and of the captions that follow them."""
    for i in range(len(tokens) - 1, -1, -1):
        children = tokens[i].children or []
        if [child.type for child in children] == ["image"]:
            picture = children[0]
            caption = engine.renderInline(picture.content)
            drawing = drawings[str(picture.attrs["src"])]
            figure = Token("html_block", "", 0)
            figure.content = (
                f'<figure class="card below"><div class="scroll" tabindex="0">{drawing}</div>'
                f'<figcaption class="note">{caption}</figcaption></figure>\n'
            )
            tokens[i - 1 : i + 5] = [figure]
