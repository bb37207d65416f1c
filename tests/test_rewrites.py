"""Reading many rewrites of a prompt at once: what every kind of model thinks of each is what it thinks when it reads that row alone, from its first token on."""

import pytest
import torch
import transformers

from promptlab import rewrites
from promptlab.decoding import continued
from promptlab.policy import Policy, draw, likeliest, only
from promptlab.rewrites import Rewrites, choices, shared_prompts, with_adapters

LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
KINDS = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "Llama": LLAMA,
    "Mistral": LLAMA | {"sliding_window": 4},  # each token sees three before it
    "OPT": {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16},  # counts places by the mask
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},  # knows distances, no places
    "Mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
    "Lfm2": LLAMA | {"layer_types": ["conv", "full_attention"]},  # keys and values in one layer of two
    "Mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},  # no keys and values to remember
}  # fmt: skip


def model_of(kind):
    torch.manual_seed(0)
    names = {"GPT2": "GPT2LMHeadModel"}
    config = getattr(transformers, f"{kind}Config")(vocab_size=30, eos_token_id=0, initializer_range=0.5, **KINDS[kind])
    model = getattr(transformers, names.get(kind, f"{kind}ForCausalLM"))(config).eval()
    for weights in model.parameters():  # strong weights, so that a wrong place or a lost token shows
        weights.data += 0.3 * torch.randn_like(weights)
    return model


def some_rewrites(prompts=(3, 7, 5), each=4, longest=8):
    """Prompts of these lengths, padded on the left, with rewrites of one to eight tokens, shuffled."""
    draw = torch.Generator().manual_seed(1)
    rows = []
    for length in prompts:
        prompt = torch.randint(1, 30, (length,), generator=draw)
        for _ in range(each):
            new = int(torch.randint(1, longest + 1, (), generator=draw))
            rows.append((prompt, torch.randint(1, 30, (new,), generator=draw)))
    rows = [rows[i] for i in torch.randperm(len(rows), generator=draw).tolist()]
    start = max(prompts)
    ids, real = torch.zeros(len(rows), start + longest, dtype=torch.long), torch.zeros(len(rows), start + longest, dtype=torch.bool)
    for i, (prompt, new) in enumerate(rows):
        ids[i, start - len(prompt) : start + len(new)] = torch.cat([prompt, new])
        real[i, start - len(prompt) : start + len(new)] = True
    return Rewrites(ids, real, start, [""] * len(rows), torch.ones(len(rows), dtype=torch.bool))


def thought(model, found):
    """What transformers says of every row when it reads it alone: log-probabilities and last hidden states, as `choices` has them."""
    wide, logs, states = found.mask.shape[1], [], []
    for i in range(len(found)):
        ids, length = found.ids[i][found.real[i]], int(found.mask[i].sum())
        out = model(ids[None], output_hidden_states=True)
        pad = (0, 0, 0, wide - length)
        logs.append(torch.nn.functional.pad(out.logits[0, -length - 1 : -1].log_softmax(-1), pad))
        states.append(torch.nn.functional.pad(out.hidden_states[-1][0, -length - 1 : -1], pad))
    return torch.stack(logs), torch.stack(states)


def gradient(model, logs, states, found):
    weight = torch.randn(logs.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    ((logs * weight)[found.mask].sum() + states[found.mask].sum()).backward()
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_rewrites_of_one_prompt_are_read_as_each_alone(kind, monkeypatch):
    model, found = model_of(kind), some_rewrites()
    assert (shared_prompts(model, found) is None) == (kind in ("Lfm2", "Mamba"))
    monkeypatch.setattr(rewrites, "READ_AT_ONCE", 5)  # several batches, each with rows of several prompts
    ours, alone = choices(model, found, states=True), thought(model, found)
    for a, b in zip(ours, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(model, *ours, found), gradient(model, *alone, found), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_written_as_transformers_writes_them(kind, greedy):
    """With the same noise, the same tokens: although prompts are read once, and rows that have ended no further."""
    found, model = some_rewrites(), model_of(kind)
    ids, real, policy = found.ids[:, : found.start], found.real[:, : found.start], Policy.__new__(Policy)
    policy.model, policy.end = model, 0

    def new():
        """Tokens as they are drawn, but that a tenth of them is the end."""
        choose = likeliest if greedy else draw(torch.Generator().manual_seed(3), len(ids))
        chance = torch.Generator().manual_seed(4)
        return lambda scores, rows: choose(scores, rows).where(torch.rand(len(ids), generator=chance)[rows] > 0.1, 0)

    expected = policy.generate(ids, real, [only(new())], max_new_tokens=5)[:, found.start :]
    ended = (expected == 0).any(1)
    assert ended.any() and not ended.all(), "some rows should end, and some be cut off"
    if kind != "Mamba":
        with torch.inference_mode():
            assert torch.equal(continued(model, ids, real, 0, 5, new()), expected)


@pytest.mark.parametrize("change", ["prompts differ", "one token", "memory for time"])
def test_where_nothing_is_saved_or_can_be_each_row_is_read_alone(change):
    model, found = (
        model_of("GPT2"),
        some_rewrites(each=1 if change == "prompts differ" else 4, prompts=(1, 1) if change == "one token" else (3, 7, 5)),
    )
    if change == "memory for time":
        model.train().gradient_checkpointing_enable()
    assert shared_prompts(model, found) is None
    model.eval()
    torch.testing.assert_close(choices(model, found)[0], thought(model, found)[0], rtol=1e-4, atol=1e-4)


def test_adapters_learn_through_what_is_remembered():
    model, found = with_adapters(model_of("Llama"), 2), some_rewrites()
    assert shared_prompts(model, found) is not None
    for name, weights in model.named_parameters():
        weights.data += 0.1 * torch.randn_like(weights) if "lora" in name else 0
    ours, alone = choices(model, found, states=True), thought(model, found)
    torch.testing.assert_close(gradient(model, *ours, found), gradient(model, *alone, found), rtol=1e-3, atol=1e-3)


def test_a_wrong_prompt_would_show(monkeypatch):
    """The yardstick is sharp: rows that remember another prompt than theirs are far off."""
    model, found = model_of("GPT2"), some_rewrites()
    whole = rewrites.shared_prompts

    def mixed(model, found):
        past = whole(model, found)
        return rewrites.Past(past.layers, past.real, past.which.roll(1))

    monkeypatch.setattr(rewrites, "shared_prompts", mixed)
    assert (choices(model, found)[0] - thought(model, found)[0]).abs().max() > 0.1
