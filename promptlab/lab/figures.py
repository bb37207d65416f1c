"""Figures of the evaluation: gains with their intervals, prompts chosen by rule, the words a policy gives each kind of thing."""

import textwrap

import numpy as np

from promptlab.evaluation import ends
from promptlab.lab.plots import COLOURS, wall
from promptlab.prompts import split_prompt
from promptlab.referee import kinds_of_things
from promptlab.runtime import PromptlabError

METHODS = {"plain": "plain", "engineered": "engineered", "suffix": "best suffix", "sft": "SFT", "best_of_n": "best of n", "ppo": "PPO",
           "pretrained": "pretrained", "pretrained sft": "pretrained, SFT", "pretrained ppo": "pretrained, PPO",
           "ppo, whole course": "PPO, whole course"}  # fmt: skip
FINE = {"relevance": "+.3f", "intent": "+.1f"}  # other metrics move in the second decimal


def bars(rows, score="reward", what=None, margin=None):
    """Means with their 95 % intervals, one row per name; returns the figure.

    Args: `rows` maps a name to `(mean, low, high)`, or to a record of `evaluation.find`, whose training runs show as rings; `what` is
    written below; `margin` draws a dotted line that an interval should stay right of.
    """
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.5, 0.9 + 0.45 * len(rows)), layout="constrained")
    _intervals(ax, rows, score, margin)
    ax.set_xlabel(what or f"change in {score}; bar: 95 % interval", fontsize=8)
    plt.close(figure)  # the notebook shows the returned figure once
    return figure


def forest(records, metric="reward", versus="plain", sets=("in_domain", "out_of_domain"), margin=None):
    """The paired gain of every method over `versus`, a panel per set of prompts, from records of `evaluation.results`; returns the figure.

    A bar is the 95 % interval, rings are the training seeds. A method that writes what `versus` writes says so.
    Raises `PromptlabError` where a set has no such records.
    """
    import matplotlib.pyplot as plt

    panels = {}
    for name in sets:
        found = {r["method"]: r for r in records if (r["set"], r["versus"], r["metric"]) == (name, versus, metric)}
        if not found:
            raise PromptlabError(f"There is no record of set {name!r}, metric {metric!r}, versus {versus!r}.")
        panels[name] = {m: found[m] for m in METHODS if m in found}
    methods = [m for m in METHODS if any(m in found for found in panels.values())]
    size = (0.8 + 4.3 * len(sets), 1.2 + 0.45 * len(methods))
    figure, axes = plt.subplots(1, len(sets), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for ax, (name, found) in zip(axes[0], panels.items(), strict=True):
        rows = {METHODS[m]: found.get(m) for m in methods}
        _intervals(ax, rows, metric, margin)
        ax.set_title(f"{name.replace('_', ' ')}: {max(r['n'] for r in found.values())} prompts", fontsize=9)
    seeds = max(r["seeds"] for found in panels.values() for r in found.values())
    runs = f"; ring: one of {seeds} training seeds" if seeds > 1 else ""
    figure.supxlabel(f"{metric}: gain over {METHODS[versus]} (bar: 95 % interval{runs})", fontsize=9)
    plt.close(figure)
    return figure


def _intervals(ax, rows, score, margin=None):
    """Draw rows of (mean, low, high) or records from the top, zero as a line; a record of no difference, or none, is said in words."""
    ax.axvline(0, color="black", linewidth=0.8)
    if margin is not None:
        ax.axvline(margin, color="black", linewidth=1, linestyle=":")
    for y, row in enumerate(rows.values()):
        record = isinstance(row, dict)
        if row is None or record and row["low"] == row["high"] == 0:
            where = {"transform": ax.get_yaxis_transform(), "va": "center"}  # x as a share of the panel's width
            ax.text(0.07, y, "same words: no difference", fontsize=8, color="#555555", **where)
            continue
        mean, low, high = ends(row)
        ax.plot([low, high], [y, y], color=COLOURS[score], linewidth=5, solid_capstyle="butt")
        ax.plot(mean, y, "|", color="black", markersize=12)
        ax.annotate(f"{mean:{FINE.get(score, '+.2f')}}", (mean, y), (0, 8), textcoords="offset points", ha="center", fontsize=8)
        if record and len(row["per_seed"]) > 1:
            ax.plot(row["per_seed"], [y + 0.3] * len(row["per_seed"]), "o", color="black", markerfacecolor="none", markersize=4)
    ax.set_yticks(range(len(rows)), list(rows), parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.4, -0.7)  # the first row on top
    ax.spines[["top", "right", "left"]].set_visible(False)


def ranks(values, count=1) -> dict:
    """Which rows stand at the top, in the middle and at the bottom: `{"best": [3], "median": [0], "worst": [5]}`.

    A rule, so that nobody picks: `count` rows each, ties in their order. Raises `PromptlabError` for too few values.
    """
    order = np.argsort(-np.asarray(values, float), kind="stable").tolist()
    if count < 1 or len(order) < 3 * count:
        raise PromptlabError(f"Best, median and worst of {count} each need at least {max(3, 3 * count)} values, got {len(order)}.")
    start = (len(order) - count) // 2
    return {"best": order[:count], "median": order[start : start + count], "worst": order[-count:]}


def grid(scorer, texts, measured, seed, metric="reward", better="ppo", than="sft", count=1, show=("reward", "gold")):
    """The prompts where one method beats another most, by the median and least, drawn from one seed; returns the figure.

    Rows are prompts chosen by `ranks` on the paired difference in `metric`, columns are methods. `texts` and `measured`
    hold, by method, what it wrote and what `evaluation.measure` said; below a picture stand the prompt's means of `show`.
    """
    difference = measured[better][metric] - measured[than][metric]
    chosen = [(name, i) for name, some in ranks(difference, count).items() for i in some]
    drawn = [written[i] for _, i in chosen for written in texts.values()]
    titles = ["\n".join([METHODS[m], *textwrap.wrap(written[i], 30)]) for _, i in chosen for m, written in texts.items()]
    share = {"intent": 0.01}  # `wall` writes a share, `measure` says %
    below = [{name: measured[m][name][i] * share.get(name, 1) for name in show} for _, i in chosen for m in texts]
    labels = [f"{name}\n{difference[i]:{FINE.get(metric, '+.2f')}}" for name, i in chosen]
    return wall(scorer.gallery.pictures(drawn, [seed] * len(drawn)), titles, len(texts), 1.7, labels, below)


def added(plain, text) -> list[str]:
    """The modifiers of a rewrite that were not typed."""
    typed = split_prompt(plain)[1]
    return [m for m in split_prompt(text)[1] if m not in typed]


def shares(records, texts):
    """How often a method adds each phrase to each kind of thing: `(kinds, phrases, array (kinds, phrases) of 0-1)`.

    A prompt counts under the kind of its first subject, or where the pocket world has no such thing under its kind of source;
    phrases come most frequent first.
    """
    known = kinds_of_things()
    kind_of = [known.get(r["subjects"][0], r["kind"]) for r in records]
    words = [set(added(r["x"], text)) for r, text in zip(records, texts, strict=True)]
    counts = {phrase: sum(phrase in w for w in words) for phrase in sorted({p for w in words for p in w})}
    phrases, kinds = sorted(counts, key=lambda p: -counts[p]), [k for k in dict.fromkeys([*known.values(), *kind_of]) if k in kind_of]
    of = {k: [w for w, kind in zip(words, kind_of, strict=True) if kind == k] for k in kinds}
    table = np.array([[np.mean([p in w for w in of[k]]) for p in phrases] for k in kinds]).reshape(len(kinds), len(phrases))
    return kinds, phrases, table


def words_by_kind(records, texts, count=14, title=None):
    """A heat map: rows are kinds of things, columns the `count` phrases a method adds most; a number is the share of prompts in %."""
    import matplotlib.pyplot as plt

    kinds, phrases, table = shares(records, texts)
    if not phrases:  # an untrained policy; the lesson goes on
        figure, ax = plt.subplots(figsize=(5, 0.8))
        ax.text(0.5, 0.5, "This method adds no word to any of these prompts.", ha="center", va="center")
        ax.set_axis_off(), plt.close(figure)
        return figure
    phrases, percent = phrases[:count], 100 * table[:, :count]
    figure, ax = plt.subplots(figsize=(1.6 + 0.52 * len(phrases), 1.7 + 0.32 * len(kinds)), layout="constrained")
    ax.imshow(percent, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 55 else "black")
    ax.set_xticks(range(len(phrases)), phrases, rotation=40, ha="right", fontsize=8, parse_math=False)
    ax.set_yticks(range(len(kinds)), kinds, fontsize=9)
    ax.set_title(title or "share of prompts that get each phrase, in %", fontsize=9, parse_math=False)
    plt.close(figure)
    return figure
