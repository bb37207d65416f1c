"""Tastes learnt from choices: the fits against scipy and closed forms, what a known reader teaches them, and where choices come from."""

import copy
import json

import numpy as np
import pytest
import torch
from fakes import FakeScorer
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from promptlab.models import preference
from promptlab.models.preference import LOSSES, PULL, binary, fit, imitation, ordered, ranked
from promptlab.pictures.sheets import ContactSheet
from promptlab.pocket import readers
from promptlab.preferences import Choices, ways, wins
from promptlab.rewards import PictureReward
from promptlab.runtime import PromptlabError

WIDTH = 12


def looks(n, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def by_bradley_terry(n, direction, seed=1):
    """Embeddings of what a reader with this direction of taste takes of n random pairs, and of what it is taken over."""
    x, rng = looks(2 * n, seed).reshape(2, n, WIDTH), np.random.default_rng(seed)
    first = rng.random(n) < expit((x[0] - x[1]) @ direction)
    return np.where(first[:, None], x[0], x[1]), np.where(first[:, None], x[1], x[0])


def weights_of(rate):
    """The weights and the constant of a taste, read off its ratings."""
    constant = rate(np.zeros((1, WIDTH)))
    return np.append((rate(np.eye(WIDTH)) - constant).numpy(), constant.numpy())


# --- the losses and the fit ---------------------------------------------------------------------------------------


def test_losses_on_numbers_done_by_hand():
    chosen, other = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0])
    win, even = -np.log(1 / (1 + np.exp(-1))), np.log(2)
    assert ranked(chosen, other).item() == pytest.approx((win + even) / 2)
    apart = -np.log(1 / (1 + np.exp(-2))) - np.log(1 / (1 + np.exp(1)))
    assert binary(chosen, other).item() == pytest.approx((apart + 2 * even) / 4)
    assert imitation(chosen, other).item() == -1


def by_scipy(chosen, other, name):
    """The same minimum found by another optimiser from losses written out anew, with numerical gradients."""
    a, b = (np.hstack([x, np.ones((len(x), 1))]).astype(float) for x in (chosen, other))
    data = {
        "ranked": lambda w: -log_expit((a - b) @ w).sum(),
        "binary": lambda w: -(log_expit(a @ w) + log_expit(-(b @ w))).sum() / 2,
    }[name]
    return minimize(lambda w: data(w) + PULL / 2 * w @ w, np.zeros(WIDTH + 1), method="BFGS", options={"gtol": 1e-6}).x


@pytest.mark.parametrize("name", ["ranked", "binary"])
def test_the_fit_finds_the_minimum_that_scipy_finds(name):
    chosen, other = by_bradley_terry(50, np.arange(WIDTH) - 5.0)
    np.testing.assert_allclose(weights_of(fit(chosen, other, LOSSES[name])), by_scipy(chosen, other, name), atol=2e-3)


def test_imitation_has_a_closed_form_and_never_looks_at_the_others():
    chosen, other = by_bradley_terry(50, np.ones(WIDTH))
    rate = fit(chosen, other, imitation)
    np.testing.assert_allclose(weights_of(rate)[:-1], chosen.sum(0) / PULL, rtol=1e-3, atol=1e-3)
    assert torch.allclose(rate(looks(9)), fit(chosen, looks(50, 5), imitation)(looks(9)))


def test_a_known_direction_comes_back():
    truth = 6 * looks(1, 9)[0]
    chosen, other = by_bradley_terry(3000, truth)
    assert weights_of(fit(chosen, other))[:-1] == pytest.approx(truth, abs=0.6)


def test_what_both_pictures_of_a_pair_share_cancels_in_the_ranked_loss_alone():
    chosen, other = by_bradley_terry(60, 5 * looks(1, 9)[0])
    shared = np.random.default_rng(3).standard_normal((60, WIDTH)).astype(np.float32)
    at = looks(40, 4)
    same = [
        torch.allclose(fit(chosen, other, loss)(at), fit(chosen + shared, other + shared, loss)(at), atol=1e-3) for loss in LOSSES.values()
    ]
    assert dict(zip(LOSSES, same, strict=True)) == {"imitation": False, "binary": False, "ranked": True}


def test_what_is_seen_is_what_is_weighed():
    chosen, other = by_bradley_terry(40, 5 * looks(1, 9)[0])
    see, at = lambda x: np.square(x)[:, :3] * 4, looks(9)  # noqa: E731
    assert torch.allclose(fit(chosen, other, see=see)(at), fit(see(chosen), see(other))(see(at)))


def planted(prompts, ways=4, words=8, width=64, seed=0):
    """A world with known words: a picture's embedding is its prompt's own, a direction for each word said, and noise; and its pairs."""
    rng = np.random.default_rng(seed)
    says = rng.random((prompts * ways, words)) < 0.3
    directions = np.linalg.qr(np.random.default_rng(99).standard_normal((width, words)))[0].T
    x = (
        np.repeat(rng.standard_normal((prompts, width)), ways, 0)
        + says @ directions * 2
        + 0.5 * rng.standard_normal((prompts * ways, width))
    )
    pairs = np.array([(ways * p + i, ways * p + j) for p in range(prompts) for i in range(ways) for j in range(i)])
    return (x / width**0.5).astype(np.float32), says, pairs


def test_cheap_pairs_teach_what_words_do_and_save_choices():
    x, says, pairs = planted(100)
    new, new_says, new_pairs = planted(60, seed=1)
    see = preference.pretrain(x, pairs, says, lambda e: torch.from_numpy(e[:, 0]))
    seen = see(new)
    assert seen.shape == (240, 9) and np.corrcoef(seen[:, 8], new[:, 0])[0, 1] > 0.999
    within = seen.reshape(60, 4, 9) - seen.reshape(60, 4, 9).mean(1, keepdims=True)  # what the prompt itself adds is not asked about
    about = new_says.reshape(60, 4, 8) - new_says.reshape(60, 4, 8).mean(1, keepdims=True)
    match = np.corrcoef(within.reshape(240, 9).T, about.reshape(240, 8).T)[:8, 9:]
    assert (match.argmax(1) == np.arange(8)).all() and match.diagonal().min() > 0.6
    right = {None: [], see: []}
    for draw in range(8):
        liked, truth = says @ np.eye(8)[draw] - says @ np.eye(8)[draw - 1], new_says @ np.eye(8)[draw] - new_says @ np.eye(8)[draw - 1]
        differ = lambda some, by: some[by[some[:, 0]] != by[some[:, 1]]]  # noqa: E731
        few = readers.choose(liked, np.random.default_rng(draw).permutation(differ(pairs, liked))[:10], errors=0)
        for eye, found in right.items():
            found.append(ordered(fit(*x[few.T], see=eye)(new), readers.choose(truth, differ(new_pairs, truth), errors=0)).mean())
    assert np.mean(right[see]) > np.mean(right[None]) + 0.05


def test_words_that_tell_few_pairs_apart_are_no_question():
    x, says, pairs = planted(30)
    says = np.hstack([says, np.zeros((120, 1), bool), np.arange(120)[:, None] == 5])
    assert preference.pretrain(x, pairs, says, lambda e: torch.zeros(len(e)) + torch.from_numpy(e[:, 0]))(x).shape == (120, 9)


def test_a_reader_by_chance_is_learnt_by_heart_and_says_nothing_of_new_pairs():
    x, right, seen = looks(400), [], []
    for seed in range(20):
        pairs = np.random.default_rng(seed).permutation(400).reshape(-1, 2)
        learn, new = pairs[:12], pairs[100:]
        rated = fit(x[learn[:, 0]], x[learn[:, 1]], pull=1e-3)(x)
        seen.append(ordered(rated, learn).mean()), right.append(ordered(rated, new).mean())
    assert np.mean(seen) > 0.95 and abs(np.mean(right) - 0.5) < 0.05


def test_ordered_counts_a_tie_half():
    assert ordered([3.0, 1.0, 3.0], [(0, 1), (1, 0), (0, 2)]).tolist() == [1, 0, 0.5]
    assert ordered(torch.tensor([3.0, 1.0]), np.array([[0, 1]])).tolist() == [1]


@pytest.mark.parametrize(
    "chosen, other, loss, says",
    [
        (looks(3), looks(2), ranked, r"\(3, 12\) and \(2, 12\)"),
        (looks(0), looks(0), ranked, "of every pair"),
        (looks(3)[0], looks(3)[1], ranked, "of every pair"),
        (looks(3), looks(3, 1), lambda a, b: (a - b).mean() * torch.inf, "of these 3 choices is"),
    ],
)
def test_what_cannot_be_learnt_from_is_named(chosen, other, loss, says):
    with pytest.raises(PromptlabError, match=says):
        fit(chosen, other, loss)


# --- a taste as a reward ----------------------------------------------------------------------------------------------


def test_a_taste_takes_the_place_of_the_head_in_every_score_and_reward(tiny_scorer):
    plain, written, seeds = ["a frog", "a fox"], ["a frog, vivid", "a fox, at night"], [1, 2]
    x = tiny_scorer.gallery.embeddings([p for p in plain + written for _ in seeds], seeds * 4)
    mine, some = copy.copy(tiny_scorer), np.random.default_rng(0).standard_normal((2, 30, 256))
    mine.rate = fit(*some)
    rated, c = mine.rate(x).numpy().reshape(4, 2), mine.calibration
    relevance = (x[4:] * mine.texts([p for p in plain for _ in seeds])).sum(1).reshape(2, 2)
    by_hand = c.aesthetic_scale * (rated[2:] - rated[:2]) + np.minimum(0, c.relevance_slope * (relevance - c.relevance_threshold))
    np.testing.assert_allclose(PictureReward(mine)(plain, written, seeds).numpy(), by_hand.mean(1), atol=1e-4)
    seen, theirs = (ContactSheet(some, plain, written, seeds, progress=False).scores for some in (mine, tiny_scorer))
    np.testing.assert_allclose(seen.aesthetic.numpy(), rated[2:].ravel(), rtol=1e-5)
    assert torch.equal(seen.relevance, theirs.relevance) and (seen.aesthetic - theirs.aesthetic).abs().min() > 1e-3


# --- what is asked, and what a file says ------------------------------------------------------------------------------


def test_ways_word_a_prompt_with_what_others_added_to_other_things():
    records = [{"y": f"a fox, {word}, 8k"} for word in ("oil painting", "at night", "vivid", "blurry")] + [{"y": "a cat"}]
    found = ways(["a frog", "a castle"], records, n=3)
    assert [len(set(some)) for some in found] == [3, 3] and found == ways(["a frog", "a castle"], records, n=3) != ways(
        ["a frog", "a castle"], records, 3, 1
    )
    assert all(
        text.startswith(f"{x}, ") and text.endswith(", 8k") for x, some in zip(["a frog", "a castle"], found, strict=True) for text in some
    )


def test_wins_are_what_a_widget_kept(tmp_path):
    pairs = [
        {"prompt": f"frog {i}", "seed": 7, "method_a": "one", "text_a": f"frog {i}, one", "method_b": "two", "text_b": f"frog {i}, two"}
        for i in range(14)
    ]
    choices = Choices(pairs, tmp_path / "c.jsonl", FakeScorer())
    said = {1: "1", 2: "2", 3: "0", 4: "s", 5: "1"}
    for number, answer in said.items():
        choices.answer(number, answer)
    choices.undo()  # 5
    for number in choices.waiting.copy():
        choices.answer(number, "1" if choices.asks[number - 1]["left"]["method"] == "one" else "2")
    with choices.path.open("a") as file:  # another preset's, and what is damaged
        row = json.loads(choices.path.read_text().splitlines()[0])
        file.write(json.dumps(row | {"preset": "other", "pair": "x"}) + '\n{"action": "choose"}\n{"pair": 1}\nnonsense\n')
    expected = {}
    for number, ask in enumerate(choices.asks, 1):
        left, right = ask["left"]["text"], ask["right"]["text"]
        answer = said.get(number) if number < 5 else ("1" if ask["left"]["method"] == "one" else "2")
        if not ask["again"] and answer in ("1", "2"):
            expected[ask["prompt"]] = (left, right) if answer == "1" else (right, left)
    found = wins(choices.path, "fake")
    assert {w["prompt"]: (w["chosen"], w["other"]) for w in found} == expected and len(found) == 12 and {w["seed"] for w in found} == {7}
    assert wins(tmp_path / "none.jsonl", "fake") == [] and len(wins(choices.path, "other")) == 1


# --- simulated readers ------------------------------------------------------------------------------------------------


def test_readers_like_what_is_written_down():
    black, white = (np.full((1, 128, 128, 3), v, np.uint8) for v in (5, 250))
    noise = np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3)).astype(np.uint8)
    red = np.zeros((1, 128, 128, 3), np.uint8) + np.array([220, 20, 20], np.uint8)
    images = np.concatenate([black, white, noise, red])
    fact = {"gold": 5.0, "medium": "photo", "background": "plain", "subjects": [], "colour": "blue"}
    night, flat = (readers.liking(name, [fact] * 4, images) for name in ("night", "flat"))
    assert night.argmax() == 0 and night.argmin() == 1 and flat.argmax() == 3 and flat.argmin() == 2
    media = [fact | {"medium": m} for m in ("watercolor", "pencil sketch", "photo", "neon")]
    paper = readers.liking("paper", media, np.concatenate([noise] * 4))
    assert paper.argsort()[::-1].tolist()[:2] == [0, 1] and paper[2] == paper[3]
    assert readers.liking("night", [fact | {"background": "night"}], white) > readers.liking("night", [fact], white)
    better = [readers.liking(name, [fact | {"gold": g}], noise)[0] for name in readers.READERS for g in (4, 8)]
    assert all(b > a for a, b in zip(better[::2], better[1::2], strict=True)), "all share something"
    with pytest.raises(PromptlabError, match="no reader 'day'"):
        readers.liking("day", [fact], noise)


def test_a_reader_turns_round_as_many_choices_as_asked():
    liked, pairs = np.arange(5000.0), np.random.default_rng(0).permutation(5000).reshape(-1, 2)
    right = readers.choose(liked, pairs, errors=0)
    assert (right[:, 0] > right[:, 1]).all() and (np.sort(right, 1) == np.sort(pairs, 1)).all()
    assert abs(ordered(liked, readers.choose(liked, pairs)).mean() - 0.9) < 0.03
    assert abs(ordered(liked, readers.choose(liked, pairs, errors=0.5)).mean() - 0.5) < 0.05


@pytest.fixture(scope="module")
def shown(tiny_preset, tmp_path_factory):
    from promptlab.rewards import Scorer

    scorer = Scorer(tiny_preset, tmp_path_factory.mktemp("cache"))
    return scorer, readers.album(scorer, prompts=readers.HELD + 10)


def test_an_album_learns_and_checks_on_different_prompts(shown):
    _, album = shown
    typed = np.array(album.prompts)
    learn, held = typed[album.learn], typed[album.held]
    assert (learn[:, 0] == learn[:, 1]).all() and (held[:, 0] == held[:, 1]).all()
    assert set(learn[:, 0]) & set(held[:, 0]) == set() and len(set(held[:, 0])) == readers.HELD
    assert len({tuple(sorted(pair)) for pair in album.learn.tolist()}) == len(album.learn) == 60
    assert all(text.startswith(x) for x, text in zip(album.prompts, album.texts, strict=True)) and len(set(album.texts)) == len(album.texts)
    true = lambda x: torch.from_numpy(album.likes["paper"])  # noqa: E731
    assert album.checked("paper", true).mean() == 1 and album.checked("paper", lambda x: -true(x)).mean() < 0.2
    best = [max(album.likes["paper"][4 * p : 4 * p + 4]) - np.mean(album.likes["paper"][4 * p : 4 * p + 4]) for p in range(10, 50)]
    assert album.picked("paper", lambda x: true(x)[-160:]) == pytest.approx(best)
    questions = album.questions(12)
    assert len(questions) == 12 and set(questions[0]) == {"prompt", "seed", "method_a", "text_a", "method_b", "text_b"}


def test_own_choices_count_from_thirty_on(shown, tmp_path, capsys):
    scorer, album = shown
    path, kept = tmp_path / "c.jsonl", Choices(album.questions(40), tmp_path / "c.jsonl", scorer)
    numbers = [number for number, ask in enumerate(kept.asks, 1) if not ask["again"]]
    for number in numbers[:29]:
        kept.answer(number, "1")
    name, chosen, other = readers.choices(scorer, album, "flat", path)
    assert name == "flat" and len(chosen) == len(other) == 30 and "29 choices of yours, fewer than 30" in capsys.readouterr().out
    agrees = preference.ordered(album.likes["flat"], readers.choose(album.likes["flat"], album.learn[:30]))
    assert 0.7 <= agrees.mean() <= 1
    kept.answer(numbers[29], "2")
    name, chosen, other = readers.choices(scorer, album, "flat", path)
    assert name == "you" and len(chosen) == 30 and "Your own 30 choices" in capsys.readouterr().out
    first, last = kept.asks[numbers[0] - 1], kept.asks[numbers[29] - 1]
    wanted = [first["left"]["text"], last["right"]["text"]], [first["right"]["text"], last["left"]["text"]]
    for x, texts in zip((chosen, other), wanted, strict=True):
        np.testing.assert_array_equal(x[[0, -1]], scorer.gallery.embeddings(texts, [readers.SEED] * 2))
