"""Comparing methods: the state without a front end, and its view by ipywidgets' own click and drag."""

import json
import sys
import types
import warnings

import pytest
from fakes import FakeScorer
from matplotlib.figure import Figure

from promptlab.lab import plots, widgets
from promptlab.rewards import Calibration, promptist_reward
from promptlab.runtime import PromptlabError

CALIBRATION = Calibration(relevance_slope=10.0, relevance_threshold=0.5, aesthetic_scale=0.5)
PAINT = ", oil painting"


class Rewriter:
    """Stands in for a policy: what it needs is `rewrite`."""

    def rewrite(self, prompts):
        return [f"{p}, at sunset" for p in prompts]


def make_compare(folder=None, scorer=None, seeds=(11, 12), **methods):
    scorer = scorer or FakeScorer()
    scorer.calibration, scorer.gallery.generator = CALIBRATION, types.SimpleNamespace(encode=read_eight_words)
    return widgets.Compare(
        scorer, methods or {"plain": None, "painted": lambda x: x + PAINT, "policy": Rewriter()}, "a frog", seeds, folder
    )


def read_eight_words(texts):
    """A generator's text encoder that reads little, and says so as the real one does."""
    if any(len(t.split()) > 8 for t in texts):
        warnings.warn("The text encoder reads 8 words; the end is ignored", stacklevel=1)


def test_compare_draws_every_method_on_the_same_seeds():
    show = make_compare()
    assert show.texts == {} and "press Draw" in show.status and show.html() == ""
    assert show.draw("  a blue\tfrog ").texts == {
        "plain": "a blue frog",
        "painted": "a blue frog, oil painting",
        "policy": "a blue frog, at sunset",
    }
    assert show.sheet.seeds == [11, 12] * 3 and show.sheet.plain == ["a blue frog"] * 6
    assert "Seed 11, 1 of 2" in show.status


def test_compare_scores_are_those_of_its_own_picture():
    show = make_compare().draw()
    s = show.sheet.scores
    reward = promptist_reward(s, CALIBRATION)
    here, mean = show.show(12).scores("painted")["reward"]
    assert here == pytest.approx(float(reward[3])) and mean == pytest.approx(float(reward[2:4].mean()))
    assert show.scores("policy")["relevance"][0] == pytest.approx(float(s.relevance[5]))
    assert show.scores("plain")["gold"] == (17.0, 16.5), "the fake judge says 5 + seed"
    assert list(show.scores("plain")) == list(plots.COLOURS), "every score has its colour"


@pytest.mark.parametrize("prompt, judge, missing", [("a mermaid", True, {"intent"}), ("a frog", False, {"gold", "intent"})])
def test_compare_leaves_out_what_nobody_can_judge(prompt, judge, missing):
    show = make_compare(scorer=FakeScorer(judge=judge)).draw(prompt)
    assert set(plots.COLOURS) - set(show.scores("plain")) == missing and isinstance(show.figure(), Figure)


class Sampler(Rewriter):
    """A policy that samples, the likeliest first."""

    def rewrite(self, prompts, n=1, decode="greedy"):
        assert (n == 1) == (decode == "greedy")
        return super().rewrite(prompts) if n == 1 else [[f"{p}, try {i // 2}" for i in range(n)] for p in prompts]


def test_compare_shows_several_rewrites_of_a_method_each_once():
    show = make_compare(plain=None, policy=Sampler(), several=lambda x: [x + PAINT, x + ", at night"])
    assert list(show.draw().texts) == ["plain", "policy", "several 1", "several 2"]
    show.n = 4
    assert show.draw().texts | {} == {
        "plain": "a frog", "policy 1": "a frog, try 0", "policy 2": "a frog, try 1", "several 1": "a frog, oil painting", "several 2": "a frog, at night",
    }  # fmt: skip
    assert show.html().count("<img") == 5 and len(show.figure().axes) == 10 and show.save("policy 2").exists()
    with pytest.raises(PromptlabError, match="'none' failed.*must be text"):
        make_compare(none=lambda x: []).draw()


def test_compare_steps_round_its_seeds():
    show = make_compare(seeds=(11, 12, 13)).draw()
    assert [show.step(by).seed for by in (1, 1, 1, -1)] == [12, 13, 11, 13]


def test_compare_steps_by_keys_and_enlarges_by_a_click():
    show = make_compare()
    keys = show.widget.children[-1]
    press = lambda key: keys._handle_custom_msg({"key": key}, [])  # noqa: E731
    press("ArrowRight")
    assert show.seed == 11 and 'role="alert"' not in show._line.value, "nothing is drawn yet"
    show.draw()
    press("ArrowRight")
    assert (show.seed, show._stepper.value) == (12, 12) and "seed 12" in show._grid.value
    press("x"), press("ArrowLeft"), press("ArrowLeft")
    assert show.seed == 12, "round"
    assert show._grid.value.count('aria-label="Enlarge ') == 3 and show._grid.value.count("<dialog") == 1
    assert json.loads(keys._esm.partition("KEYS = ")[2].partition(", SAID")[0]) == ["ArrowLeft", "ArrowRight"]


def test_compare_does_without_keys_where_nothing_takes_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    assert len(make_compare().widget.children) == 4


def test_compare_off_switch_draws_the_words_as_they_are():
    show = make_compare(broken=lambda x: 1 / 0)
    assert show.draw("a red castle", off=True).texts == {"your words": "a red castle"}
    assert "<ins" not in show.html()
    with pytest.raises(PromptlabError, match="by 'broken', only by: your words"):
        show.scores("broken")


def test_compare_draws_each_picture_once(tiny_scorer, monkeypatch):
    drawn, generate = [], tiny_scorer.gallery.generator.generate
    monkeypatch.setattr(tiny_scorer.gallery.generator, "generate", lambda p, s: drawn.extend(zip(p, s, strict=True)) or generate(p, s))
    show = widgets.Compare(tiny_scorer, {"plain": None, "painted": lambda x: x + PAINT}, "a frog", (11, 12))
    show.draw().show(12).html(), show.figure(), show.draw(off=True), show.draw(off=False)
    assert sorted(drawn) == sorted((p, s) for p in ("a frog", "a frog" + PAINT) for s in (11, 12))


@pytest.mark.parametrize("prompt, says", [("", "empty"), (" \n\u200b", "empty"), ("frog " * 2000, "9,999 characters"), (3, "must be text")])
def test_compare_refuses_bad_words_and_keeps_what_it_showed(prompt, says):
    show = make_compare().draw("a pizza")
    before = show.html()
    with pytest.raises(PromptlabError, match=says):
        show.draw(prompt)
    assert show.html() == before and show.prompt == "a pizza"


def test_compare_asks_the_generator_how_much_it_reads(tiny_scorer):
    show = widgets.Compare(tiny_scorer, {"long": lambda x: x + ", very" * 50}, "a frog", [1])
    for _ in range(2):  # the second time nothing is drawn, and still it says so
        assert "does not read to the end of: long" in show.draw().status
    with pytest.raises(PromptlabError, match="reads 48 tokens, and this prompt of 999 characters is longer"):
        show.draw("frog " * 200)


def test_compare_says_where_a_rewrite_is_longer_than_the_generator_reads():
    show = make_compare(long=lambda x: x + ", very" * 9).draw()
    assert "does not read to the end of: long" in show.status


@pytest.mark.parametrize("answer, says", [(None, "must be text"), ("", "empty")])
def test_compare_names_the_method_that_made_no_prompt(answer, says):
    with pytest.raises(PromptlabError, match=f"'broken' failed.*{says}"):
        make_compare(broken=lambda x: answer).draw()


@pytest.mark.parametrize("methods, seeds", [({}, [1]), ({"a": None}, []), ({"a": 3}, [1])])
def test_compare_needs_methods_and_seeds(methods, seeds):
    with pytest.raises(PromptlabError, match="Compare needs"):
        widgets.Compare(FakeScorer(), methods, seeds=seeds)


def test_compare_shows_only_seeds_it_has():
    with pytest.raises(PromptlabError, match="99 is not one of 11, 12"):
        make_compare().show(99)


def test_compare_marks_the_change_and_escapes_everything_people_type():
    evil = '<script>alert(1)</script> "frog" </textarea>'
    show = make_compare(**{"<b>me</b>": lambda x: x + ", <i>oil</i>"}).draw(evil)
    view = show.widget
    shown = " ".join([show._grid.value, show._copy.value, show._line.value])
    assert "<script" not in shown and "<i>" not in shown and "<b>me" not in shown and shown.count("</textarea>") == 1
    assert "&lt;script&gt;" in show._grid.value and "&lt;i&gt;oil&lt;/i&gt;</ins>" in show._grid.value
    show._text.value = "<script>2</script>" + " x" * 30
    show._button.click()
    assert "<script" not in show._line.value and len(view.children) == 5


@pytest.mark.parametrize("prompt", ["a frog", "蛙 🐸 ضفدع", "../../etc/passwd \\ *?", "frog " * 8])
def test_compare_saves_a_picture_that_says_how_to_draw_it_again(tmp_path, prompt):
    from PIL import Image

    show = make_compare(tmp_path / "deep", **{"painted": lambda x: x[:200] + "!"}).draw(prompt).show(12)
    path = show.save("painted")
    assert path.parent == tmp_path / "deep" and path.name.isascii() and len(path.name) < 80
    with Image.open(path) as picture:
        notes = picture.text
        assert picture.size == (128, 128) and picture.getpixel((0, 0)) == show.scorer.gallery.colours([show.texts["painted"]], [12])[0]
    assert notes == {"prompt": show.texts["painted"], "seed": "12", "preset": "fake", "typed": show.prompt, "method": "painted"}
    assert show.save("painted") == path and len(list(path.parent.iterdir())) == 1, "the same picture is one file"


def test_compare_keeps_pictures_in_the_run_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    assert make_compare().folder == tmp_path.resolve() / "fake" / "compare"


def test_compare_by_clicks(tmp_path):
    show = make_compare(tmp_path)
    pages, line, _, grid = show.widget.children[:4]
    first, second = pages.children
    assert [pages.get_title(i) for i in (0, 1)] == ["Draw", "Keep"], "in ipywidgets 7 as well"
    assert [type(c).__name__ for c in first.children] == ["Text", "Checkbox", "Button", "SelectionSlider"], "three controls and Draw"
    assert len(second.children) == 3 and grid.value == "" and show._keep.disabled and show._stepper.disabled
    show._text.value = "a red castle"
    show._button.click()
    assert show.prompt == "a red castle" and grid.value.count("<img") == 3 and not show._button.disabled and not show._stepper.disabled
    before = grid.value
    show._text.value = "a pizza"  # typed, not yet drawn
    show._stepper.value = 12
    assert grid.value != before and grid.value.count("<img") == 3 and "seed 12" in grid.value and show._text.value == "a pizza"
    assert show._which.options == ("plain", "painted", "policy") and ">a red castle</textarea>" in show._copy.value
    show._which.value = "painted"
    assert ">a red castle, oil painting</textarea>" in show._copy.value
    show._keep.click()
    assert str(tmp_path) in line.value and len(list(tmp_path.glob("*seed12.png"))) == 1
    show._plain.value = True
    show._text._handle_custom_msg({"event": "submit"}, [])  # Enter
    assert list(show.texts) == ["your words"] and grid.value.count("<img") == 1 and show.prompt == "a pizza"


def test_compare_is_busy_while_it_draws_and_says_what_went_wrong():
    seen, show = [], None

    def method(text):
        seen.append((show._button.disabled, show._line.value))
        if "castle" in text:
            raise PromptlabError("no castles today")
        return text

    show = make_compare(method=method)
    assert show.widget
    show._button.click()
    assert seen[0][0] and "Drawing" in seen[0][1] and not show._button.disabled
    before = show._grid.value
    show._text.value = "a castle"
    show._button.click()
    assert 'role="alert"' in show._line.value and "no castles today" in show._line.value
    assert not show._button.disabled and show._grid.value == before
    show._text.value = "   "
    show._button.click()
    assert "empty" in show._line.value


@pytest.mark.parametrize(
    "error, says", [(ZeroDivisionError("by <b>0</b>"), "ZeroDivisionError: by &lt;b&gt;"), (KeyboardInterrupt(), "Stopped")]
)
def test_compare_says_what_broke_in_a_method_in_its_own_line(error, says):
    show = make_compare(method=lambda text: (_ for _ in ()).throw(error) if "castle" in text else text)
    show.widget.children[0], show._button.click()
    show._text.value = "a castle"
    show._button.click()
    assert 'role="alert"' in show._line.value and says in show._line.value and not show._button.disabled
    assert ("test_compare.py" in show._line.value) == isinstance(error, Exception), "where, one click away"
    show._text.value = "a pizza"
    show._button.click()
    assert 'role="status"' in show._line.value and f"<b>{show.status}</b></div>" in show._line.value


def test_compare_from_code_moves_the_view_and_stands_still_headless(monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    show = make_compare()
    show._ipython_display_()
    assert isinstance(shown[0], Figure) and len(shown[0].axes) == 6
    assert show.widget and show._grid.value.count("<img") == 3, "drawn before it was shown"
    show.draw("a pizza", off=True).show(12)
    assert (show._text.value, show._plain.value, show._stepper.value) == ("a pizza", True, 12)
