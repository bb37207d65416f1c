"""Sources that a language model rephrases, in place of rules."""

import random

import pytest

from promptlab import runtime
from promptlab.prompts import instruct
from promptlab.prompts.records import record
from promptlab.prompts.sources import in_domain
from promptlab.runtime import PromptlabError

TARGET = "a red fox in the snow, oil painting, highly detailed, moody, by candlelight, 8k"


def test_a_model_rephrases_and_a_target_without_a_good_answer_goes():
    good = in_domain("sft", [(TARGET, None, None)], random.Random(0))
    lost = [r | {"id": "sft-1"} for r in good]
    label = [record("l", "sft", "out_of_domain", "label", "goldfish", None)]
    asked = []

    def write(requests):
        asked.extend(requests)
        return [
            '"In the snow, a fox\nthat is red."',
            "Paint a red fox by candlelight in the snow",
            "Snow, and a red fox in it.",
            "A cat in the snow",
        ]

    records, failed = instruct.reword(good + lost + label, write)
    assert failed == 1 and {r["id"] for r in records} == {"sft-0", "l"}
    assert {r["kind"]: r["x"] for r in records} == {
        "MC": good[0]["x"], "MCM": good[1]["x"], "RMC": "In the snow, a fox that is red.", "RTP": "Paint a red fox by candlelight in the snow", "label": "goldfish",
    }  # fmt: skip
    assert asked[0].endswith(": a red fox in the snow") and asked[1].endswith(f": {TARGET}") and len(asked) == 4


@pytest.mark.parametrize("answer", ["", " \n", "a red fox in the snow " * 13, "a fox in the snow"])
def test_empty_long_and_unfaithful_answers_are_no_sources(answer):
    four = in_domain("sft", [(TARGET, None, None)], random.Random(0))
    assert instruct.reword(four, lambda requests: [answer] * len(requests)) == ([], 1)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A tiny language model with random weights and a chat template, in a folder of the hub's format."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<user>", "<bot>", "<unk>", *"a red fox in the snow draw me please an owl".split()]
    words = list(dict.fromkeys(words))
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}<user> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    torch.manual_seed(0)
    size = dict(vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(**size, bos_token_id=None, eos_token_id=1, pad_token_id=None))
    folder = tmp_path_factory.mktemp("chat")
    with torch.no_grad():  # far enough from zero that its choices depend on what it read
        for weight in model.parameters():
            weight.mul_(20 if weight.ndim == 2 else 1)
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


def test_an_instruct_model_answers_in_batches_as_one_by_one(chat_model, monkeypatch):
    import torch

    monkeypatch.setattr(runtime, "hardware", lambda: runtime.Hardware(torch.device("cpu"), torch.float32, ""))  # exact, to be compared
    folder, model, tokenizer = chat_model
    requests = ["draw me a red fox", "an owl", "please draw a fox in the snow please", "a"]
    alone = []
    for text in requests:  # by hand, without padding
        ids = torch.tensor([tokenizer.encode(f"<user> {text} <bot>", add_special_tokens=False)])
        for _ in range(6):
            chosen = model(ids).logits[:, -1:].argmax(-1)
            if chosen == 1:
                break
            ids = torch.cat([ids, chosen], 1)
        start = len(tokenizer.encode(f"<user> {text} <bot>", add_special_tokens=False))
        alone.append(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
    assert instruct.instruct(folder, batch=3, new_tokens=6)(requests) == alone
    assert len(set(alone)) == len(requests), "each answers its own request"


def test_a_model_that_cannot_be_had_is_named(tmp_path, chat_model):
    with pytest.raises(PromptlabError, match="'.*nowhere' cannot be loaded .*: then rules rephrase"):
        instruct.instruct(str(tmp_path / "nowhere"))
    _, model, tokenizer = chat_model
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(PromptlabError, match="has no chat template"):
        instruct.instruct(str(tmp_path))


def test_code_of_a_model_is_neither_run_nor_asked_about(tmp_path, chat_model, monkeypatch):
    import json
    import shutil

    folder = shutil.copytree(chat_model[0], tmp_path / "own")
    (folder / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "my_lm", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}}))
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("it asked"))
    with pytest.raises(PromptlabError, match="cannot be loaded .*never run here"):
        instruct.instruct(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_token_is_never_printed(monkeypatch, tmp_path):
    """A hub or a proxy that repeats what it was sent in its error: neither the sentence nor its traceback has it."""
    import traceback

    import transformers

    def repeat(*args, **kwargs):
        raise OSError("500 Server Error: refused Authorization: Bearer hf_secret")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", repeat)
    with pytest.raises(PromptlabError, match="'some/model' cannot be loaded") as error:
        instruct.instruct("some/model")
    assert "hf_secret" not in "".join(traceback.format_exception(error.value))
