"""The learners of `peers` compared: reward, gold, intent and KL against pictures drawn, by training seed.

`python -m promptlab.pocket learners` trains each from the SFT policy, measures it on the way, writes `learners.json`, and goes on
where it stopped. Lesson beyond/10_other_learners reads that file.
"""

import json
from math import log
from pathlib import Path

import numpy as np

from promptlab.evaluation import SCORING, SELECTING, measure
from promptlab.pocket.build import build_folder, preset_for
from promptlab.pocket.kept import of_each_set, reading, write_rows
from promptlab.pocket.peers import LEARNERS, SETTINGS
from promptlab.policy import choices, load_policy
from promptlab.prompts import load_prompts
from promptlab.rewards import PictureReward, Scorer
from promptlab.runtime import PromptlabError, bar, data_dir, write_atomically

SEEDS, POINTS = (0, 1, 2, 3, 4), (5, 10, 15, 20)  # training seeds, and the updates of 96 rewrites after which a policy is measured
PROMPTS, LOOKS = 120, SCORING[:2]  # test prompts of each set, and pictures of each: on the way the first, as seeds move a mean by .02
MOST = 8  # the n of best of n: with 240 prompts it draws as many pictures as 20 updates
FIELDS = {"learner", "seed", "pictures", "set", "reward", "gold", "intent", "kl"}


def divergence(policy, reference, prompts, seed=0, batch=64):
    """KL of a policy to a reference in nats, one number per prompt: exact at every token, along one sampled rewrite of each; (prompts,)."""
    import torch

    drawn, out = policy.sample(prompts, seed=seed, new_tokens=SETTINGS.new_tokens), []
    with torch.inference_mode():
        for rows in torch.arange(len(drawn)).split(batch):
            some = drawn.rows(rows)
            (logs, _), (others, _) = choices(policy.model, some), choices(reference.model, some)
            out += ((logs.exp() * (logs - others)).sum(-1) * some.mask).sum(1).tolist()
    return np.array(out)


def best_of(policy, scorer, prompts, seed, most):
    """Of the first 2, 4, ... up to `most` samples of each prompt the one whose picture earns most: a dict from n to the texts."""
    x = [p for p in prompts for _ in range(most)]
    written = policy.sample(x, seed=seed, new_tokens=SETTINGS.new_tokens).texts
    rewards = scorer.rewards(x, written, SELECTING[:1], progress=True).view(-1, most)
    return {n: [written[i * most + int(earned[:n].argmax())] for i, earned in enumerate(rewards)] for n in range(2, most + 1, 2)}


def bound(n) -> float:
    """What best of n diverges from the policy it samples, at most, in nats (Beirami et al. 2024)."""
    return log(n) - (n - 1) / n


def rows_of(measured, records, **labels):
    """One row per set of prompts: the labels, and the mean of every metric in `measured`."""
    out = []
    for name in dict.fromkeys(r["set"] for r in records):
        index = [i for i, r in enumerate(records) if r["set"] == name]
        means = {metric: round(float(values[index].mean()), 4) for metric, values in measured.items()}
        out.append(labels | {"set": name, "n": len(index)} | means)
    return out


def compare(scorer, start, language, pool, records, kept, seeds=SEEDS, points=POINTS) -> list[dict]:
    """Train every learner with every seed and measure it at every point; rows go to the file `kept` at once, and none is made twice.

    A row is ``{learner, seed, pictures, set, n, reward, gold, intent, ...}``: the means of `evaluation.measure` over the n prompts of a
    set, rewritten greedily; `kl` is the divergence of sampled rewrites from the policy `start`, in nats. `pictures` is how many rewrites
    were drawn, one picture of each; best of n draws them for the prompts it is measured on. The row of a policy before any learning has 0.
    A training that a kill cuts short starts anew, and recalls what it drew.
    """
    rows = json.loads(kept.read_text(encoding="utf8")) if kept.exists() else []
    plain, group = [r["x"] for r in records], SETTINGS.prompts * SETTINGS.samples
    there = lambda *key: any((r["learner"], r["seed"], r["pictures"]) == key for r in rows)  # noqa: E731

    def keep(learner, seed, pictures, texts, kl, looks=LOOKS):
        rows.extend(rows_of(measure(scorer, records, texts, looks) | {"kl": kl}, records, learner=learner, seed=seed, pictures=pictures))
        write_atomically(kept, json.dumps(rows))

    for name, policy in (("SFT", start), ("no SFT", language)):
        if not there(name, 0, 0):
            keep(name, 0, 0, policy.rewrite(plain), divergence(policy, start, plain))
    reward = PictureReward(scorer)
    with bar(total=len(seeds) * len(LEARNERS) * points[-1], desc="updates") as progress:

        def paid(*asked):
            progress.update()
            return reward(*asked)

        for seed in seeds:
            if not there("best of n", seed, MOST * len(plain)):
                for n, texts in best_of(start, scorer, plain, seed, MOST).items():
                    if not there("best of n", seed, n * len(plain)):
                        keep("best of n", seed, n * len(plain), texts, np.full(len(plain), bound(n)), LOOKS[: 1 + (n == MOST)])
            for name, learner in LEARNERS.items():
                if all(there(name, seed, point * group) for point in points):
                    progress.update(points[-1])
                    continue

                def watch(update, policy, name=name, seed=seed):
                    if not there(name, seed, update * group):
                        looks = LOOKS[: 1 + (update == points[-1])]
                        keep(name, seed, update * group, policy.rewrite(plain), divergence(policy, start, plain), looks)

                progress.set_postfix_str(f"{name}, seed {seed}")
                learner(language if name.endswith("without SFT") else start, pool, paid, seed, points, watch)
    return rows


def write(out: Path):
    """Compare the learners and write `learners.json` in `out`."""
    scorer, start, language = Scorer(preset_for(out), build_folder() / "cache"), load_policy(out / "sft"), load_policy(out / "language")
    pool = list(dict.fromkeys(r["x"] for r in load_prompts("ppo")))
    records = of_each_set(PROMPTS)
    rows = compare(scorer, start, language, pool, records, build_folder() / "learners.json")
    write_rows(out / "learners.json", rows)


def load(path=None) -> list[dict]:
    """The rows of `compare` that `write` kept. Raises `PromptlabError` where the file is missing or damaged."""
    path = Path(path or data_dir() / "pocket" / "learners.json")
    with reading(path, "python -m promptlab.pocket learners"):
        rows = json.loads(path.read_text(encoding="utf8"))
        lacking = {field for r in rows for field in FIELDS - r.keys()} if rows else FIELDS
        if lacking:
            raise ValueError(f"a row lacks {min(lacking)!r}")
        return rows


# --- what the lesson shows ------------------------------------------------------------------------------------------


def by_seed(rows, learner, metric, pictures=None) -> dict:
    """A metric at `pictures`, or at the learner's last point: the mean over all prompts, by training seed. Raises `PromptlabError` for no row."""
    mine = [r for r in rows if r["learner"] == learner]
    last = max((r["pictures"] for r in mine), default=None) if pictures is None else pictures
    some = [r for r in mine if r["pictures"] == last]
    if not some:
        names = ", ".join(dict.fromkeys(r["learner"] for r in rows))
        raise PromptlabError(f"There is no row of {learner!r} at {last} pictures. Choose one of: {names}.")
    total = {seed: sum(r["n"] for r in some if r["seed"] == seed) for seed in {r["seed"]: 0 for r in some}}
    return {seed: sum(r["n"] * r[metric] for r in some if r["seed"] == seed) / n for seed, n in total.items()}


def summary(rows, learner, metric, pictures=None, versus=None):
    """Mean of a metric over all prompts and training seeds, and its 95 % interval over seeds, as (mean, low, high).

    With `versus` what the learner has more than that one at its last point, seed by seed: two with one seed share prompts and looks.
    The test prompts are the same for all seeds, so the interval is about what the luck of a training does; Student's t, as seeds are
    few. One seed has no interval: low and high are nan.
    """
    from scipy.stats import t

    ours = by_seed(rows, learner, metric, pictures)
    theirs = by_seed(rows, versus, metric) if versus else dict.fromkeys(ours, 0.0)
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    mean, k = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, k - 1) * np.std(values, ddof=1) / k**0.5) if k > 1 else float("nan")
    return mean, mean - half, mean + half


def verdict(difference) -> str:
    """What a `summary` with `versus` says: "more" or "less" where its interval excludes 0, else "level"; of one seed "one seed cannot say"."""
    _, low, high = difference
    return "one seed cannot say" if low != low else "more" if low > 0 else "less" if high < 0 else "level"


def told(difference) -> str:
    """A `summary` with `versus` in words: the mean, its interval where there is one, and the verdict."""
    mean, low, high = difference
    return f"{mean:+.2f}" + (f" (95 % {low:+.2f} to {high:+.2f})" if low == low else "") + f", {verdict(difference)}"


def table(rows, learners, metrics=("reward", "gold", "intent", "kl")) -> str:
    """A line for each learner: the mean of each metric at its last point, and half the width of its interval where there is one."""
    digits = {"intent": 1, "kl": 1}
    lines = [f"{'':>26}" + "".join(f"{m:>16}" for m in metrics)]
    for name in learners:
        found = [(summary(rows, name, m), digits.get(m, 2)) for m in metrics]
        told = [f"{mean:.{d}f}" + (f" ± {high - mean:.{d}f}" if high == high else "") for (mean, _, high), d in found]
        lines.append(f"{name:>26}" + "".join(f"{text:>16}" for text in told))
    return "\n".join(lines)


# Colour says the family, the line the member, so neither is alone (Okabe and Ito's colours, which colour-blind people tell apart).
STYLE = {
    "PPO": ("#0072B2", "-", "o"), "PPO with the typed prompt": ("#0072B2", "--", "s"), "GRPO": ("#E69F00", "-", "^"),
    "RLOO": ("#E69F00", "--", "v"), "expert iteration": ("#009E73", "-", "D"), "DPO": ("#D55E00", "-", "P"),
    "iterated DPO": ("#D55E00", "--", "X"), "iterated DPO without SFT": ("#D55E00", ":", "*"), "best of n": ("#000000", "-.", "."),
}  # fmt: skip
EXPLORING = {
    "PPO": ("#0072B2", "-", "o"), "PPO with stochastic beams": ("#CC79A7", "--", "s"), "PPO with diverse beams": ("#56B4E9", ":", "^"),
}  # fmt: skip


def race(rows, metric="reward", learners=tuple(STYLE)):
    """A metric against pictures drawn, and against KL: means over seeds, a line for each learner with its name at the end. Returns the figure.

    Left, beside the last marks, 95 % intervals over seeds, moved apart so that none covers another. Right, pale, where each seed ended.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    drawn = [n for n in learners if any(r["learner"] == n for r in rows)]
    order = sorted(drawn, key=lambda n: -summary(rows, n, metric)[0])
    for ax, x, label in zip(axes, ("pictures", "kl"), ("pictures drawn", "KL to the SFT policy, nats a rewrite"), strict=True):
        ends = []
        for name in drawn:
            first = "no SFT" if name.endswith("without SFT") else "SFT"
            points = [(first, 0)] + [(name, n) for n in sorted({r["pictures"] for r in rows if r["learner"] == name})]
            xs = [n if x == "pictures" else summary(rows, who, "kl", n)[0] for who, n in points]
            ys = [summary(rows, who, metric, n)[0] for who, n in points]
            colour, line, marker = (STYLE | EXPLORING)[name]
            ax.plot(xs, ys, color=colour, ls=line, marker=marker, ms=5, lw=1.4)
            end = xs[-1]
            if x == "pictures":
                mean, low, high = summary(rows, name, metric)
                end *= 1.05 + 0.03 * order.index(name)
                ax.errorbar(end, mean, [[mean - low], [high - mean]], color=colour, marker=marker, ms=3, lw=1.4)
            else:
                ax.plot(*(list(by_seed(rows, name, m).values()) for m in ("kl", metric)), marker, color=colour, ms=5, mew=0, alpha=0.35)
            ends.append([ys[-1], end, name, colour])
        name_ends(ax, sorted(ends))
        ax.set_xlabel(label)
    axes[0].set(ylabel=metric, xticks=sorted({r["pictures"] for r in rows if r["learner"] in drawn} | {0}))
    plt.close(figure)
    return figure


def name_ends(ax, ends):
    """Write names right of the panel at the height of their lines' ends, moved apart where they would overlap; thin lines lead there."""
    low, high = ax.get_ylim()
    step, at = (high - low) / 18, -np.inf
    heights = []
    for y, *_ in ends:
        at = max(y, at + step)
        heights.append(at)
    at = high + step
    for i in reversed(range(len(heights))):
        at = heights[i] = min(heights[i], at - step)
    for (y, x, name, colour), height in zip(ends, heights, strict=True):
        right = (1.03, (height - low) / (high - low))
        arrow = {"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6}
        ax.annotate(name, (x, y), right, "data", "axes fraction", color=colour, fontsize=8, va="center", arrowprops=arrow)
