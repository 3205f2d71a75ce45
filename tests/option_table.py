"""The manual's table of options, made of their declarations.

After a change of an option, put what ``python tests/option_table.py`` prints into
grigri_fast/training/README.md.
"""

from collections.abc import Mapping

from grigri_fast.config import OPTIONS
from grigri_fast.runtime.option import Option, shown


def markdown_table(options: Mapping[str, Option]) -> str:
    """Return Markdown tables of options, one for each group under its heading, for the manual."""
    head = (
        "Option",
        "Value",
        "Default",
        "A resume may change it",
        "`tune` searches",
        "What it does",
    )
    lines: list[str] = []
    for group in dict.fromkeys(about.group for about in options.values()):
        rows = [head, ["---"] * len(head)]
        rows += [_row(about) for about in options.values() if about.group == group]
        lines += [f"### {group}", "", *("| " + " | ".join(row) + " |" for row in rows), ""]
    return "\n".join(lines)


def _row(about: Option) -> list[str]:
    name = (
        "`DATA`" if about.name == "data" else f"`{about.flag} {about.metavar}`".replace(" `", "`")
    )
    if about.is_switch:
        name = f"`--[no-]{about.flag[2:]}`"
    default = about.default_in_words
    if about.recipes:
        of = {recipe: shown(value) for recipe, value in about.recipes.items()}
        default += f" (report: {of['report']}, best: {of['best']}"
        default += f", fine-tuning: {of['fine_tune']})" if of["fine_tune"] != of["best"] else ")"
    values = about.values.replace("|", ", ")
    return [name, values, default, "yes" if about.may_change else "", _searched(about), about.text]


def _searched(about: Option) -> str:
    search = about.search
    if search is None:
        return ""
    words = "all values"
    if search.low < search.high:
        unit = " times the start" if search.times_start else ""
        words = f"{search.low:g} to {search.high:g}{unit}{', by factors' if search.log else ''}"
    return words if search.by_default else f"{words}, if asked"


if __name__ == "__main__":
    print(markdown_table(OPTIONS))
