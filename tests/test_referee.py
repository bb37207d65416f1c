"""The referee: the pocket world's judge and gold, and PickScore where Stable Diffusion draws; both through the same two questions."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_hub

from promptlab import evaluation, prompts, referee
from promptlab.pictures.gallery import Gallery
from promptlab.pictures.sheets import ContactSheet
from promptlab.referee import People, World, load_referee
from promptlab.runtime import PromptlabError

PLAIN, REWRITTEN, SEEDS = ["a frog", "a castle"], ["a frog, oil painting", "a castle, neon"], [5, 3]


@pytest.fixture(scope="module")
def pick(tmp_path_factory):
    return tiny_hub.save_pickscore(tmp_path_factory.mktemp("pick"))


@pytest.fixture
def people(tiny_scorer, pick):
    """The tiny scorer with PickScore in place of the judge, as a preset would name it."""
    old = tiny_scorer.gallery
    tiny_scorer.gallery = Gallery(dataclasses.replace(old.preset, judge=str(pick)), old.clip, old.path.parent)
    tiny_scorer.gallery.generator = old.generator
    return tiny_scorer


def test_which_referee_a_preset_names(tiny_preset, pick):
    assert load_referee("") is None
    assert isinstance(load_referee(tiny_preset.judge), World) and isinstance(load_referee(str(pick)), People)
    with pytest.raises(PromptlabError, match="missing"):
        load_referee("pocket/nothing")


def test_pickscore_rates_a_picture_for_the_words_that_were_typed(people):
    sheet = ContactSheet(people, PLAIN, REWRITTEN, SEEDS, progress=False)
    eye, drawn = people.gallery.judge.eye, people.gallery.pictures(sheet.prompts, sheet.seeds)
    expected = eye.scale * (eye.embed_images(drawn) * np.repeat(eye.embed_texts(PLAIN), 2, 0)).sum(1)
    np.testing.assert_allclose(sheet.gold, expected, atol=0.02 * eye.scale)  # embeddings are kept in half precision
    other = ContactSheet(people, PLAIN[::-1], REWRITTEN, SEEDS, progress=False)
    assert sheet.facts == other.facts and not np.allclose(sheet.gold, other.gold), "the same pictures, other words"


def test_words_are_kept_where_they_fit_better_than_everybody_elses(people, monkeypatch):
    monkeypatch.setattr(prompts, "load_prompts", lambda split: [{"x": x} for x in ("a frog", "a dog", "a cat", "a dog")])
    judge = people.gallery.judge
    assert judge.crowd == ["a frog", "a dog", "a cat"]
    axes = dict(zip(("a frog", "a dog", "a cat", "a castle"), np.eye(4, dtype=np.float32), strict=True))
    monkeypatch.setattr(judge.eye, "embed_texts", lambda texts: np.stack([axes[t] for t in texts]))
    look = lambda *v: {"look": referee.base64.b64encode(np.array(v, np.float16).tobytes()).decode()}  # noqa: E731
    facts = [look(0.9, 0.1, 0, 0), look(0.1, 0.9, 0, 0), look(0, 0.1, 0.1, 0.2), look(0.3, 0, 0, 0.2)]
    assert judge.kept(facts, ["a frog", "a frog", "a castle", "a castle"]).tolist() == [True, False, True, False]


def test_an_evaluation_has_gold_and_intent(people):
    records = [{"x": x, "set": "in_domain", "kind": "MC"} for x in PLAIN]
    found = evaluation.measure(people, records, REWRITTEN, seeds=(1, 2))
    assert set(found) == set(evaluation.METRICS) and set(found["intent"]) <= {0, 50, 100}


def test_the_two_never_share_a_row_of_the_cache(people, tiny_preset):
    people.gallery.facts(["a frog"], [1])
    back = Gallery(tiny_preset, people.gallery.clip, people.gallery.path.parent)
    back.generator = people.gallery.generator
    assert "gold" in back.facts(["a frog"], [1])[0] and "look" in people.gallery.facts(["a frog"], [1])[0]


# --- the rules of gold ----------------------------------------------------------------------------------------------


def test_gold_is_not_recalled_once_its_rules_have_changed(tiny_scorer, monkeypatch):
    from promptlab.pocket import taste

    old = tiny_scorer.gallery
    before = old.facts(["a frog"], [1])[0]["gold"]
    monkeypatch.setattr(taste, "CENTRE", taste.CENTRE + 2)
    new = Gallery(old.preset, old.clip, old.path.parent)
    new.generator = old.generator
    assert new.facts(["a frog"], [1])[0]["gold"] < before - 0.01
    monkeypatch.undo()
    assert old.facts(["a frog"], [1])[0]["gold"] == before, "and the old ones are still known"


@pytest.mark.parametrize("name, value", [("TASTE", "another"), ("WEIGHTS", {"fit": 2.0}), ("NORMS", {}), ("KIND", {"ant": "food"}), ("SLOPE", 1)])
def test_each_table_of_gold_counts(monkeypatch, name, value):
    from promptlab.pocket import taste

    before = referee.rules()
    monkeypatch.setattr(taste, name, value)
    assert referee.rules() != before


@pytest.mark.parametrize("module, name", [("taste", "statistics"), ("taste", "gold"), ("taste", "table"), ("judge", "look"), ("judge", "name")])
def test_each_function_of_gold_counts(monkeypatch, module, name):
    before = referee.rules()
    monkeypatch.setattr(f"promptlab.pocket.{module}.{name}", lambda *_: None)
    assert referee.rules() != before


def test_the_rules_have_the_same_name_in_every_process():
    """Sets, for instance, are written in another order in each."""
    code = "from promptlab import referee; print(referee.rules())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "77"})
    assert done.stdout.strip() == referee.rules(), done.stderr


@pytest.mark.parametrize("text", ["a\0frog", "a\x1bfrog", "  a \n frog", "a\ud800frog"])
def test_the_typed_words_are_read_as_they_are_drawn(people, text):
    judge, fact = people.gallery.judge, people.gallery.facts(["a frog"], [1])
    assert judge.gold(fact, [text]) == judge.gold(fact, ["a frog"])


def test_what_is_remembered_of_a_picture_is_checked(people):
    judge, fact = people.gallery.judge, people.gallery.facts(["a frog"], [1])[0]
    assert judge.whole(fact)
    for bad in ("", fact["look"][:8], "?" * 8, 7, None, fact["look"] + "AAAA"):
        assert not judge.whole({"look": bad})
    assert not judge.whole({})
