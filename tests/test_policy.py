"""Sampling and scoring rewrites: the format, padding, ends and limits, and that what is scored is what was sampled."""

import copy
import dataclasses
import json
import threading

import pytest
import torch
from tiny_policy import WORDS, tiny_policy

from promptlab import config
from promptlab.policy import MARK, Policy, Rewrites, draw, load_policy, log_probs, only, own_policy, run_folder, stage_policy
from promptlab.runtime import PromptlabError


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


def test_prompts_end_with_the_mark_and_are_padded_on_the_left(policy):
    ids, real = policy.encode(["frog", "a red castle"], 20)
    mark = policy.tokenizer.encode(MARK, add_special_tokens=False)
    assert ids[:, -len(mark) :].tolist() == [mark, mark]
    assert real.tolist() == [[False, False, True, True, True], [True] * 5]
    assert ids[0, :2].tolist() == [policy.end] * 2


def test_a_long_prompt_loses_its_end_and_never_the_mark(policy):
    ids, _ = policy.encode(["frog " * 100 + "castle"], 10)
    assert ids.shape == (1, 10) and ids[0, :8].tolist() == [WORDS.index("frog")] * 8
    assert policy.sample(["frog " * 100], new_tokens=12).ids.shape[1] <= policy.room
    with pytest.raises(PromptlabError, match="fewer new tokens"):
        policy.sample(["frog"], new_tokens=policy.room)


def test_an_empty_prompt_is_refused(policy):
    with pytest.raises(PromptlabError, match="empty"):
        policy.sample(["frog", "  \n"])


def test_the_mark_inside_a_prompt_does_not_move_the_rewrite(policy):
    once, twice = policy.sample(["a frog Rephrase: red", "a"], seed=3), policy.sample(["a frog", "a"], seed=3)
    assert once.start == policy.encode(["a frog Rephrase: red"], 30)[0].shape[1] > twice.start
    for r in (once, twice):
        words = [WORDS[i] if i < len(WORDS) else "<unk>" for i in r.ids[0, r.start :][r.mask[0]].tolist() if i != policy.end]
        assert r.texts[0].replace("<unk>", "").split() == [w for w in words if w != "<unk>"]


def test_rewrites_end_at_the_first_end_token(policy):
    r = policy.sample(["frog"] * 64, seed=1, new_tokens=6)
    assert r.finished.any() and not r.finished.all()
    for i in range(len(r)):
        chosen = r.ids[i, r.start :][r.mask[i]]
        assert (chosen[:-1] != policy.end).all()
        assert (chosen[-1] == policy.end) == r.finished[i]
        assert r.finished[i] or len(chosen) == r.ids.shape[1] - r.start
        assert not r.mask[i][len(chosen) :].any()


def test_seeds_fix_rewrites_and_leave_the_callers_randomness_alone(policy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (policy.sample(["a frog", "a red castle"], seed=s) for s in (1, 1, 2))
    assert torch.equal(a.ids, b.ids) and a.texts == b.texts and a.texts != c.texts
    assert torch.equal(before, torch.get_rng_state())


def test_greedy_rewrites_do_not_depend_on_seed_or_batch(policy):
    together = policy.rewrite(["a frog", "a very red castle"], batch=2)
    assert together == policy.rewrite(["a frog", "a very red castle"], batch=1)
    assert policy.sample(["a frog"], seed=1, greedy=True).texts == policy.sample(["a frog"], seed=2, greedy=True).texts


def test_padding_changes_no_probability(policy):
    """The trap of position ids: a short prompt beside a long one must score as it does alone."""
    alone = policy.sample(["frog"], seed=4, new_tokens=8)
    pad = 5
    ids = torch.cat([torch.full((1, pad), policy.end), alone.ids], 1)
    real = torch.cat([torch.zeros(1, pad, dtype=torch.bool), alone.real], 1)
    padded = Rewrites(ids, real, alone.start + pad, alone.texts, alone.finished)
    with torch.no_grad():
        a, b = (log_probs(policy.model, r)[0][r.mask] for r in (alone, padded))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_what_is_scored_is_what_is_sampled(policy):
    """First tokens of many samples occur as often as their scored probability says; no filter stands between."""
    r = policy.sample(["a frog"] * 4000, seed=0, new_tokens=1)
    with torch.no_grad():
        one = r.rows(torch.tensor([0]))
        expected = policy.model(one.ids[:, : one.start]).logits[0, -1].softmax(-1)
        scored = log_probs(policy.model, r)[0][:, 0].exp()
    torch.testing.assert_close(scored, expected[r.ids[:, r.start]], atol=1e-5, rtol=0)
    seen = torch.bincount(r.ids[:, r.start], minlength=len(expected)) / len(r)
    assert ((seen - expected).abs() < 4 * (expected * (1 - expected) / len(r)).sqrt() + 1e-9).all()


POISON = (
    {"min_p": 0.3}, {"typical_p": 0.3}, {"epsilon_cutoff": 0.1, "eta_cutoff": 0.1}, {"top_h": 0.4}, {"top_k": 2, "top_p": 0.5, "temperature": 0.3},
    {"no_repeat_ngram_size": 1}, {"repetition_penalty": 3.0, "encoder_repetition_penalty": 3.0}, {"min_new_tokens": 2}, {"guidance_scale": 3.0},
    {"sequence_bias": [[[0], 5.0]]}, {"suppress_tokens": [0, 1]}, {"begin_suppress_tokens": [0]}, {"bad_words_ids": [[0], [3, 4]]},
    {"forced_bos_token_id": 2, "forced_eos_token_id": 10}, {"exponential_decay_length_penalty": [0, 9.0]}, {"num_beams": 3, "num_return_sequences": 2},
    {"max_length": 3}, {"max_time": 1e-6}, {"stop_strings": ["frog"]}, {"eos_token_id": [0, 10]}, {"watermarking_config": {"bias": 5.0}},
)  # fmt: skip


@pytest.fixture(scope="module")
def exact(policy):
    """The prompt's ids, and the model's own probability of each pair of first tokens: (11, 11), a pair that ends at once in its last row."""
    ids, words = policy.encode(["a frog"], 30)[0], len(policy.tokenizer)
    with torch.no_grad():
        first = policy.model(ids).logits[0, -1].softmax(-1)
        both = torch.cat([ids.repeat(words, 1), torch.arange(words)[:, None]], 1)
        second = policy.model(both).logits[:, -1].softmax(-1)
    second[policy.end] = torch.eye(words)[policy.end]  # what follows the end is padding
    return first[:, None] * second


def apart(found, exact):
    """Total variation: the share of pairs that would have to change."""
    counts = torch.zeros_like(exact)
    counts.index_put_((found[:, 0], found[:, 1]), torch.ones(len(found)), accumulate=True)
    return (counts / len(found) - exact).abs().sum().item() / 2


@pytest.mark.parametrize("poison", POISON, ids=lambda p: next(iter(p)))
def test_whatever_a_folder_says_about_generation_the_models_own_distribution_is_drawn(policy, exact, tmp_path, poison):
    import json

    policy.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True} | poison))
    found = load_policy(tmp_path)
    drawn, plain = (p.sample(["a frog"] * 2000, seed=1, new_tokens=2) for p in (found, policy))
    assert apart(drawn.ids[:, drawn.start :], exact) < 0.09, "2,000 pairs of 121 kinds are .06 apart by chance"
    assert torch.equal(drawn.ids, plain.ids) and found.rewrite(["a frog"]) == policy.rewrite(["a frog"])


def test_that_distance_notices_what_such_a_setting_does(policy, exact, monkeypatch):
    """And a setting that comes later than loading, by hand, is left out as well."""
    from transformers import GenerationConfig

    ids, real = policy.encode(["a frog"], 30)
    monkeypatch.setattr(policy.model, "generation_config", GenerationConfig(min_p=0.3))
    poisoned = policy.model.generate(ids.repeat(4000, 1), attention_mask=real.long().repeat(4000, 1), do_sample=True, top_k=0, max_new_tokens=2, eos_token_id=policy.end, pad_token_id=policy.end)  # fmt: skip
    assert apart(poisoned[:, ids.shape[1] :], exact) > 0.2
    r = policy.sample(["a frog"] * 8000, seed=2, new_tokens=2)
    assert apart(r.ids[:, r.start :], exact) < 0.05
    noise = draw(torch.Generator().manual_seed(2), 8000)
    theirs = policy.generate(ids.repeat(8000, 1), real.repeat(8000, 1), [only(noise)], max_new_tokens=2)
    assert apart(theirs[:, ids.shape[1] :], exact) < 0.05


@pytest.mark.parametrize("nothing", ["", "\x01", "\u200b\u2060", " \n\t", "\ud800"])
def test_a_rewrite_that_is_nothing_to_draw_is_the_prompt_itself(policy, monkeypatch, nothing):
    monkeypatch.setattr(type(policy.tokenizer), "decode", lambda self, *a, **k: nothing)
    assert policy.sample(["a  frog", "a castle"], seed=1, new_tokens=3).texts == ["a frog", "a castle"]


def test_entropy_is_that_of_the_whole_distribution(policy):
    r = policy.sample(["a frog"], seed=0, new_tokens=4)
    with torch.no_grad():
        p = policy.model(r.ids).logits[0, r.start - 1].softmax(-1)
        entropy = log_probs(policy.model, r)[1]
    torch.testing.assert_close(entropy[0, 0], -(p * p.log()).sum(), atol=1e-5, rtol=0)


def test_dropout_is_off(policy):
    r = policy.sample(["a frog"] * 4, seed=0)
    with torch.no_grad():
        assert torch.equal(log_probs(policy.model, r)[0], log_probs(policy.model, r)[0])


def test_a_saved_policy_is_plain_transformers_and_comes_back(policy, tmp_path):
    from transformers import AutoModelForCausalLM

    policy.save(tmp_path / "p")
    assert list((tmp_path / "p").glob("*.safetensors")) and not list((tmp_path / "p").glob("*.bin"))
    assert load_policy(tmp_path / "p").rewrite(["a frog"]) == policy.rewrite(["a frog"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "p").config.vocab_size == len(policy.tokenizer)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no config"])
def test_a_damaged_policy_is_named(policy, tmp_path, damage):
    folder = tmp_path / "p"
    if damage != "missing":
        policy.save(folder)
        if damage == "truncated":
            (file,) = folder.glob("*.safetensors")
            file.write_bytes(file.read_bytes()[:-50])
        else:
            (folder / "config.json").unlink()
    with pytest.raises(PromptlabError, match=str(folder)):
        load_policy(folder)


def test_a_cell_that_draws_beside_it_changes_no_sample_and_sees_none(policy):
    """A run in the background samples too: torch's random state is one for all threads."""
    expected, over = policy.sample(["a frog"] * 8, seed=1).texts, threading.Event()

    def neighbour():
        while not over.is_set():
            torch.manual_seed(3), torch.rand(10)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        assert all(policy.sample(["a frog"] * 8, seed=1).texts == expected for _ in range(5))
    finally:
        over.set(), thread.join()


def test_the_seed_draws_what_torch_draws_from_it(policy):
    """The very numbers of transformers' own sampling, so that old seeds keep their rewrites."""
    ids, real = policy.encode(["a frog", "a red castle"], 20)
    torch.manual_seed(5)
    theirs = policy.model.generate(ids, attention_mask=real.long(), do_sample=True, top_k=0, max_new_tokens=48, eos_token_id=policy.end, pad_token_id=policy.end)  # fmt: skip
    assert torch.equal(policy.sample(["a frog", "a red castle"], seed=5).ids, theirs)


def other(policy, name):
    """The same policy but for one weight of one part."""
    policy = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    with torch.no_grad():
        dict(policy.model.named_parameters())[name].view(-1)[-1] += 0.5
    return policy


def test_whatever_weight_differs_the_run_is_another(policy, monkeypatch, tmp_path):
    """Adapters leave embeddings and norms as they were: what SFT learnt lies in the other weights."""
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    names = [name for name, _ in policy.model.named_parameters()]
    folders = {run_folder("ppo", p, 1) for p in (policy, *(other(policy, name) for name in names))}
    assert len(folders) == len(names) + 1 > 10
    assert run_folder("ppo", Policy(copy.deepcopy(policy.model), policy.tokenizer), 1) == run_folder("ppo", policy, 1)
    half = Policy(copy.deepcopy(policy.model).bfloat16(), policy.tokenizer)
    assert run_folder("ppo", half, 1) not in folders


@pytest.fixture
def place(monkeypatch, tmp_path, policy):
    """A preset whose shipped policy is ours, and a home of its own."""
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    policy.save(tmp_path / "shipped")
    return dataclasses.replace(config.POCKET, sft=str(tmp_path / "shipped"))


def test_a_save_that_breaks_off_leaves_the_earlier_policy_and_its_own_absence(policy, place, monkeypatch):
    own, good = own_policy("sft", place), policy.rewrite(["a frog"])

    def full(self, folder, **_):
        (folder / "config.json").write_text("{}"), (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(policy.model), "save_pretrained", full)
        with pytest.raises(PromptlabError, match=f"Could not write {own}.*No space left"):
            policy.save(own)
        assert stage_policy("sft", place).rewrite(["a frog"]) == good and not list(own.parent.iterdir())
    policy.save(own)
    with monkeypatch.context() as patch:
        patch.setattr(type(policy.model), "save_pretrained", full)
        with pytest.raises(PromptlabError, match="Could not write"):
            policy.save(own)
    assert load_policy(own).rewrite(["a frog"]) == good


@pytest.mark.parametrize("holds", [[], ["config.json"], ["config.json", "tokenizer.json"], ["notes.txt"]])
def test_a_folder_without_weights_is_no_policy_of_ones_own(place, policy, capsys, holds):
    own = own_policy("sft", place)
    own.mkdir(parents=True)
    for name in holds:
        (own / name).write_text("{}")
    assert stage_policy("sft", place).rewrite(["a frog"]) == policy.rewrite(["a frog"])
    assert f"{own} is passed over: it holds no weights" in capsys.readouterr().out


def test_a_damaged_policy_of_ones_own_says_that_deleting_it_helps(place, policy):
    own = own_policy("sft", place)
    policy.save(own)
    (own / "model.safetensors").write_bytes((own / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(PromptlabError, match=f"train it again.*Or delete {own}"):
        stage_policy("sft", place)


def test_a_policy_that_cannot_be_saved_there_says_so(policy, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "policy"):
        with pytest.raises(PromptlabError, match=f"Could not write {folder}"):
            policy.save(folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_policy_is_saved_with_its_end_token(policy, tmp_path):
    """Plain transformers reads there when to stop."""
    policy.save(tmp_path)
    kept = json.loads((tmp_path / "generation_config.json").read_text())
    assert kept["eos_token_id"] == kept["pad_token_id"] == policy.end
