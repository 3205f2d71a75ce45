"""The frame of a page and its small pictures."""

import math
import os
import xml.etree.ElementTree as ET

import jinja2
import pytest

from grigri_fast.evaluation.bootstrap import Interval
from grigri_fast.reporting import html


def macro(name: str):
    return getattr(html._environment().get_template("macros.html.j2").module, name)


def test_small_bars_are_well_formed() -> None:
    for value in (0.0, 0.5, 1.0, 7.0, -1.0, math.nan):
        bar = ET.fromstring(macro("meter")(value))
        widths = [float(rect.get("width")) for rect in bar]
        assert all(0 < width <= 72 for width in widths)
        assert len(widths) == (2 if value > 0 else 1)
    assert macro("interval_meter")(Interval(math.nan, math.nan, math.nan), 90).strip() == ""
    ET.fromstring(macro("interval_meter")(Interval(1.0, 0.9, 1.0), 90).strip())


def test_what_cannot_be_printed_is_shown_as_an_escape() -> None:
    name = os.fsdecode(b"caf\xe9\x1b[31m\n") + "\u202egpj"
    assert html.printable(name) == "caf\\udce9\\x1b[31m\\n\\u202egpj"
    facts = macro("facts")([(name, "<é & \"'>")])
    assert "caf\\udce9\\x1b[31m\\n\\u202egpj" in facts
    assert "&lt;é &amp; &#34;&#39;&gt;" in facts


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        html.render("page.html.j2", title="only this")
