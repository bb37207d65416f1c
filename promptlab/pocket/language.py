"""A small GPT-2, "pretrained" on captions of the pocket world, from which every policy starts.

It has read every noun, also those that no later stage of the course may use, and nothing about rewriting. A page holds
two captions of one picture, as pages of the web do, among words that have nothing to do with it: from them it learns to
find a thing in a text and say it again, which every rewrite begins with. Other pages tell what kind of thing a noun is,
as GPT-2 knows that a shark swims: else nothing that is learnt about one shark could be of use for a whale.
"""

import random

import torch
import torch.nn.functional as F

from promptlab.pocket.captions import caption, claim_as_people, rubbish
from promptlab.pocket.pairs import often
from promptlab.pocket.subjects import KIND, SUBJECTS, with_article
from promptlab.pocket.training import batch_for, train
from promptlab.runtime import device

BOX, CONTEXT, ROUNDS = 0.08, 128, 4
BATCH = {"cpu": 64, "cuda": 256}
BETWEEN = (".", ":", " /", ";", " -", " or", " also", " =", " again:", " that is")  # what stands between two captions of a page

FACTS = {
    "sea": ("is an animal of the sea", "swims", "lives under the waves"),
    "wild": ("is an animal on land", "has legs or wings", "lives outdoors"),
    "plant": ("is a plant", "grows from the ground", "needs rain"),
    "food": ("is something to eat or drink", "belongs on a table", "tastes good"),
    "place": ("is a place", "does not move", "is where people go"),
    "vehicle": ("is something to travel with", "carries people", "moves fast"),
    "thing": ("is a thing", "is made for use", "belongs to somebody"),
}  # fmt: skip


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


def facts(noun, rng):
    """Something true of a noun and of one of its kind: ``a shark swims; a whale is an animal of the sea``."""
    other = rng.choice([s for s in SUBJECTS if KIND[s] == KIND[noun]])
    return "; ".join(f"{with_article(s)} {rng.choice(FACTS[KIND[noun]])}" for s in (noun, other))


def tagged(text, noun, rng):
    """A caption with something true of its noun among what is said of the picture: what comes later may hang on the noun."""
    content, *said = text.split(", ")
    said.insert(rng.randint(0, len(said)), rng.choice(FACTS[KIND[noun]]))
    return ", ".join([content, *said])


def pages(pictures, seed):
    """A page (given, learnt) of every picture: facts in every sixth, else two captions of it, some tagged, a third among rubbish.

    Nothing is to be learnt of rubbish, so there the first caption is only read.
    """
    rng, out = random.Random(seed), []
    for picture in pictures:
        if rng.random() < 1 / 6:
            out.append(("", facts(picture.subjects[0], rng)))
            continue
        first, second = (caption(claim_as_people(picture, rng), rng) for _ in range(2))
        first, second = (tagged(t, picture.subjects[0], rng) if rng.random() < 0.3 else t for t in (first, second))
        between, noisy = rng.choice(BETWEEN), rng.random() < 1 / 3
        out.append((f"{rubbish(rng)} {first} {rubbish(rng)}{between}", second) if noisy else ("", f"{first}{between} {second}"))
    return out


def fit(specs, tokenizer, folder, steps=None):
    """Train on pages about specifications, as often as training meets each; `tokenizer` from `policy_tokenizer`."""
    torch.manual_seed(0)
    batch = batch_for(BATCH)
    model, end = new_model(tokenizer), tokenizer.eos_token_id
    given, learnt = zip(*(page for r in range(ROUNDS) for page in pages([specs[i] for i in often(specs)], 90 + r)), strict=True)
    encode = lambda texts: tokenizer(list(texts), add_special_tokens=False).input_ids  # noqa: E731
    rows = [((a + b + [end])[:CONTEXT], len(a)) for a, b in zip(encode(given), encode(learnt), strict=True)]  # ids, where learning starts
    rows.sort(key=lambda row: len(row[0]))  # pages of a length are trained on together: no step is spent on padding

    def loss_of(indices):
        first = max(0, min(int(indices[0]), len(rows) - batch))
        chosen, starts = zip(*rows[first : first + batch], strict=True)
        width = len(chosen[-1])
        ids = torch.tensor([page + [end] * (width - len(page)) for page in chosen], device=device())
        place = torch.arange(width, device=ids.device)
        starts, stops = (torch.tensor(n, device=ids.device)[:, None] for n in (starts, [len(page) for page in chosen]))
        logits = model(input_ids=ids, attention_mask=(place < stops).long()).logits[:, :-1].float()
        targets = ids.masked_fill((place < starts) | (place >= stops), -100)[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    modules = {"model": model}
    return train("language", folder, BOX, modules, loss_of, 1e-3, batch, len(rows), ema=("model",), steps=steps, graph=False)["model"]
