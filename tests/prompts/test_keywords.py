"""The offline prompts for Stable Diffusion: many, our own, in the fields and with the splits of the pocket world's."""

import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from promptlab import config
from promptlab.prompts import keywords, load, load_prompts, split_prompt
from promptlab.prompts.records import SPLITS, normalised, record
from promptlab.prompts.sources import KINDS
from promptlab.runtime import PromptlabError

MADE = keywords.make_all()
FIELDS = ["id", "split", "set", "kind", "x", "y", "subjects", "colour"]


@pytest.fixture
def stable_diffusion(monkeypatch, tmp_path):
    """A preset without the pocket world's prompts is chosen; the run folder is empty."""
    import dataclasses

    monkeypatch.setitem(config.PRESETS, "sd", dataclasses.replace(config.POCKET, name="sd", prompts=""))
    monkeypatch.setenv("PROMPTLAB_PRESET", "sd")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    load.tell.cache_clear()


def test_there_are_more_than_3000_engineered_prompts_none_twice():
    targets = {r["y"] for records in MADE.values() for r in records if r["y"]}
    assert len({normalised(y) for y in targets}) > 3400
    assert len({split_prompt(y)[0] for y in targets}) > 2000, "not one content with many endings"


def test_records_have_the_fields_of_the_pocket_world(monkeypatch):
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    assert tuple(MADE) == SPLITS
    for split, records in MADE.items():
        assert records and all(list(r) == FIELDS and r["split"] == split for r in records)
        assert {type(r["subjects"]) for r in records} == {list}
    for r in load_prompts("test")[:1]:
        assert list(r) == FIELDS


def test_sft_has_four_sources_in_a_row_for_every_target():
    rows = MADE["sft"]
    for four in (rows[i : i + 4] for i in range(0, len(rows), 4)):
        assert [r["kind"] for r in four] == list(KINDS) and len({r["y"] for r in four}) == 1


def test_kinds_and_sets_are_those_of_the_paper_and_tests_are_as_large():
    count = Counter((r["set"], r["kind"]) for r in MADE["test"])
    inside, outside = (sum(n for (s, _), n in count.items() if s == name) for name in ("in_domain", "out_of_domain"))
    assert {k for s, k in count if s == "in_domain"} == set(KINDS)
    assert {k for s, k in count if s == "out_of_domain"} == {"caption", "label", "pair", "held out"}
    assert min(inside, outside) >= 250
    assert {r["set"] for r in MADE["sft"]} == {"in_domain"}


@pytest.mark.parametrize("a, b", list(combinations(SPLITS, 2)))
def test_splits_share_nothing_after_normalisation(a, b):
    texts = [{normalised(t) for r in MADE[s] for t in (r["x"], r["y"]) if t} for s in (a, b)]
    assert not texts[0] & texts[1]
    contents = [{normalised(split_prompt(r["y"])[0]) for r in MADE[s] if r["y"]} for s in (a, b)]
    assert not contents[0] & contents[1]


def test_nouns_that_belong_to_one_split_appear_in_no_other():
    groups = keywords.groups()
    assert sorted(n for nouns in groups.values() for _, n in nouns) == sorted(n for nouns in keywords.NOUNS.values() for n in nouns)
    for owner in keywords.ALONE:
        assert {k for k, _ in groups[owner]} == set(keywords.TABLES), "every kind in every group"
        mine = {n for _, n in groups[owner]}
        ours = [
            (split, r) for split, records in MADE.items() for r in records if r["kind"] != "label"
        ]  # ImageNet's are divided by themselves
        assert all(split == owner or not mine & set(r["subjects"]) for split, r in ours)


def test_no_word_stands_twice_in_a_table():
    nouns = [n for some in keywords.NOUNS.values() for n in some]
    assert len(set(nouns)) == len(nouns) == 216
    tables = [keywords.MEDIA, keywords.STYLES, keywords.LIGHTS, keywords.MOODS, keywords.VIEWS, keywords.DETAILS, keywords.PLACEBO]
    words = [w for table in tables for w in keywords.entries(table)]
    assert len(set(words)) == len(words)


def test_prompts_say_what_their_record_says():
    for records in MADE.values():
        for r in records:
            assert all(noun in text for noun in r["subjects"] for text in (r["x"], r["y"]) if text), r
            assert not r["colour"] or r["colour"] in r["x"].split(), r
            if r["y"]:
                content, words = split_prompt(r["y"])
                assert content.startswith(("a ", "an ")) and len(set(words)) == len(words) and len(words) > 1


@pytest.mark.parametrize(
    "words, expected",
    [
        (("lighthouse", "old", "on a cliff"), "an old lighthouse on a cliff"), (("unicorn",), "a unicorn"), (("hourglass",), "an hourglass"),
        (("fox", None, "by a stream"), "a fox by a stream"), (("apple pie",), "an apple pie"), (("knight", "young"), "a young knight"),
    ],
)  # fmt: skip
def test_phrases(words, expected):
    assert keywords.phrase(*words) == expected


def test_fashion_and_fit_both_show():
    used = Counter(w for r in MADE["sft"][::4] for w in split_prompt(r["y"])[1])
    media = keywords.entries(keywords.MEDIA)
    assert used[media[0]] > 2 * used[media[4]] > 4 * used[media[-1]] > 0
    tipped = {k: 0 for k in ("food", "vehicle")}
    of = {n: kind for kind, nouns in keywords.NOUNS.items() for n in nouns}
    for r in MADE["sft"][::4]:
        kind = of[r["subjects"][0]]
        if kind in tipped:
            tipped[kind] += "studio lighting" in r["y"]
    assert tipped["food"] > 2 * tipped["vehicle"]


def test_the_text_encoder_of_stable_diffusion_reads_every_prompt_whole():
    from open_clip.tokenizer import SimpleTokenizer  # its word list travels inside the package

    encode = SimpleTokenizer().encode
    assert max(len(encode(r["y"])) for r in MADE["sft"][::4]) <= 75


def test_another_process_makes_the_same_prompts_and_another_seed_others():
    code = "import zlib; from promptlab.prompts import keywords as k; print(zlib.crc32(repr(k.make_all()).encode()))"
    import zlib

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == str(zlib.crc32(repr(MADE).encode())), done.stderr
    import random

    assert keywords.targets("test", 5, random.Random(1)) != keywords.targets("test", 5, random.Random(2))


def test_load_prompts_goes_by_the_preset(stable_diffusion, capsys, monkeypatch):
    assert load_prompts("validation") == list(MADE["validation"])
    assert "keyword tables" in capsys.readouterr().out
    load_prompts("test")[0]["x"] = "spoilt"
    assert load_prompts("test") == list(MADE["test"]), "a caller's changes stay with the caller"
    assert not capsys.readouterr().out, "said once"
    monkeypatch.delenv("PROMPTLAB_PRESET")
    assert load_prompts("test")[0]["subjects"] != MADE["test"][0]["subjects"], "the pocket world keeps its own"


def test_your_own_collection_comes_first(stable_diffusion, capsys, tmp_path):
    folder = load.write({s: [record("a", s, "in_domain", "MC", "a fox 🦊", None)] for s in SPLITS}, {"why": "test"})
    assert folder == tmp_path.resolve() / "sd" / "prompts"
    assert load_prompts("ppo") == [dict(zip(FIELDS, ["a", "ppo", "in_domain", "MC", "a fox 🦊", None, ["a fox 🦊"], None], strict=True))]
    assert f"your own collection, {folder}" in capsys.readouterr().out
    (folder / "ppo.jsonl").write_text('{"x": ')
    with pytest.raises(PromptlabError, match="ppo.jsonl cannot be read .* run `python -m promptlab prompts` again"):
        load_prompts("ppo")


def test_an_unknown_split_is_named(stable_diffusion):
    with pytest.raises(PromptlabError, match="no split 'train'. Choose one of: sft, ppo"):
        load_prompts("train")
