"""Decoding with beams: diverse beams against transformers 4, plain ones against transformers 5, stochastic ones against all texts there are."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from tiny_policy import tiny_policy

from promptlab.decoding import diverse_beam, given_largest, stochastic_beam
from promptlab.policy import Policy, Promptist, log_probs
from promptlab.runtime import PromptlabError

DATA = Path(__file__).with_name("data")
MADE = runpy.run_path(str(DATA / "make_group_beam.py"))
FOUND = json.loads((DATA / "group_beam.json").read_text())
X = ["a frog", "a very old red castle", "blue"]


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


# --- diverse beams --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clear():
    """The model of the fixture, and its prompts as `diverse_beam` takes them."""
    ids, real = map(torch.tensor, MADE["padded"]())
    return MADE["tiny_gpt2"](), ids, real.bool()


def until_end(rows, end):
    return [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]


def name(known):
    s = known["settings"]
    return f"{s['num_beams']} beams, {s['num_beam_groups']} groups, stopping {s['early_stopping']}, power {s['length_penalty']}"


@pytest.mark.parametrize("known", FOUND, ids=name)
def test_diverse_beams_are_those_of_transformers_4(clear, known):
    """Token for token: tests/data/make_group_beam.py asked the real one."""
    with torch.no_grad():
        rows, scores = diverse_beam(*clear, MADE["END"], **known["settings"])
    assert [until_end(r, MADE["END"]) for r in rows] == known["tokens"]
    torch.testing.assert_close(scores, torch.tensor(known["scores"]), atol=2e-5, rtol=1e-5)


def test_one_group_is_plain_beam_search(policy):
    """That of transformers 5, another implementation; alone, as padding must change nothing."""
    ids, real = policy.encode(X, 30)
    with torch.no_grad():
        rows, scores = diverse_beam(policy.model, ids, real, policy.end, 12, num_beams=5, num_beam_groups=1)
        for i, prompt in enumerate(X):
            one, all_real = policy.encode([prompt], 30)
            out = policy.generate(one, all_real, do_sample=False, max_new_tokens=12, num_beams=5, num_return_sequences=5, return_dict_in_generate=True, output_scores=True)  # fmt: skip
            assert until_end(rows[i], policy.end) == until_end(out.sequences[:, one.shape[1] :], policy.end)
            torch.testing.assert_close(scores[i], out.sequences_scores, atol=1e-4, rtol=0)


def test_the_penalty_is_what_keeps_groups_apart(policy):
    different = [
        [len(set(row)) for row in policy.rewrite(X, n=8, decode="diverse_beam", new_tokens=8, diversity_penalty=penalty)]
        for penalty in (0.0, 1.0)
    ]
    assert max(different[0]) <= 2, "without one, four groups of two find the same two"
    assert min(different[1]) >= 4


@pytest.mark.parametrize("kind", ["Bloom", "Lfm2", "Llama", "Mamba"])
def test_other_architectures(policy, kind):
    import transformers

    llama = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
    sizes = {
        "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
        "Mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        "Llama": llama,
        "Lfm2": llama | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    }[kind]  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(policy.tokenizer), eos_token_id=policy.end, initializer_range=0.3, **sizes
    )
    found = Policy(getattr(transformers, f"{kind}ForCausalLM")(config), policy.tokenizer)
    assert [len(t) for t in found.rewrite(X, n=2, decode="beam", new_tokens=6)] == [2, 2, 2]
    if kind == "Mamba":
        with pytest.raises(PromptlabError, match="MambaForCausalLM keeps a running state"):
            found.rewrite(X, decode="diverse_beam")
        return
    one_group = found.rewrite(X, n=3, decode="diverse_beam", new_tokens=6, num_beam_groups=1)
    assert one_group == found.rewrite(X, n=3, decode="beam", new_tokens=6)


# --- one call for all -----------------------------------------------------------------------------------------------


def test_the_call_of_old_is_greedy(policy):
    assert policy.rewrite(X) == policy.sample(X, greedy=True).texts == policy.rewrite(X, decode="greedy", seed=3)


@pytest.mark.parametrize("decode", ["sample", "beam", "diverse_beam", "best_of_n"])
def test_every_prompt_gets_its_n(policy, decode):
    more = {"score": lambda plain, written: [len(w) for w in written]} if decode == "best_of_n" else {}
    together = policy.rewrite(X, n=4, decode=decode, new_tokens=8, **more)
    assert [len(row) for row in together] == [4, 4, 4] and {type(t) for row in together for t in row} == {str}
    assert together == policy.rewrite(X, n=4, decode=decode, new_tokens=8, **more)
    if "beam" in decode:  # nothing is drawn, so neither batch nor seed matter
        assert together == policy.rewrite(X, n=4, decode=decode, new_tokens=8, batch=1, seed=5)
        assert [row[0] for row in together] == policy.rewrite(X, decode=decode, new_tokens=8)
    else:
        assert together != policy.rewrite(X, n=4, decode=decode, new_tokens=8, seed=5, **more)


def test_beams_are_those_of_transformers(policy):
    for prompt, ours in zip(X, policy.rewrite(X, n=3, decode="beam", new_tokens=9, num_beams=6, length_penalty=0.3), strict=True):
        ids, real = policy.encode([prompt], 30)
        out = policy.model.generate(ids, attention_mask=real.long(), do_sample=False, max_new_tokens=9, num_beams=6, num_return_sequences=3, length_penalty=0.3, eos_token_id=policy.end, pad_token_id=policy.end)  # fmt: skip
        theirs = [policy.tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True).strip() for row in out]
        assert ours == [t or prompt for t in theirs]
    for power in (-1.0, 1.0):
        ours, one_group = (
            policy.rewrite(X, n=3, decode=d, new_tokens=9, num_beam_groups=1, length_penalty=power) for d in ("beam", "diverse_beam")
        )
        assert ours == one_group


def test_samples_come_likeliest_first(policy):
    drawn = policy.sample([p for p in X for _ in range(20)], seed=2, new_tokens=8)
    with torch.no_grad():
        logs = log_probs(policy.model, drawn)[0]
    values = [sum(v for v, m in zip(row, real, strict=True) if m) for row, real in zip(logs.tolist(), drawn.mask.tolist(), strict=True)]
    expected = [[t for _, t in sorted(zip(values[i : i + 20], drawn.texts[i : i + 20], strict=True), reverse=True)] for i in (0, 20, 40)]
    assert policy.rewrite(X, n=20, decode="sample", seed=2, new_tokens=8) == expected


def test_batches_do_not_repeat_each_others_noise(policy):
    first, second = policy.rewrite(["a frog"] * 2, n=16, decode="sample", batch=16)
    assert sorted(first) != sorted(second)


def test_the_best_of_n_is_what_the_score_says(policy):
    asked = []

    def frogs(plain, written):
        asked.extend(plain)
        return torch.tensor([float(w.count("frog")) for w in written])

    best = policy.rewrite(X, n=16, decode="best_of_n", score=frogs, new_tokens=8, batch=20)
    drawn = policy.rewrite(X, n=16, decode="sample", new_tokens=8, batch=20)
    assert asked == [p for p in X for _ in range(16)]
    for ours, all_of_them in zip(best, drawn, strict=True):
        counts = [t.count("frog") for t in ours]
        assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] and sorted(ours) == sorted(all_of_them)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"decode": "beams"}, "decode='beams' is no way to decode. There is 'sample', 'greedy', 'beam', 'diverse_beam', 'best_of_n'"),
        ({"decode": None}, "decode=None"),
        ({"n": 0}, "n=0"),
        ({"n": 2}, "decode='greedy' finds one rewrite"),
        ({"n": 2, "decode": "best_of_n"}, "needs score="),
        ({"decode": "best_of_n", "score": len}, "n=1 has nothing to choose from"),
        ({"n": 2, "decode": "sample", "score": len}, "take decode='best_of_n'"),
        ({"n": 9, "decode": "beam"}, "Take num_beams=9"),
        ({"n": 9, "decode": "diverse_beam"}, "Take num_beams=9"),
        ({"decode": "diverse_beam", "num_beams": 6}, "num_beams=6 cannot be split into 4 groups"),
        ({"decode": "diverse_beam", "num_beam_groups": 0}, "into 0 groups"),
        ({"n": 2, "decode": "best_of_n", "score": lambda x, y: [1.0]}, "1 numbers for 6 rewrites"),
        ({"n": 2, "decode": "best_of_n", "score": lambda x, y: [0.0] * 5 + [float("nan")]}, "not a number for the prompt 'blue'"),
        ({"n": 2, "decode": "sample", "new_tokens": 64}, "fewer new tokens"),
    ],
)
def test_settings_that_do_not_go_together_are_named(policy, settings, said):
    with pytest.raises(PromptlabError, match="^.*" + said.replace("(", r"\(")):
        policy.rewrite(X, **settings)


def test_promptist_decodes_as_published_unless_told_otherwise():
    policy = tiny_policy(context=96)
    found = Promptist(policy.model, policy.tokenizer)
    ids, real = found.encode(X, 21)
    out = found.model.generate(ids, attention_mask=real.long(), do_sample=False, max_new_tokens=75, num_beams=8, num_return_sequences=2, length_penalty=-1.0, eos_token_id=found.end, pad_token_id=found.end)  # fmt: skip
    theirs = [found.tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True).strip() for row in out]
    theirs = [t or p for t, p in zip(theirs, [p for p in X for _ in range(2)], strict=True)]
    assert found.rewrite(X) == theirs[::2] and found.rewrite(X, n=2) == [theirs[i : i + 2] for i in (0, 2, 4)]
    assert found.rewrite(X, decode="greedy") == policy.rewrite(X, new_tokens=75)


def test_a_bar_shows_what_takes_long(policy, capsys):
    policy.rewrite(X, n=2, decode="diverse_beam", new_tokens=2, progress=True), stochastic_beam(policy, X, 2, new_tokens=2, progress=True)
    said = capsys.readouterr().err
    assert "rewriting" in said and "drawing" in said
    policy.rewrite(X, n=2, decode="diverse_beam", new_tokens=2), stochastic_beam(policy, X, 2, new_tokens=2)
    assert not capsys.readouterr().err


# --- stochastic beams -----------------------------------------------------------------------------------------------

N, TURNS = 3, 6000


@pytest.fixture(scope="module")
def every(policy):
    """Every text of at most two tokens and its probability, from the model's own reading of each, without a cache."""
    ids, words = policy.encode(["a frog"], 30)[0], len(policy.tokenizer)
    with torch.no_grad():
        first = policy.model(ids).logits[0, -1].double().softmax(-1)
        second = policy.model(torch.cat([ids.repeat(words, 1), torch.arange(words)[:, None]], 1)).logits[:, -1].double().softmax(-1)
    found = {(i, j): (first[i] * second[i, j]).item() for i in range(words) for j in range(words) if i != policy.end}
    found[(policy.end, policy.end)] = first[policy.end].item()
    assert sum(found.values()) == pytest.approx(1)
    return found


@pytest.fixture(scope="module")
def drawn(policy):
    """Three at a time of those, many times over; beside a longer prompt, so that there is padding."""
    found = stochastic_beam(policy, ["a frog"] * TURNS + ["a very old red castle"], N, seed=1, new_tokens=2, batch=30_000)
    return [part[:TURNS] for part in found]


def inclusion(p):
    """The chance of each to be among three drawn one after another without replacement, by adding up all orders there are."""
    first, second, third = p[:, None, None], p[None, :, None], p[None, None, :]
    orders = first * second / (1 - first) * third / (1 - first - second)
    i = torch.arange(len(p))
    same = (i[:, None, None] == i[:, None]) | (i[:, None, None] == i) | (i[:, None] == i)
    orders = orders.masked_fill(same, 0)
    return orders.sum((1, 2)) + orders.sum((0, 2)) + orders.sum((0, 1))


def test_stochastic_beams_know_the_probability_of_what_they_drew(every, drawn):
    ids, texts, logs, _ = drawn
    for row, values in zip(ids[:200].tolist(), logs[:200].tolist(), strict=True):
        assert len(set(map(tuple, row))) == N, "without replacement"
        assert [every[tuple(t)] for t in row] == pytest.approx([torch.tensor(v).exp().item() for v in values], rel=1e-4)
    assert len(texts) == TURNS and {len(row) for row in texts} == {N}


def test_log_probs_are_those_of_reading_the_whole_text_at_once(policy):
    found = stochastic_beam(policy, X, 5, new_tokens=12)
    for prompt, rows, logs in zip(X, found.ids, found.log_probs, strict=True):
        for row, value in zip(until_end(rows, policy.end), logs.tolist(), strict=True):
            asked = policy.encode([prompt], 30)[0]
            with torch.no_grad():
                steps = policy.model(torch.cat([asked, torch.tensor([row])], 1)).logits[0, asked.shape[1] - 1 : -1].log_softmax(-1)
            assert sum(steps[i, t].item() for i, t in enumerate(row)) == pytest.approx(value, abs=1e-3)


def test_each_text_is_drawn_as_often_as_without_replacement(every, drawn):
    """Against the exact chance of every text, by enumeration: alone, and to be among the three."""
    keys = {t: i for i, t in enumerate(every)}
    chances = torch.tensor(list(every.values()), dtype=torch.float64)
    where = torch.tensor([[keys[tuple(t)] for t in row] for row in drawn[0].tolist()])
    for seen, exact in ((where[:, 0], chances), (where.flatten(), inclusion(chances))):
        share = torch.bincount(seen, minlength=len(chances)) / TURNS
        off = (share - exact).abs() / (exact * (1 - exact) / TURNS).sqrt()
        assert exact.sum() == pytest.approx(len(seen) / TURNS) and (off[exact * TURNS > 10] < 4).all()
        assert (off[exact * TURNS > 10] ** 2).mean() < 1.5, "as far off as chance puts it"


def test_weights_make_the_mean_of_anything_right(every, drawn):
    """The mean under the policy of several functions, known exactly from all texts there are."""
    functions = [lambda t: 1.0, lambda t: float(t[0] % 2), lambda t: t[0] * t[1] ** 0.5, lambda t: -torch.tensor(every[t]).log().item()]
    for f in functions:
        exact = sum(p * f(t) for t, p in every.items())
        values = torch.tensor([[f(tuple(t)) for t in row] for row in drawn[0].tolist()], dtype=torch.float64)
        guesses = (drawn[3] * values).sum(1)
        assert abs(guesses.mean() - exact) < 3.5 * guesses.std() / TURNS**0.5
        assert guesses.std() / TURNS**0.5 < 0.05 * exact, "so that a wrong weight would show"


def test_what_is_left_where_there_are_fewer_texts_than_asked_for(policy):
    words = len(policy.tokenizer)
    found = stochastic_beam(policy, X, 20, new_tokens=1)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(3).double(), atol=1e-6, rtol=0)
    assert ((found.weights > 0).sum(1) == words).all() and (found.log_probs[:, words:] == -torch.inf).all()


def test_stochastic_beams_follow_their_seed_alone(policy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (stochastic_beam(policy, X, 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.ids, b.ids) and a.texts == b.texts and not torch.equal(a.ids, c.ids)
    assert torch.equal(before, torch.get_rng_state())
    assert a.ids.shape == (3, 4, 48) and a.weights.isfinite().all()
    twins = stochastic_beam(policy, ["a frog"] * 2, 4, batch=5)
    assert not torch.equal(twins.ids[0], twins.ids[1]), "another batch, other noise"
    with pytest.raises(PromptlabError, match="n=0"):
        stochastic_beam(policy, X, 0)


def test_long_texts_keep_a_weight():
    """A text of a hundred tokens has a probability that float32 cannot hold."""
    policy = tiny_policy(context=128)
    with torch.no_grad():  # hardly ever ends
        policy.model.transformer.ln_f.bias -= 3 * policy.model.transformer.wte.weight[policy.end]
    found = stochastic_beam(policy, X, 4, new_tokens=110)
    assert found.log_probs.min() < -110 and (found.weights > 0).all()


def test_noise_is_moved_by_the_formula_of_the_paper_and_never_overflows():
    """As it stands it is exact in float64 for moderate numbers, and infinite for others."""
    noisy = torch.tensor([[-3.0, -5.0, -5.0001, 2.0, -torch.inf], [0.5, 1.0, 0.0, -9.0, -4.0]])
    for largest in (-2.0, 0.0, 3.0):
        plain = -(torch.tensor(-largest).double().exp() - (-noisy.double().amax(1, keepdim=True)).exp() + (-noisy.double()).exp()).log()
        torch.testing.assert_close(given_largest(noisy, torch.tensor([[largest]] * 2)), plain.float(), atol=1e-5, rtol=0)
    for largest in (-200.0, 150.0):
        moved = given_largest(100 * noisy, torch.tensor([[largest]] * 2))
        assert moved.amax(1).tolist() == [largest] * 2 and not moved.isnan().any() and moved[0, -1] == -torch.inf
