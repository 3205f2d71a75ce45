"""A drawing of matplotlib's, changed to stand inside a page beside others."""

import json
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from .html import printable

TIPS = "tips:"  # an id that begins so goes on with a JSON list of tooltips
STRONG = "strong"  # an id that becomes a class
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"('[^';]+'|sans-serif)(, ('[^';]+'|sans-serif))+")
_STYLE = re.compile(r' style="([^"]*)"')
_DECIMALS = re.compile(r"(\d+\.\d\d)\d+")


def of(svg: str, name: str, label: str, variables: Mapping[str, str]) -> str:
    """Return the ``<svg>`` element of a file, for the inside of an HTML page.

    Args:
        svg: the file.
        name: what its ids begin with, so that no other drawing in the page has them.
        label: what it shows, for those who do not see it.
        variables: CSS variables, which a page sets for light and dark, by the colours they replace.
    """
    root = ElementTree.fromstring(svg)
    metadata, style = root[:2]
    root.remove(metadata)
    root.remove(style)  # it would be for the whole page
    used = {value.strip("url()#") for e in root.iter() for value in _references(e)}
    for element in list(root.iter()):
        _change(element, name, used)
    view = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"class": "chart", "viewBox": view, "role": "img"}
    root.set("aria-label", printable(label))
    text = _FONT.sub("var(--font)", ElementTree.tostring(root, "unicode"))
    for colour, variable in variables.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def without_styles(svg: str) -> str:
    """Return an ``<svg>`` with attributes in the place of styles, which a page may forbid."""
    return _STYLE.sub(lambda found: "".join(_attributes(found[1])), svg)


def _attributes(style: str) -> list[str]:
    pairs = (declaration.partition(":") for declaration in style.split(";") if declaration.strip())
    return [f' {name.strip()}="{value.strip()}"' for name, _, value in pairs]


def _references(element: ElementTree.Element) -> list[str]:
    return [element.attrib[key] for key in (_HREF, "clip-path") if key in element.attrib]


def _change(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Give an element short numbers, an id of its own if it is used, and its tooltips."""
    element.tag = element.tag.removeprefix(_SVG)
    element.text, element.tail = element.text and element.text.strip(), None
    for key in {"d", "x", "y"} & element.attrib.keys():
        element.set(key, " ".join(_DECIMALS.sub(r"\1", element.attrib[key]).split()))
    for key in {_HREF, "clip-path"} & element.attrib.keys():
        value = element.attrib.pop(key).replace("#", f"#{name}-")
        element.set(key.replace(_HREF, "href"), value)
    own = element.attrib.pop("id", "")
    if own in used:
        element.set("id", f"{name}-{own}")
    elif own == STRONG:
        element.set("class", own)
    elif own.startswith(TIPS):
        tips = json.loads(own.removeprefix(TIPS))
        markers = list(element.iter(f"{_SVG}use"))
        places = markers if len(markers) == len(tips) else [element] * len(tips)
        for place, tip in zip(places, tips, strict=True):
            title = ElementTree.Element("title")
            title.text = printable(tip)
            place.insert(0, title)
