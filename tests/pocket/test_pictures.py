"""Subjects and how they are painted."""

import colorsys
import dataclasses

import numpy as np
import pytest

from promptlab.pocket import pictures, subjects
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, EFFECTS, HARMFUL, MEDIA, VARIANTS, Picture, compose, render
from promptlab.pocket.subjects import GLYPH, KIND, KINDS, SUBJECTS, glyph, with_article
from promptlab.runtime import PromptlabError

FROG = Picture(("frog",))
FEW = ("frog", "castle", "rocket", "pizza", "tulip", "violin")
# Degrees on the colour wheel, from what the words mean and not from the code.
HUES = {"red": 0, "yellow": 50, "green": 130, "blue": 220, "purple": 272, "pink": 330}


def changed(picture, **fields):
    return dataclasses.replace(picture, **fields)


def apart(a, b):
    """Mean absolute difference of two pictures in levels of 255."""
    return np.abs(a.astype(int) - b.astype(int)).mean()


def inside(picture):
    """Where the subject certainly is."""
    return compose(picture)[1][..., 0] > 0.95


def saturation(pixels):
    """Mean of (max - min) over pixels, 0-1."""
    return ((pixels.max(-1) - pixels.min(-1).astype(float)) / 255).mean()


def hue(pixels):
    """Circular mean hue in degrees of pixels (n, 3), weighted by how saturated each is, and the mean vector's length."""
    hsv = np.array([colorsys.rgb_to_hsv(*p) for p in pixels / 255.0])
    vector = (np.exp(2j * np.pi * hsv[:, 0]) * hsv[:, 1]).sum() / hsv[:, 1].sum()
    return np.degrees(np.angle(vector)) % 360


def turn(a, b):
    return abs((a - b + 180) % 360 - 180)


# --- subjects -------------------------------------------------------------------------------------------------------


def test_there_are_enough_subjects_of_five_to_eight_kinds():
    assert len(SUBJECTS) >= 160 and 5 <= len(KINDS) <= 8
    assert {KIND[s] for s in SUBJECTS} == set(KINDS)
    assert min(sum(k == kind for k in KIND.values()) for kind in KINDS) >= 15, "a kind of a few subjects cannot be learnt"


def test_no_subject_or_glyph_stands_twice():
    entries = [entry.split() for text in KINDS.values() for entry in text.split(",")]
    nouns, glyphs = [" ".join(e[1:]) for e in entries], [e[0] for e in entries]
    assert len(set(nouns)) == len(nouns) == len(SUBJECTS), sorted(n for n in nouns if nouns.count(n) > 1)
    assert len(set(glyphs)) == len(glyphs) == len(GLYPH), sorted(n for n in glyphs if glyphs.count(n) > 1)
    assert all(n == n.lower() and "," not in n and " and " not in n for n in nouns), "captions are split at these"


@pytest.mark.parametrize(
    "noun, colour, phrase",
    [
        ("frog", None, "a frog"), ("apple", None, "an apple"), ("unicorn", None, "a unicorn"), ("ufo", None, "a ufo"),
        ("umbrella", None, "an umbrella"), ("hourglass", None, "an hourglass"), ("horse", None, "a horse"), ("grapes", None, "grapes"),
        ("popcorn", None, "popcorn"), ("apple", "blue", "a blue apple"), ("frog", "red", "a red frog"), ("grapes", "green", "green grapes"),
    ],
)  # fmt: skip
def test_noun_phrases_are_what_a_person_would_type(noun, colour, phrase):
    assert noun in SUBJECTS and with_article(noun, colour) == phrase


def test_every_subject_has_a_glyph_of_its_own(font):
    seen = {}
    for noun in SUBJECTS:
        image = glyph(noun)
        x = np.asarray(image)
        assert image.mode == "RGBA" and 40 < max(image.size) <= 140, f"{noun}: {image.size}"
        assert (x[..., 3] > 128).mean() > 0.08, f"{noun} is nearly empty"
        assert image.tobytes() not in seen, f"{noun} looks exactly like {seen.get(image.tobytes())}"
        seen[image.tobytes()] = noun


def test_an_unknown_subject_is_named():
    with pytest.raises(PromptlabError, match="'grok'"):
        glyph("grok")
    with pytest.raises(PromptlabError, match="'grok'"):
        render(Picture(("grok",)))


def test_a_missing_font_is_named_with_the_package_that_brings_it(monkeypatch, tmp_path):
    monkeypatch.setattr(subjects, "FONT", tmp_path / "NoSuchFont.ttf")
    glyph.cache_clear()
    with pytest.raises(PromptlabError, match=r"NoSuchFont\.ttf is missing.*apt-get install fonts-noto-color-emoji"):
        glyph("frog")


# --- rendering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("medium", MEDIA)
def test_the_same_picture_twice_is_the_same(font, medium):
    picture = Picture(("frog",), "blue", medium, "forest", ("vivid", "soft"))
    first = render(picture)
    assert first.dtype == np.uint8 and first.shape == (128, 128, 3) and first.flags.writeable
    for other in (Picture(("castle",), None, medium, "forest", ("dramatic",)), Picture(("frog", "dog"), None, medium)):
        render(other)  # nothing that is cached may be painted on
    assert (render(picture) == first).all()


def test_caches_do_not_change_what_a_fresh_process_draws(font):
    cached = render(Picture(("frog",), "red", "watercolor", "snow"))
    for function in (pictures.textures, pictures.background, pictures.layer, glyph):
        function.cache_clear()
    assert (render(Picture(("frog",), "red", "watercolor", "snow")) == cached).all()


@pytest.mark.parametrize("field, values", [("medium", MEDIA), ("background", BACKGROUNDS), ("effects", ((), *((e,) for e in EFFECTS)))])
@pytest.mark.parametrize("noun", ["frog", "castle", "grapes"])
def test_every_word_of_a_group_changes_the_picture_its_own_way(font, noun, field, values):
    base = Picture((noun,), background="sunset") if field == "effects" else Picture((noun,))
    drawn = [render(changed(base, **{field: v})) for v in values]
    for i, a in enumerate(drawn):
        for j in range(i):
            assert apart(a, drawn[j]) > 2, f"{values[i]} looks like {values[j]}"


@pytest.mark.parametrize("noun", ["frog", "rocket", "violin", "hot dog"])
def test_mirrored_turns_the_subject_around(font, noun):
    picture = Picture((noun,))
    crops = []
    for mirrored in (False, True):
        p = changed(picture, mirrored=mirrored)
        alpha = compose(p)[1][..., 0]
        rows, columns = np.where(alpha.any(1))[0], np.where(alpha.any(0))[0]
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        crops.append((render(p)[box], alpha[box] == 1))
    (plain, solid), (mirror, _) = crops
    assert plain.shape == mirror.shape and (plain[solid] == mirror[:, ::-1][solid]).all()
    assert apart(plain, mirror) > 2


def test_variants_show(font):
    assert len({render(p).tobytes() for p in pictures.variants(FROG)}) == 2 * VARIANTS
    for background in BACKGROUNDS:
        drawn = [render(Picture(("frog",), background=background, variant=v)) for v in range(VARIANTS)]
        for i in range(VARIANTS):
            assert apart(drawn[i], drawn[i - 1]) > 0.5, f"{background}: variants {i} and {i - 1} look the same"


def test_effects_come_in_one_order(font):
    ways = [render(changed(FROG, effects=e)) for e in (("vivid", "blurry"), ("blurry", "vivid"))]
    assert (ways[0] == ways[1]).all()


def test_backgrounds_have_no_subject_and_subjects_fill_the_frame(font):
    for noun in SUBJECTS[::6]:
        alpha = compose(Picture((noun,)))[1][..., 0]
        assert 0.06 < (alpha > 0.5).mean() < 0.75, noun
        assert alpha.shape == (128, 128) and alpha.min() == 0 and alpha.max() == 1, noun


# --- what effects do, measured on pixels ----------------------------------------------------------------------------


def facts(image):
    grey = image.astype(float) @ (0.299, 0.587, 0.114)
    return {
        "contrast": np.subtract(*np.percentile(grey, (97, 3))),
        "saturation": saturation(image),
        "sharpness": np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean(),
        "brightness": grey.mean(),
        "clipped": (image.min(-1) >= 252).mean(),
    }


LOWERS = [("muted", "contrast"), ("muted", "saturation"), ("blurry", "sharpness"), ("overexposed", "contrast"),
          ("overexposed", "saturation"), ("black and white", "saturation"), ("soft", "sharpness"), ("soft", "contrast")]  # fmt: skip
RAISES = [
    ("vivid", "saturation"),
    ("detailed", "sharpness"),
    ("dramatic", "contrast"),
    ("overexposed", "brightness"),
    ("overexposed", "clipped"),
]


@pytest.mark.parametrize("effect, fact", LOWERS + RAISES)
def test_effects_do_what_they_are_called(font, effect, fact):
    sign = -1 if (effect, fact) in LOWERS else 1
    background = "snow" if effect == "overexposed" else "forest"  # too much light washes out what is already light
    for noun in FEW:
        for medium in ("photo", "oil painting"):
            plain = Picture((noun,), None, medium, background)
            before, after = (facts(render(p))[fact] for p in (plain, changed(plain, effects=(effect,))))
            assert sign * (after - before) > 0, f"{effect} should {'lower' if sign < 0 else 'raise'} {fact} of a {noun} ({medium})"
    assert HARMFUL == {"muted", "blurry", "overexposed", "black and white"}


def test_warm_light_moves_blue_to_red(font):
    for noun in FEW:
        a, b = (render(Picture((noun,), effects=e)).reshape(-1, 3).mean(0) for e in ((), ("warm",)))
        assert (b[0] - b[2]) - (a[0] - a[2]) > 15


# --- colours and pairs: the content that a rewrite may lose ---------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("medium", ["photo", "3d render", "oil painting", "stained glass", "pixel art", "watercolor"])
def test_a_colour_is_the_named_hue(font, colour, medium):
    assert set(HUES) == set(COLOURS)
    everything = []
    for noun in FEW:
        picture = Picture((noun,), colour, medium, "studio")
        pixels = render(picture)[inside(picture)]
        assert turn(HUES[colour], hue(pixels)) < 20, f"a {colour} {noun} ({medium}) has hue {hue(pixels):.0f}"
        assert saturation(pixels) > 0.15
        everything.append(pixels)
    found = hue(np.concatenate(everything))
    assert min(HUES, key=lambda c: turn(HUES[c], found)) == colour and turn(HUES[colour], found) < 10


def test_a_recoloured_subject_keeps_its_shape_and_its_lights(font):
    for noun in FEW:
        plain, blue = Picture((noun,)), Picture((noun,), "blue")
        assert (compose(plain)[1] == compose(blue)[1]).all()
        grey = [(render(p).astype(float) @ (0.299, 0.587, 0.114))[inside(p)] for p in (plain, blue)]
        assert np.corrcoef(*grey)[0, 1] > 0.7, noun


@pytest.mark.parametrize("loses", ["pencil sketch", "silhouette", "neon", "black and white"])
def test_some_choices_destroy_a_colour(font, loses):
    """Red and blue come out nearly alike, and grey except in neon, whose colours are those of its tubes."""
    for noun in FEW:
        photos, lost = [], []
        for colour in ("red", "blue"):
            picture = Picture((noun,), colour, background="studio")
            change = dict(effects=(loses,)) if loses in EFFECTS else dict(medium=loses)
            photos.append(render(picture)[inside(picture)]), lost.append(render(changed(picture, **change))[inside(picture)])
        assert apart(*lost) < 0.25 * apart(*photos), noun
        hues = [abs(x.astype(float).mean(0) - x.mean()) for x in lost]
        assert np.abs(hues[0] - hues[1]).max() < 5, f"{noun}: the colour still shows"
        if loses != "neon":
            assert saturation(lost[0]) < 0.1 < 0.35 < saturation(photos[0]), noun


def test_pairs_stand_left_and_right(font):
    frog_castle, frog_dog, cat_castle, castle_frog = (
        render(Picture(two)) for two in (("frog", "castle"), ("frog", "dog"), ("cat", "castle"), ("castle", "frog"))
    )
    left, right = np.s_[:, :52], np.s_[:, 76:]  # the shadow in the middle belongs to both
    assert apart(frog_castle[left], frog_dog[left]) < 0.5 and apart(frog_castle[right], frog_dog[right]) > 5
    assert apart(frog_castle[right], cat_castle[right]) < 0.5 and apart(frog_castle[left], cat_castle[left]) > 5
    assert apart(frog_castle, castle_frog) > 5
    assert apart(frog_castle[left], castle_frog[:, 62:114]) < 1, "the same frog, moved"
    alpha = compose(Picture(("frog", "castle")))[1][..., 0]
    assert alpha[:, 64].max() == 0 and (alpha[:, :64] > 0.5).any() and (alpha[:, 65:] > 0.5).any()
