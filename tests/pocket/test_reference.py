"""The reference run in miniature: every stage, every method, and a second call that trains and draws nothing again."""

import json

import pytest

from promptlab import ppo
from promptlab.evaluation import METRICS, load_results
from promptlab.pocket import language, reference
from promptlab.policy import Policy, load_policy
from promptlab.prompts import load_prompts
from promptlab.runtime import PromptlabError


@pytest.mark.timeout(1200)
def test_it_trains_measures_and_goes_on(tiny_world, tiny_generator, tmp_path, monkeypatch):
    import shutil

    from transformers import AutoTokenizer

    out = tmp_path / "world"
    shutil.copytree(tiny_world, out)
    words = language.policy_tokenizer(AutoTokenizer.from_pretrained(out / "clip"))
    Policy(language.new_model(words), words).save(out / "language", half=True)
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reference, "load_prompts", lambda split: load_prompts(split)[:6] if split != "sft" else load_prompts(split)[:64])
    monkeypatch.setattr(reference, "COMBINATIONS", reference.COMBINATIONS[:2])
    monkeypatch.setattr(reference, "UPDATES", 1)
    monkeypatch.setattr(reference, "SEEDS", (0, 1))
    monkeypatch.setattr(reference, "SETTINGS", ppo.Settings(prompts=1, samples=2, images=1, new_tokens=8, epochs=1))
    monkeypatch.setattr(reference, "preset_for", lambda folder: small(folder))

    reference.write(out)
    records = load_results(out / "results.json")
    assert {r["method"] for r in records} == {"plain", "engineered", "suffix", "sft", "best_of_n", "ppo"}
    assert {r["metric"] for r in records} == set(METRICS)
    assert {len(r["per_seed"]) for r in records if r["method"] == "ppo"} == {2}, "every training seed is shown"
    assert load_policy(out / "ppo").rewrite(["a frog"])
    assert "gold" in json.loads((out / "ppo" / "metrics.jsonl").read_text().splitlines()[0])

    monkeypatch.setattr(type(tiny_generator), "generate", lambda *a, **k: pytest.fail("a picture was drawn again"))
    monkeypatch.setattr(ppo.PPO, "update", lambda *a: pytest.fail("a finished training was run again"))
    reference.write(out)
    assert load_results(out / "results.json") == records

    (out / "results.json").unlink()
    reference.write_results(out)
    assert load_results(out / "results.json") == records, "from what was measured, to the last digit"


def test_without_a_run_there_is_nothing_to_make_results_of(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    with pytest.raises(PromptlabError, match="measured.json is missing.*pocket reference"):
        reference.write_results(tmp_path)


def small(folder):
    from conftest import preset_at

    return preset_at(folder)


def test_the_suffix_gets_the_pictures_of_a_ppo_run():
    s = ppo.Settings()
    assert reference.budget() == reference.UPDATES * s.prompts * (s.samples + 1) * s.images
