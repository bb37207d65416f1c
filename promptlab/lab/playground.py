"""The playground: type, rewrite in several ways, draw, look, choose and keep; every try stands in a history one can go back in."""

import time
from functools import cached_property
from pathlib import Path

from promptlab.decoding import DECODERS
from promptlab.lab.choose import Choose
from promptlab.lab.widgets import Compare
from promptlab.preferences import FIELDS
from promptlab.prompts import clean_prompt
from promptlab.runtime import PromptlabError, append_jsonl, home, whole_rows

EVERY = "every decoder"
MOST = 4  # rewrites a decoder: five decoders with four each still fit a page
CANDIDATES = 8  # of which best of n keeps the best


class Playground(Compare):
    """A `Compare` of what one policy writes with different decoders, beside the words as typed, with a history and blind choices.

    Args: as `Comparison`, of which `policy` is the one that rewrites. `decode` is one of `DECODERS` or "every decoder", `n` how many rewrites
    each finds (greedy always one). Tries are kept in `folder`, by default one of the run folder, and a later kernel goes on with them.
    """

    def __init__(self, scorer, policy, prompt="a frog", seeds=(11, 12), folder=None, decode=EVERY, n=1):
        folder = Path(folder or home() / scorer.gallery.preset.name / "playground")
        super().__init__(scorer, {"plain": None}, prompt, seeds, folder)
        self.policy, self.path = policy, folder / "history.jsonl"
        self._set(decode, n)
        self._read()

    def _set(self, decode, n):
        if decode not in (EVERY, *DECODERS):
            raise PromptlabError(f"decode={decode!r} is no way to decode. There is {', '.join(map(repr, (EVERY, *DECODERS)))}.")
        if n not in range(1, MOST + 1):
            raise PromptlabError(f"n={n!r} is no number of rewrites the page has room for. Take 1 to {MOST}.")
        self.decode, self.n = decode, n
        if "widget" in self.__dict__:
            self._decode.value, self._number.value = decode, n

    # --- writing and drawing ----------------------------------------------------------------------------------------

    def draw(self, prompt=None, off=None, progress=False, decode=None, n=None):
        """As `Comparison.draw`, after rewriting with a decoder ("every decoder": with each) n ways; the try is kept at once."""
        self._set(decode or self.decode, self.n if n is None else n)
        decoders = DECODERS if self.decode == EVERY else [self.decode]
        self.methods = {"plain": None} | {name: lambda x, name=name: self.write(x, name) for name in decoders}
        super().draw(prompt, off, progress)
        if not self.off:
            self._keep_try(decoders)
        return self

    def write(self, prompt, decode):
        """What the policy makes of a prompt with one decoder: a list of texts, the best first. Sampling draws anew in every try."""
        if decode == "greedy":
            return self.policy.rewrite([prompt], decode=decode)
        some = {"n": self.n, "decode": decode, "seed": len(self.history)}
        if decode == "best_of_n":
            others = [seed + 1000 for seed in self.seeds]  # chosen on other pictures than those shown, or luck would be shown
            some |= {"n": CANDIDATES, "score": lambda x, y: self.scorer.rewards(x, y, others)}
        made = self.policy.rewrite([prompt], **some)[0]
        return [made] if isinstance(made, str) else made[: self.n]

    # --- the history ------------------------------------------------------------------------------------------------

    def _read(self):
        """Take up the file; what another notebook tried is there, and lines that are not whole or not ours are passed over."""
        self.history = []
        for row in whole_rows(self.path)[0]:
            try:
                texts = {str(d): [clean_prompt(t) for t in some] for d, some in row["texts"].items() if some}
                row |= {"prompt": clean_prompt(row["prompt"]), "texts": texts, "seeds": [int(s) for s in row["seeds"]]}
            except (KeyError, TypeError, ValueError, AttributeError, PromptlabError):
                continue
            if row["seeds"] and row.get("preset") == self.scorer.gallery.preset.name:
                self.history.append(row)

    def _keep_try(self, decoders):
        texts = {d: [t for name, t in self.texts.items() if name == d or name.rpartition(" ")[0] == d] for d in decoders}
        best = max(self.scores(name)["reward"][1] for name in self.texts if name != "plain")
        row = {"time": round(time.time(), 1), "preset": self.scorer.gallery.preset.name, "prompt": self.prompt, "seeds": self.seeds}
        append_jsonl(self.path, row | {"texts": texts, "best": round(best, 3)})
        self._read()
        self._refresh_history()

    def back(self, number):
        """Show an earlier try again, counted from 1: its words and its pictures, recalled and not written anew.

        Raises `PromptlabError` where there is no such try.
        """
        if number not in range(1, len(self.history) + 1):
            raise PromptlabError(f"There is no try {number!r}: the history holds {len(self.history)}, counted from 1.")
        row = self.history[number - 1]
        self.methods = {"plain": None} | {d: lambda _, some=some: list(some) for d, some in row["texts"].items()}
        if row["seeds"] != self.seeds:
            self.texts = {}  # what was shown was drawn from other seeds
            self.seeds, self.seed = list(row["seeds"]), row["seeds"][0]
            if "widget" in self.__dict__:
                self._stepper.options = self.seeds
        super().draw(row["prompt"], off=False, progress=True)
        return self

    def labels(self):
        """One line per try, for a list to choose from: number, words, decoders, what the best rewrite earned."""
        made = []
        for number, row in enumerate(self.history, 1):
            how = EVERY if len(row["texts"]) == len(DECODERS) else ", ".join(row["texts"])
            earned = f", best reward {row['best']:+.2f}" if isinstance(row.get("best"), float) else ""
            made.append(f"{number}: {row['prompt']} ({how}{earned})")
        return made

    # --- choosing ---------------------------------------------------------------------------------------------------

    def pairs(self):
        """What can be chosen between, as `Choices` takes it: the first rewrite of every decoder in every try against the plain words,
        and against the one before it of the same prompt."""
        found, before = {}, {}
        for row in self.history:
            prompt, seed = row["prompt"], row["seeds"][0]
            for decode, (text, *_) in row["texts"].items():
                for other in dict.fromkeys([("plain", prompt), before.get((prompt, seed), ("plain", prompt))]):
                    (a, text_a), (b, text_b) = sorted([(decode, text), other])
                    if a != b:
                        values = (prompt, seed, a, text_a, b, text_b)
                        found[values] = dict(zip(FIELDS, values, strict=True))
                before[prompt, seed] = decode, text
        return list(found.values())

    def choose(self, path=None):
        """Blind choices between the pairs of this history, a `Choose`; answers go to `path`, by default to the run folder."""
        if not self.history:
            raise PromptlabError("There is nothing to choose between yet. Draw something first.")
        return Choose(self.pairs(), path, self.scorer)

    # --- the view ---------------------------------------------------------------------------------------------------

    @cached_property
    def widget(self):
        """The view: words, decoder, number and Draw; the seed and what to keep; choices; the history. Pictures below."""
        import ipywidgets as w

        wide = {"layout": w.Layout(width="auto", max_width="500px")}
        self._decode = w.Dropdown(options=[EVERY, *DECODERS], value=self.decode, description="Decoder", **wide)
        self._number = w.IntSlider(value=self.n, min=1, max=MOST, description="Rewrites", **wide)
        self._tries = w.Select(options=[], description="Tries", rows=6, layout=w.Layout(width="auto", max_width="700px"))
        self._again = w.Button(description="Show again", icon="history")
        self._again.on_click(lambda _: self._do(lambda: self.back(self._tries.value)))
        self._choosing, self._shown = w.VBox(), None
        view = super().widget
        pages = view.children[0]
        pages.children = [
            w.VBox([self._text, self._decode, self._number, self._button]),
            w.VBox([self._stepper, self._which, self._copy, self._keep]),
            self._choosing,
            w.VBox([self._tries, self._again]),
        ]
        for i, title in enumerate(("Draw", "Seed and keep", "Choose", "History")):
            pages.set_title(i, title)
        pages.observe(lambda change: self._do(lambda: self._turn(change["new"])), "selected_index")
        view.add_class("promptlab-playground")
        self._refresh_history()
        return view

    def _draw_typed(self):
        self._set(self._decode.value, self._number.value)
        super()._draw_typed()

    def _turn(self, page):
        """Make ready what a page shows: pairs to choose between, tries of other notebooks."""
        self._grid.layout.display = "none" if page == 2 else ""  # it names the methods: a choice is blind
        if page == 2:
            pairs = self.pairs()
            if self._shown != pairs:
                self._choosing.children = [self.choose().widget]
                self._shown = pairs
        elif page == 3:
            self._read()
            self._refresh_history()
        self._say("What names the methods is out of sight while you choose." if page == 2 else self.status)

    def _refresh_history(self):
        if "_tries" in self.__dict__:
            self._tries.options = [(label, number) for number, label in enumerate(self.labels(), 1)][::-1]
            self._again.disabled = not self.history
