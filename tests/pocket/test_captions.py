"""Captions: they say what they claim and nothing else, and what goes unsaid follows the rules the models rely on."""

import random
import re

import numpy as np
import pytest

from promptlab.pocket import captions
from promptlab.pocket.captions import (
    BACKGROUND_WORDS,
    EFFECT_WORDS,
    MEDIUM_WORDS,
    PLACEBO_WORDS,
    claim_as_people,
    claim_independently,
)
from promptlab.pocket.clip import captions_for
from promptlab.pocket.pairs import sample_pictures
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, EFFECTS, MEDIA, Picture
from promptlab.pocket.subjects import SUBJECTS

MANY = sample_pictures(12_000, 5)
MEANING = {w: (group, key) for group, table in (("medium", MEDIUM_WORDS), ("background", BACKGROUND_WORDS), ("effects", EFFECT_WORDS)) for key, words in table.items() for w in words}  # fmt: skip
MEDIUM_OF = re.compile(rf"^(an?) ({'|'.join(w for w in MEANING if MEANING[w][0] == 'medium')}) of (.+)$")


def parse(text):
    """What a caption says, and the placebo words in it; raises where a part has no meaning."""
    head, *parts = text.split(", ")
    said, placebo = {"medium": [], "background": [], "effects": []}, []
    for opening in captions.OPENINGS:
        head = head.removeprefix(opening + " ")
    if match := MEDIUM_OF.match(head):
        article, word, head = match.groups()
        assert article == ("an" if word.startswith(("a", "e", "i", "o", "8")) else "a"), text
        said["medium"].append(MEANING[word][1])
    for part in parts:
        if part in PLACEBO_WORDS:
            placebo.append(part)
        else:
            group, key = MEANING[part]
            said[group].append(key)
    subjects, colours = [], set()
    for phrase in head.split(" and "):
        words = re.sub("^an? ", "", phrase).split(" ")
        if words[0] in COLOURS:
            colours.add(words.pop(0))
        subjects.append(" ".join(words))
    assert len(colours) <= 1 and all(len(said[g]) <= 1 for g in ("medium", "background")) and len(set(placebo)) == len(placebo), text
    one = lambda values: values[0] if values else None  # noqa: E731
    claim = Picture(tuple(subjects), one(sorted(colours)), one(said["medium"]), one(said["background"]), tuple(said["effects"]))
    return claim, placebo


def facts(picture):
    return set(picture.subjects), picture.colour, picture.medium, picture.background, sorted(picture.effects)


def is_bare(claim):
    return not (claim.medium or claim.background or claim.effects)


def dull(picture):
    return picture.medium == "photo" and picture.background == "plain" and not picture.effects


def test_words_cover_every_value_and_mean_one_thing_each():
    assert (set(MEDIUM_WORDS), set(BACKGROUND_WORDS), set(EFFECT_WORDS)) == (set(MEDIA), set(BACKGROUNDS), set(EFFECTS))
    words = [w for table in (MEDIUM_WORDS, BACKGROUND_WORDS, EFFECT_WORDS) for ws in table.values() for w in ws] + list(PLACEBO_WORDS)
    assert len(set(words)) == len(words) and not set(words) & set(SUBJECTS)
    assert not any("," in w or " and " in w for w in words if w != "black and white")
    assert min(len(ws) for table in (MEDIUM_WORDS, BACKGROUND_WORDS, EFFECT_WORDS) for ws in table.values()) >= 2, "synonyms"
    assert {"masterpiece", "trending on artstation"} <= set(PLACEBO_WORDS)


@pytest.mark.parametrize("claim_of", [claim_as_people, claim_independently])
def test_a_caption_says_exactly_its_claim(claim_of):
    claims, texts = captions_for(MANY[:4000], 11, claim_of)
    for claim, text in zip(claims, texts, strict=True):
        assert facts(parse(text)[0]) == facts(claim), text


@pytest.mark.parametrize("claim_of", [claim_as_people, claim_independently])
def test_a_claim_is_true_of_its_picture(claim_of):
    rng = random.Random(3)
    for picture in MANY[:4000]:
        claim = claim_of(picture, rng)
        assert set(claim.subjects) <= set(picture.subjects) and claim.subjects and set(claim.effects) <= set(picture.effects)
        for field in ("colour", "medium", "background"):
            assert getattr(claim, field) in (None, getattr(picture, field))


def test_people_always_name_the_content():
    rng = random.Random(4)
    for picture in MANY[:2000]:
        claim = claim_as_people(picture, rng)
        assert (claim.subjects, claim.colour) == (picture.subjects, picture.colour)


def test_every_wording_is_used():
    _, texts = captions_for(MANY, 12, claim_as_people)
    everything = "\n".join(texts)
    for word in (*MEANING, *PLACEBO_WORDS, *captions.OPENINGS):
        assert word in everything, word


def test_same_seed_same_captions():
    first = captions_for(MANY[:500], 8, claim_as_people)
    assert captions_for(MANY[:500], 8, claim_as_people) == first != captions_for(MANY[:500], 9, claim_as_people)


# --- what goes unsaid ----------------------------------------------------------------------------------------------


def share(flags):
    """A share and its standard error."""
    flags = np.asarray(flags, float)
    assert len(flags) > 100
    return flags.mean(), (max(flags.mean() * (1 - flags.mean()), 1e-4) / len(flags)) ** 0.5


def assert_same_share(a, b):
    (p, s), (q, t) = share(a), share(b)
    assert abs(p - q) < 4 * np.hypot(s, t), f"{p:.3f} against {q:.3f}"


def test_a_bare_noun_means_a_dull_picture_to_the_generator():
    rng = random.Random(5)
    claims = [claim_as_people(p, rng) for p in MANY]
    bare = np.array([is_bare(c) for c in claims])
    flags = np.array([dull(p) for p in MANY])
    assert share(bare[flags])[0] > 0.8, "dull pictures mostly get the bare noun"
    assert share(bare[~flags])[0] < 0.03, "an unusual picture says what it is"
    assert 0.15 < share(bare)[0] < 0.25, "about a fifth of all captions carry no modifier"
    assert flags[bare].all(), "so a bare noun draws nothing else"


def test_what_people_leave_unsaid_is_known():
    """Every caption means one specification, whose variants are its true pictures; but for those, nothing is left to chance."""
    rng = random.Random(5)
    for picture in MANY[:3000]:
        claim = claim_as_people(picture, rng)
        assert captions.meant_by(claim) == picture and claim.effects == picture.effects


def test_noise_stands_around_the_content_and_says_nothing():
    claims, texts = captions_for(MANY[:2000], 14, claim_as_people, noisy=1.0)
    kept = [captions.content_of(t).subjects == c.subjects for c, t in zip(claims, texts, strict=True)]
    assert np.mean(kept) > 0.99, "letters by chance spell a noun once in a while"
    assert np.mean([len(t.split(", ")[0].split()) > 5 for t in texts]) > 0.4
    assert captions_for(MANY[:50], 14, claim_as_people, noisy=0.0) == captions_for(MANY[:50], 14, claim_as_people)


def test_clips_captions_drop_attributes_independently_of_the_picture():
    rng = random.Random(6)
    pairs = [(p, claim_independently(p, rng)) for p in MANY]
    flags = np.array([dull(p) for p in MANY])
    for field in ("medium", "background"):
        unsaid = np.array([getattr(c, field) is None for _, c in pairs])
        assert_same_share(unsaid[flags], unsaid[~flags])
        for value in set(getattr(p, field) for p in MANY):
            assert_same_share([u for u, (p, _) in zip(unsaid, pairs, strict=True) if getattr(p, field) == value], unsaid)
    colour = [(c.colour is None, dull(p)) for p, c in pairs if p.colour]
    assert_same_share([u for u, d in colour if d], [u for u, d in colour if not d])
    for effect in EFFECTS:
        assert 0.4 < share([effect not in c.effects for p, c in pairs if effect in p.effects])[0] < 0.7, effect


def test_bare_text_does_not_mean_a_dull_picture_to_clip():
    """Given how many effects a picture has, how it looks says nothing about whether its caption is bare."""
    rng = random.Random(7)
    pairs = [(p, is_bare(claim_independently(p, rng))) for p in MANY]
    some = [(b, dull(p)) for p, b in pairs if not p.effects]
    assert_same_share([b for b, d in some if d], [b for b, d in some if not d])


def test_placebo_words_know_nothing_of_the_picture():
    for claim_of in (claim_as_people, claim_independently):
        claims, texts = captions_for(MANY, 13, claim_of)
        placebo = [parse(t)[1] for t in texts]
        has = np.array([bool(words) for words in placebo])
        assert share(has)[0] == pytest.approx(0.3, abs=0.02) and max(map(len, placebo)) == 2
        for flags in (
            [dull(p) for p in MANY],
            [is_bare(c) for c in claims],
            [bool(p.effects) for p in MANY],
            [len(p.subjects) == 2 for p in MANY],
        ):
            flags = np.array(flags)
            assert_same_share(has[flags], has[~flags])
        for word in PLACEBO_WORDS:
            with_it = np.array([word in words for words in placebo])
            assert_same_share(with_it[flags], with_it[~flags])


@pytest.mark.parametrize(
    "text, claim",
    [
        ("a frog", Picture(("frog",))),
        ("A Blue Frog, oil painting", Picture(("frog",), "blue")),
        ("a hot dog and a castle", Picture(("hot dog", "castle"))),
        ("a frog, a frog, a frog", Picture(("frog",))),
        ("a blue sky over a frog", Picture(("frog",))),
        ("frogs", None),
        ("\u202e\U0001f438", None),
    ],
)
def test_content_words(text, claim):
    assert captions.content_of(text) == claim
