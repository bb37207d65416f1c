"""Choosing: the view by ipywidgets' own click and by keys, what it must not give away, and a real JupyterLab in Chromium."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from browser import driving
from fakes import FakeScorer
from matplotlib.figure import Figure
from test_browser import chromium, lab, page  # noqa: F401  fixtures

from promptlab.lab import choose
from promptlab.rewards import Calibration, Scores


class RatedScorer(FakeScorer):
    """The head likes what SFT wrote, CLIP likes what it did not, and the judge rates by the image seed, so two pictures alike."""

    calibration = Calibration(relevance_slope=10.0, relevance_threshold=9.0, aesthetic_scale=100.0)

    def score(self, plain, rewritten, seeds, progress=False):
        liked = torch.tensor([float("sft" in text) for text in rewritten for _ in seeds])
        pair, zero = torch.arange(len(plain)).repeat_interleave(len(seeds)), torch.zeros(len(liked))
        return Scores(pair, torch.tensor(list(seeds) * len(plain)), liked, zero, 1 - liked, zero)


def make_pairs(count, evil=""):
    methods = {"method_a": "plain", "method_b": "secret"}
    return [
        {"prompt": f"frog {i}{evil}", "seed": i % 2, "text_a": f"frog {i}{evil}", "text_b": f"frog {i}, sft", **methods}
        for i in range(count)
    ]


def make_choose(path, count=4, evil="", **kwargs):
    return choose.Choose(make_pairs(count, evil), path / "c.jsonl", RatedScorer(**kwargs))


@pytest.fixture(autouse=True)
def no_haste(monkeypatch):
    monkeypatch.setattr(choose, "HASTE", -1.0)


def shown(c):
    return " ".join([c._line.value, c._asked.value, *(side.value for side in c._sides), c._results.value])


def key_line(c):
    """The widget that takes keys: the last on the first page."""
    return c._pages.children[0].children[-1]


def press(c, key):
    """What the page sends for a key."""
    key_line(c)._handle_custom_msg({"key": key}, [])


def test_choose_by_clicks(tmp_path):
    c = make_choose(tmp_path)
    assert c.widget and "<b>Question 1 of 4.</b>" in c._line.value
    first = shown(c)
    c._buttons["1"].click()
    assert "Question 2 of 4" in c._line.value and c._sides[0].value not in first
    c._reason.value = " the eyes "
    c._buttons["0"].click()
    assert c._reason.value == "" and json.loads(c.path.read_text().splitlines()[-1])["reason"] == "the eyes"
    c._buttons["u"].click()
    c._buttons["u"].click()
    assert shown(c) == first
    for key in "12s0":
        c._buttons[key].click()
    assert "All 4 questions are answered" in c._line.value and "<img" not in shown(c)
    written = c.path.read_text()
    c._buttons["1"].click()
    assert c.path.read_text() == written
    c._buttons["u"].click()
    assert c.waiting == [4] and shown(c).count("<img") == 2


def test_choose_by_keys(tmp_path):
    pytest.importorskip("anywidget")
    c = make_choose(tmp_path)
    assert c.widget
    for key in ("1", "2", "u", "0", "s", "x", None):
        press(c, key)
    answers = [json.loads(line).get("answer") for line in c.path.read_text().splitlines()]
    assert answers == ["left", "right", None, "tie", "skip"] and "Question 4 of 4" in c._line.value
    c._pages.selected_index = 1
    press(c, "1")
    assert c.waiting == [4], "nobody sees the pictures now"


def test_buttons_do_it_all_where_anywidget_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    c = make_choose(tmp_path)
    assert c.widget and key_line(c) is c._reason
    c._buttons["2"].click()
    assert c.waiting == [2, 3, 4]


def test_a_double_click_answers_one_question(tmp_path, monkeypatch):
    c = make_choose(tmp_path)
    assert c.widget
    c._buttons["1"].click()
    monkeypatch.setattr(choose, "HASTE", 1000.0)
    c._buttons["1"].click()
    assert len(c.choices) == 1
    c._buttons["u"].click()
    assert c.choices == {}, "undo is never too fast"


def test_nothing_a_reader_sees_or_hears_names_the_method(tmp_path):
    c = make_choose(tmp_path, 12)
    assert c.widget
    while c.waiting:
        seen = shown(c)
        assert "secret" not in seen and "plain" not in seen and "sft" not in seen
        ask = c.asks[c.waiting[0] - 1]
        assert f'alt="left picture for {ask["prompt"]}"' in seen and f'alt="right picture for {ask["prompt"]}"' in seen
        c._buttons["1"].click()


def test_what_people_type_is_shown_as_typed(tmp_path):
    c = make_choose(tmp_path, evil=' <script>x</script> "onerror=')
    assert c.widget and "<script" not in shown(c) and '"onerror' not in shown(c) and "&lt;script&gt;" in c._asked.value
    c._reason.value = "<script>"
    c._buttons["1"].click()
    c._pages.selected_index = 1
    assert "<script" not in shown(c) and "unknown: all about one prompt" in c._results.value


def test_every_control_has_words(tmp_path):
    c = make_choose(tmp_path)
    assert c.widget and {b.description for b in c._buttons.values()} == {"1 left", "2 right", "0 tie", "s skip", "u undo"}
    assert c._reason.description == "Reason" and not any(b.disabled for b in c._buttons.values()), "a disabled button loses the focus"
    assert [c._pages.get_title(i) for i in (0, 1)] == ["Choose", "Unblinded results"], "in ipywidgets 7 as well"


def test_another_notebooks_answer_is_said_and_the_next_pair_shown(tmp_path):
    one, other = make_choose(tmp_path), make_choose(tmp_path)
    assert one.widget and other.widget
    one._buttons["1"].click()
    other._buttons["2"].click()
    assert 'role="alert"' in other._line.value and "another notebook" in other._line.value and other._number == 2
    other._buttons["2"].click()
    assert "Question 3 of 4" in other._line.value and make_choose(tmp_path).waiting == [3, 4]


def test_a_click_that_cannot_be_kept_says_so_and_keeps_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    c = make_choose(tmp_path / "file")
    assert c.widget
    c._reason.value = "eyes"
    c._buttons["1"].click()
    assert 'role="alert"' in c._line.value and "PROMPTLAB_HOME" in c._line.value and c._reason.value == "eyes"
    (tmp_path / "file").unlink()
    c._buttons["1"].click()
    assert 'role="status"' in c._line.value and c.waiting == [2, 3, 4]


def test_damage_and_pairs_left_out_are_said(tmp_path):
    (tmp_path / "c.jsonl").write_text("no json\n")
    pairs = make_pairs(3)
    pairs[0]["text_b"] = pairs[0]["text_a"]
    c = choose.Choose(pairs, tmp_path / "c.jsonl", RatedScorer())
    assert c.status == "Question 1 of 2. Left out, as both methods wrote the same: 1 pair. Passed over in c.jsonl: 1 damaged line."


def test_agreement_with_each_score_by_hand(tmp_path):
    """Seven choices for SFT's picture, two against it, a tie, a skip: 7 of 9 agree with the head, 2 with CLIP, half with a torn judge."""
    c = make_choose(tmp_path, 9 + 2)
    for i, answer in enumerate(["sft"] * 7 + ["other"] * 2 + ["0", "s"], 1):
        number = [n for n, ask in enumerate(c.asks, 1) if not ask["again"]][i - 1]
        liked = "1" if "sft" in c.asks[number - 1]["left"]["text"] else "2"
        c.answer(number, {"sft": liked, "other": "21"[int(liked) - 1]}.get(answer, answer))
    found = c.agreement()
    assert {name: round(values[0] * 9, 6) for name, values in found.items()} == {"reward": 7, "aesthetic": 7, "relevance": 2, "gold": 4.5}
    assert all(values[3] == 9 and values[1] < values[0] < values[2] for values in found.values())
    assert "gold" not in make_choose(tmp_path, 11, judge=False).agreement()


def test_agreement_leaves_out_what_a_safety_checker_hid(tmp_path):
    c = make_choose(tmp_path, 3)
    hide = lambda *a, of=c.scorer.score: (lambda s: setattr(s, "blacked_out", s.pair == 0) or s)(of(*a))  # noqa: E731
    c.scorer.score = hide
    while c.waiting:
        c.answer(c.waiting[0], "1")
    assert all(values[3] == 1 for values in c.agreement().values()), "one pair per image seed lost a picture"


def test_results_are_there_when_looked_at_and_grow(tmp_path):
    c = make_choose(tmp_path, 12)
    assert c.widget
    c._pages.selected_index = 1
    assert c._results.value == "<p>No choice yet.</p>"
    drawn = c.scorer.gallery.drawn
    while c.waiting:
        ask = c.asks[c.waiting[0] - 1]
        c.answer(c.waiting[0], "1" if ask["left"]["method"] == "secret" else "2")
    seen = c._results.value
    assert seen.index("secret") < seen.index("plain") and "you, when a pair came back" in seen and "100%" in seen and "aesthetic" in seen
    assert c.scorer.gallery.drawn > drawn and "All 13" in c._line.value
    c._pages.selected_index = 0
    c._buttons["u"].click()
    assert "you, when" in c._results.value, "not worked out while nobody looks"


def test_still_pictures_with_numbers_and_then_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    found = []
    monkeypatch.setattr("IPython.display.display", found.append)
    c = make_choose(tmp_path, 12)
    c.answer(1, "1")
    c._ipython_display_()
    (figure,) = found
    assert isinstance(figure, Figure) and len(figure.axes) == 2 * choose.ROWS and "widget" not in c.__dict__
    assert [figure.axes[i].texts[0].get_text().split(":")[0] for i in range(0, 12, 2)] == ["2", "3", "4", "5", "6", "7"]
    assert 'choose.answer(2, "1")' in figure.get_suptitle()
    words = " ".join(t.get_text() for ax in figure.axes for t in [*ax.texts, ax.title])
    assert "secret" not in words and "sft" not in words
    while c.waiting:
        c.answer(c.waiting[0], "1")
    assert {label.get_text() for label in c.figure().axes[0].get_yticklabels()} == {"secret", "plain"}


def test_pictures_are_drawn_once_and_only_when_shown(tmp_path):
    c = make_choose(tmp_path, 12)
    c.answer(1, "1")
    assert c.scorer.gallery.drawn == 0
    assert c.widget and c.scorer.gallery.drawn == 24
    c._buttons["1"].click(), c.figure()
    assert c.scorer.gallery.drawn == 24


def test_choices_go_to_the_run_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    assert choose.Choose(make_pairs(1), None, RatedScorer()).path == tmp_path.resolve() / "fake" / "choose" / "choices.jsonl"


def test_agreement_on_the_tiny_world_is_that_of_its_scores(tiny_scorer, tmp_path):
    pairs = [
        {"prompt": x, "seed": s, "method_a": "plain", "text_a": x, "method_b": "paint", "text_b": x + ", oil painting"}
        for x, s in (("a frog", 1), ("a red castle", 2))
    ]
    c = choose.Choose(pairs, tmp_path / "c.jsonl", tiny_scorer)
    for number in (1, 2):
        c.answer(number, "1" if c.asks[number - 1]["left"]["method"] == "paint" else "2")
    agree = [tiny_scorer.score([x], [x + ", oil painting"], [s]) for x, s in (("a frog", 1), ("a red castle", 2))]
    assert c.agreement()["aesthetic"][0] == sum(float(s.aesthetic > s.aesthetic_plain) for s in agree) / 2
    assert c.agreement()["relevance"][0] == sum(float(s.relevance > s.relevance_plain) for s in agree) / 2
    assert {"reward", "gold"} < c.agreement().keys()


CELL = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_choose import make_choose
make_choose(Path({folder!r}), 12, " <script>run=1</script>")
"""


@pytest.mark.timeout(1200)
def test_choose_in_jupyterlab(page, lab, tmp_path):  # noqa: F811
    here = Path(__file__).parent
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL.format(paths=[str(here), str(here.parent)], folder=str(tmp_path)).strip())]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "compare.ipynb")
    page.goto(lab)
    driving.run_all(page)
    rows = lambda: [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]  # noqa: E731

    def after(act, question):
        page.wait_for_timeout(500)  # longer than HASTE: somebody looks
        act()
        page.get_by_text(f"Question {question} of 13", exact=False).wait_for()

    # Mouse, then keys: a click on a picture is enough, and JupyterLab does not take them.
    left, pictures = page.get_by_role("button", name="1 left"), page.get_by_role("tabpanel").locator("img")
    left.wait_for()
    assert (
        pictures.count() == 2
        and "left picture for frog" in pictures.nth(0).get_attribute("alt")
        and page.evaluate("typeof run") == "undefined"
    )
    page.set_viewport_size({"width": 900, "height": 1000})
    one, other = (picture.bounding_box() for picture in pictures.all())
    assert one["y"] == other["y"] and one["x"] < other["x"], "left is left where room is short"
    after(left.click, 2)
    pictures.nth(1).click()
    for question, key in enumerate("2012", 3):
        after(lambda key=key: page.keyboard.press(key), question)
    after(lambda: page.keyboard.press("u"), 5)
    after(lambda: page.keyboard.press("S"), 6)
    assert [row.get("answer") for row in rows()] == ["left", "right", "tie", "left", "right", None, "skip"]
    assert page.locator(".jp-MarkdownCell").count() == 0 and page.locator(".jp-CodeCell").count() == 1

    # Letters typed as a reason stay letters; by Tab alone every control is reached, and Enter presses it.
    reason = page.get_by_role("textbox", name="Reason")
    reason.fill(""), reason.press("s"), reason.press("1")
    assert reason.input_value() == "s1"
    after(lambda: page.get_by_role("button", name="2 right").press("Enter"), 7)
    assert rows()[-1]["reason"] == "s1" and reason.input_value() == ""
    left.focus()
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.innerText.trim().slice(0, 7) || document.activeElement.tagName"))
    assert names == ["2 right", "0 tie", "s skip", "u undo", "INPUT", "Keys: 1"]

    # The results, which name the methods.
    page.get_by_role("tab", name="Unblinded results").click()
    page.get_by_text("Bradley-Terry scores in log-odds").wait_for()
    assert "secret" in page.get_by_role("tabpanel").inner_text()
