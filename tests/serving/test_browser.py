"""The pages in a real browser, with the real command behind them."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import BROWSER
from small_set import write_image, write_photos
from small_site import write_twins

import grigri_fast

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser is installed"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("browser")
    write_twins(write_photos(place / "photos"))
    result = grigri_fast.train(
        place / "photos", arch="grigri", weights="none", size=32, epochs=1,
        batch_size=16, threads=1, out=place / "runs", val=0.5, flip_test=False,
    )  # fmt: skip
    return result.folder


class Site:
    """``grigri-fast serve`` in a process of its own."""

    def __init__(self, runs: list[Path], corrections: Path, *options: str) -> None:
        words = ["serve", *map(str, runs), "--threads", "1", "--device", "cpu", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grigri_fast", *words, "--corrections", str(corrections)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stdout:
            if found := re.search(r"http://\S+", line):
                self.address = found[0]
                return
        raise AssertionError("serve has not begun")

    def end(self) -> tuple[int, str]:
        self.process.terminate()
        rest, _ = self.process.communicate(timeout=30)
        return self.process.returncode, rest


@pytest.fixture
def served(run: Path) -> Iterator[Callable[..., Site]]:
    """Yield what starts the site; none is left behind by a test that fails."""
    sites: list[Site] = []

    def start(corrections: Path, *others: Path, options: tuple[str, ...] = ()) -> Site:
        sites.append(Site([run, *others], corrections, *options))
        return sites[-1]

    yield start
    for site in sites:
        site.process.kill()
        site.process.communicate()


@pytest.fixture
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: "playwright.Browser", site: Site, path: str = "") -> "playwright.Page":
    """Return a page of the site; its console goes to ``page.said``."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(site.address)
    if path:
        page.goto(site.address.partition("?")[0] + path)
    return page


def fits(page: "playwright.Page", width: int) -> bool:
    """Return whether a page needs no more than some width."""
    page.set_viewport_size({"width": width, "height": 900})
    return page.evaluate("document.documentElement.scrollWidth") <= width


def decisions(file: Path) -> list[tuple[str, str, str]]:
    if not file.exists():
        return []
    with file.open() as lines:
        return [(line["image"], line["class"], line["value"]) for line in csv.DictReader(lines)]


def test_photographs_are_labelled_and_a_threshold_moves(
    run: Path, served, browser, tmp_path
) -> None:
    site = served(tmp_path / "c.csv")
    page = opened(browser, site)
    photographs = sorted((run.parent.parent / "photos" / "images").glob("*.jpg"))[:2]
    page.set_input_files("#files", photographs)
    page.get_by_text("2 of 2 labelled").wait_for()
    assert page.locator("article h3").all_inner_texts() == [p.name for p in photographs[::-1]]
    first = page.locator("article").first
    assert first.locator("li").count() == 3
    page.select_option("#class", label="dog")
    page.get_by_text(re.compile(r"On \d+ photographs of the validation part")).wait_for()
    row = first.locator("li", has_text="dog")
    page.locator("#threshold").press("Home")  # 0: everything is given
    assert "given" in row.get_attribute("class") and page.inner_text("#recall") == "1.000"
    page.locator("#threshold").press("End")  # 1: nothing is
    assert not row.get_attribute("class") and page.inner_text("#recall") == "0.000"
    page.click("#reset")
    assert page.said == []
    code, rest = site.end()
    assert code == 0 and "nothing was decided" in rest


def test_labels_are_reviewed_with_keys(served, browser, tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    site = served(file)
    page = opened(browser, site, "review")
    page.select_option("#kind", "errors")
    progress = page.locator("#progress")
    expect = playwright.expect
    questions = page.evaluate("async () => (await fetch('/review/questions?kind=errors')).json()")
    expect(progress).to_contain_text(f"0 of {len(questions)} ")
    expect(page.locator("#only option").first).to_have_text(f"all classes ({len(questions)})")
    classes = page.evaluate("() => JSON.parse(document.getElementById('about').textContent)")

    def of(number: int, value: str) -> tuple[str, str, str]:
        return questions[number][4], classes["classes"][questions[number][1]], value

    page.keyboard.press("y")
    expect(progress).to_contain_text("1 of ")
    page.keyboard.press("n")
    expect(progress).to_contain_text("2 of ")
    page.keyboard.press("s")
    page.keyboard.press("u")
    expect(progress).to_contain_text("3 of ")
    assert decisions(file) == [of(0, "1"), of(1, "0"), of(3, "unknown")]

    page.keyboard.press("z")
    expect(progress).to_contain_text("2 of ")
    assert decisions(file)[3] == of(3, "given")

    page.keyboard.press("a")  # a label that is typed; its letters are no answers
    page.keyboard.type("cow")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_have_text("There is no class cow.")
    page.locator("#label").fill("SKY")
    page.keyboard.press("Enter")
    expect(page.locator("#labels button", has_text="sky")).to_have_attribute("aria-pressed", "true")
    assert decisions(file)[4] == (of(3, "")[0], "sky", "1")
    assert page.said == []

    other = opened(browser, site, "review")  # a second tab begins where the first one is
    other.select_option("#kind", "errors")
    expect(other.locator("#progress")).not_to_contain_text("0 of ")
    before = decisions(file)
    site.process.kill()  # in the middle: nothing is lost
    site.process.wait()
    page.keyboard.press("y")
    expect(page.locator("#problem")).to_contain_text("does not answer")
    assert decisions(file) == before

    site = served(file)
    page = opened(browser, site, "review")
    page.select_option("#kind", "errors")
    expect(page.locator("#progress")).to_contain_text(re.compile(r"^[23] of "))
    code, rest = site.end()
    assert code == 0 and "labels decided" in rest


def test_two_tabs_and_two_photographs_that_are_nearly_the_same(
    served, browser, tmp_path: Path
) -> None:
    file, expect = tmp_path / "c.csv", playwright.expect
    site = served(file)
    one, other = opened(browser, site, "review"), opened(browser, site, "review")
    questions = one.evaluate("async () => (await fetch('/review/questions?kind=errors')).json()")
    name = questions[0][4]
    for page in (one, other):
        page.select_option("#kind", "errors")
        expect(page.locator("#only option").first).to_contain_text(f"({len(questions)})")
        expect(page.locator("#name")).to_have_text(name)
    one.keyboard.press("y")
    expect(one.locator("#progress")).to_contain_text("1 of ")
    other.keyboard.press("n")  # it has not heard of that answer
    expect(other.locator("#problem")).to_contain_text("another tab has said yes of")
    expect(other.locator("#progress")).to_contain_text("1 of ")
    assert [(image, value) for image, _, value in decisions(file)] == [(name, "1")]
    for page in (one, other):  # the same answer in both is one answer
        expect(page.locator("#name")).to_have_text(questions[1][4])
        page.keyboard.press("n")
        expect(page.locator("#progress")).to_contain_text("2 of ")
    assert len(decisions(file)) == 2

    one.select_option("#kind", "duplicates")
    expect(one.locator("#question")).to_contain_text("Do they show", timeout=60_000)
    expect(one.locator("#label")).to_be_hidden()
    names = [one.inner_text("#name"), one.inner_text("#name-twin")]
    for photo in ("#photo", "#photo-twin"):
        expect(one.locator(photo)).to_have_js_property("complete", True)
        assert one.locator(photo).evaluate("img => img.naturalWidth") > 0
    assert fits(one, 390)
    one.keyboard.press("y")
    expect(one.locator("#progress")).to_contain_text("1 of ")
    said = decisions(file)[2:]
    assert sorted(image for image, _, _ in said) == sorted(names)
    assert {value for _, _, value in said} == {"1"} and said[0][1] == said[1][1]
    one.keyboard.press("z")
    expect(one.locator("#progress")).to_contain_text("0 of ")
    assert [one.inner_text("#name"), one.inner_text("#name-twin")] == names
    one.keyboard.press("b")  # each is right as it is
    expect(one.locator("#progress")).to_contain_text("1 of ")
    assert {value for _, _, value in decisions(file)[-2:]} == {"0", "1"}
    assert one.said == [] and [line for line in other.said if "409" not in line] == []


def test_suggested_photographs_get_their_labels(run: Path, served, browser, tmp_path: Path) -> None:
    file, expect = tmp_path / "c.csv", playwright.expect
    for number in (70, 71, 72):
        write_image(tmp_path / "new" / f"im{number}.jpg", number)
    out = tmp_path / "out"
    found = grigri_fast.suggest(run, tmp_path / "new", number=3, out=out, threads=1, device="cpu")
    total = len(found.suggestions)  # without near-duplicates
    assert total > 1
    site = served(file, options=("--suggestions", str(out)))
    page = opened(browser, site, "review")
    expect(page.locator("#question")).to_have_text("Which labels does it have?")
    expect(page.locator("#labels button")).to_have_count(3)
    assert page.locator("#yes").is_hidden() and page.locator("#only").is_disabled()
    assert fits(page, 390) and fits(page, 1280)
    names = page.evaluate("() => JSON.parse(document.getElementById('about').textContent).classes")
    offered = page.evaluate("async () => (await fetch('/labels/48')).json()")
    has = {one["name"]: one["value"] for one in offered}
    image = page.inner_text("#name")
    page.keyboard.press("y")  # no answer to this question
    page.keyboard.press("2")
    has[offered[1]["name"]] = "0" if offered[1]["value"] == "1" else "1"
    page.keyboard.press("a")
    page.keyboard.type("sky")
    page.keyboard.press("Enter")
    has["sky"] = "1"
    pressed = [f"{name} {p}" for name, p in has.items() if p == "1"]
    expect(page.locator("#labels button[aria-pressed=true]")).to_have_count(len(pressed))
    assert decisions(file) == []
    page.keyboard.press("d")
    expect(page.locator("#progress")).to_have_text(f"1 of {total} labelled")
    assert decisions(file) == [(image, name, has[name]) for name in names]

    page.keyboard.press("s")
    page.keyboard.press("z")  # back to the first, as it was marked
    expect(page.locator("#progress")).to_have_text(f"0 of {total} labelled")
    expect(page.locator("#name")).to_have_text(image)
    expect(page.locator("#labels button[aria-pressed=true]")).to_have_count(len(pressed))
    page.get_by_role("button", name="These are its labels").click()
    expect(page.locator("#progress")).to_have_text(f"1 of {total} labelled")
    assert decisions(file)[-3:] == [(image, name, has[name]) for name in names]
    assert page.said == []
    code, rest = site.end()
    assert code == 0 and "1 photograph added" in rest


def test_runs_are_compared(run: Path, served, browser, tmp_path: Path) -> None:
    better = grigri_fast.train(
        run.parent.parent / "photos", arch="grigri", weights="none", size=32, epochs=12, lr=0.05,
        batch_size=16, threads=1, out=run.parent, name="better", split=run / "split.json",
    ).folder  # fmt: skip
    page = opened(browser, served(tmp_path / "c.csv", better), "compare")
    expect = playwright.expect
    expect(page.locator("#scores")).to_contain_text("better", timeout=60_000)
    expect(page.locator("#curves svg.chart")).to_have_count(2)
    line = page.locator("#curves svg.chart path").last
    assert line.evaluate("e => getComputedStyle(e).stroke").startswith("rgb")
    assert fits(page, 390) and fits(page, 1280)
    page.locator("#classes tbody a").first.click()
    expect(page.locator("h1")).to_have_text("Photographs that changed sides")
    chosen = page.locator("#class option[selected]")
    assert chosen.count() == 1 and chosen.inner_text().startswith(
        page.locator(".sides h2").first.inner_text().partition(":")[0]
    )
    first = page.locator(".sides img").first
    expect(first).to_have_js_property("complete", True)
    assert first.evaluate("img => img.naturalWidth") == 256
    page.select_option("#class", label="all classes")
    page.select_option("#side", "won")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"side=won&class=$"))
    assert fits(page, 390)
    assert page.said == []
