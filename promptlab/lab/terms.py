"""What a reader's reward is made of: terms with sliders, a function of one's own on top, and how both pay pictures, in training too."""

import copy
import html
import inspect
import linecache
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from promptlab.lab.plots import COLOURS
from promptlab.pictures.sheets import ContactSheet
from promptlab.preferences import wins
from promptlab.rewards import Scores, as_scores, mean_per_pair
from promptlab.runtime import PromptlabError

TAKEN = ("slope", "threshold", "terms", "function", "agreement", "train")  # sliders, switches and pages of the lab


class Term(NamedTuple):
    """One term: what it reads of a picture, what it pays for that, and its sliders."""

    title: str
    switch: str  # the label of its switch
    what: str  # it reads, in words
    read: Callable  # of the scores: a tensor, one number per picture
    pay: Callable  # for what was read, at the sliders' places: a tensor
    sliders: dict  # name: (label, least, most, start)
    on: bool  # at the start
    colour: str


def terms_of(s, calibration) -> dict:
    """The paper's two terms at their calibrated weights, and one for every further column of the scores, off at first.

    A further column is paid as a gain over its `<name>_plain` where the scores have that, else over its mean here. Its weight starts
    where it is as loud as the aesthetic term, and goes below zero.
    """
    c, low, high = calibration, *ends(s.relevance)
    gain = lambda s: s.aesthetic - s.aesthetic_plain  # noqa: E731
    found = {
        "aesthetic": Term(
            "Aesthetic", "pay for aesthetic gain", "aesthetic gain", gain, lambda x, v: v["aesthetic"] * x,
            {"aesthetic": ("aesthetic weight", 0.0, 4 * c.aesthetic_scale, c.aesthetic_scale)}, True, COLOURS["aesthetic"],
        ),
        "relevance": Term(
            "Relevance", "charge for lost relevance", "relevance", lambda s: s.relevance,
            lambda x, v: (v["slope"] * (x - v["threshold"])).clamp(max=0),
            {"slope": ("relevance slope", 0.0, 4 * c.relevance_slope, c.relevance_slope),
             "threshold": ("relevance threshold", min(low, c.relevance_threshold), max(high, c.relevance_threshold), c.relevance_threshold)},
            True, COLOURS["relevance"],
        ),
    }  # fmt: skip
    more = [name for name in vars(s) if name not in Scores.__dataclass_fields__ and not name.endswith("_plain")]
    return found | {name: column_term(name, s, c.aesthetic_scale * spread(gain(s))) for name in more}


def ends(x) -> tuple:
    """The least and the greatest of some scores, never the same: a slider and a curve need room."""
    low, high = float(x.min()), float(x.max())
    return low, high if high > low else low + 1.0


def spread(x) -> float:
    """The standard deviation of some scores, 1 where all are the same."""
    return float(x.std(correction=0)) or 1.0


def column_term(name, s, loud) -> Term:
    """The term of a further column; at its start it spreads rewards by `loud`."""
    mean, plain = float(getattr(s, name).mean()), f"{name}_plain"
    read = (lambda s: getattr(s, name) - getattr(s, plain)) if hasattr(s, plain) else (lambda s: getattr(s, name) - mean)
    weight = loud / spread(read(s))
    slider = {name: (f"{name} weight", -4 * weight, 4 * weight, weight)}
    return Term(name.capitalize(), f"pay for {name}", f"gain in {name}", read, lambda x, v: v[name] * x, slider, False, "currentColor")


def with_columns(sheet, columns):
    """The scores of a sheet with more columns, from functions of the sheet. Raises `PromptlabError` for a name or a column that will not do."""
    import torch

    s = copy.copy(sheet.scores)
    for name, of in columns.items():
        values = torch.as_tensor(of(sheet), dtype=torch.float32)
        if hasattr(sheet.scores, name) or not name.isidentifier() or name in TAKEN:
            raise PromptlabError(f"A column cannot be called {name!r}: that is taken, or no name for a variable.")
        if values.shape != (len(sheet),):
            raise PromptlabError(
                f"The column {name!r} has the shape {tuple(values.shape)}; it takes one number per picture: ({len(sheet)},)."
            )
        setattr(s, name, values)
    return s


class Formula(NamedTuple):
    """A reward at one moment: the sliders' places, what is switched on, and the reader's function, if there is one."""

    terms: dict
    values: dict
    on: dict
    function: Callable | None

    def __call__(self, s):
        """The reward of every picture; the reader's function finds the terms, zero where switched off, in `s.terms`."""
        s = copy.copy(s)
        s.terms = {name: t.pay(t.read(s), self.values) * float(self.on[name]) for name, t in self.terms.items()}
        return sum(s.terms.values()) if self.function is None else self.function(s)

    def checked(self, s, plain, written):
        """The same, for pictures of `written`, which rewrite `plain`, as a float32 tensor of finite numbers.

        Raises `PromptlabError`, with the line of the reader's function that broke.
        """
        try:
            values = self(s)
        except Exception as error:
            raise PromptlabError(where(error, self.function)) from error
        try:
            return as_scores(values, plain, written)
        except PromptlabError as error:
            raise PromptlabError(f"{name_of(self.function)}: {str(error).replace('per rewrite', 'per picture')}") from error


def name_of(function) -> str:
    """What a function is called."""
    return getattr(function, "__name__", None) or "The reward"


def where(error, function) -> str:
    """An error in a reader's function as one sentence that names the line: the last one of the function's own file that was reached."""
    code, trace, line = getattr(function, "__code__", None), error.__traceback__, None
    while trace and code:
        if trace.tb_frame.f_code.co_filename == code.co_filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    said = f"{type(error).__name__}: {error}"
    if line is None:
        return f"{name_of(function)} failed: {said}"
    text = linecache.getline(code.co_filename, line).strip()
    return f"{name_of(function)} failed in line {line}{f' ({text})' if text else ''}: {said}"


def source_of(function) -> str:
    """The lines of a function as it was written; its byte code where they are lost."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return f"{name_of(function)}: {getattr(getattr(function, '__code__', None), 'co_code', b'').hex()}"


def curve_svg(term, x, values, on) -> str:
    """How a term turns its score into reward, over the pictures' own scores `x` as a histogram; it fits its place, light or dark."""
    import torch

    left, right, floor = 40, 300, 84
    low, high = ends(x)
    at = torch.linspace(low, high, 61)
    double = {name: start if name == "threshold" else 2 * start for name, (_, _, _, start) in term.sliders.items()}
    room = [0.0, *term.pay(at, double).tolist()]  # a fixed frame, so that the curve moves with its sliders
    least, most = min(room), max(room)
    most = most if most > least else least + 1.0
    silent = torch.zeros_like(at)
    across = (torch.arange(61) / 60 * (right - left) + left).tolist()
    down = lambda pay: 4 + (floor - 4) * (most - min(max(pay, least), most)) / (most - least)  # noqa: E731
    line = " ".join(f"{i:.1f},{down(pay):.1f}" for i, pay in zip(across, (term.pay(at, values) if on else silent).tolist(), strict=True))
    counts = torch.histc(x, 30, low, high)
    bars = [f"M{i:.1f} {floor}v-{h:.1f}" for i, h in zip(across[1::2], (40 * counts / counts.max()).tolist(), strict=True)]
    labels = [(left, 98, "start", f"{low:.2f}"), (right, 98, "end", f"{high:.2f}"), ((left + right) / 2, 109, "middle", html.escape(term.what)),
              (left - 4, 12, "end", f"{most:+.1f}"), (left - 4, floor, "end", f"{least:+.1f}")]  # fmt: skip
    text = "".join('<text x="{}" y="{}" text-anchor="{}">{}</text>'.format(*label) for label in labels)
    quarters = torch.quantile(x, torch.tensor([0.25, 0.5, 0.75]))
    paid = zip(quarters.tolist(), (term.pay(quarters, values) if on else silent[:3]).tolist(), strict=True)
    said = f"{html.escape(term.what)}: " + ", ".join(f"{score:.2f} pays {pay:+.2f}" for score, pay in paid)
    dashes = "" if on else ' stroke-dasharray="5 4"'
    return (
        f'<svg role="img" aria-label="{said}{"" if on else "; switched off"}" viewBox="0 0 {right} 112" width="{right}" height="112" '
        f'style="display:block;fill:currentColor;font-size:10px"><path d="{"".join(bars)}" stroke="currentColor" stroke-width="7" opacity=".2"/>'
        f'<path d="M{left} {down(0):.1f}H{right}" stroke="currentColor" stroke-width=".7"/>'
        f'<polyline points="{line}" fill="none" stroke="{term.colour}" stroke-width="2.5"{dashes}/>{text}</svg>'
    )


class LabReward:
    """A lab's reward for `ppo.train`, as it was when this was made; in `last` what else was seen in the same pictures."""

    def __init__(self, lab):
        self.scorer, self.columns, self.formula, self.last = lab.scorer, lab.columns, lab.formula(), {}

    @property
    def mark(self):
        """What tells this reward from another one: its numbers, and the words of the reader's function."""
        f = self.formula
        return sorted(f.values.items()), sorted(f.on.items()), sorted(self.columns), source_of(f.function) if f.function else ""

    def __call__(self, plain, written, seeds):
        sheet = ContactSheet(self.scorer, plain, written, list(seeds), progress=False)
        s = with_columns(sheet, self.columns)
        rewards, seen = self.formula.checked(s, sheet.plain, sheet.prompts), s.counted()
        self.last = {name: getattr(s, name)[seen].mean().item() for name in ("aesthetic", "relevance")}
        self.last |= {"gold": sheet.gold[seen].mean().item()} if self.scorer.gallery.judge else {}
        return mean_per_pair(rewards, s)


def chosen_pictures(path, scorer, columns) -> list:
    """The pictures of a reader's blind choices, drawn or recalled, an entry per image seed: scores of the chosen ones, then of the others;
    what was typed and what was drawn for each; and per choice whether both can be seen. Ties and skips are left out.
    """
    found, made = [], wins(path, scorer.gallery.preset.name)
    for seed in dict.fromkeys(win["seed"] for win in made):
        some = [win for win in made if win["seed"] == seed]
        plain, written = [win["prompt"] for win in some] * 2, [win[side] for side in ("chosen", "other") for win in some]
        s = with_columns(ContactSheet(scorer, plain, written, [seed]), columns)
        found.append((s, plain, written, s.counted().numpy().reshape(2, -1).all(0)))
    return found


def moved(by) -> str:
    """How far a picture has risen or fallen, in an arrow and in words."""
    return f"\u25b2 up {by}" if by > 0 else f"\u25bc down {-by}" if by < 0 else "as before"


def spearman(a, b) -> float:
    """Spearman's rank correlation; 0 where one of them puts all in one place."""
    import numpy as np
    from scipy.stats import rankdata

    a, b = rankdata(a), rankdata(b)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() and b.std() else 0.0
