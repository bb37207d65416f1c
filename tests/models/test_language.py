"""Language models as others leave them: adapters, other architectures, tokens added, begin tokens, code of their own."""

import dataclasses
import json

import pytest
import tiny_hub
import torch
import transformers

from promptlab import ppo, sft
from promptlab.models import language
from promptlab.policy import MARK, inputs, load_policy, log_probs
from promptlab.runtime import PromptlabError

FAST = dict(prompts=2, samples=2, images=1, new_tokens=4, epochs=1, minibatch=4, lr=1e-2, decay=0, lora=0)
SIZES = {
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "Mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 128},
    "Mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "OPT": {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128},
    "Llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128},
}  # fmt: skip


def save(folder, kind, tokenizer=None, rows=None):
    """A model of another architecture with the tokenizer of the tiny GPT-2, or the given one."""
    if tokenizer is None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_hub.save_gpt2(folder))
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=rows or len(tokenizer), eos_token_id=tokenizer.eos_token_id, initializer_range=0.3, **SIZES[kind]
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained_by_ppo(policy):
    """How many tensors of the policy one update moves."""
    before = {n: p.clone() for n, p in policy.model.named_parameters()}
    run = ppo.PPO(policy, ppo.Settings(**FAST))
    metrics = run.update(["a frog", "a castle"], lambda plain, texts, seeds: torch.arange(4.0))
    assert metrics["first_ratio"] == pytest.approx(1, abs=1e-3), "what is scored is what was sampled"
    return sum(not torch.equal(before[n], p) for n, p in policy.model.named_parameters())


# --- architectures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIZES)
def test_every_architecture_writes_scores_and_learns(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    policy = load_policy(save(tmp_path / kind, kind))
    assert policy.room == {"Bloom": 2048, "Mamba": 2048}.get(kind, 128)
    assert len(policy.rewrite(["a frog", "a very old castle"])) == 2
    alone = policy.encode_rewrites(["a frog"], ["vivid"])
    beside = policy.encode_rewrites(["a frog", "a very old castle"], ["vivid", "oil"])
    with torch.no_grad():
        a, b = (log_probs(policy.model, r)[0][0][r.mask[0]] for r in (alone, beside))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)  # padding on the left changes nothing
    assert ("position_ids" in inputs(alone, policy.model)) == (kind in ("OPT", "Llama"))
    assert trained_by_ppo(policy) > 5


def test_bloom_is_fine_tuned(tmp_path):
    policy = load_policy(save(tmp_path / "bloom", "Bloom"))
    trained = sft.finetune(policy, [{"x": "a frog", "y": "a frog, oil"}] * 4, tmp_path / "sft", epochs=1, lr=1e-2, batch=2)
    assert any(not torch.equal(a, b) for a, b in zip(policy.model.parameters(), trained.model.parameters(), strict=True))


# --- adapters -------------------------------------------------------------------------------------------------------


def save_adapter(folder, base, tokenizer=True, grow=0, **settings):
    """A low-rank adapter of a folder that changes what it says; returns what base and adapter together say."""
    from peft import LoraConfig, get_peft_model

    model, words = transformers.AutoModelForCausalLM.from_pretrained(base), transformers.AutoTokenizer.from_pretrained(base)
    if grow:
        words.add_tokens([f"<{i}>" for i in range(grow)]), model.resize_token_embeddings(len(words))
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                p.add_(torch.randn_like(p) * 0.2)
    adapted.save_pretrained(folder)
    if tokenizer:
        words.save_pretrained(folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        return ids, adapted(ids).logits


@pytest.mark.parametrize(
    "made", [{}, {"tokenizer": False}, {"use_rslora": True}, {"modules_to_save": ["wte"]}, {"grow": 3, "modules_to_save": ["wte"]}], ids=str
)
def test_an_adapter_is_added_into_its_base_and_learns(tmp_path, made, capsys):
    base = tiny_hub.save_gpt2(tmp_path / "base")
    ids, expected = save_adapter(tmp_path / "adapter", base, **made)
    policy = load_policy(tmp_path / "adapter")
    assert "low-rank adapter, added into the weights of its base" in capsys.readouterr().out
    torch.testing.assert_close(policy.model(ids).logits, expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(load_policy(base).model(ids).logits, expected[..., :257], atol=1e-2)
    assert all(p.requires_grad for p in policy.model.parameters())
    policy.save(tmp_path / "merged")
    torch.testing.assert_close(load_policy(tmp_path / "merged").model(ids).logits, expected, atol=1e-3, rtol=1e-3)
    assert trained_by_ppo(policy) > 20


def test_an_adapter_is_fine_tuned(tmp_path):
    save_adapter(tmp_path / "adapter", tiny_hub.save_gpt2(tmp_path / "base"))
    policy = load_policy(tmp_path / "adapter")
    trained = sft.finetune(policy, [{"x": "a frog", "y": "a frog, oil"}] * 4, tmp_path / "sft", epochs=1, lr=1e-2, batch=2)
    assert any(not torch.equal(a, b) for a, b in zip(policy.model.parameters(), trained.model.parameters(), strict=True))


def test_a_base_may_be_named_from_the_adapters_own_folder(tmp_path):
    save_adapter(tmp_path / "adapter", tiny_hub.save_gpt2(tmp_path / "base"))
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "../base"}))
    assert load_policy(tmp_path / "adapter").rewrite(["a frog"])


@pytest.mark.parametrize("base", ["gpt2", "/nowhere/base", "openai-community/gpt2", None])
def test_an_adapter_without_its_base_says_whose_it_is(tmp_path, monkeypatch, base):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True), monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    save_adapter(tmp_path / "adapter", tiny_hub.save_gpt2(tmp_path / "base"))
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": base}))
    with pytest.raises(PromptlabError, match=f"adapter is an adapter of {base}, which is not here"):
        load_policy(tmp_path / "adapter")


def test_an_adapter_of_another_model_or_kind_is_refused(tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    base = tiny_hub.save_gpt2(tmp_path / "base")
    save_adapter(tmp_path / "adapter", base)
    settings = tmp_path / "adapter" / "adapter_config.json"
    plain = json.loads(settings.read_text())
    save(tmp_path / "llama", "Llama")
    settings.write_text(json.dumps(plain | {"base_model_name_or_path": str(tmp_path / "llama")}))
    with pytest.raises(PromptlabError, match=str(tmp_path / "adapter")):
        load_policy(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(PromptlabError, match="without its weights"):
        load_policy(tmp_path / "adapter")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(tmp_path / "soft")
    with pytest.raises(PromptlabError, match="of the kind PROMPT_TUNING, which cannot be added"):
        load_policy(tmp_path / "soft")


def test_adapters_that_were_trained_here_leave_a_model_that_learns_again(tmp_path, monkeypatch):
    """After `finetune` with adapters everything was frozen: PPO without adapters would have changed nothing."""
    from promptlab.config import POCKET

    monkeypatch.setattr(sft, "preset", lambda: dataclasses.replace(POCKET, lora=2))
    policy = load_policy(tiny_hub.save_gpt2(tmp_path / "base"))
    trained = sft.finetune(policy, [{"x": "a frog", "y": "a frog, oil"}] * 4, tmp_path / "sft", epochs=1, lr=1e-2, batch=2)
    assert trained_by_ppo(trained) > 20


# --- tokenizers -----------------------------------------------------------------------------------------------------


def words_of(tmp_path, **special):
    words = transformers.AutoTokenizer.from_pretrained(tiny_hub.save_gpt2(tmp_path / "words"))
    words.add_special_tokens(special)
    return words


@pytest.mark.parametrize("special", [{"pad_token": "[PAD]"}, {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>"}], ids=str)
def test_special_tokens_that_the_model_has_no_row_for_are_never_used(tmp_path, special):
    policy = load_policy(save(tmp_path / "p", "Llama", words_of(tmp_path, **special), rows=257))
    assert policy.tokenizer.pad_token_id == policy.end and policy.rows == 257
    typed = f"a {special['pad_token']} frog"
    assert policy.encode([typed], 60)[0].max() < 257 and policy.sample([typed, "a castle"], new_tokens=4).ids.max() < 257
    trained = sft.finetune(policy, [{"x": "a frog", "y": "a frog, oil"}, {"x": "an old castle", "y": "a castle"}], tmp_path / "sft", epochs=1, lr=1e-3, batch=2)  # fmt: skip
    trained.save(tmp_path / "again")
    assert load_policy(tmp_path / "again").rewrite(["a frog"]) == trained.rewrite(["a frog"])


def test_other_surplus_tokens_are_still_a_mismatch(tmp_path):
    words = words_of(tmp_path)
    words.add_tokens(["masterpiece"])
    with pytest.raises(PromptlabError, match="has 258 tokens, the model .* knows 257"):
        load_policy(save(tmp_path / "word", "Llama", words, rows=257))
    with pytest.raises(PromptlabError, match="has 258 tokens, the model .* knows 257"):
        load_policy(save(tmp_path / "end", "Llama", words_of(tmp_path, eos_token="<end>"), rows=257))


def seen_in_training(policy, tmp_path, monkeypatch):
    """The tokens of one example as the trainer sees them."""
    import trl

    seen = {}

    def stop(self, *args, **kwargs):
        seen["row"] = self.train_dataset[0]["input_ids"]
        raise KeyboardInterrupt

    monkeypatch.setattr(trl.SFTTrainer, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        sft.finetune(policy, [{"x": "a frog", "y": "a frog, oil painting"}] * 2, tmp_path / "sft", epochs=1, lr=1e-3, batch=2)
    return seen["row"]


@pytest.mark.parametrize("how", ["begin token", "two of them", "a space before every text", "plain"])
def test_the_model_is_asked_with_the_very_tokens_it_was_trained_on(tmp_path, monkeypatch, how):
    from tokenizers import pre_tokenizers, processors

    words = words_of(tmp_path, bos_token="<s>", cls_token="<c>")
    begin = {"begin token": "<s> ", "two of them": "<s> <c> "}.get(how, "")
    if begin:
        ids = [("<s>", words.bos_token_id), ("<c>", words.cls_token_id)]
        words.backend_tokenizer.post_processor = processors.TemplateProcessing(single=begin + "$A", pair=begin + "$A $B", special_tokens=ids)
    elif how.startswith("a space"):
        words.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    policy = load_policy(save(tmp_path / "p", "Llama", words))
    row = seen_in_training(policy, tmp_path, monkeypatch)
    ours = policy.encode_rewrites(["a frog"], [" a frog, oil painting"])
    assert ours.ids[0].tolist() == row and ours.start == len(policy.encode(["a frog"], 60)[0][0])
    assert policy.tokenizer.decode(row, skip_special_tokens=True).strip() == f"a frog{MARK} a frog, oil painting"
    assert row[: begin.count("<")] == [words.convert_tokens_to_ids(t) for t in begin.split()]
    assert policy.encode(["frog " * 100], 40)[0].shape == (1, 40), "a long prompt keeps begin and mark"


# --- what is no model of transformers -------------------------------------------------------------------------------

CODE = "open({!r}, 'w').close()\nfrom transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast\nclass C(GPT2Config):\n    model_type = 'my_lm'\nclass M(GPT2LMHeadModel):\n    config_class = C\nclass T(PreTrainedTokenizerFast):\n    pass\n"  # fmt: skip


@pytest.mark.parametrize("part", ["model", "tokenizer", "known model"])
def test_code_of_a_folder_is_neither_run_nor_asked_about(tmp_path, monkeypatch, part):
    folder = tiny_hub.save_gpt2(tmp_path / "p")
    (folder / "m.py").write_text(CODE.format(str(tmp_path / "ran")))
    file = folder / ("tokenizer_config.json" if part == "tokenizer" else "config.json")
    own = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["m.T", "m.T"]}} if part == "tokenizer" else {
        "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}}  # fmt: skip
    file.write_text(json.dumps(json.loads(file.read_text()) | own | ({"model_type": "my_lm"} if part == "model" else {})))
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("it asked"))
    if part == "model":
        with pytest.raises(PromptlabError, match=f"{folder} brings Python code of its own .*never run here. Choose"):
            load_policy(folder)
    else:  # what transformers knows by itself is loaded without that code
        try:
            load_policy(folder).rewrite(["a frog"])
        except PromptlabError as error:
            assert "never run here" in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name, words", [("model.Q4_K_M.gguf", "is a GGUF file.*Name the folder"), ("model.safetensors", "Name its folder"),
                                         ("config.json", "Name its folder"), ("pytorch_model.bin", "Name its folder")])  # fmt: skip
def test_a_file_in_place_of_its_folder(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PromptlabError, match=f"{tmp_path / name} is .*{words}".replace("is .*is", "is")):
        load_policy(tmp_path / name)


def test_no_repair_names_a_hub_where_a_folder_is_missing(tmp_path):
    with pytest.raises(PromptlabError, match=f"{tmp_path / 'nothing'} is missing.*{language.REPAIR}"):
        load_policy(tmp_path / "nothing")
