"""The community's prompts: four kinds of source, and splits that share nothing."""

import json
import random
from collections import Counter
from itertools import combinations

import pytest

from promptlab.pocket import community as c
from promptlab.pocket.captions import MEDIUM_WORDS, PLACEBO_WORDS, content, content_of
from promptlab.pocket.pictures import Picture
from promptlab.pocket.subjects import KIND, SUBJECTS
from promptlab.prompts import load_prompts
from promptlab.prompts.records import normalised
from promptlab.runtime import PromptlabError, data_dir

SPLITS = {split: load_prompts(split) for split in c.SPLITS}
PAIRS = list(combinations(c.SPLITS, 2))


def test_the_shipped_files_are_what_the_command_writes(tmp_path):
    c.write(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (data_dir() / "prompts" / path.name).read_bytes(), path.name
    assert len(list(tmp_path.iterdir())) == len(c.SPLITS) + 1


@pytest.mark.parametrize("a, b", PAIRS)
def test_splits_share_no_prompt_no_content_and_no_wording(a, b):
    for field in ("x", "y"):
        texts = [{normalised(r[field]) for r in SPLITS[s] if r[field]} for s in (a, b)]
        assert not texts[0] & texts[1]
    contents = [{(*sorted(r["subjects"]), r["colour"]) for r in SPLITS[s]} for s in (a, b)]
    assert not contents[0] & contents[1]
    for wordings in (c.REPHRASED, c.SENTENCES, c.CAPTIONS):
        assert not set(wordings.get(a, ())) & set(wordings.get(b, ()))


def test_nouns_that_belong_to_one_split_appear_in_no_other():
    groups = c.groups()
    assert sorted(s for nouns in groups.values() for s in nouns) == sorted(SUBJECTS)
    assert all({KIND[s] for s in nouns} == set(KIND.values()) for nouns in groups.values()), "every kind in every group"
    for owner in c.ALONE:
        for split, records in SPLITS.items():
            used = {s for r in records for s in r["subjects"]}
            assert split == owner or not used & set(groups[owner])
    assert {s for r in SPLITS["sft"] for s in r["subjects"]} <= set(groups["common"])


def test_in_and_out_of_domain_are_the_kinds_sft_saw_and_the_others():
    kinds = {s: Counter((r["set"], r["kind"]) for r in records) for s, records in SPLITS.items()}
    inside = {("in_domain", k) for k in ("MC", "MCM", "RMC", "RTP")}
    outside = {("out_of_domain", k) for k in ("caption", "label", "pair", "held out")}
    assert set(kinds["sft"]) == inside
    assert all(set(kinds[s]) == inside | outside for s in ("ppo", "validation", "test"))
    assert sum(kinds["test"].values()) >= 450 and min(kinds["test"].values()) >= 40
    assert all(not (r["set"] == "in_domain") or len(r["subjects"]) == 1 for r in SPLITS["test"])


def test_every_prompt_outside_sft_occurs_once():
    for split, records in SPLITS.items():
        if split != "sft":
            assert max(Counter(normalised(r["x"]) for r in records).values()) == 1


@pytest.mark.parametrize("split", c.SPLITS)
def test_prompts_say_what_their_record_says(split):
    for r in SPLITS[split]:
        claim = Picture(tuple(r["subjects"]), r["colour"])
        for text in filter(None, (r["x"], r["y"])):
            assert content_of(text) == claim, text
        if r["y"]:
            head, *words = r["y"].split(", ")
            assert head == content(claim) and len(set(words)) == len(words)
            assert sum(w in group for w in words for group in MEDIUM_WORDS.values()) == 1


def test_the_four_kinds_of_source():
    target, claim, rng = "a frog, vivid colors, oil painting, masterpiece", Picture(("frog",)), random.Random(0)
    made = {k: {c.source(k, target, claim, "test", rng) for _ in range(60)} for k in ("MC", "MCM", "RMC", "RTP")}
    assert made["MC"] == {"a frog"}
    assert all(1 <= len(set(x.split(", ")[1:]) & set(target.split(", "))) <= 2 for x in made["MCM"])
    assert made["RMC"] == {w.format("a frog") for w in c.REPHRASED["test"]}
    assert all("an oil painting" in x and "vivid colors" in x and "masterpiece" not in x for x in made["RTP"])


def test_habits_follow_fashion_more_than_fit():
    rng = random.Random(1)
    words = [w for _ in range(4000) for w in c.modifiers("sea", rng)]
    count = Counter(words)
    share = lambda group: sum(count[w] for w in group) / 4000  # noqa: E731
    assert share(MEDIUM_WORDS["oil painting"]) > share(MEDIUM_WORDS["stained glass"])
    assert 0.15 < share(MEDIUM_WORDS["watercolor"]) < 0.35, "what fits the sea is known to some"
    assert share(PLACEBO_WORDS) > 1


@pytest.mark.parametrize("damage", ["missing", "text"])
def test_a_damaged_split_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setattr("promptlab.prompts.load.data_dir", lambda: tmp_path)
    (tmp_path / "prompts").mkdir()
    if damage == "text":
        (tmp_path / "prompts" / "test.jsonl").write_text(json.dumps({"x": "a frog"}) + "\n{")
    with pytest.raises(PromptlabError, match=r"test\.jsonl.*git checkout"):
        load_prompts("test")
