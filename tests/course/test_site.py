"""The site of the course: every link and picture leads somewhere, nothing needs a network, and the search finds."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from promptlab import __main__ as cli
from promptlab.course import links, notebooks, site

ROOT = Path(__file__).resolve().parents[2]
VOID = {"br", "hr", "img", "input", "link", "meta", "progress"}
GITHUB = "git+https://github.com/you/promptlab"


class Page(HTMLParser):
    """What a page points to and what can be pointed to; `open` holds the tags that were never closed."""

    def __init__(self, path):
        super().__init__()
        self.links, self.pictures, self.ids, self.open, self.astray = [], [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        if tag == "img":
            self.pictures.append((given["src"], given.get("alt")))
        elif target := given.get("href") or given.get("src"):
            self.links.append((tag, target))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.astray.append(tag)


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def cell(source, *outputs, **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def display(**data):
    return new_output("display_data", data={kind.replace("__", "/"): value for kind, value in data.items()})


WIDGET = new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "drawing: 0 of 9"})
FIRST = [
    new_markdown_cell("# 0 · Frogs\n\nOne line. Two.\n\n**Time:** 5 minutes, offline. **Colab:** upload this file. **Previous:** none. **Next:** [10_b](beyond/10_b.ipynb)."),
    cell("import promptlab", new_output("stream", name="stderr", text="a library mutters")),
    new_markdown_cell("## 1 · A *pond* & more\n\nThe gain $r_t = \\frac{a}{b}$ of `$HOME`, for $5 or $6.\n\n$$\\begin{aligned} a &= b \\\\ &= c \\end{aligned}$$\n\nSee [the second](https://colab.research.google.com/github/you/promptlab/blob/main/notebooks/beyond/10_b.ipynb)."),
    cell("draw()", WIDGET, display(image__png=png(30, 20), text__plain="<Figure>"), tags=["keep_output"]),
    new_markdown_cell("| notebook | question | state |\n|---|---|---|\n| **00_a** | what *is* it? | here |\n| [10_b](beyond/10_b.ipynb) | why toads? | ready |"),
    cell("show()", new_output("stream", text="\u001b[31mred\u001b[0m <b> lilypad"), display(text__html="<p>newts</p>", text__plain="HTML")),
]  # fmt: skip
SECOND = [
    new_markdown_cell("# 10 · Toads\n\nBack to [00_a](../00_a.ipynb#1-·-A-pond-&-more) and [math](https://example.org/)."),
    cell("import promptlab"),
    new_markdown_cell('### Predict, then see: "warts"\n\n<details><summary>Answer</summary>\nA toadstool.\n</details>'),
    cell("hidden()", display(image__png=png(9, 9), text__plain=""), jupyter={"source_hidden": True}),
]


def keep(cells, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A checkout with two tiny lessons, both executed; the address of the site's folder, and a way to set the repository."""
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    for module in (site, links):
        monkeypatch.setattr(module, "checkout", lambda: tmp_path)
    run = tmp_path / "home" / "pocket" / "run"
    for cells, name in ((FIRST, "00_a"), (SECOND, "beyond/10_b")):
        keep(cells, tmp_path / "notebooks" / f"{name}.ipynb")
        keep(cells, run / f"{Path(name).name}.ipynb")

    def repository(source):
        (tmp_path / "pyproject.toml").write_text(f'[tool.promptlab]\nrepository = "{source}"\n')

    repository("")
    return run / "site", repository


@pytest.fixture
def whole_course(tmp_path, monkeypatch):
    """The lessons of this course as they stand in the repository, as if they had just been executed."""
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    run = tmp_path / "home" / "pocket" / "run"
    run.mkdir(parents=True)
    for path in notebooks.course(ROOT / "notebooks"):
        shutil.copy(path, run)
    return run / "site"


def check(folder):
    """Every page is whole, and all that it names is there: files, anchors, pictures with words beside them."""
    pages = {path.name: Page(path) for path in folder.glob("*.html")}
    for name, page in pages.items():
        assert not page.astray and not page.open, f"{name}: tags {page.open} never closed, {page.astray} never opened"
        for tag, target in page.links:
            if target.startswith(("https://", "http://", "mailto:")):
                assert tag == "a", f"{name} loads {target} from the network"
                continue
            file, _, anchor = target.partition("#")
            assert not file or (folder / file).is_file(), f"{name} names {target}, which is not there"
            assert not anchor or unquote(anchor) in pages[file or name].ids, f"{name} names {target}: no such place"
        for source, words in page.pictures:
            data = base64.b64decode(source.partition("base64,")[2]) if source.startswith("data:") else (folder / source).read_bytes()
            Image.open(io.BytesIO(data)).load()
            assert words, f"{name}: no words for {source[:60]}"
    for page, anchor, *_ in index(folder):
        assert anchor in pages[page].ids, (page, anchor)
    return pages


def index(folder):
    return json.loads((folder / "search.js").read_text(encoding="utf-8").removeprefix("const SECTIONS = ").rstrip(";\n"))


def test_links_pictures_and_anchors_of_two_executed_lessons(house, capsys):
    assert cli.main(["site"]) == 0
    assert capsys.readouterr().out.splitlines() == ["00_a  ok", "10_b  ok", f"The site: {house[0] / 'index.html'}"]
    pages = check(house[0])
    assert set(pages) == {"index.html", "00_a.html", "10_b.html"} and len(list((house[0] / "pictures").iterdir())) == 2
    there = {name: {unquote(target) for _, target in page.links} for name, page in pages.items()}
    assert "10_b.html" in there["00_a.html"] and "00_a.html#1-·-A-pond-&-more" in there["10_b.html"]


def test_links_and_anchors_of_the_whole_course(whole_course):
    site.build()
    pages = check(whole_course)
    assert len(pages) == len(notebooks.course(ROOT / "notebooks")) + 1 and pages["index.html"].pictures, "the diagram of the first lesson"


def test_the_first_page_is_the_map(house):
    site.build()
    front = (house[0] / "index.html").read_text(encoding="utf-8")
    page = Page(house[0] / "index.html")
    assert [source for source, _ in page.pictures] == ["pictures/00_a-3-0.png"], "the picture that the first lesson keeps"
    for said in ("0 · Frogs", "What is it?", "5 minutes", "10 · Toads", "Why toads?"):
        assert said in front
    assert "Colab" not in front and "What is it?" not in (house[0] / "10_b.html").read_text(encoding="utf-8")


def test_a_lesson_is_shown_as_it_ran(house):
    site.build()
    text = (house[0] / "00_a.html").read_text(encoding="utf-8")
    assert "lilypad" in text and "<p>newts</p>" in text and "&lt;b&gt;" in text, "what it printed, as it was meant"
    assert "mutters" not in text and "drawing: 0 of 9" not in text and "**Previous:**" not in text and "upload this file" not in text
    assert "<summary>Setup</summary>" in text and "<summary>Folded code</summary>" in (house[0] / "10_b.html").read_text(encoding="utf-8")
    (tag,) = re.findall(r'<img [^>]*"pictures/00_a-3-0.png"[^>]*>', text)
    assert 'width="30"' in tag and 'height="20"' in tag and 'alt="Picture of the section 1 · A pond &amp; more"' in tag


def test_formulas_need_no_script_and_prices_are_none(house):
    site.build()
    text = (house[0] / "00_a.html").read_text(encoding="utf-8")
    assert len(re.findall("<math ", text)) == 2 and "<mfrac>" in text and 'display="block"' in text and text.count("<mtr>") == 2
    assert "<code>$HOME</code>, for $5 or $6." in text and "FORMULA" not in text


def test_previous_and_next_and_badges_only_with_a_repository(house):
    site.build()
    first, second = (Page(house[0] / f"{name}.html") for name in ("00_a", "10_b"))
    assert [t for _, t in first.links if t == "10_b.html"] and "Previous: 0 · Frogs" in (house[0] / "10_b.html").read_text(encoding="utf-8")
    assert not [t for page in (first, second) for _, t in page.links if "colab" in t]
    house[1](GITHUB)
    site.build()
    badge = f"{links.COLAB}/you/promptlab/blob/main/notebooks/beyond/10_b.ipynb"
    assert ("a", badge) in Page(house[0] / "10_b.html").links and ("a", badge) in Page(house[0] / "index.html").links
    check(house[0])


def test_a_run_that_is_missing_old_or_broken_is_named_on_the_page(house, capsys):
    run = house[0].parent
    (run / "10_b.ipynb").unlink()
    keep([*FIRST[:-1], cell("show()", new_output("error", ename="E", evalue="v", traceback=["oh"]))], run / "00_a.ipynb")
    site.build()
    assert "stopped with an error" in (house[0] / "00_a.html").read_text(encoding="utf-8")
    assert "promptlab run 10" in (house[0] / "10_b.html").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert "00_a  this run stopped" in out and "10_b  not run here" in out
    keep([*FIRST[:-1], cell("show(1)")], run / "00_a.ipynb")
    site.build()
    assert "00_a  the lesson has changed since this run" in capsys.readouterr().out


def test_without_a_run_the_error_says_what_to_do(house, capsys):
    shutil.rmtree(house[0].parent)
    assert cli.main(["site"]) == 1
    said = capsys.readouterr().err
    assert str(house[0].parent) in said and "make run" in said and not house[0].exists()


def test_a_formula_that_cannot_be_shown_is_named(house, capsys):
    keep([*FIRST[:2], new_markdown_cell("$\\frac{1}{$")], house[0].parent / "00_a.ipynb")
    assert cli.main(["site"]) == 1
    assert "The formula $\\frac{1}{$ cannot be shown" in capsys.readouterr().err


def test_nothing_of_an_earlier_site_stays(house):
    site.build()
    (house[0] / "99_gone.html").write_text("old")
    site.build()
    assert not (house[0] / "99_gone.html").exists()


def test_the_search_in_a_browser(house):
    """Type, follow the first hit, change the theme; from files, so nothing can come from a network."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("no Chromium found: apt-get install chromium")
    site.build()
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=120_000)
        page = browser.new_page(viewport={"width": 900, "height": 700}, color_scheme="dark")
        page.set_default_timeout(120_000)  # a busy machine
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((house[0] / "index.html").as_uri())
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.keyboard.press("/")
        page.keyboard.type("TOADST warts")
        hits = page.locator("#found a")
        assert hits.count() == 1 and "warts" in hits.inner_text() and "toadst" in page.locator("#found mark").all_inner_texts()[-1].lower()
        hits.click()
        page.wait_for_url("**/10_b.html#*")
        assert page.evaluate("!!document.getElementById(decodeURIComponent(location.hash.slice(1)))")
        page.fill("#search", "lilypad nowhere")
        assert page.locator("#found").inner_text() == "0 sections"
        page.fill("#search", "(")
        page.keyboard.press("Escape")
        assert page.locator("#found").is_hidden()
        page.click("#theme")
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "light", "remembered"
        assert page.evaluate("document.documentElement.scrollWidth") <= 900, "nothing hangs over the side"
        assert wrong == []
        browser.close()
