"""Is a PPO run healthy? Its metrics, sign by sign: what a healthy run looks like, what this one does, which knob to turn.

Every limit has its reason beside it. "Shipped" is the run of `data/pocket/ppo/metrics.jsonl`; "broken" are runs with one fault
each, of a tiny model (tests/test_diagnosis.py) and of the pocket policy with a reward that only reads words.
"""

from statistics import fmean, quantiles, variance
from typing import NamedTuple

from promptlab.runtime import PromptlabError

LEAST = 12  # updates, four in each third of a run: with fewer, a trend is the luck of the prompts drawn
SURE = 2  # standard errors between two parts of a run: the usual 95 %
SURER = 3  # the same against the better of two parts, which was picked for its luck as well
RATIO = 1e-3  # from 1: rounding moves the first ratio by 1e-6, dropout in the scoring by 1e-2
CLIPPED = 0.25  # of the tokens: shipped never clips above 12 %, rough small runs 24 %; broken by steps ten times too long, 26 to 66 %
UNMOVED = 5e-4  # of the tokens, in the mean of a run: shipped 2.7 %; without steps it is 0
STUCK = 0.01  # nats a token: shipped passes this with its first update, and ends at .34
DEAD = 0.01  # of the variance of returns: a head that says the same of everything explains 0; shipped 4 %, healthy small runs 2 to 30 %
COLLAPSED = 1 / 3  # of the entropy at the start: shipped keeps 70 %; broken by long steps or by no leash, 0 to 7 %
DRIFT = 1.5  # times as long as at the start, or as short: shipped ends within 1.2; paid for length, 1.7 to 3, where the limit is
ENDLESS = 0.1  # of the rewrites: shipped never cuts above 2 %, and what is cut is judged by half a prompt

NEEDED = {"reward", "kl", "kl_per_token", "kl_coefficient", "entropy", "length", "unfinished", "first_ratio", "value_loss", "clip_fraction"}


class Sign(NamedTuple):
    """One sign of a run's health, in words; `problem` and `knob` are empty where all is well."""

    name: str  # what is looked at
    healthy: str  # what a healthy run shows
    seen: str  # what this run shows
    problem: str = ""  # what is wrong
    knob: str = ""  # what to do: a field of `ppo.Settings`, or something in the reward


def explain(metrics) -> list[Sign]:
    """Print a PPO run beside a healthy one, one line per sign, causes before symptoms, and return the signs that are off.

    `metrics` are the rows that `ppo.train` returns and `metrics.jsonl` holds, from the first update on.
    Raises `PromptlabError` where they are none.
    """
    found = signs(metrics)
    off = [s for s in found if s.problem]
    more = "" if len(off) == 1 else " Begin with the first: others may follow from it."
    print(f"{len(metrics)} updates. {f'Off: {len(off)} of {len(found)} signs, marked !.{more}' if off else 'Nothing looks wrong.'}")
    wide = [max(len(s[i]) for s in found) for i in range(3)]
    for s in [Sign("sign", "a healthy run", "this run"), *found]:
        line = "  ".join(s[i].ljust(wide[i]) for i in range(3))
        print(f"{'!' if s.problem else ' '} {line}  {s.problem}{': ' * bool(s.knob)}{s.knob}".rstrip())
    return off


def signs(metrics) -> list[Sign]:
    """Every sign of a run, those that are off and those that are not. Raises `PromptlabError` as `explain` does."""
    rows = list(metrics) if isinstance(metrics, (list, tuple)) else []
    if not rows or not all(isinstance(r, dict) and NEEDED <= r.keys() for r in rows):
        raise PromptlabError(
            f"These are not the metrics of a PPO run: {str(metrics)[:60]!r}. "
            "Give explain() what ppo.train returned, or the rows of its metrics.jsonl."
        )
    found = [first_ratio(rows), differences(rows)]
    rest = [check(rows) for check in (clipped, price, kl, value_head, reward, entropy, length, ends, gold)]
    if found[-1].problem:  # whatever else is off then follows from it
        rest = [s._replace(problem="", knob="") for s in rest]
    return found + rest


# --- parts of a run -------------------------------------------------------------------------------------------------


def of(rows, key):
    """One metric of some updates."""
    return [r[key] for r in rows]


def begin(rows):
    """The first three updates, while the policy has not moved far."""
    return rows[:3]


def late(rows):
    """The last third of a run."""
    return rows[-max(1, len(rows) // 3) :]


def error(before, after):
    """The standard error of the difference of two means. Three numbers tell little of their own luck, so `after` speaks for them."""
    return max(1e-9, (variance(before if len(before) > 3 else after) / len(before) + variance(after) / len(after)) ** 0.5)


def rise(before, after):
    """By how many standard errors the mean of `after` lies above that of `before`, two lists of numbers."""
    return (fmean(after) - fmean(before)) / error(before, after)


def too_few(rows):
    """What is seen of a trend in a short run; nothing in a longer one."""
    return f"{len(rows)} updates; {LEAST} tell" if len(rows) < LEAST else ""


def missing(rows, key):
    """What is seen where no referee judged, or an earlier version kept the metrics; nothing elsewhere."""
    return "not among these metrics" if any(key not in r for r in rows) else ""


def now(rows):
    """The price of a nat at the end of the run."""
    return f"now {rows[-1]['kl_coefficient']:.3g}"


# --- the signs, each a function of all rows -------------------------------------------------------------------------


def first_ratio(rows):
    """Before the first step of an update the policy that learns is the one that sampled, so all ratios are 1."""
    far = max(abs(r - 1) for r in of(rows, "first_ratio"))
    sign = Sign("first ratio", "1 before a step is taken", f"within {far:.0e} of 1" if far else "1")
    if far <= RATIO:
        return sign
    return sign._replace(
        problem="rewrites are not scored as they were sampled", knob="a bug, no knob; dropout, positions and padding must agree"
    )


def differences(rows):
    """Whether rewards tell rewrites apart. The value head says 0 before it has learnt, so its loss is half the mean square of returns."""
    paid = of(rows, "reward")
    alike = max(of(rows, "value_loss")) < 1e-9 or (len(paid) > 2 and max(paid) - min(paid) < 1e-6 * max(1, abs(paid[0])))
    sign = Sign("rewards", "tell rewrites apart", f"{min(paid):.2f} to {max(paid):.2f} by update")
    if not alike:
        return sign
    return sign._replace(problem="all rewrites earn the same", knob="call the reward on two by hand; what it pays for may never occur")


def clipped(rows):
    """At the worst update for long steps, which soon leave nothing to clip; in the mean of all for steps that change nothing."""
    shares = of(rows, "clip_fraction")
    sign = Sign("clipped share", f"above 0, below {CLIPPED:.0%}", f"{fmean(shares):.1%}, at most {max(shares):.1%}")
    if max(shares) > CLIPPED:
        return sign._replace(problem="a step changes too much", knob="lower lr, or epochs")
    if fmean(shares) < UNMOVED:
        return sign._replace(problem="no step changes anything", knob="raise lr")
    return sign


def price(rows):
    """PPO maximises the reward minus the KL price. At the start that is the reward, so who pays more than was gained has lost."""
    sign = Sign("KL price", "below what was gained", too_few(rows))
    if sign.seen:
        return sign
    paid, before, after = fmean(r["kl"] * r["kl_coefficient"] for r in late(rows)), of(begin(rows), "reward"), of(late(rows), "reward")
    gained = fmean(after) - fmean(before)
    sign = sign._replace(seen=f"{paid:.2f} for {gained:+.2f} of reward")
    if paid <= max(0, gained) + SURE * error(before, after):
        return sign
    return sign._replace(problem="straying costs more than it brings", knob=f"lower kl ({now(rows)}); where KL is far too high, lr")


def kl(rows):
    """The most a policy may stray: if it only wrote what is typical of the reference, its KL would be the reference's entropy at most."""
    most, a_token = rows[0]["entropy"], fmean(of(late(rows), "kl_per_token"))
    sign = Sign("KL", f"{STUCK} to {most:.1f} nats a token", f"{a_token:.2g}")
    if a_token > most:
        knob = (
            "lower lr, as it does not even pay" if price(rows).problem else f"raise kl ({now(rows)}); where too much is clipped, lower lr"
        )
        return sign._replace(problem="left the language it came from", knob=knob)
    if a_token < STUCK and len(rows) >= LEAST:
        still = fmean(of(rows, "clip_fraction")) < UNMOVED
        return sign._replace(problem="stays where it began", knob="raise lr" if still else f"lower kl ({now(rows)})")
    return sign


def value_head(rows):
    """By its better updates: in a run that has settled, returns hardly differ, and the share of them that is explained turns wild."""
    sign = Sign("value head", f"explains above {DEAD:.0%} of returns", missing(rows, "explained") or too_few(rows))
    if sign.seen:
        return sign
    share = quantiles(of(rows[len(begin(rows)) :], "explained"), n=4)[2]
    sign = sign._replace(seen=f"{share:.1%} in its better quarter")
    if share >= DEAD:
        return sign
    return sign._replace(problem="foresees nothing", knob="raise value_clip where returns spread wider than that, else value_weight or lr")


def reward(rows):
    """Late against the first fifth, or against the first three updates: a rise may be over soon."""
    sign = Sign("reward", "rises", too_few(rows))
    if sign.seen:
        return sign
    after = of(late(rows), "reward")
    fifth = of(rows[: max(3, len(rows) // 5)], "reward")
    sign, by = sign._replace(seen=f"{fmean(fifth):.2f}, later {fmean(after):.2f}"), rise(fifth, after)
    if max(by, rise(of(begin(rows), "reward"), after)) >= SURE:
        return sign
    what = "falls" if by <= -SURE else "flat"
    return sign._replace(problem=what, knob="see the other signs; if all is well, more updates, samples or prompts")


def entropy(rows):
    """How many ways of writing the policy has left: e to the entropy is the number of tokens it chooses from."""
    start, end = rows[0]["entropy"], fmean(of(late(rows), "entropy"))
    sign = Sign("entropy", "keeps a third or more", f"{start:.2f}, later {end:.2f} nats a token")
    if end >= COLLAPSED * start:
        return sign
    return sign._replace(problem="writes always the same", knob="raise kl, or lower lr or epochs")


def length(rows):
    """Tokens of a rewrite: a policy that is paid for pictures has little reason to write more or less."""
    start, end = rows[0]["length"], fmean(of(late(rows), "length"))
    sign = Sign("length", f"changes by less than {DRIFT} times", f"{start:.1f}, later {end:.1f} tokens")
    if start / DRIFT <= end <= start * DRIFT:
        return sign
    what, why = ("grows", "length") if end > start else ("shrinks", "brevity")
    return sign._replace(problem=what, knob=f"does the reward pay for {why}? Change it, or raise kl")


def ends(rows):
    """Rewrites that the length limit cut. If many were cut from the start, it is the limit or SFT; else PPO has learnt it."""
    start, end = rows[0]["unfinished"], fmean(of(late(rows), "unfinished"))
    sign = Sign("unfinished", f"below {ENDLESS:.0%}", f"{end:.0%}")
    if end <= ENDLESS:
        return sign
    why = "raise new_tokens, or train SFT longer"
    if start <= ENDLESS:
        why = "does the reward pay for length? Change it, or raise kl or new_tokens"
    return sign._replace(problem="rewrites do not end", knob=why)


def gold(rows):
    """Over-optimisation (Gao, Schulman and Hilton 2023): a referee's rating falls below an earlier third's, and the reward does not."""
    sign = Sign("gold", "falls only if reward falls", missing(rows, "gold") or too_few(rows))
    if sign.seen:
        return sign
    third = len(rows) // 3
    best = max(rows[:third], rows[third:-third], key=lambda part: fmean(of(part, "gold")))
    by = {key: rise(of(best, key), of(late(rows), key)) for key in ("gold", "reward")}
    sign = sign._replace(seen=f"{fmean(of(best, 'gold')):.2f}, later {fmean(of(late(rows), 'gold')):.2f}")
    if by["gold"] > -SURER or by["reward"] < -SURE:
        return sign
    return sign._replace(problem="the reward is gamed", knob="stop earlier, raise kl, or repair what the reward pays for")
