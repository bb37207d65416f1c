"""Choices: the arithmetic against published numbers and simulated readers, the file against two processes, kills and damage."""

import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest

from promptlab.preferences import Choices, bradley_terry, fit, share
from promptlab.runtime import PromptlabError

SCORER = types.SimpleNamespace(gallery=types.SimpleNamespace(preset=types.SimpleNamespace(name="fake")))


def make_pairs(count, methods=("plain", "sft"), start=0):
    a, b = methods
    return [
        {"prompt": f"frog {i}", "seed": 7, "method_a": a, "text_a": f"frog {i}", "method_b": b, "text_b": f"frog {i}, {b}"}
        for i in range(start, start + count)
    ]


def read(choices, how):
    """Answer all that waits: `how(question)` gives the answer."""
    while choices.waiting:
        number = choices.waiting[0]
        choices.answer(number, how(choices.asks[number - 1]))
    return choices


def side_of(method):
    return lambda ask: "1" if ask["left"]["method"] == method else "2"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- arithmetic -----------------------------------------------------------------------------------------------------

# Games between the seven teams of the American League East in 1987, a row's wins over a column: Milwaukee, Detroit, Toronto,
# New York, Boston, Cleveland, Baltimore; and the abilities over Baltimore with their standard errors, as published with both
# fits that the R package BradleyTerry2 (Turner and Firth 2012) and Agresti's Categorical Data Analysis (2002, 10.6) report.
BASEBALL = [[0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10], [6, 2, 6, 7, 0, 7, 12],
            [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0]]  # fmt: skip
ABILITIES = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839]
ERRORS = [0.3433, 0.3396, 0.3367, 0.3359, 0.3339, 0.3319]


def test_fit_gives_the_published_abilities_and_errors():
    score, covariance = fit(np.array(BASEBALL, float))
    errors = [(covariance[i, i] + covariance[6, 6] - 2 * covariance[i, 6]) ** 0.5 for i in range(6)]
    assert score[:6] - score[6] == pytest.approx(ABILITIES, abs=1e-4) and errors == pytest.approx(ERRORS, abs=1e-4)


@pytest.mark.parametrize("won, lost, ties", [(7, 3, 0), (5, 0, 0), (0, 400, 0), (3, 2, 5)])
def test_two_methods_have_a_closed_form(won, lost, ties):
    """Half of the log odds, with half a win added on both sides (Haldane 1955, Gart 1966)."""
    choices = [("a", "b", 1)] * won + [("b", "a", 1)] * lost + [("a", "b", 0.5)] * ties
    found = bradley_terry(choices, range(len(choices)))
    a, b = won + ties / 2 + 0.5, lost + ties / 2 + 0.5
    assert found["a"][0] == pytest.approx(np.log(a / b) / 2) and found["b"][0] == pytest.approx(-found["a"][0])
    assert (found["a"][2] - found["a"][1]) / 2 >= 1.959964 * (1 / a + 1 / b) ** 0.5 / 2 - 1e-6
    assert list(found) == (["a", "b"] if won > lost else ["b", "a"])


def simulate(rng, truth, prompts, per_prompt, ties=0.0, alike=False):
    """Choices of a reader who prefers by Bradley and Terry; with `alike` a prompt is decided once, the same way in all its choices."""
    names, choices, groups = sorted(truth), [], []
    for prompt in range(prompts):
        pair, decided = rng.choice(len(names), 2, replace=False), None
        for _ in range(per_prompt):
            a, b = (names[i] for i in (pair if alike else rng.choice(len(names), 2, replace=False)))
            chance = expit(truth[a] - truth[b])
            tie = 2 * ties * min(chance, 1 - chance)  # takes from both alike, so that half wins add up to the chance
            result = rng.choice([1, 0.5, 0], p=[chance - tie / 2, tie, 1 - chance - tie / 2])
            decided = result if decided is None or not alike else decided
            choices.append((a, b, decided if alike else result)), groups.append(prompt)
    return choices, groups


@pytest.mark.parametrize(
    "truth, design, least, most",
    [
        ({"a": 0.5, "b": -0.5}, {"prompts": 40, "per_prompt": 1}, 0.93, 0.99),
        ({"a": 1.5, "b": 0.0, "c": -1.5}, {"prompts": 50, "per_prompt": 1}, 0.93, 0.99),
        ({"a": 1.0, "b": 0.0, "c": -1.0}, {"prompts": 30, "per_prompt": 2, "ties": 0.4}, 0.93, 1.0),  # half wins vary less than wins
        ({"a": 0.5, "b": -0.5}, {"prompts": 25, "per_prompt": 6, "alike": True}, 0.92, 0.99),  # .6 where prompts are not groups
    ],
)
def test_intervals_of_scores_cover_a_known_truth(truth, design, least, most):
    rng, hits = np.random.default_rng(0), []
    for _ in range(300):
        found = bradley_terry(*simulate(rng, truth, **design))
        hits += [low <= truth[name] <= high for name, (_, low, high) in found.items()]
    assert least <= np.mean(hits) <= most


def test_scores_where_little_is_known():
    assert bradley_terry([], []) == {}
    one_prompt = bradley_terry([("a", "b", 1)] * 5, ["frog"] * 5)
    assert one_prompt["a"][0] > 0 and one_prompt["a"][1:] == (-np.inf, np.inf), "one prompt says nothing about others"
    apart = bradley_terry([("a", "b", 1), ("c", "d", 1)] * 9, range(18))
    assert apart["a"][1] < apart["c"][0] < apart["a"][2], "nobody compared the two winners"


def test_share_is_wilsons_interval_and_counts_a_group_once():
    values = [1] * 3500 + [0] * 1500
    published = binomtest(3500, 5000).proportion_ci(method="wilson")
    assert share(values, range(5000)) == pytest.approx((0.7, published.low, published.high, 5000), abs=1e-4)
    once, often = [1, 1, 0, 1, 0, 1, 1, 1, 0, 1], range(10)
    assert share(np.repeat(once, 4), np.repeat(often, 4))[:3] == pytest.approx(share(once, often)[:3])
    assert share([1] * 12, [0, 1, 2] * 4)[1] < 0.5, "three prompts that agree are three, however often they are asked"
    assert share([1, 0], ["frog", "frog"]) == (0.5, 0.0, 1.0, 2) and share([], []) is None


@pytest.mark.parametrize("chance, groups, size, together", [(0.7, 20, 1, 0), (0.8, 15, 5, 1.0), (0.6, 30, 4, 0.5)])
def test_intervals_of_shares_cover_a_known_truth(chance, groups, size, together):
    rng, hits = np.random.default_rng(0), []
    for _ in range(500):
        shared = np.repeat(rng.random(groups) < chance, size)
        own = rng.random(groups * size) < chance
        values = np.where(rng.random(groups * size) < together, shared, own)
        _, low, high, _ = share(values, np.repeat(np.arange(groups), size))
        hits.append(low <= chance <= high)
    assert 0.92 <= np.mean(hits) <= 0.995


# --- what is asked --------------------------------------------------------------------------------------------------


def test_sides_and_order_are_by_chance_and_the_same_after_a_restart(tmp_path):
    pairs = make_pairs(400)
    asks = Choices(pairs, tmp_path / "c.jsonl", SCORER).asks
    left = [ask["left"]["method"] == "sft" for ask in asks if not ask["again"]]
    assert 160 < sum(left) < 240, "within four standard deviations of a half"
    assert [ask["prompt"] for ask in asks] != sorted(ask["prompt"] for ask in asks)
    assert Choices(pairs[::-1], tmp_path / "c.jsonl", SCORER).asks == asks, "whatever the order of the list"
    assert Choices(pairs, tmp_path / "c.jsonl", SCORER, seed=1).asks != asks


def test_one_pair_of_ten_comes_back_later_with_its_sides_turned(tmp_path):
    asks = Choices(make_pairs(25), tmp_path / "c.jsonl", SCORER).asks
    again = [(place, ask) for place, ask in enumerate(asks) if ask["again"]]
    assert len(asks) == 27 and len(again) == 2
    for place, ask in again:
        earlier = next(i for i, other in enumerate(asks) if other["pair"] == ask["pair"])
        assert place - earlier == 10 and (asks[earlier]["left"], asks[earlier]["right"]) == (ask["right"], ask["left"])


@pytest.mark.parametrize(
    "change, says",
    [
        ({"text_b": None}, "must be text"),
        ({"text_b": " "}, "is empty"),
        ({"method_b": "plain"}, "names 'plain' twice"),
        ({"prompt": "frog 0", "text_a": "frog 0", "text_b": "frog 0, sft"}, "Pair 2 was there before"),
    ],
)
def test_pairs_that_cannot_be_asked_about_are_named(tmp_path, change, says):
    first, second = make_pairs(2)
    with pytest.raises(PromptlabError, match=says):
        Choices([first, second | change], tmp_path / "c.jsonl", SCORER)
    with pytest.raises(PromptlabError, match="Pair 1 lacks seed, text_b"):
        Choices([{k: v for k, v in first.items() if k not in ("seed", "text_b")}], tmp_path / "c.jsonl", SCORER)


def test_one_picture_twice_is_not_asked_about(tmp_path):
    pairs = make_pairs(3)
    pairs[1]["text_b"] = " frog  1"  # the same once cleaned
    choices = Choices(pairs, tmp_path / "c.jsonl", SCORER)
    assert len(choices.asks) == 2 and choices.same == 1
    with pytest.raises(PromptlabError, match="of 1 pairs none"):
        Choices(pairs[1:2], tmp_path / "c.jsonl", SCORER)


# --- the file -------------------------------------------------------------------------------------------------------


def test_every_choice_is_a_whole_line_at_once(tmp_path):
    choices = Choices(make_pairs(3), tmp_path / "deep" / "c.jsonl", SCORER)
    choices.answer(1, "1", ' sharper "eyes"\u2028 ')
    choices.answer(2, 0)
    choices.answer(3, "S")
    first, second, third = lines(choices.path)
    ask = choices.asks[0]
    assert {k: first[k] for k in ask} == ask and set(first) == {*ask, "time", "preset", "action", "answer", "reason"}
    assert (first["answer"], second["answer"], third["answer"]) == ("left", "tie", "skip") and first["reason"] == 'sharper "eyes"'
    assert (
        first["preset"] == "fake"
        and first["left"].keys() == {"method", "text"}
        and first["seed"] == 7
        and abs(first["time"] - time.time()) < 60
    )


def test_undo_is_one_more_line_and_asks_again(tmp_path):
    choices = Choices(make_pairs(3), tmp_path / "c.jsonl", SCORER)
    choices.undo()  # nothing to take back, nothing written
    choices.answer(1, "1"), choices.answer(2, "2")
    before = choices.path.read_text()
    choices.undo()
    assert choices.path.read_text().startswith(before) and lines(choices.path)[2]["action"] == "undo" and choices.waiting == [2, 3]
    choices.undo()
    assert choices.waiting == [1, 2, 3]
    choices.answer(1, "2")
    assert Choices(make_pairs(3), tmp_path / "c.jsonl", SCORER).choices == choices.choices != {}


@pytest.mark.parametrize(
    "number, answer, says", [(1, "3", "none of 1"), (1, "", "none of 1"), (9, "1", "Next: .1, 3"), (2, "1", "waits for no")]
)
def test_wrong_answers_are_named_and_not_kept(tmp_path, number, answer, says):
    choices = Choices(make_pairs(3), tmp_path / "c.jsonl", SCORER)
    choices.answer(2, "1")
    with pytest.raises(PromptlabError, match=says):
        choices.answer(number, answer)
    assert len(lines(choices.path)) == 1 and choices.waiting == [1, 3]


def test_a_choice_that_cannot_be_kept_is_not_made(tmp_path):
    (tmp_path / "file").write_text("")
    choices = Choices(make_pairs(3), tmp_path / "file" / "c.jsonl", SCORER)
    with pytest.raises(PromptlabError, match="PROMPTLAB_HOME"):
        choices.answer(1, "1")
    assert choices.choices == {}


def test_a_damaged_line_is_passed_over_and_counted_and_never_written_behind(tmp_path):
    choices = Choices(make_pairs(4), tmp_path / "c.jsonl", SCORER)
    choices.answer(1, "1")
    ours = lines(choices.path)[0]
    wrong = [ours | {"answer": "best"}, ours | {"left": 3}, {"pair": [1]}, ours | {"left": {"method": "dpo"}}, 7]
    other = ours | {"pair": "of another list"}
    with open(choices.path, "ab") as file:
        file.write(b"\n".join([b"not json", b"\xff\xfe", *(json.dumps(row).encode() for row in [*wrong, other]), b'{"time": 1, "pa']))
    again = Choices(make_pairs(4), tmp_path / "c.jsonl", SCORER)
    assert again.damaged == 3 + len(wrong) and again.waiting == [2, 3, 4]
    again.answer(2, "0")
    assert Choices(make_pairs(4), tmp_path / "c.jsonl", SCORER).waiting == [3, 4]


def test_a_longer_list_keeps_what_was_chosen(tmp_path):
    choices = read(Choices(make_pairs(12), tmp_path / "c.jsonl", SCORER), side_of("sft"))
    longer = Choices(make_pairs(15), tmp_path / "c.jsonl", SCORER)
    assert {key for key in choices.choices if not key[1]} <= longer.choices.keys() and len(longer.waiting) in (3, 4)


# A reader in a process of its own: answers whatever waits until nothing does, and prints how many answers it gave.
READER = """
while choices.waiting:
    try:
        choices.answer(choices.waiting[0], "1")
        made += 1
    except PromptlabError:  # the other one was faster
        choices.read()
"""
# A writer that does nothing but write, long lines as fast as it can.
WRITER = """
choices.read = lambda: None
for made in range(1, 401):
    choices._append({**choices.asks[0], "action": "choose", "answer": "left", "reason": "because " * 1000})
"""
FRAME = """
import sys
sys.path.insert(0, {here!r})
from test_preferences import SCORER, Choices, PromptlabError, make_pairs
choices, made = Choices(make_pairs({pairs}), {path!r}, SCORER), 0
print("ready", flush=True)
sys.stdin.readline()
{act}
print(made)
"""


def start(act, path, pairs):
    code = FRAME.format(here=str(Path(__file__).parent), pairs=pairs, path=str(path), act=act)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("go\n"), process.stdin.flush()


@pytest.mark.parametrize("act, answered", [(READER, 110), (WRITER, 1)])
def test_two_processes_lose_and_tear_no_line(tmp_path, act, answered):
    path = tmp_path / "c.jsonl"
    both = [start(act, path, 100) for _ in range(2)]
    for process in both:
        go(process)
    made = sum(int(process.communicate(timeout=250)[0]) for process in both)
    after = Choices(make_pairs(100), path, SCORER)
    assert after.damaged == 0 and len(after.choices) == answered and (after.waiting == []) == (act == READER)
    assert len([line for line in path.read_text().split("\n") if line]) == made


def test_a_killed_process_loses_nothing_it_was_told(tmp_path):
    path = tmp_path / "c.jsonl"
    reader = start(READER, path, 1000)
    go(reader)
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert reader.poll() is None
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    after = Choices(make_pairs(1000), path, SCORER)
    assert after.damaged == 0 and len(after.choices) == len(lines(path)) >= 20
    first = after.waiting[0]
    after.answer(first, "2")
    assert Choices(make_pairs(1000), path, SCORER).waiting == after.waiting and first not in after.waiting


def test_two_notebooks_never_ask_twice(tmp_path):
    one, other = (Choices(make_pairs(4), tmp_path / "c.jsonl", SCORER) for _ in range(2))
    one.answer(1, "1")
    with pytest.raises(PromptlabError, match="another notebook"):
        other.answer(1, "2")
    assert other.waiting == [2, 3, 4] and other.choices == one.choices
    line = lines(one.path)[0]
    with open(one.path, "a") as file:  # both at the very same moment
        file.write(json.dumps(line | {"answer": "right"}) + "\n")
    one.read()
    assert one.choices == other.choices, "the first answer counts"
    other.undo()
    again = Choices(make_pairs(4), tmp_path / "c.jsonl", SCORER)
    assert again.waiting == [1, 2, 3, 4], "a second answer does not come back when the first is taken away"


# --- what the choices say -------------------------------------------------------------------------------------------


def test_a_reader_with_a_favourite_and_a_reader_with_a_habit(tmp_path):
    pairs = make_pairs(40)
    fan = read(Choices(pairs, tmp_path / "fan.jsonl", SCORER), side_of("sft"))
    assert list(fan.scores()) == ["sft", "plain"] and fan.scores()["sft"][1] > 0 and fan.consistency()[0] == 1 and fan.consistency()[3] == 4
    habit = read(Choices(pairs, tmp_path / "habit.jsonl", SCORER), lambda ask: "1")
    assert habit.scores()["sft"][1] < 0 < habit.scores()["sft"][2] and habit.consistency()[0] == 0
    unsure = read(Choices(pairs, tmp_path / "unsure.jsonl", SCORER), lambda ask: "0" if ask["again"] else "1")
    assert unsure.consistency()[0] == 0.5 and unsure.scores()["sft"][0] == habit.scores()["sft"][0], "what came back counts once"


def test_what_is_skipped_does_not_count_and_does_not_come_back(tmp_path):
    choices = read(Choices(make_pairs(20), tmp_path / "c.jsonl", SCORER), lambda ask: "s")
    assert len(choices.choices) == 20 and choices.scores() == {} and choices.consistency() is None


def test_a_simulated_readers_strengths_are_found(tmp_path):
    rng, truth = np.random.default_rng(3), {"plain": -1.0, "sft": 0.0, "ppo": 1.0}
    pairs = [*make_pairs(150), *make_pairs(150, ("sft", "ppo"), 150), *make_pairs(150, ("ppo", "plain"), 300)]
    likes = lambda ask: "1" if rng.random() < expit(truth[ask["left"]["method"]] - truth[ask["right"]["method"]]) else "2"  # noqa: E731
    found = read(Choices(pairs, tmp_path / "c.jsonl", SCORER), likes).scores()
    assert list(found) == ["ppo", "sft", "plain"] and all(abs(found[name][0] - truth[name]) < 0.35 for name in truth)
