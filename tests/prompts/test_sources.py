"""Four kinds of source for prompts from anywhere, by rules."""

import random

import pytest

from promptlab.prompts import sources, split_prompt
from promptlab.prompts.records import REPHRASED, SPLITS, record

TARGET = "a red fox in the snow, oil painting, highly detailed, moody, by candlelight, 8k"


def row(name, split, x, y=None, kind="MC"):
    return record(name, split, "in_domain", kind, x, y)


def test_the_four_kinds_of_source():
    rng = random.Random(0)
    made = [sources.sources(TARGET, "test", rng) for _ in range(60)]
    assert {m["MC"] for m in made} == {"a red fox in the snow"}
    parts = ["oil painting", "highly detailed", "moody", "by candlelight", "8k"]
    for m in made:
        content, *words = m["MCM"].split(", ")
        assert content == "a red fox in the snow" and 1 <= len(words) <= 2 and set(words) <= set(parts)
        assert m["RMC"] in {w.format("a red fox in the snow") for w in REPHRASED["test"]}
        assert "a red fox in the snow" in m["RTP"] and ", oil" not in m["RTP"] and "8k" not in m["RTP"], "praise says nothing"
        assert sum(p in m["RTP"] for p in parts) == 2
    assert len({m["MCM"] for m in made}) > 8 and len({m["RTP"] for m in made}) > 8


def test_wordings_differ_between_splits():
    used = [set(sources.SENTENCES[s]) for s in sources.SENTENCES]
    assert sum(map(len, used)) == len(set().union(*used))


@pytest.mark.parametrize("bare", ["a fox", "masterpiece, a fox, 8k", "a fox --ar 16:9"])
def test_a_prompt_that_adds_nothing_teaches_nothing(bare):
    assert sources.sources(bare, "sft", random.Random(0)) is None
    assert sources.in_domain("sft", [(bare, None, None)], random.Random(0)) == []


def test_records_say_where_they_belong():
    four = sources.in_domain("ppo", [(TARGET, "fox", "red")], random.Random(0))
    assert [r["kind"] for r in four] == list(sources.KINDS)
    assert all(
        (r["id"], r["split"], r["set"], r["y"], r["subjects"], r["colour"]) == ("ppo-0", "ppo", "in_domain", TARGET, ["fox"], "red")
        for r in four
    )
    unnamed = sources.in_domain("ppo", [(TARGET, None, None)], random.Random(0))
    assert all(r["subjects"] == [split_prompt(TARGET)[0]] for r in unnamed), "nobody said what it shows, so all of it counts"


def test_splits_are_separated_and_sft_loses_whole_targets():
    splits = {s: [] for s in SPLITS}
    splits["test"] = [row("t0", "test", "A fox.")]
    splits["ppo"] = [
        row("p0", "ppo", "the fox", "a fox, oil painting"),
        row("p0", "ppo", "draw a fox", "a fox, oil painting", "RMC"),
        row("p1", "ppo", "an owl"),
    ]
    splits["sft"] = [
        row("s0", "sft", x, "an owl, moody", k) for x, k in (("one owl", "MC"), ("owl", "MCM"), ("my owl", "RMC"), ("his owl", "RTP"))
    ]
    splits["sft"] += [row("s1", "sft", x, "a fox, oil painting") for x in "abcd"] + [
        row("s2", "sft", f"goat {x}", "a goat") for x in "wxyz"
    ]
    out = sources.separate(splits)
    assert list(out) == list(SPLITS)
    assert [r["id"] for r in out["test"]] == ["t0"]
    assert [(r["id"], r["kind"]) for r in out["ppo"]] == [("p0", "RMC"), ("p1", "MC")], "'the fox' is the test's 'A fox.'"
    assert {r["id"] for r in out["sft"]} == {"s2"}, "one source of s0 is PPO's, the target of s1 too"
