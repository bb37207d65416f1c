"""The laptop run in miniature: the same lessons for two models, the comparison, and a second call that trains nothing."""

import dataclasses
import json
import re

import pytest
import tiny_hub
import torch

from promptlab import config, evaluation, ppo, sft
from promptlab.evaluation import METRICS
from promptlab.pocket import pretraining
from promptlab.pocket.captions import MEDIUM_WORDS, content_of
from promptlab.pocket.pictures import COLOURS
from promptlab.policy import load_policy, stage_policy
from promptlab.prompts import load_prompts
from promptlab.prompts.records import CAPTIONS, REPHRASED
from promptlab.runtime import PromptlabError

METHODS = {"plain", "sft", "ppo", "ppo, whole course", "pretrained", "pretrained sft", "pretrained ppo"}
SETS = ("in_domain", "out_of_domain")


@pytest.fixture
def laptop(tiny_preset, tmp_path, monkeypatch):
    """The preset laptop on the tiny world, with a GPT-2 of a few thousand weights as the model that others pretrained."""
    knobs = {
        "ppo_updates": 1,
        "ppo_prompts": 1,
        "ppo_samples": 2,
        "ppo_new_tokens": 8,
        "ppo_epochs": 1,
        "ppo_lr": 1e-3,  # another than pocket's
        "lora": 2,
        "sft_batch": 4,
        "sft": "",
        "ppo": "",
    }
    small = dataclasses.replace(tiny_preset, name="laptop", language=str(tiny_hub.save_gpt2(tmp_path / "gpt2")), **knobs)
    monkeypatch.setitem(config.PRESETS, "laptop", small)
    monkeypatch.setenv("PROMPTLAB_PRESET", "laptop")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretraining, "EXAMPLES", 8)
    monkeypatch.setattr(pretraining, "PROMPTS", 2)
    return small


@pytest.fixture(scope="module")
def shown_to_both():
    return pretraining.examples()


def test_the_examples_are_the_courses_pairs_and_labels(shown_to_both):
    course = {(r["x"], r["y"]) for r in load_prompts("sft")}
    more = [r for r in shown_to_both if (r["x"], r["y"]) not in course]
    pairs = [r for r in more if " and " in r["y"].split(", ")[0]]
    labels = [r for r in more if r not in pairs]
    assert all(re.fullmatch(f"(an? )?{re.escape(r['x'])}", r["y"].split(", ")[0]) for r in labels), "the content without its article"
    assert (len(shown_to_both), len(pairs), len(labels)) == (2000, 333, 333) and len(more) == 666, "two thirds, a sixth and a sixth"
    assert all(len(content_of(r["y"]).subjects) == 2 == len(content_of(r["x"]).subjects) for r in pairs)
    wordings = {re.sub(re.escape(r["y"].split(", ")[0]), "{}", r["x"]) for r in pairs}
    assert wordings == {"{}", *REPHRASED["sft"]}, "as SFT words them"
    assert pretraining.examples() == shown_to_both, "the same for both models, in every process"


def test_the_examples_know_nothing_of_the_test(shown_to_both):
    held_out = {s for split in ("ppo", "test") for r in load_prompts(split) if r["set"] == "out_of_domain" for s in r["subjects"]}
    asked = {(tuple(r["subjects"]), r["colour"]) for r in load_prompts("test")}
    assert len(held_out) > 20 and len(asked) > 100
    for r in shown_to_both:
        claim = content_of(r["y"])
        assert not held_out & set(claim.subjects), f"{r['y']!r} names what SFT must not know"
        assert (claim.subjects, claim.colour) not in asked, f"the test asks for {r['x']!r}"
    used = [re.escape(w).replace(r"\{\}", ".+") for w in (*REPHRASED["test"], *CAPTIONS["test"])]
    assert not [r["x"] for r in shown_to_both if any(re.fullmatch(w, r["x"]) for w in used)], "wordings of the test"


@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_it_trains_measures_and_goes_on(laptop, tmp_path, monkeypatch, capsys):
    tuned, trained = [], []
    finetune, train = sft.finetune, ppo.train
    monkeypatch.setattr(sft, "finetune", lambda *a, **k: tuned.append((a, k)) or finetune(*a, **k))
    monkeypatch.setattr(ppo, "train", lambda *a, **k: trained.append((a, k)) or train(*a, **k))
    pretraining.write(tmp_path)
    (ours, theirs), (pool, others) = [a[1] for a, _ in tuned], [a[1] for a, _ in trained]
    assert len(tuned) == len(trained) == 2 and ours == theirs and pool == others, "two models, the same examples and prompts"
    small, large = (dataclasses.asdict(a[5]) for a, _ in trained)
    assert {k for k in small if small[k] != large[k]} == {"lr", "lora"}, "and the same PPO but for step size and adapters"
    assert (tuned[0][1]["lora"], tuned[1][1]["lora"], small["lora"], large["lora"]) == (0, 2, 0, 2)
    records, rewrites = pretraining.load(tmp_path / "pretraining.json")
    assert {r["method"] for r in records} == METHODS and {r["metric"] for r in records} == {*METRICS, "surprise"}
    assert {r["versus"] for r in records} == {None, "plain", "sft", "ppo", "pretrained sft"}
    assert "your own" in (stage_policy("ppo").rewrite(["a frog"]) and capsys.readouterr().out), "lessons go on with what was trained"
    assert stage_policy("sft", shipped=True), "where none is shipped, your own is the one"
    assert len(rewrites) == 4 and all(r.keys() == METHODS | {"x", "set"} and r["plain"] == r["x"] for r in rewrites)
    for verb in ((ppo.PPO, "update"), (sft, "finetune")):
        monkeypatch.setattr(*verb, lambda *a, **k: pytest.fail("a finished training was run again"))
    (tmp_path / "pretraining.json").unlink()
    pretraining.write(tmp_path)
    assert pretraining.load(tmp_path / "pretraining.json") == (records, rewrites)


def test_surprise_is_the_mean_over_the_tokens_of_a_rewrite(laptop):
    reader = load_policy(laptop.language)
    got = pretraining.surprise(reader, [{"x": "a frog"}, {"x": "a castle"}, {"x": "a frog"}], ["a frog, oil", "neon", "x"], batch=2)
    for n, (x, y) in enumerate((("a frog", "a frog, oil"), ("a castle", "neon"), ("a frog", "x"))):
        ids = torch.tensor(reader.tokenizer.encode(f"{x} Rephrase: {y}") + [reader.end])[None]
        start = len(reader.tokenizer.encode(f"{x} Rephrase:"))
        logs = reader.model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        assert got[n] == pytest.approx(-logs[start - 1 :].mean().item(), abs=1e-4)


def test_another_preset_and_a_damaged_file_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    with pytest.raises(PromptlabError, match=r"in use is 'pocket'. Put PROMPTLAB_PRESET=laptop before"):
        pretraining.write(tmp_path)
    file = tmp_path / "pretraining.json"
    for text in (None, "{", json.dumps({"records": []})):
        if text:
            file.write_text(text)
        with pytest.raises(PromptlabError, match="cannot be read.*pretraining"):
            pretraining.load(file)


def test_what_lesson_11_says_of_the_shipped_run_is_so():
    """Who is ahead, where the gap begins, and that it is no narrower where the examples end."""
    records, _ = pretraining.load()
    find = lambda *key: evaluation.find(records, **dict(zip(("set", "method", "versus", "metric"), key, strict=True)))  # noqa: E731
    for name in SETS:
        assert all(find(name, "pretrained ppo", "ppo", m)["high"] < 0 for m in ("reward", "gold", "intent")), "behind in all six rows"
        after_sft, after_ppo = (find(name, f"pretrained {stage}", stage, "gold") for stage in ("sft", "ppo"))
        assert after_sft["high"] < 0 and after_sft["mean"] < after_ppo["mean"], "the gap was there before PPO, which did not widen it"
        assert find(name, "pretrained ppo", "pretrained sft", "gold")["low"] > 0 and find(name, "ppo", "sft", "gold")["low"] > 0
        assert find(name, "ppo, whole course", "ppo", "gold")["low"] > 0, "more lessons for the small one pay"
    extra = find("out minus in", "pretrained ppo", "ppo", "gold")
    assert -0.55 < extra["low"] < 0 < extra["high"] < 0.55, "level, to half a point"
    mean_of = {m: {k: pretraining.mean_of(records, m, k) for k in ("surprise", "gold")} for m in METHODS}
    fluent = sorted(METHODS, key=lambda m: mean_of[m]["surprise"])
    assert fluent[0] == "pretrained" == min(METHODS, key=lambda m: mean_of[m]["gold"]), "reads best, draws worst"
    assert fluent[-1] == "ppo, whole course" == max(METHODS, key=lambda m: mean_of[m]["gold"])
    for before, after in (("sft", "ppo"), ("pretrained sft", "pretrained ppo")):
        change = {k: mean_of[after][k] - mean_of[before][k] for k in ("surprise", "gold")}
        assert abs(change["surprise"]) < 0.05 and change["gold"] > 0.8, "PPO draws better and reads as before"


def test_what_lesson_11_says_of_the_words_is_so():
    """Which policy names a medium, where the words are lost, and at which place of a prompt."""
    records, rewrites = pretraining.load()
    kept = lambda name, method: evaluation.find(records, set=name, method=method, versus=None, metric="intent")["mean"]  # noqa: E731
    labels = "out_of_domain: label"
    assert kept(labels, "ppo") == 100 and kept(labels, "pretrained ppo") < 60
    assert labels == min({r["set"] for r in records if ": " in r["set"]}, key=lambda name: kept(name, "pretrained ppo"))
    for kind in ("pair", "caption", "held out"):
        assert abs(kept(f"out_of_domain: {kind}", "pretrained ppo") - kept(f"out_of_domain: {kind}", "ppo")) <= 5.1
    media = [word for words in MEDIUM_WORDS.values() for word in words]
    names = {m: [any(w in r[m].split(", ") for w in media) for r in rewrites] for m in METHODS}
    assert sum(names["ppo"]) > 0.95 * 240 and sum(names["pretrained sft"]) > 0.85 * 240
    named = [r["x"] for r, some in zip(rewrites, names["pretrained ppo"], strict=True) if some]
    assert len(named) < 0.2 * 240 and all(any(w in x for w in media) for x in named), "only where one was typed"
    places = {}
    for r in rewrites:
        for found in re.finditer(rf"\b({'|'.join(COLOURS)})\b", r["x"]):
            place = "behind" if found.start() else "pink" if found[1] == "pink" else "first"
            places.setdefault(place, []).append([found[1] in r[m].split(",")[0] for m in ("pretrained ppo", "ppo")])
    counts = {place: ([sum(column) for column in zip(*some, strict=True)], len(some)) for place, some in places.items()}
    assert counts == {"behind": ([102, 102], 102), "first": ([10, 26], 26), "pink": ([6, 6], 6)}
