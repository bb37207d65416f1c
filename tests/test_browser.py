"""What only a browser shows: Compare in a real JupyterLab in Chromium, offline, driven as a reader drives it."""

import os
from pathlib import Path

import pytest
from browser import driving

CELL = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import preset_at
from promptlab.rewards import Scorer
from promptlab.lab.widgets import Compare

Compare(Scorer(preset_at(Path({world!r}))), {{"plain": None, "painted": lambda x: x + ", oil painting"}}, seeds=(11, 12))
"""


@pytest.fixture
def chromium():
    found = driving.find_chromium()
    return found or pytest.skip(f"no Chromium found ({', '.join(driving.NAMES)}): apt-get install chromium")


@pytest.fixture
def lab(chromium, tmp_path, tmp_path_factory, offline_folder, pytestconfig):
    """The address of `tmp_path`/compare.ipynb in a JupyterLab of our own, one for the session."""
    root = tmp_path_factory.getbasetemp()
    address = driving.jupyterlab(root, pytestconfig.add_cleanup)
    yield f"{address}/lab/workspaces/{tmp_path.name}/tree/{tmp_path.relative_to(root)}/compare.ipynb?token={driving.TOKEN}"  # a workspace of its own: no tab of another test
    driving.end_kernels(address)


@pytest.fixture
def page(chromium, tmp_path, request):
    """A page of the installed Chromium that may reach this machine and nothing else. Where a test fails, a picture of it stays."""
    from playwright.sync_api import sync_playwright

    refused, failed = [], request.session.testsfailed
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        context = browser.new_context(viewport={"width": 1200, "height": 1000}, permissions=["clipboard-read"])
        context.set_default_timeout(180_000)  # a busy machine
        context.route(lambda url: "//127.0.0.1:" not in url, lambda route: (refused.append(route.request.url), route.abort()))
        made = context.new_page()
        yield made
        if request.session.testsfailed > failed:
            made.screenshot(path=tmp_path / "failed.png")
            print(f"The page when the test failed: {tmp_path / 'failed.png'}")
        browser.close()
    icons = [url for url in refused if "fortawesome" in url]  # Voila asks for its icons, which it carries as well
    assert len(refused) == len(icons), f"the page asked for {refused}"


@pytest.mark.timeout(1200)
def test_compare_in_jupyterlab(page, lab, tiny_world, tmp_path):
    from PIL import Image

    driving.write_notebook(tmp_path / "compare.ipynb", CELL.format(tests=str(Path(__file__).parent), world=str(tiny_world)))
    page.goto(lab)
    driving.run_all(page)

    # Words that would run if they were not shown as words.
    words, draw = page.get_by_role("textbox", name="Your words"), page.get_by_role("button", name="Draw")
    evil = "a frog <script>run=1</script><img src=x onerror=run=1>"
    words.fill(evil)
    draw.click()
    pictures, cards = page.locator("[role=listitem] img"), page.locator("[role=listitem]")
    pictures.nth(1).wait_for()
    assert pictures.count() == cards.count() == 2
    assert (
        all(evil in card for card in cards.all_inner_texts())
        and page.locator(".jp-OutputArea script, .jp-OutputArea [onerror]").count() == 0
    )
    assert page.evaluate("typeof run") == "undefined"

    # The change is there to see, in both looks and words; every score has its name.
    added = cards.nth(1).locator("ins")
    assert (
        added.all_inner_texts() == ["oil", "painting"]
        and added.first.evaluate("e => getComputedStyle(e).textDecorationLine") == "underline"
    )
    assert cards.nth(0).locator("ins").count() == 0
    assert all(name in cards.nth(1).inner_text() for name in ("reward", "aesthetic", "relevance", "gold", "intent"))

    # The next seed, by keyboard: other pictures, nothing else drawn.
    first = [picture.get_attribute("src") for picture in pictures.all()]
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("Seed 12, 2 of 2").wait_for()
    second = [picture.get_attribute("src") for picture in pictures.all()]
    assert len(second) == 2 and not set(first) & set(second)

    # A mistake is said, and what was there stays; Enter draws as the button does.
    words.fill("  ")
    draw.click()
    page.get_by_role("alert").get_by_text("is empty").wait_for()
    assert [picture.get_attribute("src") for picture in pictures.all()] == second
    words.fill("a red castle")
    page.get_by_label("draw my words as they are").check()
    words.press("Enter")
    page.locator("[role=listitem]", has_text="your words").wait_for()
    assert cards.count() == 1

    # The second page: words to the clipboard, picture to the run folder.
    page.get_by_role("tab", name="Keep").click()
    page.get_by_role("button", name="Copy this prompt").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "a red castle"
    page.keyboard.press("x")  # the text box is selected; JupyterLab would cut the cell
    page.get_by_role("button", name="Copied").press("x")
    page.get_by_role("button", name="Save as PNG").click()
    page.get_by_text("Saved as").wait_for()
    (path,) = Path(os.environ["PROMPTLAB_HOME"]).rglob("tiny/compare/a-red-castle-*.png")
    with Image.open(path) as picture:
        assert picture.text["prompt"] == "a red castle" and picture.text["seed"] == "12" and picture.text["preset"] == "tiny"
