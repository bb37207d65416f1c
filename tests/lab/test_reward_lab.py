"""The reward lab: what its sliders, switches and functions pay, without a browser, and its view by ipywidgets' own drag and click."""

import importlib.util
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeScorer
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from tiny_policy import tiny_policy

from promptlab import ppo
from promptlab.lab import live
from promptlab.lab.reward_lab import DOZEN, RewardLab
from promptlab.lab.terms import LabReward
from promptlab.preferences import Choices
from promptlab.rewards import Calibration, Scores, mean_per_pair, promptist_reward
from promptlab.runtime import PromptlabError

CALIBRATION = Calibration(relevance_slope=10.0, relevance_threshold=0.5, aesthetic_scale=0.5)
PLAIN = ["a frog", "a red castle", "a fox"]
ENDINGS = [f"way {'very ' * (i % 7)}{i}" for i in range(12)]
FAST = ppo.Settings(prompts=2, samples=2, new_tokens=4, minibatch=4, epochs=1, images=2)


class WordScorer(FakeScorer):
    """Scores that can be read off the words: longer texts are rated higher, and relevance falls with every "very"."""

    calibration = CALIBRATION

    def score(self, plain, rewritten, seeds, progress=False):
        x, y = ([p for p in prompts for _ in seeds] for prompts in (plain, rewritten))
        length = lambda texts: torch.tensor([len(t) / 10 for t in texts])  # noqa: E731
        relevance = torch.tensor([0.9 - 0.1 * t.count("very") - 0.001 * (s % 10) for t, s in zip(y, list(seeds) * len(plain), strict=True)])
        pair = torch.arange(len(plain)).repeat_interleave(len(seeds))
        black = torch.tensor(["black" in t for t in y])
        return Scores(pair, torch.tensor(list(seeds) * len(plain)), length(y), length(x), relevance, torch.full((len(y),), 0.8), black)


def make_lab(tmp_path, **kwargs):
    kwargs = {"scorer": WordScorer(), "prompts": PLAIN, "endings": ENDINGS, "seeds": (1, 2), "choices": tmp_path / "choices.jsonl"} | kwargs
    return RewardLab(**kwargs)


@pytest.fixture
def lab(tmp_path):
    return make_lab(tmp_path)


# --- sliders and switches -------------------------------------------------------------------------------------------


def test_it_starts_at_the_papers_reward_and_nothing_has_moved(lab):
    paid = promptist_reward(lab.scores, CALIBRATION)
    assert np.allclose(lab.paid, paid) and lab.rank() == sorted(range(72), key=lambda i: -float(paid[i]))
    assert not lab.moves().any() and "All stand where they began." in lab.summary()
    assert lab.values == {"aesthetic": 0.5, "slope": 10.0, "threshold": 0.5} and lab.on == {
        "aesthetic": True,
        "relevance": True,
        "function": False,
    }


def test_a_term_switched_off_or_silenced_pays_nothing(lab):
    s = lab.scores
    assert np.allclose(lab.set(relevance=False).paid, 0.5 * (s.aesthetic - s.aesthetic_plain))
    assert np.allclose(lab.set(relevance=True, aesthetic=0).paid, (10 * (s.relevance - 0.5)).clamp(max=0))
    assert np.allclose(lab.set(aesthetic=False, slope=0).paid, 0) and lab.set(relevance=False).summary().startswith("Pays for nothing;")


def test_a_value_beyond_a_slider_stops_at_its_end_and_a_wrong_name_is_said(lab):
    assert lab.set(threshold=99, slope=-5).values | {"aesthetic": 0} == {"aesthetic": 0, "slope": 0, "threshold": pytest.approx(0.899)}
    for wrong in ({"weight": 1}, {"aesthetic_weight": True}, {"slope": True}):
        with pytest.raises(PromptlabError, match="no slider or switch.*aesthetic, slope, threshold, relevance, function"):
            lab.set(**wrong)


def test_moves_are_places_gained_since_the_start(lab):
    start = lab.rank()
    lab.set(slope=0)
    now = lab.rank()
    assert now != start and lab.moves().tolist() == [start.index(i) - now.index(i) for i in range(72)] and lab.moves().sum() == 0
    up = max(range(72), key=lambda i: start.index(i) - now.index(i))
    assert f"Rises most: {lab.sheet.prompts[up]} (\u25b2 up {start.index(up) - now.index(up)})" in lab.summary()


def test_agreement_with_gold_is_spearmans_over_all_and_within_prompts(tmp_path):
    lab = make_lab(tmp_path)
    lab.raters["gold"] = np.random.default_rng(0).normal(size=72) + lab.paid
    found, groups = lab.agreement(), [slice(24 * k, 24 * k + 24) for k in range(3)]
    assert found["gold"] == pytest.approx(spearmanr(lab.paid, lab.raters["gold"]).statistic)
    each = [spearmanr(lab.paid[g], lab.raters["gold"][g]).statistic for g in groups]
    assert found["gold, within a prompt"] == pytest.approx(np.mean(each)) and "your choices" not in found
    assert lab.set(aesthetic=False, relevance=False).agreement()["gold"] == 0, "one place for all says nothing"


def test_the_score_table_is_of_the_top_dozen_all_and_the_bottom_dozen(lab):
    rows, aesthetic = lab.rank(), lab.scores.aesthetic
    assert lab.table()["aesthetic"] == pytest.approx([float(aesthetic[i].mean()) for i in (rows[:12], rows, rows[-12:])])
    assert list(lab.table()) == ["reward", "aesthetic", "relevance", "gold", "intent"] and lab.table()["gold"][1] == pytest.approx(6.5)


def test_what_nobody_can_judge_is_left_out(tmp_path):
    lab = make_lab(tmp_path, scorer=WordScorer(judge=False))
    assert list(lab.table()) == ["reward", "aesthetic", "relevance"] and lab.agreement() == {} and "gold" not in lab.summary() + lab.html()


def test_what_a_safety_checker_blacked_out_has_no_place(tmp_path):
    lab = make_lab(tmp_path, endings=[*ENDINGS, "black"])
    hidden = [i for i, text in enumerate(lab.sheet.prompts) if "black" in text]
    assert len(lab.rank()) == 72 and not set(hidden) & set(lab.rank()) and (lab.places()[hidden] == -1).all() and "black" not in lab.html()


@pytest.mark.parametrize("empty", ["prompts", "endings", "seeds"])
def test_it_needs_pictures(tmp_path, empty):
    with pytest.raises(PromptlabError, match="needs prompts, endings and seeds"):
        make_lab(tmp_path, **{empty: []})


# --- more columns ---------------------------------------------------------------------------------------------------


def wish(sheet):
    return torch.tensor([float(p.count("very")) for p in sheet.prompts])


def test_a_further_column_is_a_term_as_loud_as_the_aesthetic_one_and_off_at_first(tmp_path):
    lab = make_lab(tmp_path, columns={"wish": wish})
    before, gain = lab.paid.copy(), 0.5 * (lab.scores.aesthetic - lab.scores.aesthetic_plain)
    assert not lab.on["wish"] and np.allclose(before, make_lab(tmp_path).paid)
    more = lab.set(wish=True).paid - before
    assert more.std() == pytest.approx(float(gain.std(correction=0)), rel=1e-3) and more.mean() == pytest.approx(0, abs=1e-4)
    assert lab.set(wish=-1.0).values["wish"] == -1 and (np.corrcoef(lab.paid - before, wish(lab.sheet))[0, 1]) < -0.999


def test_a_column_of_the_scorer_is_a_term_too(tmp_path):
    class More(WordScorer):
        def score(self, *args):
            s = super().score(*args)
            s.neon, s.neon_plain = 2 * s.aesthetic, 2 * s.aesthetic_plain
            return s

    lab = make_lab(tmp_path, scorer=More())
    alone = lab.set(neon=True, aesthetic=False, relevance=False).paid
    assert np.allclose(alone, lab.values["neon"] * 2 * (lab.scores.aesthetic - lab.scores.aesthetic_plain)), "paid as a gain over plain"


@pytest.mark.parametrize(
    "name, of, says",
    [("relevance", wish, "taken"), ("a b", wish, "no name"), ("slope", wish, "taken"), ("wish", lambda s: [1], "one number")],
)
def test_a_column_that_will_not_do_is_refused(tmp_path, name, of, says):
    with pytest.raises(PromptlabError, match=says):
        make_lab(tmp_path, columns={name: of})


# --- a function of one's own ----------------------------------------------------------------------------------------


def test_a_readers_function_ranks_at_once_and_none_goes_back(lab, capsys):
    @lab.use
    def short(s):
        return -s.aesthetic

    assert lab.reward is short and lab.rank() == sorted(range(72), key=lambda i: float(lab.scores.aesthetic[i]))
    assert lab.summary().startswith("Pays for short;") and lab.problem == capsys.readouterr().out == ""
    lab.reward = None
    assert np.allclose(lab.paid, promptist_reward(lab.scores, CALIBRATION)) and not lab.on["function"]
    lab.set(function=True)
    assert not lab.on["function"], "there is none to rank by"


def test_sliders_and_switches_work_inside_a_readers_function(lab):
    lab.reward = lambda s: s.terms["aesthetic"] + 2 * s.terms["relevance"]
    s = lab.set(slope=3).scores
    assert np.allclose(lab.paid, 0.5 * (s.aesthetic - s.aesthetic_plain) + 2 * (3 * (s.relevance - 0.5)).clamp(max=0))
    assert np.allclose(lab.set(relevance=False).paid, 0.5 * (s.aesthetic - s.aesthetic_plain))


def breaks(s):
    number = 1
    return s.beauty + number


def nan(s):
    return s.aesthetic / 0 * 0


@pytest.mark.parametrize("function, says", [
    (breaks, r"breaks failed in line \d+ \(return s.beauty \+ number\): AttributeError: .*'beauty'"),
    (nan, "nan: The reward of 'a frog' rewritten as 'a frog, way 0' is nan"),
    (lambda s: s.aesthetic[:3], "one number per picture: expected 72, got a tensor of shape"),
    (lambda s: None, "one number per picture: expected 72, got None"),
    (lambda: 0, "takes 0 positional arguments"),
    (3, "'int' object is not callable"),
])  # fmt: skip
def test_what_is_wrong_with_a_function_is_a_sentence_and_the_last_good_one_stays(lab, capsys, function, says):
    def good(s):
        return -s.aesthetic

    lab.reward = good
    before = lab.rank()
    assert lab.widget
    lab.reward = function
    assert lab.reward is good and lab.on["function"] and lab.rank() == before
    said = capsys.readouterr().out
    assert re.search(says, said) and said.endswith(". good stays.\n")
    assert 'role="alert"' in lab._line.value and "good stays." in lab._line.value


def test_the_named_line_is_the_functions_own_not_that_of_a_library(lab, capsys):
    def deep(s):
        return torch.stack([s.aesthetic, s.aesthetic[:2]])

    lab.reward = deep
    line = deep.__code__.co_firstlineno + 1
    assert f"deep failed in line {line} (return torch.stack([s.aesthetic, s.aesthetic[:2]])): RuntimeError" in capsys.readouterr().out


def test_a_function_that_breaks_while_a_slider_moves_leaves_the_order_and_recovers(lab):
    lab.reward = lambda s: s.terms["aesthetic"] + 1 / (s.terms["relevance"].min() + 0.0)  # inf once the slope is 0
    assert lab.widget and not lab.problem
    before, knob = lab.rank(), lab._knobs["slope"]
    knob.value = 0
    assert lab.rank() == before and 'role="alert"' in lab._line.value and "must be a finite number" in lab._line.value
    knob.value = 5
    assert 'role="status"' in lab._line.value and not lab.problem


# --- the reader's choices -------------------------------------------------------------------------------------------


def choose(path, scorer, prefers_long, count=8):
    """Choices made by somebody who always takes the longer, or the shorter, text."""
    pairs = [{"prompt": f"a frog {i}", "seed": i % 2, "method_a": "a", "text_a": f"a frog {i}, oil", "method_b": "b", "text_b": f"a frog {i}, very oil painted"}
             for i in range(count)]  # fmt: skip
    choices = Choices(pairs, path, scorer)
    while choices.waiting:
        ask = choices.asks[choices.waiting[0] - 1]
        longer = len(ask["left"]["text"]) > len(ask["right"]["text"])
        choices.answer(choices.waiting[0], "1" if longer == prefers_long else "2")
    return choices


@pytest.mark.parametrize("prefers_long", [True, False])
def test_agreement_with_the_readers_own_choices(tmp_path, prefers_long):
    made = choose(tmp_path / "choices.jsonl", WordScorer(), prefers_long)
    with open(tmp_path / "choices.jsonl", "a") as file:
        file.write('not json\n{"action": "choose", "preset": "other"}\n')
    lab = make_lab(tmp_path).set(relevance=False)
    mean, low, high, n = lab.agreement()["your choices"]
    assert (mean, n) == (float(prefers_long), 8) and low <= mean <= high
    assert made.agreement()["aesthetic"][:1] == (mean,), "as Choices itself says it"
    made.undo()
    lab.read_choices()
    assert lab.agreement()["your choices"][3] == 7
    assert lab.set(aesthetic=0).agreement()["your choices"][0] == 0.5, "equal rewards count half"


def test_no_choices_are_said_where_they_would_be(lab):
    assert "No choice of your own yet" in lab.agreement_html() and "choices.jsonl" in lab.agreement_html()


# --- the view -------------------------------------------------------------------------------------------------------


def controls(box):
    """Everything in a box that a reader can move or press."""
    import ipywidgets as w

    found = [c for c in getattr(box, "children", ()) for c in controls(c)]
    return found + [box] * isinstance(box, (w.Button, w.Checkbox, w.FloatSlider, w.IntSlider, w.Text, w.Dropdown))


def test_at_most_three_controls_a_page_each_with_a_name(lab):
    pages, line, grid = lab.widget.children[:3]
    titles = [pages.get_title(i) for i in range(len(pages.children))]
    assert titles == ["Aesthetic", "Relevance", "Your function", "Agreement", "Train"], "in ipywidgets 7 as well"
    assert [len(controls(page)) for page in pages.children] == [2, 3, 1, 0, 2] and not controls(grid)
    assert all(c.description for page in pages.children for c in controls(page))


def test_sliders_start_on_one_of_their_steps(lab):
    """The front end rounds to a step, and would send what it rounded."""
    assert lab.widget
    for knob in lab._knobs.values():
        steps = (knob.value - knob.min) / knob.step
        assert steps == pytest.approx(round(steps), abs=1e-6) and 50 <= (knob.max - knob.min) / knob.step <= 200


def test_dragging_sorts_anew_draws_nothing_and_encodes_nothing(lab):
    assert lab.widget
    drawn, before = lab.scorer.gallery.drawn, lab._grid.value
    tags = lab._tags
    lab._knobs["slope"].value = 0
    shown = lab._grid.value
    assert shown != before and lab.values["slope"] == 0 and lab.rank()[:3] != make_rank(before)
    assert shown.count('role="listitem"') == shown.count("<img") == 2 * DOZEN and 'aria-label="bottom dozen"' in shown
    assert "\u25b2 up " in shown and "\u25bc down " in shown, "words beside the arrows"
    lab._knobs["slope"].value = 10
    assert lab._grid.value == before and lab.scorer.gallery.drawn == drawn and lab._tags is tags
    lab._switches["relevance"].value = False
    assert lab.on["relevance"] is False and "switched off" in lab._curves["relevance"].value and "Pays for aesthetic;" in lab._line.value


def test_every_slider_and_every_switch_moves_the_state_and_the_order(tmp_path):
    lab = make_lab(tmp_path, columns={"wish": wish}).set(wish=True, threshold=0.7)
    assert lab.widget
    for name, knob in lab._knobs.items():
        before = lab.paid
        knob.value = knob.min + 0.3 * (knob.max - knob.min)
        assert lab.values[name] == knob.value and not np.allclose(lab.paid, before), name
    for name in ("aesthetic", "relevance", "wish"):
        before = lab.paid
        lab._switches[name].value = False
        assert lab.on[name] is False and not np.allclose(lab.paid, before), name


def make_rank(html):
    """The first three prompts of a grid."""
    return [part.partition(", seed")[0] for part in html.split('alt="')[1:4]]


def test_setting_from_code_moves_the_view_once(lab, monkeypatch):
    assert lab.widget
    seen = []
    monkeypatch.setattr(lab, "_rescore", lambda real=lab._rescore: seen.append(1) or real())
    lab.set(slope=3, aesthetic=1, relevance=False)
    assert (lab._knobs["slope"].value, lab._knobs["aesthetic"].value, lab._switches["relevance"].value) == (3, 1, False) and seen == [1]
    assert lab._switches["function"].disabled
    lab.reward = lambda s: s.relevance
    assert lab._switches["function"].value and not lab._switches["function"].disabled and "lab.reward = lambda s" in lab._source.value
    lab._switches["function"].value = False
    assert np.allclose(lab.paid, lab.scores.aesthetic - lab.scores.aesthetic_plain)


def test_curves_say_in_words_what_a_term_pays(lab):
    """At the quarters of the pictures' own scores, by hand."""
    assert lab.widget
    low, middle, high = (float(q) for q in torch.quantile(lab.scores.relevance, torch.tensor([0.25, 0.5, 0.75])))
    said = ", ".join(f"{q:.2f} pays {min(0, 10 * (q - 0.5)):+.2f}" for q in (low, middle, high))
    assert f'aria-label="relevance: {said}"' in lab._curves["relevance"].value and 'role="img"' in lab._curves["relevance"].value
    before = lab._curves["relevance"].value
    lab._knobs["threshold"].value = 0.8
    assert lab._curves["relevance"].value != before and lab._curves["aesthetic"].value.count("polyline") == 1


def test_everything_people_type_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    lab = make_lab(tmp_path, prompts=[f"a frog {evil}", "a fox"], columns={"wish": wish})
    assert lab.widget
    exec(compile(f"def f(s):\n    return s.wish * 2  # {evil}\n", "<cell>", "exec"), space := {})
    lab.reward = space["f"]
    shown = " ".join(v.value for v in (lab._grid, lab._line, lab._source, *lab._curves.values())) + lab.agreement_html()
    assert "<script" not in shown and "&lt;script&gt;" in lab._grid.value
    lab.reward = lambda s: {}[evil]
    assert "<script" not in lab._line.value and "&lt;script&gt;" in lab._line.value


def test_opening_the_agreement_page_takes_up_new_choices(tmp_path, lab):
    assert lab.widget
    choose(tmp_path / "choices.jsonl", lab.scorer, True, 3)
    lab._pages.selected_index = 3
    assert "of 3 chosen pictures" in lab._agrees.value


def test_still_picture_where_nobody_can_drag(lab, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    lab.set(slope=0)._ipython_display_()
    assert isinstance(shown[0], Figure) and "widget" not in lab.__dict__
    titles = [ax.get_title() for ax in shown[0].axes if ax.get_title()]
    assert len(titles) == 24 and titles[0].startswith("1. ") and titles[-1].startswith("72. ") and any("up " in t for t in titles)
    assert "Rises most" in shown[0].get_suptitle().replace("\n", " ")


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))


def test_the_reward_of_a_training_is_that_of_the_sliders_averaged_and_frozen(lab):
    lab.set(slope=3)
    reward = LabReward(lab)
    plain, written, seeds = ["a frog", "a fox"], ["a frog, very very very very very oil", "a fox, oil"], [5, 6, 7]
    s = lab.scorer.score(plain, written, seeds)
    expected = mean_per_pair(promptist_reward(s, Calibration(3.0, 0.5, 0.5)), s)
    assert torch.allclose(reward(plain, written, seeds), expected)
    lab.set(slope=0, aesthetic=False)
    lab.reward = lambda s: -s.aesthetic
    assert torch.allclose(reward(plain, written, seeds), expected), "later moves do not change it"
    assert reward.last == pytest.approx({"aesthetic": float(s.aesthetic.mean()), "relevance": float(s.relevance.mean()), "gold": 11.0})
    assert torch.allclose(LabReward(lab)(plain, written, seeds), -s.aesthetic.view(2, 3).mean(1))


def test_a_further_column_is_measured_in_training_too(tmp_path):
    lab = make_lab(tmp_path, columns={"wish": wish}).set(wish=True, aesthetic=False, relevance=False)
    paid = LabReward(lab)(["a frog"] * 2, ["very frog", "frog"], [1])
    assert float(paid[0] - paid[1]) == pytest.approx(lab.values["wish"])


def test_training_learns_on_a_copy_and_each_reward_has_its_folder(lab, home):
    start = tiny_policy()
    before = {name: w.clone() for name, w in start.model.state_dict().items()}
    run = lab.train(2, start, PLAIN, FAST)
    assert len(run.wait()) == 2 and lab.run is run and all(torch.equal(w, before[name]) for name, w in start.model.state_dict().items())
    assert any(not torch.equal(w, before[name]) for name, w in run.policy.model.state_dict().items())
    assert [ax.get_title().replace("\n", " ") for ax in run.samples().axes if ax.get_title()][:3] == run.first
    assert run.history[-1]["film"] == run.policy.rewrite(PLAIN)
    again = lab.train(3, start, PLAIN, FAST)
    assert again.folder == run.folder and len(again.wait()) == 3 and again.history[:2] == run.history, "the same reward goes on"
    assert lab.set(slope=3).train(1, start, PLAIN, FAST).folder != run.folder


def test_the_train_button_shows_the_run_and_hides_while_it_is_busy(lab, home, monkeypatch):
    monkeypatch.setattr(live, "live", lambda: True)
    lab.__dict__["_sft"] = tiny_policy()
    monkeypatch.setattr(ppo, "Settings", lambda: FAST)
    go = threading.Event()
    monkeypatch.setattr(lab.scorer, "score", lambda *a, real=lab.scorer.score, **k: go.wait(60) and real(*a, **k))
    assert lab.widget
    lab._updates.value = 2
    lab._button.click()
    assert lab.run.running and lab._controls.layout.display == "none" and lab._stage.children == (lab.run.widget,)
    assert len(controls(lab._stage)) == 2, "pause and stop"
    go.set()
    assert len(lab.run.wait()) == 2
    lab.run._join()
    assert lab._controls.layout.display == "" and lab.run._buttons.layout.display == "none"
    assert "before" in lab.run._pictures.value and "after update 2" in lab.run._pictures.value and 'role="status"' in lab._line.value


def test_a_run_that_cannot_begin_is_said_in_the_lab(lab, home, monkeypatch):
    lab.__dict__["_sft"] = tiny_policy()
    monkeypatch.setattr("promptlab.prompts.load_prompts", lambda *_: [])
    assert lab.widget
    lab._button.click()
    assert 'role="alert"' in lab._line.value and "no prompts to train on" in lab._line.value


def test_the_marks_of_two_functions_differ(lab):
    lab.reward = lambda s: s.aesthetic
    one = LabReward(lab).mark
    lab.reward = lambda s: s.aesthetic * 2
    assert LabReward(lab).mark != one and json.dumps(LabReward(lab).mark)


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_benchmark_times_every_slider_and_keeps_the_records_of_others(lab, tmp_path):
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "lab.py"
    spec = importlib.util.spec_from_file_location("lab_benchmark", path)
    spec.loader.exec_module(bench := importlib.util.module_from_spec(spec))
    before = lab.rank()
    took = bench.slider_ms(lab, moves=2)
    assert len(took) == 6 and took == sorted(took) and took[0] > 0 and lab.rank() != before
    other, ours = {"against": "target", "metric": "browser_ms", "ours": 1}, {"against": "target", "metric": "slider_ms", "ours": 2}
    for record in (other, ours, ours | {"ours": 3}):
        bench.keep(record, tmp_path / "b" / "lab.json")
    assert json.loads((tmp_path / "b" / "lab.json").read_text()) == [other, ours | {"ours": 3}]
