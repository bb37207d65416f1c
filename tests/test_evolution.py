"""Evolving keywords: what is bred, what is asked, and that the better ones win where the truth is known."""

import itertools
import json
import random
import types

import numpy as np
import pytest

from promptlab import evolution, runtime
from promptlab.pocket import evolving
from promptlab.preferences import Choices
from promptlab.runtime import PromptlabError

WORDS = list("abcdefgh")


class Gallery:
    """Pictures whose gold is what `value` says of the text; nothing is drawn."""

    def __init__(self, value):
        self.value, self.drawn = value, 0
        self.judge = types.SimpleNamespace(gold=lambda facts, plain: np.array(facts, float))

    def facts(self, texts, seeds, progress=False):
        self.drawn += len(texts)
        return [self.value(text) for text in texts]


def test_popular_counts_each_engineered_prompt_once():
    ys = ["a fox, 8k, oil painting", "a fox, 8k, oil painting", "a cat, 8k, 8k", "a dog, at night", None]
    assert evolution.popular([{"y": y} for y in ys]) == ["8k", "oil painting", "at night"]
    assert evolution.popular([{"y": y} for y in ys], 1) == ["8k"]


@pytest.mark.parametrize("mask", list(itertools.product((0, 1), repeat=3)))
def test_a_mask_and_its_ending_say_the_same(mask):
    words = ["8k", "at night", "oil painting"]
    assert evolution.mask_of(evolution.ending(mask, words), words) == list(mask)
    assert evolution.ending((1, 0, 1), words) == "8k, oil painting"


def test_a_foreign_keyword_is_named():
    with pytest.raises(PromptlabError, match="'4k' is none of the 8"):
        evolution.mask_of("a, 4k", WORDS)


def every_two_point_child(one, other):
    """All children of two masks that keep the first one's ends and take a stretch of the other's, by enumeration."""
    cuts = itertools.combinations(range(len(one) + 1), 2)
    return {(*one[:i], *other[i:j], *one[j:]) for i, j in cuts}


def test_crossover_without_mutation_makes_two_point_children_and_all_of_them():
    one, other = (1, 1, 1, 1, 0, 0, 0, 0), (0, 1, 0, 1, 0, 1, 0, 1)
    parents = [evolution.ending(mask, WORDS) for mask in (one, other)]
    allowed = every_two_point_child(one, other) | every_two_point_child(other, one)
    rng, made = random.Random(0), set()
    for _ in range(400):
        (child,) = evolution.breed(parents, 1, WORDS, rng, mutation=0)
        made.add(tuple(evolution.mask_of(child, WORDS)))
    assert made <= allowed - {one, other}
    assert len(made) > 0.8 * len(allowed - {one, other})


def test_without_crossover_bits_flip_as_often_as_mutation_says():
    words, rng = [f"w{i}" for i in range(50)], random.Random(0)
    parents = [", ".join(words[:5]), ", ".join(words[:5][::-1][:4])]
    before = evolution.mask_of(parents[0], words)
    flips = []
    for _ in range(300):
        (child,) = evolution.breed([parents[0], parents[0]], 1, words, rng, mutation=0.2, crossover=False)
        flips.append(sum(a != b for a, b in zip(evolution.mask_of(child, words), before, strict=True)))
    assert abs(np.mean(flips) - 10) < 4 * (50 * 0.2 * 0.8 / 300) ** 0.5


def test_children_are_new_and_repeatable_and_leave_the_common_generator_alone():
    parents = ["a, b", "c, d", "e"]
    random.seed(7)
    expected = random.random()
    random.seed(7)
    first = evolution.breed(parents, 6, WORDS, random.Random(3), seen=["a", "b"])
    assert random.random() == expected, "a reader's own draws would change"
    assert first == evolution.breed(parents, 6, WORDS, random.Random(3), seen=["a", "b"])
    assert len(set(first)) == 6 and not {*first} & {*parents, "a", "b"}


def test_parents_that_can_make_nothing_new_say_so():
    with pytest.raises(PromptlabError, match="2 parents give 0 new endings, not 1"):
        evolution.breed(["a, b", "a, b, c"], 1, WORDS, random.Random(0), mutation=0)


def test_masks_by_chance_use_every_keyword_alike():
    made = evolution.by_chance(56, WORDS, 3, random.Random(0))  # 8 over 3: all there are
    assert {tuple(e.split(", ")) for e in made} == set(itertools.combinations(WORDS, 3))
    with pytest.raises(PromptlabError, match="57"):
        evolution.by_chance(57, WORDS, 3, random.Random(0))


def test_pairs_compare_every_ending_twice_a_round_and_can_be_asked(tmp_path):
    endings = ["", "a", "b", "a, b", "c", "d"]
    pairs = evolution.pairings(endings, ["a fox", "a cat"], 5, random.Random(0))
    assert len(pairs) == 30
    for i in range(0, 30, 6):
        some = pairs[i : i + 6]
        assert sorted(p[f"method_{side}"] for p in some for side in "ab") == sorted(endings * 2)
        assert len({(p["prompt"], p["seed"]) for p in some}) == 1, "one picture seed and prompt, so that only the keywords differ"
    assert all(p["text_a"] == (f"{p['prompt']}, {p['method_a']}" if p["method_a"] else p["prompt"]) for p in pairs)
    scorer = types.SimpleNamespace(gallery=types.SimpleNamespace(preset=types.SimpleNamespace(name="fake")))
    choices = Choices(pairs, tmp_path / "choices.jsonl", scorer)
    assert len(choices.pairs) == 30 and len({(text, p["seed"]) for p in pairs for text in (p["text_a"], p["text_b"])}) == 30


def test_a_readers_choices_become_answers(tmp_path):
    pairs = evolution.pairings(["good", "bad", "", "worse"], ["a fox"], 6, random.Random(1))
    scorer = types.SimpleNamespace(gallery=types.SimpleNamespace(preset=types.SimpleNamespace(name="fake")))
    choices, value = Choices(pairs, tmp_path / "choices.jsonl", scorer), {"good": 3, "": 2, "bad": 1, "worse": 0}
    while choices.waiting:
        ask = choices.asks[choices.waiting[0] - 1]
        left, right = (value[ask[side]["method"]] for side in ("left", "right"))
        choices.answer(choices.waiting[0], "s" if "worse" in (ask["left"]["method"], ask["right"]["method"]) else "12"[left < right])
    answered = evolution.answers(choices)
    met = [p for p in pairs if "worse" not in (p["method_a"], p["method_b"])]
    assert len(answered) == len(met), "skipped pairs are out, and what came back counts once"
    assert all((value[a] > value[b]) == won and prompt == "a fox" for a, b, won, prompt in answered)
    assert list(evolution.ranking(answered))[0] == "good"


def test_the_simulated_reader_chooses_by_the_logistic_of_gold():
    gallery = Gallery(lambda text: 2.0 if "good" in text else 1.0)
    pairs = evolution.pairings(["good", "bad"], ["a fox"], 2000, random.Random(0))
    for noise, expected in ((1.0, 0.7311), (0.25, 0.982), (float("inf"), 0.5)):
        answered = evolution.simulated(gallery, pairs, random.Random(1), noise)
        share = np.mean([won if a == "good" else 1 - won for a, _, won, _ in answered])
        assert abs(share - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5
    assert gallery.drawn == 2 * 2 * len(pairs), "who tosses a coin looks at nothing"


def one_max(seed, method):
    """Good keywords of the winner less bad ones, where half of 40 keywords are good and the reader seldom errs."""
    words, rng = [f"{'g' if i % 2 else 'w'}{i}" for i in range(40)], random.Random(seed)
    truth = lambda text: sum(1.0 if w.startswith("g") else -1.0 for w in text.split(", ")[1:])  # noqa: E731
    gallery, asked = Gallery(truth), []

    def ask(endings):
        pairs = evolution.pairings(endings, [f"prompt {i}" for i in range(99)], 2, rng)
        asked.append(len(pairs))
        return evolution.simulated(gallery, pairs, rng, noise=0.5)

    def make(parents, count, seen):
        return evolution.by_chance(count, words, 5, rng) if method == "chance" else evolution.breed(parents, count, words, rng, seen=seen)

    best, answered = evolution.evolve(evolution.by_chance(12, words, 5, rng), make, ask, 12)
    assert len(answered) == sum(asked) == 288 and len(best) == 12
    return truth(f"x, {best[-1]}")


def test_where_keywords_add_up_evolution_beats_chance_at_equal_comparisons():
    evolved, chance = ([one_max(seed, method) for seed in range(6)] for method in ("evolved", "chance"))
    gains = np.subtract(evolved, chance)
    assert gains.mean() > 2 * gains.std(ddof=1) / len(gains) ** 0.5 and gains.mean() > 2, (evolved, chance)


@pytest.mark.parametrize("method", evolving.METHODS)
def test_every_search_asks_equally_often(method):
    gallery = Gallery(lambda text: text.count("oil"))
    best, answered = evolving.search(method, 0, gallery, generations=3, rounds=2)
    assert len(answered) == 3 * 2 * evolving.ENDINGS and len(best) == 3
    assert gallery.drawn == (0 if method == "coin" else 2 * len(answered))


def test_examples_teach_the_content_and_one_ending():
    some = evolving.examples("oil painting, at night")
    assert len(some) > 1000
    for r in some[::100]:
        content, end = r["y"].split(", ", 1)
        assert end == "oil painting, at night" and r["subjects"][0] in content


def test_the_kept_run_is_whole_and_fair():
    kept = json.loads((runtime.data_dir() / "pocket" / "evolution.json").read_text(encoding="utf-8"))
    counts = {(r["method"], r["comparisons"]) for r in kept["runs"]}
    assert {m for m, _ in counts} == set(evolving.METHODS) and len({n for _, n in counts}) == 1, counts
    records, runs, rewrites = evolving.load()
    assert {(r["method"], r["seed"]) for r in runs} == set(itertools.product(evolving.METHODS, evolving.SEEDS))
    assert {r["n"] for r in records if r["set"] == "test"} == {len(evolving.bare("test"))}, "every bare test prompt is measured"
    assert all({"x", "evolved", "sft evolved"} <= r.keys() for r in rewrites)
    for method in ("evolved", "chance", "popular", "sft evolved"):
        alone, plain = (
            next(r for r in records if (r["set"], r["method"], r["versus"], r["metric"]) == ("test", m, None, "gold"))
            for m in (method, "plain")
        )
        paired = next(r for r in records if (r["set"], r["method"], r["versus"], r["metric"]) == ("test", method, "plain", "gold"))
        assert paired["mean"] == pytest.approx(alone["mean"] - plain["mean"], abs=2e-4)
        assert len(alone["per_seed"]) == len(evolving.SEEDS)


def test_a_damaged_kept_run_says_how_to_repair_it(tmp_path):
    (tmp_path / "evolution.json").write_text("{")
    with pytest.raises(PromptlabError, match="pocket evolve"):
        evolving.load(tmp_path / "evolution.json")
