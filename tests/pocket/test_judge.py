"""The judge: what it is asked, what it answers, and what counts as shown."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata

from promptlab.pocket import judge as module
from promptlab.pocket.card import area_under_curve, meets
from promptlab.pocket.judge import HEADS, Judge, load_judge, look, name, shows
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, MEDIA, Picture
from promptlab.pocket.subjects import SUBJECTS
from promptlab.runtime import PromptlabError


@pytest.fixture(scope="module")
def judge(tiny_world):
    return load_judge(tiny_world / "judge")


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 128, 128, 3), np.uint8)


def test_answers_are_probabilities_over_every_value(judge):
    assert not judge.training and next(judge.parameters()).dtype == torch.float32
    seen = look(judge, IMAGES)
    assert {k: v.shape for k, v in seen.items()} == {
        "subject": (7, len(SUBJECTS) + 1), "colour": (7, len(COLOURS) + 1), "medium": (7, len(MEDIA)), "background": (7, len(BACKGROUNDS))
    }  # fmt: skip
    for values in seen.values():
        np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)


def test_a_picture_is_judged_alone(judge):
    together, alone = look(judge, IMAGES, batch=3), [look(judge, IMAGES[i : i + 1]) for i in range(7)]
    for key in together:
        np.testing.assert_allclose(together[key], np.concatenate([a[key] for a in alone]), atol=1e-5)


def test_the_judge_sees_what_it_was_trained_on(judge):
    """64 x 64 in -1..1, red first, by the filter that made the training pictures (PIL's, to a rounding)."""
    small = np.stack([np.asarray(Image.fromarray(x).resize((64, 64), Image.BILINEAR)) for x in IMAGES]).astype(np.float32)
    with torch.no_grad():
        logits = judge(torch.from_numpy(small / 127.5 - 1).permute(0, 3, 1, 2))
    for key, values in look(judge, IMAGES).items():
        e = np.exp(logits[key].numpy() - logits[key].numpy().max(1, keepdims=True))
        np.testing.assert_allclose(values, e / e.sum(1, keepdims=True), atol=3e-3)


def test_foreign_weights_are_named(tiny_world):
    with pytest.raises(PromptlabError, match=r"aesthetic.*model\.safetensors"):
        load_judge(tiny_world / "aesthetic")


def one_hot(key, *values):
    out = np.zeros((1, len(HEADS[key])))
    for share, value in zip((0.5, 0.3, 0.2), values, strict=False):
        out[0, HEADS[key].index(value)] = share
    return out


SEEN = {"subject": one_hot("subject", "frog", "castle", "dog"), "colour": one_hot("colour", "blue", "its own"),
        "medium": one_hot("medium", "neon"), "background": one_hot("background", "night")}  # fmt: skip


def test_names_are_the_first_choices():
    assert name(SEEN) == [{"subjects": ["frog", "castle"], "colour": "blue", "medium": "neon", "background": "night"}]


@pytest.mark.parametrize(
    "subjects, colour, expected",
    [
        (("frog",), None, {"frog": True}), (("castle",), None, {"castle": False}), (("frog",), "blue", {"frog": True, "blue": True}),
        (("frog",), "red", {"frog": True, "red": False}), (("dog",), "blue", {"dog": False, "blue": True}),
        (("frog", "castle"), None, {"frog": True, "castle": True}), (("castle", "frog"), None, {"castle": True, "frog": True}),
        (("frog", "dog"), None, {"frog": True, "dog": False}), (("cat", "dog"), None, {"cat": False, "dog": False}),
    ],
)  # fmt: skip
def test_shows_counts_every_content_word(subjects, colour, expected):
    assert shows(name(SEEN)[0], Picture(subjects, colour)) == expected


def test_a_recoloured_picture_does_not_show_its_own_colour():
    plain = name(SEEN | {"colour": one_hot("colour", "its own", "blue")})[0]
    assert shows(plain, Picture(("frog",), "blue")) == {"frog": True, "blue": False}


def test_the_judge_learns_a_colour(tmp_path, monkeypatch):
    """A few steps on flat red and blue squares: the stage wires each head to its own truth."""
    monkeypatch.setattr(module, "Judge", lambda: Judge(width=8))
    monkeypatch.setattr(module, "BATCH", 16)
    pictures = [Picture((("frog", "castle")[i % 2],), ("red", "blue")[i % 2], MEDIA[i % 2], BACKGROUNDS[i % 2]) for i in range(40)]
    small = np.zeros((40, 64, 64, 3), np.uint8)
    small[0::2, ..., 0], small[1::2, ..., 2] = 220, 220
    fitted = module.fit(pictures, small, tmp_path, steps=60)
    facts = name(look(fitted, small.repeat(2, 1).repeat(2, 2)))
    for fact, p in zip(facts, pictures, strict=True):
        assert (fact["subjects"][0], fact["colour"], fact["medium"], fact["background"]) == (
            p.subjects[0],
            p.colour,
            p.medium,
            p.background,
        )


def test_a_shifted_picture_is_the_picture_moved_edges_repeated():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 8, 8)
    moved, wide = module.shift(x, far=2), torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    places = {}
    for i, picture in enumerate(moved):
        (places[i],) = [(a, b) for a in range(5) for b in range(5) if torch.equal(picture, wide[i, :, a : a + 8, b : b + 8])]
    assert {a for a, _ in places.values()} == {b for _, b in places.values()} == set(range(5)), "every distance occurs, both ways"


# --- the arithmetic of the model card -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, bar, met",
    [(97, ">= 97", True), (96.9, ">= 97", False), (0.25, "< 0.25", False), (0.2, "< 0.25", True), (45, "<= 45", True), (46, "<= 45", False), (-5, None, True)],
)  # fmt: skip
def test_bars(value, bar, met):
    assert meets({"value": value, "bar": bar}) is met


def test_area_under_curve_by_counting():
    rng = np.random.default_rng(0)
    right, wrong = rng.integers(0, 9, 40) + 2, rng.integers(0, 9, 25)
    counted = np.mean([(r > w) + 0.5 * (r == w) for r in right for w in wrong])
    assert area_under_curve(right, wrong) == pytest.approx(counted) and rankdata([1, 1])[0] == 1.5


# --- pictures that show nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order, named", [(("nothing", "frog"), []), (("frog", "nothing"), ["frog"]), (("frog", "castle"), ["frog", "castle"])])
def test_nothing_is_named_from_nothing_on(order, named):
    assert name(SEEN | {"subject": one_hot("subject", *order)})[0]["subjects"] == named


def test_spoilt_pictures_keep_their_colours_and_lose_their_shapes():
    torch.manual_seed(0)
    x = torch.from_numpy(IMAGES[:, ::2, ::2]).permute(0, 3, 1, 2).float() / 127.5 - 1
    for kind in range(module.WAYS + 1):
        spoilt = module.spoil(x, torch.full((len(x),), kind))
        assert spoilt.shape == x.shape and torch.equal(spoilt, x) == (kind == 0)
        assert (spoilt.mean((0, 2, 3)) - x.mean((0, 2, 3))).abs().max() < 0.02
    pieces = module.shuffled(x, 8)
    assert torch.equal(pieces.flatten(2).sort(2).values, x.flatten(2).sort(2).values) and not torch.equal(pieces, x)
