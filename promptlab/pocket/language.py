"""Stage (f): a small GPT-2, "pretrained" on captions of the pocket world, from which every policy starts.

It has read every noun, also those that no later stage of the course may use, and nothing about rewriting. A page holds
two captions of one picture, as pages of the web do: from them it learns to say a thing again, which every rewrite begins with.
"""

import random

import torch
import torch.nn.functional as F

from promptlab.pocket.clip import captions_for, claim_as_people
from promptlab.pocket.training import train
from promptlab.runtime import device

STEPS, BATCH, CONTEXT = 2500, 64, 128
BETWEEN = (". ", ": ", " / ", "; ", " - ", " or ", " also ", " = ", " again: ", " that is ")  # what stands between two captions of a page


def policy_tokenizer(tokenizer):
    """The world's tokenizer without the begin and end tokens it adds by itself: a prompt must stay open for its rewrite."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.post_processor = None
    plain.no_padding(), plain.no_truncation()
    end = tokenizer.eos_token
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=end, pad_token=end, unk_token=end, model_max_length=CONTEXT)


def new_model(tokenizer):
    """A fresh GPT-2 of 2.2 million parameters, without dropout: PPO compares probabilities of one and the same network."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=192, n_layer=4, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    ))  # fmt: skip


def fit(pictures, tokenizer, folder, steps=STEPS):
    """Train on pages of two captions as people write them (`captions.claim_as_people`); `tokenizer` from `policy_tokenizer`."""
    torch.manual_seed(0)
    model, end = new_model(tokenizer), tokenizer.eos_token_id
    first, second, rng = captions_for(pictures, 90, claim_as_people)[1], captions_for(pictures, 91, claim_as_people)[1], random.Random(92)
    texts = [a + rng.choice(BETWEEN) + b for a, b in zip(first, second, strict=True)]
    rows = [[*ids, end] for ids in tokenizer(texts, add_special_tokens=False).input_ids]

    def loss_of(indices):
        chosen = [rows[i][:CONTEXT] for i in indices]
        width = max(map(len, chosen))
        ids = torch.tensor([r + [end] * (width - len(r)) for r in chosen], device=device())
        real = torch.arange(width, device=ids.device) < torch.tensor([[len(r)] for r in chosen], device=ids.device)
        logits = model(input_ids=ids, attention_mask=real.long()).logits[:, :-1].float()
        targets = ids[:, 1:].masked_fill(~real[:, 1:], -100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    return train("language", folder, steps, {"model": model}, loss_of, 1e-3, BATCH, len(rows), ema=("model",), log=folder / "log.txt")[
        "model"
    ]
