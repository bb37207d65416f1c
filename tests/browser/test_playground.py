"""The playground and the reward lab as a reader meets them: in JupyterLab, and as an app by Voila; by mouse, by keys, light and dark, at 900 pixels."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from browser import driving
from test_browser import chromium, lab, page  # noqa: F401  fixtures

TESTS = Path(__file__).resolve().parents[1]
CELL = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import preset_at
from fakes import png
from tiny_policy import tiny_policy
from promptlab.rewards import Scorer
from promptlab.lab.playground import Playground
from promptlab.lab.ranking import RankTwelve
from promptlab.lab.reward_lab import RewardLab

scorer = Scorer(preset_at(Path({world!r})))
play = Playground(scorer, tiny_policy(), folder={folder!r}, decode="sample", n=2)
lab = RewardLab(scorer, ["a frog", "a red castle"])
rank = RankTwelve([f"frog {{i}}" for i in range(12)], [7] * 12, [png((20 * i, 90, 90)) for i in range(12)], {folder!r} + "/ranks.jsonl")
display(play, lab, rank)
"""
EVIL = "a frog <script>run=1</script><img src=x onerror=run=1>"
PLAY, LAB, RANK = ".promptlab-playground", ".promptlab-reward-lab", ".promptlab-rank"


def notebook(folder, world):
    driving.write_notebook(folder / "compare.ipynb", CELL.format(tests=str(TESTS), world=str(world), folder=str(folder / "play")))


def tab(page, scope, name):  # noqa: F811
    page.locator(scope).get_by_role("tab", name=name, exact=True).click()


def draw_and_choose(page, decoder, folder):  # noqa: F811
    """What both front ends must do: words stay words, the seed turns by key, a choice by key and the try are kept at once."""
    play = page.locator(PLAY)
    tab(page, PLAY, "Draw")
    play.get_by_role("textbox", name="Your words").fill(EVIL)
    play.get_by_role("combobox", name="Decoder").select_option(decoder)
    play.get_by_role("button", name="Draw").click()
    cards = play.get_by_role("listitem")
    cards.nth(1).wait_for()
    assert EVIL in cards.nth(0).inner_text() and page.evaluate("typeof run") == "undefined"
    assert page.locator(f"{PLAY} script, {PLAY} [onerror]").count() == 0
    first = [picture.get_attribute("src") for picture in cards.locator("img").all()]
    cards.nth(0).locator("img").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    cards.nth(0).get_by_role("button").focus()
    page.keyboard.press("ArrowRight")
    play.get_by_text("Seed 12, 2 of 2").wait_for()
    assert not set(first) & {picture.get_attribute("src") for picture in cards.locator("img").all()}

    tab(page, PLAY, "Choose")
    play.get_by_text("Question 1 of 1").wait_for()
    assert not any(card.is_visible() for card in cards.all()), "what names the methods is out of sight"
    play.get_by_role("img", name="left picture").click()
    page.wait_for_timeout(500)  # longer than HASTE: somebody looks
    page.keyboard.press("2")
    play.get_by_text("All 1 questions are answered").wait_for()
    tab(page, PLAY, "History")
    tries = play.get_by_role("listbox", name="Tries").locator("option")
    assert EVIL in tries.first.text_content().replace("\xa0", " ")  # ipywidgets keeps runs of spaces so
    (row,) = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert row["prompt"] == EVIL and list(row["texts"]) == [decoder]


def order(page):  # noqa: F811
    return page.locator(f"{LAB} [aria-label='top dozen'] [role=listitem] img").evaluate_all("all => all.map(e => e.alt)")


def drag(page):  # noqa: F811
    """Drag the first slider of the reward lab to its left end by mouse; the order must change, and say what rose."""
    before, handle = order(page), page.locator(LAB).get_by_role("slider", name="aesthetic weight")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y, steps=4)
    page.mouse.move(x - 500, y, steps=4)
    page.mouse.up()
    page.wait_for_function("([sel, was]) => [...document.querySelectorAll(sel)].map(e => e.alt).join('|') != was",
                           arg=[f"{LAB} [aria-label='top dozen'] [role=listitem] img", "|".join(before)])  # fmt: skip
    assert handle.get_attribute("aria-valuenow") == "0.0"
    assert re.search(r"(up|down) \d", page.locator(f"{LAB} [aria-label='top dozen']").inner_text()), "what rose or fell is said in words"


@pytest.mark.timeout(1200)
def test_playground_in_jupyterlab(page, lab, tiny_world, tmp_path):  # noqa: F811
    notebook(tmp_path, tiny_world)
    page.goto(lab)
    driving.run_all(page)
    page.locator(LAB).get_by_role("slider").first.wait_for()
    drag(page)
    draw_and_choose(page, "diverse_beam", tmp_path / "play")

    # On every page of the tabs, in both themes and in a narrow window: labelled, reached by Tab, legible, nothing to scroll sideways for.
    page.set_viewport_size({"width": 900, "height": 1000})
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")  # the list of files
    for look in ("Dark", "Light"):
        driving.theme(page, look)
        for scope in (PLAY, LAB):
            for title in page.locator(f"{scope} > .widget-tab > .lm-TabBar").get_by_role("tab").all():
                title.click()
                driving.kept(page, scope)
        driving.kept(page, RANK)
    filled = "grid => new Set([...grid.children].map(e => e.offsetLeft)).size"
    assert 12 % page.locator(f"{RANK} .widget-gridbox").evaluate(filled) == 0, "twelve pictures fill their rows"
    page.locator(RANK).get_by_role("button", name="A", exact=True).click()
    page.locator(RANK).get_by_text("1 picture ranked").wait_for()

    # Kernel and page are gone; the tries and the choices are not.
    page.goto("about:blank")
    driving.end_kernels(lab.partition("/lab/")[0])
    page.goto(lab)
    driving.run_all(page)
    page.locator(LAB).get_by_role("slider").first.wait_for()
    tab(page, PLAY, "History")
    page.locator(PLAY).get_by_role("listbox", name="Tries").select_option(index=0)
    page.locator(PLAY).get_by_role("button", name="Show again").click()
    page.locator(PLAY).get_by_role("listitem").nth(1).wait_for()
    tab(page, PLAY, "Choose")
    page.locator(PLAY).get_by_text("All 1 questions are answered").wait_for()
    page.locator(PLAY).get_by_role("button", name="u undo").click()
    page.locator(PLAY).get_by_text("Question 1 of 1").wait_for()


@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_the_notebook_as_an_app_by_voila(page, chromium, offline_folder, tiny_world, tmp_path, tmp_path_factory, pytestconfig):  # noqa: F811
    """`make app` on a tiny world: no code, no exercises, no network, and every widget alive; in the dark theme."""
    (options,) = re.findall(r"python -m voila \S+05_playground.ipynb (.*)", (TESTS.parent / "Makefile").read_text())
    swap = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from conftest import preset_at
from promptlab import config
config.PRESETS["pocket"] = preset_at(Path({str(tiny_world)!r}))
"""
    shutil.copy(TESTS.parent / "notebooks" / "05_playground.ipynb", tmp_path)
    root = tmp_path_factory.getbasetemp()
    address = driving.voila(root, pytestconfig.add_cleanup, swap, *shlex.split(options))
    page.goto(f"{address}/voila/render/{tmp_path.relative_to(root)}/05_playground.ipynb?theme=dark")
    page.locator(LAB).get_by_role("slider").first.wait_for()
    text = page.locator("#rendered_cells").inner_text()
    assert "your words, your reward, your run" in text and "Exercise" not in text and "import" not in text

    drag(page)
    draw_and_choose(page, "beam", Path(os.environ["PROMPTLAB_HOME"]) / "tiny" / "playground")
    tab(page, LAB, "Train")
    page.locator(LAB).get_by_role("slider", name="updates").press("Home")  # one is enough
    page.locator(LAB).get_by_role("button", name="Train with this reward").click()
    page.locator(".promptlab-live").get_by_text("1 of 1 updates").wait_for()
    page.set_viewport_size({"width": 900, "height": 1000})
    driving.kept(page, "#rendered_cells")
