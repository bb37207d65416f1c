"""Writes group_beam.json beside itself: what transformers 4 finds by diverse beam search, the yardstick of tests/test_decoding.py.

Transformers 5 has none, so it takes an environment of its own: `pip install torch "transformers>=4.48,<4.56"`. Made with
transformers 4.55.4 and torch 2.6.0. The model's weights come from NumPy, whose `default_rng` draws the same on every version.
"""

import json
from pathlib import Path

import numpy as np

WORDS, END, PAD = 60, 0, 0
PROMPTS = [[7, 8, 9], [21], [33, 2, 5, 40, 41, 3, 11], [13, 50], [9, 8, 7, 6, 5], [59, 1, 1]]
SETTINGS = [
    {"num_beams": 8, "num_beam_groups": 4, "diversity_penalty": 1.0, "length_penalty": 1.0, "early_stopping": False, "new_tokens": 12},
    {"num_beams": 8, "num_beam_groups": 4, "diversity_penalty": 1.0, "length_penalty": -1.0, "early_stopping": False, "new_tokens": 20},
    {"num_beams": 8, "num_beam_groups": 4, "diversity_penalty": 0.4, "length_penalty": 0.5, "early_stopping": True, "new_tokens": 20},
    {"num_beams": 8, "num_beam_groups": 4, "diversity_penalty": 2.0, "length_penalty": 2.0, "early_stopping": "never", "new_tokens": 12},
    {"num_beams": 8, "num_beam_groups": 4, "diversity_penalty": 0.5, "length_penalty": 0.5, "early_stopping": "never", "new_tokens": 20},
    {"num_beams": 8, "num_beam_groups": 8, "diversity_penalty": 1.0, "length_penalty": 1.0, "early_stopping": False, "new_tokens": 15},
    {"num_beams": 8, "num_beam_groups": 2, "diversity_penalty": 0.3, "length_penalty": 0.0, "early_stopping": "never", "new_tokens": 20},
    {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 0.7, "length_penalty": -1.0, "early_stopping": "never", "new_tokens": 20},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "length_penalty": 1.5, "early_stopping": True, "new_tokens": 1},
]


def tiny_gpt2(noise=0.0):
    """A GPT-2 of two layers that is sure of itself and likes to end; `noise` moves every weight by that share of it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    rng = np.random.default_rng(1)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=END,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = rng.normal(size=tuple(weight.shape)) * 0.4 + (1.0 if weight.dim() == 1 and "ln_" in name and "weight" in name else 0.0)
            weight.copy_(torch.tensor(drawn, dtype=torch.float32))
        model.transformer.ln_f.bias += 0.7 * model.transformer.wte.weight[END]  # likes to end
        for weight in model.parameters():
            weight *= 1 + noise * torch.tensor(rng.normal(size=tuple(weight.shape)), dtype=torch.float32)
    return model


def padded():
    """The prompts, padded on the left, and what of them is no padding: two int64 arrays (prompts, length)."""
    width = max(map(len, PROMPTS))
    ids = np.array([[PAD] * (width - len(p)) + p for p in PROMPTS])
    return ids, np.array([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])


def search(model, new_tokens, **settings):
    """What transformers finds: tokens up to the end token, and scores, of all beams of all prompts, best first."""
    import torch

    ids, real = map(torch.tensor, padded())
    out = model.generate(
        ids, attention_mask=real, max_new_tokens=new_tokens, num_return_sequences=settings["num_beams"], pad_token_id=PAD, eos_token_id=END,
        do_sample=False, return_dict_in_generate=True, output_scores=True, **settings,
    )  # fmt: skip
    rows = [row[: row.index(END) + 1] if END in row else row for row in out.sequences[:, ids.shape[1] :].tolist()]
    each = settings["num_beams"]
    cut = range(0, len(rows), each)
    return [rows[i : i + each] for i in cut], [[round(v, 5) for v in out.sequences_scores[i : i + each].tolist()] for i in cut]


if __name__ == "__main__":
    found = []
    for settings in SETTINGS:
        tokens, scores = search(tiny_gpt2(), **settings)
        assert search(tiny_gpt2(1e-5), **settings)[0] == tokens, "the choices are too close for another machine"
        found.append({"settings": settings, "tokens": tokens, "scores": scores})
    Path(__file__).with_name("group_beam.json").write_text("[\n" + ",\n".join(json.dumps(f) for f in found) + "\n]\n")
