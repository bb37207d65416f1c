"""The laptop run in miniature: SFT and PPO of adapters, the comparison with the shipped policies, and a second call that trains nothing."""

import dataclasses
import json

import pytest
import tiny_hub
import torch

from promptlab import config, evaluation, ppo, sft
from promptlab.evaluation import METRICS
from promptlab.pocket import pretraining
from promptlab.policy import load_policy, stage_policy
from promptlab.prompts import split_prompt
from promptlab.runtime import PromptlabError

METHODS = {"plain", "sft", "ppo", "pretrained", "pretrained sft", "pretrained ppo"}


@pytest.fixture
def laptop(tiny_preset, tmp_path, monkeypatch):
    """The preset laptop on the tiny world, with a GPT-2 of a few thousand weights as the model that others pretrained."""
    knobs = {
        "ppo_updates": 1,
        "ppo_prompts": 1,
        "ppo_samples": 2,
        "ppo_new_tokens": 8,
        "ppo_epochs": 1,
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


@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_it_trains_measures_and_goes_on(laptop, tmp_path, monkeypatch, capsys):
    pretraining.write(tmp_path)
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
    """Its sentences state no number, but they do say who is ahead and where the words went."""
    records, rewrites = pretraining.load()
    find = lambda name, method, versus, metric: evaluation.find(records, set=name, method=method, versus=versus, metric=metric)  # noqa: E731
    for name in ("in_domain", "out_of_domain"):
        assert find(name, "pretrained ppo", "ppo", "gold")["high"] < 0 < find(name, "pretrained ppo", "pretrained sft", "reward")["low"]
        assert find(name, "pretrained sft", "sft", "intent")["high"] < 0
    for kind in ("pair", "label"):
        assert find(f"out_of_domain: {kind}", "pretrained sft", None, "intent")["mean"] < 15, "lost by SFT"
        assert find(f"out_of_domain: {kind}", "pretrained ppo", None, "intent")["mean"] < 25, "and hardly found again by PPO"
    pairs = [r for r in rewrites if " and " in r["x"] and r["set"] == "out_of_domain"]
    assert pairs and not any(" and " in split_prompt(r["pretrained sft"])[0] for r in pairs)
    fluent = min(METHODS, key=lambda m: pretraining.mean_of(records, m, "surprise"))
    assert fluent == "pretrained" == min(METHODS, key=lambda m: pretraining.mean_of(records, m, "intent")), "reads best, keeps least"
    assert max(METHODS, key=lambda m: pretraining.mean_of(records, m, "gold")) == "ppo"
