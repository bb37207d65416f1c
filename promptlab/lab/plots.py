"""Figures of the course: one fixed colour per score, and walls of pictures a sentence can point at."""

from html import escape

from promptlab.prompts import added_words, clean_prompt, split_prompt
from promptlab.runtime import PromptlabError

# Okabe and Ito's colour-blind-safe palette; the same colour means the same score in every figure, table and widget.
COLOURS = {"reward": "#0072B2", "aesthetic": "#CC79A7", "relevance": "#009E73", "gold": "#E69F00", "intent": "#7F7F7F"}
# How each score is written: relevance moves in the third decimal, gold is a rating of 1 to 10, intent a share of words.
FORMATS = {"reward": "+.2f", "aesthetic": ".2f", "relevance": ".3f", "gold": ".1f", "intent": ".0%"}
LINE = 9.5  # points from one line of small text to the next
# What is watched while a policy is trained by PPO, in the order of the panels; metrics by these names come from `ppo.PPO.update`.
CURVES = {"reward": "reward", "gold": "gold (nobody pays for it)", "aesthetic": "aesthetic", "relevance": "relevance", "kl": "KL, nats a rewrite",
          "entropy": "entropy, nats a token", "clip_fraction": "clipped share of tokens", "value_loss": "value loss", "length": "length, tokens",
          "images_per_second": "images a second"}  # fmt: skip


def wall(images, titles=None, columns=4, size=1.3, row_labels=None, scores=None):
    """Show pictures (n, h, w, 3) in a grid and return the figure.

    Args: `titles` one text per picture, above it, of one line or several; `row_labels` one per row; `scores` one dict per picture, such as
    ``{"aesthetic": 5.2, "gold": 6.1}``, written below it behind a square of the score's colour; `size` inches a picture.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(images) // columns)
    lines = max(map(len, scores), default=0) if scores else 0
    extra = (0.22 if titles is not None else 0) + lines * LINE / 72
    titled = [titles[i : i + columns] for i in range(0, len(titles), columns)] if titles is not None else []
    more = sum(max(title.count("\n") for title in row) for row in titled) * LINE / 72  # a row of long titles is taller
    figsize = (size * columns, (size + extra) * rows + more)
    figure, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained")
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < len(images):
            ax.imshow(images[i])
            if titles is not None:
                ax.set_title(as_typed(titles[i]), fontsize=7, parse_math=False)
            if scores:
                _write_scores(ax, scores[i])
        if row_labels is not None and i % columns == 0:
            beside = {"transform": ax.transAxes, "ha": "right", "va": "center", "fontsize": 8, "parse_math": False}
            ax.text(-0.05, 0.5, as_typed(row_labels[i // columns]), **beside)
    plt.close(figure)  # the notebook shows the returned figure once
    return figure


def as_typed(text) -> str:
    """A text that matplotlib can write: half of a character (a lone surrogate) becomes a question mark."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def _write_scores(ax, scores):
    """One line per score under a picture: a square in its colour, then name and value in black, so that colour is never alone."""
    for i, (name, value) in enumerate(scores.items(), 1):
        at = {"xy": (0, 0), "xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        ax.annotate("■", xytext=(0, -LINE * i), fontsize=7, color=COLOURS[name], **at)
        ax.annotate(f"{name} {value:{FORMATS[name]}}", xytext=(8, -LINE * i), fontsize=7, **at)


def score_html(name):
    """The name of a score behind a square in its colour, as HTML."""
    return f'<span aria-hidden="true" style="color:{COLOURS[name]}">&#9632;</span> {name}'


def diff_html(plain, rewritten):
    """A rewrite as HTML: what it added is bold and underlined, what it dropped is struck through; any text is shown as typed.

    Raises `PromptlabError` where one of the two is empty or no text.
    """
    looks = {
        "same": "<span>{}</span>",
        "added": '<ins style="font-weight:bold;text-decoration:underline;background:rgba(127,127,127,.2)">{}</ins>',
        "removed": "<del>{}</del>",
    }
    words = " ".join(looks[kind].format(escape(word)) for kind, word in added_words(clean_prompt(plain), clean_prompt(rewritten)))
    # bdi keeps right-to-left text, and characters that turn the direction, inside this line
    return f'<p style="font-size:115%"><bdi>{words}</bdi></p><p><small>underlined and bold: added; struck through: dropped</small></p>'


def score_table(scorer, plain, rewritten, seeds):
    """The mean scores of a plain prompt's pictures and of its rewrite's, on the same seeds, as an HTML table."""
    before, after = mean_scores(scorer, plain, plain, seeds), mean_scores(scorer, plain, rewritten, seeds)
    rows = ""
    for name, value in after.items():
        form = FORMATS[name]
        cells = (f"{before[name]:{form}}", f"{value:{form}}", f"{value - before[name]:+{form.lstrip('+')}}")
        label = score_html(name)
        rows += f'<tr><th style="text-align:left">{label}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    head = "".join(f"<th>{word}</th>" for word in (f"mean of {len(seeds)} pictures", "plain", "rewritten", "change"))
    return f"<table><tr>{head}</tr>{rows}</table>"


def mean_scores(scorer, plain, rewritten, seeds):
    """What a rewrite's pictures score on average, `{"aesthetic", "relevance", "reward", "gold"}`; gold only where there is a judge.

    What a safety checker blacked out is left out; where nothing else is left, each is NaN.
    """
    from promptlab.pictures.sheets import ContactSheet
    from promptlab.rewards import promptist_reward

    sheet = ContactSheet(scorer, [plain], [rewritten], list(seeds), progress=False)
    s, seen = sheet.scores, sheet.scores.counted()
    gold = {"gold": sheet.gold} if scorer.gallery.judge else {}
    means = {"aesthetic": s.aesthetic, "relevance": s.relevance, "reward": promptist_reward(s, scorer.calibration), **gold}
    return {name: float(values[seen].mean()) for name, values in means.items()}


def interval(values):
    """Mean and 95 % interval of a few independent numbers, by Student's t: ``(mean, low, high)``."""
    import numpy as np
    from scipy import stats

    values = np.asarray(values, float)
    if len(values) < 2:
        raise PromptlabError(f"An interval needs at least two numbers, got {len(values)}.")
    mean, half = values.mean(), stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(mean), float(mean - half), float(mean + half)


def paired(differences, score="reward"):
    """Paired differences, one row per name: a dot per seed, a bar for the 95 % interval of their mean. Returns the figure."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.5, 0.9 + 0.5 * len(differences)), layout="constrained")
    ax.axvline(0, color="black", linewidth=0.8)
    for row, values in enumerate(differences.values()):
        mean, low, high = interval(values)
        ax.plot(values, [row + 0.18] * len(values), "o", color=COLOURS[score], alpha=0.45, markersize=4)
        ax.plot([low, high], [row - 0.12] * 2, color=COLOURS[score], linewidth=4, solid_capstyle="butt")
        ax.plot(mean, row - 0.12, "|", color="black", markersize=11)
    ax.set_yticks(range(len(differences)), list(map(as_typed, differences)), parse_math=False)
    ax.set_ylim(len(differences) - 0.4, -0.6)  # the first row on top
    ax.set_xlabel(f"change in {score}, same seeds (dot: one seed; bar: 95 % interval of the mean)", fontsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    plt.close(figure)
    return figure


def slopes(before, after, labels, score="reward", what=None):
    """A thin line from each number in `before` to its partner in `after`, and a thick one for the means. `labels` names the ends, `what` the axis."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(4.6, 3), layout="constrained")
    for ends in zip(before, after, strict=True):
        ax.plot((0, 1), ends, "o-", color=COLOURS[score], linewidth=1, markersize=4, alpha=0.55)
    means = [sum(values) / len(values) for values in (before, after)]
    ax.plot((0, 1), means, "o-", color=COLOURS[score], linewidth=3.5, markersize=7)
    for x, side, away in ((0, "right", -9), (1, "left", 9)):
        ax.annotate(f"{means[x]:{FORMATS[score]}}", (x, means[x]), (away, 0), textcoords="offset points", ha=side, va="center")
    ax.set_xticks((0, 1), list(map(as_typed, labels)), parse_math=False)
    ax.set_xlim(-0.4, 1.4)
    ax.set_ylabel(as_typed(what or score), parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def curves(runs, keys=CURVES, columns=5, figure=None):
    """A small panel per metric: pale dots for single updates, a line for the mean of the last five. Returns the figure.

    Args: `runs` the metrics of one run, or a dict of such lists by name, told apart by line style; `keys` the metrics, of
    which those nobody measured are left out; `figure` an empty one to draw in, for threads, which must not share pyplot's.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    runs = runs if isinstance(runs, dict) else {"": runs}
    shown = [key for key in keys if any(key in m for history in runs.values() for m in history)]
    columns = max(1, min(columns, len(shown)))
    rows, own = -(-len(shown) // columns), figure is None
    figure = plt.figure() if own else figure
    figure.set_size_inches(2 * columns, 1.8 * max(1, rows))
    figure.set_layout_engine("constrained")
    for place, key in enumerate(shown, 1):
        ax = figure.add_subplot(rows, columns, place)
        for history, style in zip(runs.values(), ("-", "--", ":", "-.") * len(runs), strict=False):
            at, values = zip(*[(m["update"] + 1, m[key]) for m in history if key in m] or [(float("nan"), float("nan"))], strict=True)
            means = [sum(values[max(0, i - 4) : i + 1]) / len(values[max(0, i - 4) : i + 1]) for i in range(len(values))]
            dot = {"alpha": 0.25, "markersize": 2.5} if len(at) > 5 else {"alpha": 0.8, "markersize": 4}  # few must be seen
            ax.plot(at, values, "o", color=COLOURS.get(key, "black"), **dot)
            ax.plot(at, means, style, color=COLOURS.get(key, "black"))
        ax.set_title(as_typed(CURVES.get(key, key)), fontsize=8, parse_math=False)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("update", fontsize=8)
    if shown and len(runs) > 1:
        lines = figure.axes[0].lines[1::2]  # the means
        names = figure.legend(lines, list(map(as_typed, runs)), loc="outside upper left", ncols=len(runs), frameon=False, fontsize=8)
        for name in names.get_texts():
            name.set_parse_math(False)
    if own:
        plt.close(figure)
    return figure


def film(gallery, prompts, frames, seed=11, most=6):
    """What a policy draws while it learns: a row per prompt, a column per number of updates, all from one seed. Returns the figure.

    Args: `frames` maps a number of updates to the rewrites of `prompts` then; at most `most` of them are shown, evenly
    chosen, the first and the last among them. Above each picture stands what its rewrite adds.
    """
    import textwrap

    if not frames:
        raise PromptlabError("There is no frame to show: a film needs the rewrites after at least one number of updates.")
    steps, count = sorted(frames), min(most, len(frames))
    steps = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
    texts = [frames[step][row] for row in range(len(prompts)) for step in steps]
    titles = [textwrap.wrap(", ".join(split_prompt(text)[1]) or "(nothing)", 22)[:5] for text in texts]
    titles[: len(steps)] = [[f"AFTER {step} UPDATE{'S' * (step != 1)}", *lines] for step, lines in zip(steps, titles, strict=False)]
    pictures = gallery.pictures(texts, [seed] * len(texts))
    return wall(pictures, ["\n".join(lines) for lines in titles], len(steps), 1.45, [textwrap.fill(p, 14) for p in prompts])


def popularity(share, effects, right=(), left=(), hollow=()):
    """How often a community uses each word (x) against what the word does to gold (y, mean and 95 % interval). Returns the figure.

    Args: `share` word to 0..1; `effects` word to paired differences; `right`, `left` words to name at that side; `hollow`
    words drawn as open squares.
    """
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 4.6), dpi=80, layout="constrained")
    ax.axhline(0, color="black", linewidth=0.8)
    means = {}
    for word, values in effects.items():
        means[word], low, high = interval(values)
        ax.plot([share[word]] * 2, [low, high], color=COLOURS["gold"], linewidth=1, alpha=0.5)
        ax.plot(share[word], means[word], "s" if word in hollow else "o", color=COLOURS["gold"], mfc="white" if word in hollow else None)
    ax.set(xscale="log", xlim=(min(share.values()) / 4, max(share.values()) * 4))  # leaves room for names
    style = {"textcoords": ax.get_yaxis_transform(), "parse_math": False, "va": "center", "fontsize": 8, "bbox": {"fc": "white", "ec": "none", "pad": 0.5},
             "arrowprops": {"arrowstyle": "-", "color": "grey", "lw": 0.6}}  # fmt: skip
    gap = 0.055 * (ax.get_ylim()[1] - ax.get_ylim()[0])  # so that no name hides another
    for words, x, side in ((right, 0.99, "right"), (left, 0.01, "left")):
        words, spots = sorted(words, key=means.get), []
        for word in words:
            spots.append(max(means[word], spots[-1] + gap) if spots else means[word])
        down = sum(spots[i] - means[w] for i, w in enumerate(words)) / max(1, len(words))  # the names as a group beside their points
        for word, at in zip(words, spots, strict=True):
            ax.annotate(as_typed(word), (share[word], means[word]), (x, at - down), ha=side, **style)
    ticks = [t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if min(share.values()) / 1.5 < t < max(share.values()) * 1.5]
    ax.set_xticks(ticks, [f"{100 * t:g} %" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="share of engineered prompts that use the word", ylabel="change in gold, same seeds")
    ax.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def method_diagram(plain=None, rewritten=None):
    """The whole method in one figure; `plain` and `rewritten` are up to three pictures each, shown inside the generator's box."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(9.6, 5.7))
    ax.set(xlim=(0, 100), ylim=(0, 60))
    ax.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1)
    grey, trained = "#8a8a8a", "#dceaf5"
    _box(ax, 1, 43, 15, 11, "x: what you type", "“a frog”")
    _box(ax, 22, 43, 17, 11, "policy", "a language model,\nthe part that learns", fill=trained)
    _box(ax, 45, 43, 20, 11, "y: the rewrite", "“a frog, oil painting,\nin the forest, vibrant”")
    _box(ax, 71, 34, 28, 20, "image generator (frozen)", "draws x and y from the same seeds", top=True)
    _box(ax, 75, 20, 20, 8, "CLIP (frozen)", "pictures to numbers")
    _box(ax, 49, 23, 20, 8, "aesthetic gain", "pictures of y minus of x", edge=COLOURS["aesthetic"])
    _box(ax, 49, 10.5, 20, 8, "relevance", "pictures of y, words of x", edge=COLOURS["relevance"])
    _box(ax, 27, 16.5, 15, 9, "reward", "gain, minus a fine\nfor lost relevance", edge=COLOURS["reward"])
    _box(ax, 5, 16.5, 15, 9, "PPO", "makes words that\nearned more likelier", fill=trained)
    _box(ax, 22, 31, 17, 6, "SFT policy (frozen)", "its starting point")
    _box(ax, 49, 0.5, 50, 7, "evaluation only, never in the reward", "", edge=grey, dashed=True, top=True)
    for at, name, what in ((51, "gold", "would people like it?"), (74, "intent", "every word of x shown?")):
        ax.text(at, 2.5, "■", color=COLOURS[name], fontsize=9, va="center")
        ax.text(at + 2, 2.5, f"{name}: {what}", fontsize=8.5, va="center")
    _arrow(ax, (16, 48.5), (22, 48.5))
    _arrow(ax, (39, 48.5), (45, 48.5))
    _arrow(ax, (65, 48.5), (71, 48.5))
    _arrow(ax, (8.5, 54), (8.5, 57.5), (85, 57.5), (85, 54))
    ax.text(47, 58.2, "the plain prompt is drawn too", fontsize=8.5, ha="center", va="bottom")
    _arrow(ax, (85, 34), (85, 28))
    _arrow(ax, (75, 25), (69, 27), colour=COLOURS["aesthetic"])
    _arrow(ax, (75, 22.5), (69, 16.5), colour=COLOURS["relevance"])
    _arrow(ax, (2.5, 43), (2.5, 12.5), (49, 12.5), colour=COLOURS["relevance"])
    ax.text(25, 10.9, "the words you typed, not the rewrite", fontsize=8.5, ha="center", va="center")
    _arrow(ax, (49, 27), (42, 23), colour=COLOURS["aesthetic"])
    _arrow(ax, (49, 16), (42, 19.5), colour=COLOURS["relevance"])
    _arrow(ax, (27, 21), (20, 21), colour=COLOURS["reward"])
    _arrow(ax, (12.5, 25.5), (12.5, 40), (24, 40), (24, 43), colour=COLOURS["reward"])
    ax.text(4.2, 41.4, "better words", fontsize=8.5, va="center")
    _arrow(ax, (33, 37), (33, 43), dashed=True, both=True)
    ax.text(34.5, 40, "KL leash: do not stray far", fontsize=8.5, va="center")
    _arrow(ax, (97.5, 34), (97.5, 7.5), colour=grey, dashed=True)
    for row, (name, images) in enumerate((("x", plain), ("y", rewritten))):
        for column, image in enumerate([] if images is None else images[:3]):
            left, bottom = 76 + 7.4 * column, 41.8 - 7.2 * row
            ax.imshow(image, extent=(left, left + 6.6, bottom, bottom + 6.6), aspect="auto", zorder=3)
        if images is not None:
            ax.text(73.5, 45.1 - 7.2 * row, name, fontsize=9, ha="center", va="center", weight="bold")
    ax.set(xlim=(0, 100), ylim=(0, 61))
    plt.close(figure)
    return figure


def _box(ax, x, y, w, h, title, text, fill="white", edge="black", dashed=False, top=False):
    """A box with a bold title and small text in its middle, or at its top."""
    from matplotlib.patches import FancyBboxPatch

    style = {"facecolor": fill, "edgecolor": edge, "linewidth": 1.2 if edge == "black" else 2.4, "linestyle": "--" if dashed else "-"}
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=1", **style))
    lines = text.count("\n") + 1 if text else 0
    head = y + h - 2 if top else y + h / 2 + 1.15 * lines
    ax.text(x + w / 2, head, title, ha="center", va="center", fontsize=10, weight="bold")
    ax.text(x + w / 2, head - 1.3, text, ha="center", va="top", fontsize=8.5, linespacing=1.15)


def _arrow(ax, *points, colour="black", dashed=False, both=False):
    """A line through `points` with a head at its end, and at its start where `both`."""
    line = {"color": colour, "linewidth": 1.6, "linestyle": "--" if dashed else "-"}
    if len(points) > 2:
        ax.plot(*zip(*points[:-1], strict=True), solid_capstyle="butt", **line)
    style = {"arrowstyle": "<|-|>" if both else "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    ax.annotate("", xy=points[-1], xytext=points[-2], arrowprops=style | line)
