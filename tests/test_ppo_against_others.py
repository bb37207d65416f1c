"""The arithmetic of PPO against TRL 1.12, verl and torchrl: their answers to random ragged rollouts lie in data/ppo_fixtures.json.

How they were got: data/make_ppo_fixtures.py. Where a library means something else by a word, its test says what, and checks that
nothing else differs. Entries behind the end of a rewrite are random in what both were given, and left out where answers are compared.
"""

import json
from pathlib import Path

import pytest
import torch

from promptlab import ppo

FIXTURES = json.loads(Path(__file__).with_name("data").joinpath("ppo_fixtures.json").read_text(encoding="utf-8"))


def tensors(x):
    """Nested lists and numbers of the fixtures as float64 tensors."""
    return {name: tensors(value) if isinstance(value, dict) else torch.tensor(value, dtype=torch.float64) for name, value in x.items()}


CASES = [{name: tensors(value) if isinstance(value, dict) else value for name, value in case.items()} for case in FIXTURES["cases"]]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{'-'.join(map(str, c['lengths']))} gamma {c['gamma']} lam {c['lam']}")


def mask_of(case, more=0):
    """Real tokens, and `more` places behind each row's last one."""
    return torch.arange(case["width"]) < torch.tensor(case["lengths"])[:, None] + more


def near(got, expected, mask=None):
    """Equal to 1e-6 on real tokens, ten times stricter than asked for, so that an epsilon in another place is seen."""
    got, expected = (got, expected) if mask is None else (got[mask], expected[mask])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6, check_dtype=False)


def rewards_of(case):
    """Our token rewards of a case."""
    x = case["given"]
    return ppo.token_rewards(x["scores"], x["log_old"], x["log_ref"], mask_of(case), case["kl"])


def unbiased(mask):
    """Both divide by n - 1 where we divide by n: the factor between their whitened values and ours."""
    return ((mask.sum() - 1) / mask.sum()).sqrt()


def test_the_fixtures_reach_what_they_should():
    """Rewrites of full width and shorter ones, a tensor without padding, tokens clipped on both sides, and ratios beyond 3."""
    assert {0.0, 1.0} < {case["lam"] for case in CASES} and len({case["gamma"] for case in CASES}) > 2
    assert any(mask_of(case).all() for case in CASES) and any(not mask_of(case).all() for case in CASES)
    ratios = torch.cat([(case["given"]["log_new"] - case["given"]["log_old"]).exp()[mask_of(case)] for case in CASES])
    assert ratios.min() < 0.7 and ratios.max() > 3


# --- rewards --------------------------------------------------------------------------------------------------------


@every_case
def test_rewards_of_verl(case):
    near(rewards_of(case), case["verl"]["rewards"], mask_of(case))


@every_case
def test_rewards_of_trl_which_puts_the_score_one_place_behind_the_end(case):
    """Its rewrites end with a place after the last token where there is room; what the row earns in all is the same."""
    ours, last = rewards_of(case), torch.tensor(case["lengths"]) - 1
    near(ours.sum(1), case["trl"]["rewards"].sum(1))
    rows, scores = torch.arange(len(last)), case["given"]["scores"]
    ours[rows, last] -= scores
    ours[rows, (last + 1).clamp(max=case["width"] - 1)] += scores
    near(ours, case["trl"]["rewards"])


@every_case
def test_the_other_estimator_of_the_price_adds_its_control_variate(case):
    """k3 is k1, which we pay, plus pi_ref / pi - 1, whose mean under pi is zero (Schulman 2020, "Approximating KL divergence")."""
    x, mask = case["given"], mask_of(case)
    paid = ppo.token_rewards(torch.zeros(len(mask)), x["log_old"], x["log_ref"], mask, kl=1.0)
    added = (x["log_ref"] - x["log_old"]).exp() - 1
    near(-paid, case["verl"]["kl_k1"], mask), near(added - paid, case["verl"]["kl_k3"], mask)
    near(case["trl"]["rewards"] - case["kl"] * added, case["trl"]["rewards_k3"], mask)


# --- advantages -----------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("theirs", ["verl", "torchrl"])
def test_advantages_and_returns_of_verl_and_torchrl(case, theirs):
    """From the same scores and log-probabilities on; behind the end verl's returns are the values and ours are zero."""
    mask, answer = mask_of(case), case[theirs]
    advantages, returns = ppo.advantages_of(rewards_of(case), case["given"]["values"], mask, case["gamma"], case["lam"])
    near(returns, answer["returns"], mask)
    near(advantages, (answer["returns"] - case["given"]["values"]) if theirs == "verl" else answer["raw_advantages"], mask)
    assert (returns[~mask] == 0).all() and (advantages[~mask] == 0).all()


@every_case
def test_advantages_of_trl_which_go_one_place_further(case):
    """With TRL's rewards, and its mask that has one place more, they are ours."""
    mask = mask_of(case, more=1)
    advantages, returns = ppo.advantages_of(case["trl"]["rewards"], case["given"]["values"], mask, case["gamma"], case["lam"])
    near(advantages, case["trl"]["raw_advantages"], mask), near(returns, case["trl"]["returns"], mask)


@every_case
def test_the_place_of_trls_score_is_all_that_differs(case):
    """Ours from the start on: equal where a rewrite fills its row, and everywhere if gamma and lam are 1; else it shows."""
    mask = mask_of(case)
    got, _ = ppo.advantages_of(rewards_of(case), case["given"]["values"], mask, case["gamma"], case["lam"])
    full = torch.tensor(case["lengths"]) == case["width"]
    if case["gamma"] == case["lam"] == 1:
        full[:] = True
    near(got[full], case["trl"]["raw_advantages"][full], mask[full])
    apart = (got - case["trl"]["raw_advantages"])[~full].abs()[mask[~full]]
    assert not apart.numel() or apart.max() > 0.01


@every_case
def test_whitening_of_both_which_take_the_unbiased_variance(case):
    mask, raw = mask_of(case), case["trl"]["raw_advantages"]
    ours = ppo.whiten(raw, mask) * unbiased(mask)
    near(ours, case["trl"]["advantages"])
    near(ours + ppo.masked_mean(raw, mask), case["trl"]["unshifted"], mask)  # and if they are only scaled, the mean returns
    near(ppo.whiten(case["torchrl"]["raw_advantages"], mask) * unbiased(mask), case["verl"]["advantages"], mask)


def test_a_score_minus_those_of_its_neighbours_is_verls_rloo():
    for case in FIXTURES["leave_one_out"]:
        scores, answer = (torch.tensor(case[name], dtype=torch.float64) for name in ("scores", "advantages"))
        near(ppo.leave_one_out(scores, case["samples"]), answer)


# --- losses ---------------------------------------------------------------------------------------------------------


def policy_loss(case, advantages, mask):
    """Our loss, its gradient and the share of clipped tokens."""
    log_p = case["given"]["log_new"].clone().requires_grad_(True)
    loss, clipped = ppo.policy_loss(log_p, case["given"]["log_old"], advantages, mask, case["clip"])
    loss.backward()
    return loss.detach(), log_p.grad, clipped


@every_case
@pytest.mark.parametrize("theirs", ["trl", "verl"])
def test_policy_loss_and_its_gradient(case, theirs):
    """Both average over all real tokens of the minibatch, as we do; verl's bound on the loss of bad tokens is out of reach here."""
    answer = case[theirs]
    loss, gradient, clipped = policy_loss(case, answer["advantages"], mask_of(case))
    near(loss, answer["policy_loss"]), near(clipped, answer["clip_fraction"])
    near(gradient, answer["policy_gradient"])


def test_policy_loss_of_verl_with_its_second_bound():
    """By default verl counts a ratio beyond 3 as 3 where the advantage is negative (dual clip, Ye et al. 2020); PPO as published does not."""
    bites = 0
    for case in CASES:
        mask, advantages = mask_of(case), case["verl"]["advantages"]
        ratio = (case["given"]["log_new"] - case["given"]["log_old"]).exp()
        beyond = ppo.masked_mean(-advantages * (ratio - 3).clamp(min=0) * (advantages < 0), mask)
        near(policy_loss(case, advantages, mask)[0] - beyond, case["verl"]["policy_loss_bounded"])
        bites += bool(beyond > 0.001)
    assert bites


@every_case
def test_policy_loss_averaged_by_rewrite_first(case):
    """verl's `seq-mean-token-mean`, where a long rewrite counts no more than a short one: the mean of our losses row by row."""
    x, mask, advantages = case["given"], mask_of(case), case["verl"]["advantages"]
    rows = range(len(mask))
    ours = [ppo.policy_loss(x["log_new"][[i]], x["log_old"][[i]], advantages[[i]], mask[[i]], case["clip"])[0] for i in rows]
    near(torch.stack(ours).mean(), case["verl"]["policy_loss_by_rewrite"])


@every_case
@pytest.mark.parametrize("theirs", ["trl", "verl"])
def test_value_loss_and_its_gradient(case, theirs):
    """TRL's counts the place behind the end, too."""
    mask, answer, old = mask_of(case, more=theirs == "trl"), case[theirs], case["given"]["values"]
    new = case["given"]["values_new"].clone().requires_grad_(True)
    loss = ppo.value_loss(new, old, answer["returns"], mask, case["value_clip"])
    loss.backward()
    near(loss.detach(), answer["value_loss"]), near(new.grad, answer["value_gradient"])


def test_the_next_kl_coefficient_of_verl():
    for case in FIXTURES["controller"]:
        assert ppo.adapt_kl(*case["given"]) == pytest.approx(case["coefficient"], rel=1e-8)
