"""Figures and the HTML of a rewrite: what they say, that they show any text as typed, and that they stay small."""

import io
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.text
import numpy as np
import pytest
from drawn import draw, text_of
from fakes import FakeGallery, FakeReferee
from matplotlib.figure import Figure

from promptlab.lab import plots
from promptlab.runtime import PromptlabError

ODD = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a frog & <b>",
    "\u202eafrog",
    "ضفدع",
    "🐸",
    "a\x00b\x1b[31m frog",
    "x" * 10_000,
]


class Reader(HTMLParser):
    """Collects tags and the text inside each kind of tag; complains about tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_a_rewrite_marks_added_and_dropped_words_without_relying_on_colour():
    html = plots.diff_html("a frog", "frog, oil painting")
    reader = Reader(html)
    assert reader.text["ins"] == ["oil", "painting"] and reader.text["del"] == ["a"] and "frog," in reader.text["span"]
    assert "font-weight:bold;text-decoration:underline" in html


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_rewrite_shows_any_text_as_typed(text):
    reader = Reader(plots.diff_html(text, text + ", vivid colors"))
    assert set(reader.tags) <= {"p", "bdi", "span", "ins", "del", "small"}, "nothing a person typed becomes a tag"
    shown = "".join(reader.text["span"])
    assert "\x00" not in shown and "\x1b" not in shown and shown.startswith(text[:1])


@pytest.mark.parametrize("pair", [("", "a frog"), ("a frog", "  "), (None, "a frog"), ("a frog", 3)])
def test_a_rewrite_of_nothing_is_refused(pair):
    with pytest.raises(PromptlabError):
        plots.diff_html(*pair)


def test_a_wall_names_each_score_beside_its_colour():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    scores = [{"aesthetic": 5.0, "relevance": 0.3125, "reward": -0.5, "gold": 6.04, "intent": 0.5}] * 3
    figure = plots.wall(images, titles=["a $x_1$ b", "b", "c"], columns=2, row_labels=["plain", "$^rewritten"], scores=scores)
    texts = text_of(figure)
    assert {"aesthetic 5.00", "relevance 0.312", "reward -0.50", "gold 6.0", "intent 50%", "plain", "a $x_1$ b"} <= set(texts)
    squares = {t.get_color() for t in figure.axes[0].texts if t.get_text() == "■"}
    assert squares == set(plots.COLOURS.values())
    assert len(figure.axes) == 4 and draw(figure)


def test_a_wall_takes_one_picture_and_no_text():
    assert draw(plots.wall(np.zeros((1, 8, 8, 3), np.uint8), columns=1))


def test_every_score_has_a_colour_of_its_own_and_a_format():
    assert set(plots.FORMATS) == set(plots.COLOURS) == {"reward", "aesthetic", "relevance", "gold", "intent"}
    assert len(set(plots.COLOURS.values())) == 5


def test_the_interval_agrees_with_a_table():
    # mean 3, SD sqrt(2.5), t(.975, 4) = 2.7764: half width 2.7764 x sqrt(2.5 / 5) = 1.9632
    assert plots.interval([1, 2, 3, 4, 5]) == pytest.approx((3, 1.0368, 4.9632), abs=1e-4)
    with pytest.raises(PromptlabError):
        plots.interval([1.0])


def test_paired_differences_and_slopes_draw():
    figure = plots.paired({"masterpiece": [0.1, -0.2, 0.0], "in the ocean": [1, 1.2, 0.9]}, score="aesthetic")
    assert "aesthetic" in figure.axes[0].get_xlabel() and draw(figure)
    ax = plots.slopes([2.0, 1.0], [1.5, 0.5], ["seeds that chose", "new seeds"]).axes[0]
    thick = max(ax.lines, key=lambda line: line.get_linewidth())
    assert list(thick.get_ydata()) == [1.5, 1.0] and len(ax.lines) == 3, "the mean is thick"
    assert [t.get_text() for t in ax.texts] == ["+1.50", "+1.00"] and draw(ax.figure)


def test_popularity_names_words_and_hides_no_name():
    from matplotlib.text import Text

    share = {"masterpiece": 0.14, "8k": 0.15, "in the forest": 0.01, "blurry": 0.02}
    effects = {"masterpiece": [0.1, -0.1, 0], "8k": [0, 0.1, -0.1], "in the forest": [1, 1.2, 0.9], "blurry": [-1, -1.1, -0.7]}
    figure = plots.popularity(share, effects, ["masterpiece", "8k"], ["in the forest"], hollow=["masterpiece", "8k"])
    ax = figure.axes[0]
    assert draw(figure) and {t.get_text() for t in ax.texts} == {"masterpiece", "8k", "in the forest"}
    boxes = [Text.get_window_extent(t) for t in ax.texts]  # without the line to its point
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    points = {(line.get_xdata()[0], line.get_markerfacecolor()) for line in ax.lines if line.get_marker() in ("o", "s")}
    assert points == {(x, "white" if w in ("masterpiece", "8k") else plots.COLOURS["gold"]) for w, x in share.items()}


@pytest.fixture
def scorer():
    """A scorer whose plain pictures rate 4 and whose rewrites rate 6, so that the table is known."""
    torch = pytest.importorskip("torch")
    from promptlab.rewards import Calibration, Scores

    def score(plain, rewritten, seeds, progress):
        same = plain == rewritten
        column = lambda value: torch.full((len(seeds),), value)  # noqa: E731
        return Scores(
            pair=torch.zeros(len(seeds), dtype=torch.long), seed=torch.tensor(list(seeds)), aesthetic=column(4.0 if same else 6.0),
            aesthetic_plain=column(4.0), relevance=column(0.3 if same else 0.25), relevance_plain=column(0.3),
        )  # fmt: skip

    facts = lambda prompts, seeds: [{"gold": 3.0 if p == "a frog" else 7.0} for p in prompts]  # noqa: E731
    return SimpleNamespace(score=score, calibration=Calibration(20.0, 0.3, 1.0), gallery=SimpleNamespace(facts=facts, judge=FakeReferee()))


def test_mean_scores_and_their_table(scorer):
    means = plots.mean_scores(scorer, "a frog", "a frog, vivid", range(4))
    assert means == pytest.approx({"aesthetic": 6, "relevance": 0.25, "reward": 2 - 20 * 0.05, "gold": 7})
    reader = Reader(plots.score_table(scorer, "a frog", "a frog, vivid", range(4)))
    rows = np.array(reader.text["td"]).reshape(4, 3)
    assert rows.tolist() == [["4.00", "6.00", "+2.00"], ["0.300", "0.250", "-0.050"], ["+0.00", "+1.00", "+1.00"], ["3.0", "7.0", "+4.0"]]


def test_mean_scores_leave_gold_out_where_there_is_no_judge(scorer):
    scorer.gallery.judge = None
    assert "gold" not in plots.mean_scores(scorer, "a frog", "a frog, vivid", [1])


def history(updates, **metrics):
    return [{"update": i, **{key: value + i for key, value in metrics.items()}} for i in range(updates)]


def test_curves_show_what_was_measured_and_its_running_mean():
    figure = plots.curves(history(7, reward=0.0, kl=1.0, entropy=2.0))
    assert [ax.get_title() for ax in figure.axes] == ["reward", "KL, nats a rewrite", "entropy, nats a token"] and draw(figure)
    dots, mean = figure.axes[0].lines
    assert list(dots.get_xdata()) == [1, 2, 3, 4, 5, 6, 7] and list(mean.get_ydata()) == [0, 0.5, 1, 1.5, 2, 3, 4]
    assert {line.get_color() for line in figure.axes[0].lines} == {plots.COLOURS["reward"]}
    assert figure.get_size_inches()[0] <= 10 and len(draw(plots.curves(history(80, **dict.fromkeys(plots.CURVES, 0.0))))) < 150_000


def test_curves_tell_runs_apart_by_line_and_name():
    runs = {"leash on": history(3, reward=0.0), "leash off": history(5, reward=1.0, gold=3.0)}
    first, second = plots.curves(runs, keys=("reward", "gold")).axes
    assert [line.get_linestyle() for line in first.lines[1::2]] == ["-", "--"]
    assert [t.get_text() for t in first.figure.legends[0].get_texts()] == ["leash on", "leash off"] and len(second.lines) == 4
    assert draw(first.figure) and not plots.curves(runs["leash on"]).legends


def test_curves_take_a_figure_of_a_thread_and_a_run_that_has_not_begun():
    mine = Figure()
    assert plots.curves(history(2, reward=0.0), figure=mine) is mine and len(mine.axes) == 1
    assert plots.curves([]).axes == [] and draw(plots.curves([]))


def test_a_film_has_a_row_per_prompt_and_evenly_chosen_columns():
    gallery, prompts = FakeGallery(), ["a frog", "a $x_1$"]
    frames = {step: [f"{p}, vivid colors, step {step}" for p in prompts] for step in (0, 1, 2, 3, 10)}
    figure = plots.film(gallery, prompts, frames, seed=3, most=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == [f"AFTER {s} UPDATES\nvivid colors, step {s}" for s in (0, 2, 10)] and len(titles) == 6
    assert {"a frog", "a $x_1$"} <= set(text_of(figure)) and draw(figure) and gallery.drawn == 6
    assert len(plots.film(gallery, prompts, {0: prompts}).axes) == 2
    with pytest.raises(PromptlabError, match="no frame"):
        plots.film(gallery, prompts, {})


def test_the_method_diagram_is_legible_and_small():
    pictures = np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), np.uint8)
    figure = plots.method_diagram(pictures, pictures)
    words = " ".join(text_of(figure))
    for part in (
        "policy",
        "SFT",
        "KL leash",
        "generator",
        "same seeds",
        "CLIP",
        "aesthetic gain",
        "relevance",
        "reward",
        "PPO",
        "gold",
        "intent",
        "evaluation only",
    ):
        assert part in words, part
    assert min(t.get_fontsize() for t in figure.axes[0].texts if t.get_text()) >= 8.5
    assert len(draw(plots.method_diagram())) < 150_000
    assert figure.get_size_inches()[0] <= 10, "wider than a notebook page"


def test_the_boxes_of_the_method_diagram_hold_their_text():
    figure = plots.method_diagram()
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in ax.patches]
    assert len(boxes) == 11
    inside = [
        t
        for t in ax.texts
        if t.get_text() and t.get_ha() == "center" and any(b.contains(*t.get_window_extent().get_points().mean(0)) for b in boxes)
    ]
    assert len(inside) >= 20
    for t in inside:
        extent = t.get_window_extent()
        box = next(b for b in boxes if b.contains(*extent.get_points().mean(0)))
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1, t.get_text()


# --- any text is drawn as typed -------------------------------------------------------------------------------------

TEXTS = ["pay $5", "$5 and $10", "$x_1^2$", r"$\frac", "$$", "a_b^c {", r"\alpha", "50 % & more #1", "\ud800 frog", "frog $\udfff$", "צפרדע", "🐸"]


def drawn_texts(figure):
    """Draw a figure for real, and return all texts on it."""
    figure.savefig(io.BytesIO(), dpi=40)
    return {t.get_text() for t in figure.findobj(matplotlib.text.Text)}


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", TEXTS)
def test_no_text_is_read_as_a_formula_or_stops_a_figure(text):
    image, history = np.zeros((4, 4, 3), np.uint8), [{"update": 0, "reward": 1.0, text: 2.0}, {"update": 1, "reward": 2.0, text: 3.0}]
    shown = text.replace("\ud800", "?").replace("\udfff", "?")
    figures = [
        plots.wall([image], [text], row_labels=[text]),
        plots.paired({text: [1.0, 2.0, 3.0]}),
        plots.slopes([1, 2], [3, 4], (text, "after"), what=text),
        plots.curves({text: history, "other": history}, keys=("reward", text)),
        plots.popularity({text: 0.1, "vivid": 0.2}, {text: [1.0, 2.0], "vivid": [0.0, 1.0]}, right=[text], left=["vivid"]),
    ]
    for figure in figures:
        assert shown in drawn_texts(figure)
