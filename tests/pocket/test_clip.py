"""The pocket CLIP against open_clip and transformers, its tokenizer, and what counts as a true caption."""

import math
import random
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from promptlab.pocket import clip
from promptlab.pocket.captions import claim_as_people, claim_independently
from promptlab.pocket.clip import CONTEXT, contrastive_loss, encode_attributes, encode_short, shrink, text_encoder_from, tokenize, true_of
from promptlab.pocket.pairs import sample_pictures
from promptlab.pocket.pictures import Picture


@pytest.fixture(scope="module")
def model(tiny_clip):
    return tiny_clip.model


@pytest.fixture(scope="module")
def tokenizer(tiny_clip):
    return tiny_clip.tokenizer.tokenizer


@pytest.fixture(scope="module")
def ids(tokenizer):
    """Random token rows as the tokenizer makes them: begin, some tokens, end, padding; the longest is full."""
    rng, eos = np.random.default_rng(0), tokenizer.eos_token_id
    rows = np.full((12, CONTEXT), eos)
    for row, length in zip(rows, [CONTEXT, 2, 3, *rng.integers(2, CONTEXT, 9)], strict=True):
        row[: length - 1] = [tokenizer.bos_token_id, *rng.integers(0, eos - 1, length - 2)]
    return torch.from_numpy(rows)


# --- the two text towers --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_generators_text_encoder_is_the_clips_text_tower(model, ids):
    encoder = text_encoder_from(model).eval()
    ours = encoder(ids).last_hidden_state
    x = model.token_embedding(ids) + model.positional_embedding
    theirs = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert theirs.std() > 0.5 and (theirs[0, 5] - theirs[0, 6]).abs().max() > 0.1, "states that say something"
    end = ids.argmax(1)
    pooled = torch.nn.functional.normalize(ours[torch.arange(len(ids)), end] @ model.text_projection, dim=-1)
    torch.testing.assert_close(pooled, model.encode_text(ids, normalize=True), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(1, None)])
def test_encoding_without_padding_changes_nothing(model, ids, rows):
    longest = int(ids[rows].argmax(1).max()) + 1
    torch.testing.assert_close(encode_short(model, ids[rows], longest), model.encode_text(ids[rows], normalize=True), atol=2e-5, rtol=1e-4)


def test_what_is_saved_is_what_plain_open_clip_loads(tiny_world):
    import open_clip

    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tiny_world / 'clip'}")
    assert (plain.visual.image_size, plain.context_length) in (((64, 64), CONTEXT), (64, CONTEXT))
    tokens = open_clip.get_tokenizer(f"local-dir:{tiny_world / 'clip'}")(["a frog, at sunset"])
    assert tokens.shape == (1, CONTEXT) and torch.isfinite(plain.encode_text(tokens)).all()


# --- the tokenizer --------------------------------------------------------------------------------------------------

STRANGE = ["a frog, at sunset", "ÇA VA, naïve?", "日本語の蛙", "🐸👨\u200d👩\u200d👧 flags 🇩🇪", "צפרדע ضفدع", "tab\tnew\nline", "<b>frog</b> & 'quotes' \"x\"",
           "\u0000\u0007\u200f", "e\u0301 is é", "   spaces   kept   ", "".join(map(chr, range(32, 400))), "𝔣𝔯𝔬𝔤 \U0010fffd", "x" * 300]  # fmt: skip


def folded(text):
    """What the tokenizer's normaliser should make of a text: composed, each character lower case."""
    return "".join(c.lower() for c in unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert back.removeprefix(" ") == folded(text).removeprefix(" ")


def test_random_unicode_survives_the_tokenizer(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(160, 0xD800), rng.randrange(0xE000, 0x20000)))) for _ in range(12)
        )
        back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert back.removeprefix(" ") == folded(text).removeprefix(" "), ascii(text)


def test_the_end_token_has_the_highest_id_and_ends_every_row(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert tokenizer.eos_token_id == max(vocabulary.values()) == len(tokenizer) - 1 == tokenizer.pad_token_id
    assert tokenizer.bos_token_id == len(tokenizer) - 2 and len(tokenizer) <= 2050
    rows = tokenize(tokenizer, ["a frog", "", "word " * 500])
    assert rows.shape == (3, CONTEXT) and (rows[:, 0] == tokenizer.bos_token_id).all() and (rows[:, -1] == tokenizer.eos_token_id).all()
    assert (rows == tokenizer.eos_token_id).sum(1).tolist()[1:] == [CONTEXT - 1, 1]


def test_both_libraries_read_the_same_tokens(tiny_world, tiny_generator, tokenizer):
    import open_clip

    texts = ["a frog", "a blue frog and a castle, oil painting", "", "word " * 100]
    by_open_clip = open_clip.get_tokenizer(f"local-dir:{tiny_world / 'clip'}")(texts)
    by_diffusers = tiny_generator.pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(by_open_clip, by_diffusers) and torch.equal(by_open_clip, tokenize(tokenizer, texts))


# --- captions and claims --------------------------------------------------------------------------------------------


def holds(claim, picture):
    """Whether a claim is true of a picture, from what the words mean."""
    return (
        all(s in picture.subjects for s in claim.subjects)
        and claim.colour in (None, picture.colour)
        and claim.medium in (None, picture.medium)
        and claim.background in (None, picture.background)
        and all(e in picture.effects for e in claim.effects)
    )


@pytest.mark.parametrize("claim_of", [claim_as_people, claim_independently])
def test_true_of_against_brute_force(monkeypatch, claim_of):
    from promptlab.pocket import pairs

    monkeypatch.setattr(pairs, "SUBJECTS", pairs.SUBJECTS[:6])  # few subjects, so that many captions are true by chance
    pictures = sample_pictures(150, 7)
    claims, _ = clip.captions_for(pictures, 8, claim_of)
    found = true_of(encode_attributes(claims), encode_attributes(pictures))
    expected = np.array([[holds(c, p) for p in pictures] for c in claims])
    assert (found == expected).all() and found.diagonal().all()
    assert expected.sum() > len(pictures) + 50, "some captions hold of several pictures"


def test_true_of_by_hand():
    claims = [Picture(("frog",), None, None, None), Picture(("frog",), "blue", None, None), Picture(("frog", "castle"), None, None, None),
              Picture(("castle", "frog"), None, "photo", None), Picture(("frog",), None, None, None, ("vivid",))]  # fmt: skip
    pictures = [
        Picture(("frog",)),
        Picture(("frog",), "blue", "neon"),
        Picture(("frog", "castle"), None, "photo", "snow", ("vivid", "warm")),
    ]
    assert true_of(encode_attributes(claims), encode_attributes(pictures)).tolist() == [
        [True, True, True], [False, True, False], [False, False, True], [False, False, True], [False, False, True]]  # fmt: skip


def unit(*angles):
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles])


def entropy(own, *others):
    return -math.log(math.exp(own) / sum(map(math.exp, (own, *others))))


def test_contrastive_loss_by_hand():
    image, text, scale = unit(0.0, 1.0), unit(0.3, 1.2), 5.0
    at = lambda i, t: scale * math.cos((0.0, 1.0)[i] - (0.3, 1.2)[t])  # noqa: E731
    nothing = torch.eye(2, dtype=torch.bool)
    full = (entropy(at(0, 0), at(0, 1)) + entropy(at(1, 1), at(1, 0)) + entropy(at(0, 0), at(1, 0)) + entropy(at(1, 1), at(0, 1))) / 4
    assert contrastive_loss(image, text, scale, nothing).item() == pytest.approx(full, rel=1e-5)
    # Caption 1 also holds of picture 0: that pairing is no negative, for the picture and for the caption. Caption 0 does not hold of picture 1.
    also = torch.tensor([[True, False], [True, True]])  # (caption, picture)
    some = (0 + entropy(at(1, 1), at(1, 0)) + entropy(at(0, 0), at(1, 0)) + 0) / 4
    assert contrastive_loss(image, text, scale, also).item() == pytest.approx(some, rel=1e-5)
    assert contrastive_loss(image, text, scale, torch.ones(2, 2, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)


# --- pictures at half size ------------------------------------------------------------------------------------------


def test_shrink_is_open_clips_own_resize():
    images = np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), np.uint8)
    expected = [np.asarray(functional.resize(Image.fromarray(x), 64, InterpolationMode.BILINEAR)) for x in images]
    assert np.abs(shrink(images, batch=2).astype(int) - np.stack(expected)).max() <= 1


def test_augmented_pictures_stay_alike():
    torch.manual_seed(0)
    x = torch.rand(8, 3, 64, 64) * 2 - 1
    soft = clip.augment(x)
    assert soft.shape == x.shape and 0.01 < (soft - x).abs().mean() < 0.6
    assert not torch.equal(soft, clip.augment(x))
