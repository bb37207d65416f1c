"""One prompt, several methods, the same image seeds: what `widgets.Compare` shows, without any front end."""

import contextlib
import hashlib
import io
import re
import textwrap
import warnings
from pathlib import Path

from promptlab.lab import plots
from promptlab.pictures.sheets import ContactSheet
from promptlab.prompts import clean_prompt
from promptlab.runtime import PromptlabError, home, write_atomically


class Comparison:
    """One prompt, several methods side by side: what each makes of the words, draws from the same seeds, and scores.

    Args: `methods` a dict from a name to None (the words as typed), a policy (its likeliest rewrite, or `n` that it samples, the
    likeliest first) or any function from a text to a text or a list of texts; several texts of one method are numbered. `seeds` are
    the image seeds, all drawn at once and stepped through one by one; `folder` is where `save` writes.
    """

    def __init__(self, scorer, methods, prompt="a frog", seeds=(11, 12, 13, 14), folder=None, n=1):
        wrong = {name: m for name, m in methods.items() if not (m is None or callable(m) or hasattr(m, "rewrite"))}
        if wrong or not methods or not len(seeds):
            raise PromptlabError(
                f"Compare needs a seed and a method, which is None, a policy or a function: got {wrong or methods}, {list(seeds)}."
            )
        self.scorer, self.methods, self.n, self.prompt, self.off = scorer, dict(methods), n, prompt, False
        self.seeds = list(dict.fromkeys(int(s) for s in seeds))
        self.seed = self.seeds[0]  # the one in view
        self.folder = Path(folder or home() / scorer.gallery.preset.name / "compare")
        self.texts, self.note = {}, ""  # what each method made of the prompt, by name; empty before the first draw()

    def draw(self, prompt=None, off=None, progress=False):
        """Rewrite and draw a prompt, or with `off` only the words as they are; pictures drawn before are recalled.

        Raises `PromptlabError` for a prompt that is empty or longer than the generator reads; what was shown before then stays.
        """
        from promptlab.rewards import promptist_reward

        typed, off = clean_prompt(self.prompt if prompt is None else prompt), self.off if off is None else bool(off)
        if limit := self._limit(typed):
            raise PromptlabError(f"{limit}, and this prompt of {len(typed):,} characters is longer. Shorten it.")
        texts = {}
        for name, method in ({"your words": None} if off else self.methods).items():
            some = self._rewrite(name, method, typed)
            texts |= {f"{name} {i}" if len(some) > 1 else name: text for i, text in enumerate(some, 1)}
        sheet = ContactSheet(self.scorer, [typed] * len(texts), list(texts.values()), self.seeds, progress)
        s, cut = sheet.scores, [name for name, text in texts.items() if self._limit(text)]
        columns = {"reward": promptist_reward(s, self.scorer.calibration), "aesthetic": s.aesthetic, "relevance": s.relevance}
        for name, column in (("gold", "gold"), ("intent", "kept")):
            with contextlib.suppress(PromptlabError):  # a preset without a judge, words that name nothing it knows
                columns[name] = getattr(sheet, column).float()
        self.prompt, self.off, self.texts, self.sheet, self.columns = typed, off, texts, sheet, columns
        self.note = f" The generator does not read to the end of: {', '.join(cut)}." if cut else ""
        return self

    def _rewrite(self, name, method, typed):
        """What a method makes of the words: one text or several, each once."""
        try:
            if hasattr(method, "rewrite"):
                made = method.rewrite([typed], self.n, "sample")[0] if self.n > 1 else method.rewrite([typed])[0]
            else:
                made = typed if method is None else method(typed)
            return list(dict.fromkeys(clean_prompt(text) for text in (made if isinstance(made, list) and made else [made])))
        except PromptlabError as error:
            raise PromptlabError(f"The method {name!r} failed. {error}") from error

    def _limit(self, text):
        """How much the generator reads, where that is less than this text, else ""; it warns only of what it draws anew."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.scorer.gallery.generator.encode([text])
        return next((str(w.message).partition(";")[0] for w in caught if "is ignored" in str(w.message)), "")

    def show(self, seed):
        """Turn to another of the seeds; nothing is drawn."""
        if seed not in self.seeds:
            raise PromptlabError(f"The seed {seed!r} is not one of {', '.join(map(str, self.seeds))}.")
        self.seed = seed
        return self

    def step(self, by):
        """Turn to the seed so many places on, `step(-1)` to the one before; behind the last comes the first."""
        return self.show(self.seeds[(self.seeds.index(self.seed) + by) % len(self.seeds)])

    def _row(self, name, seed):
        if name not in self.texts:
            raise PromptlabError(f"Nothing is drawn by {name!r}, only by: {', '.join(self.texts) or 'no method yet'}.")
        return list(self.texts).index(name) * len(self.seeds) + self.seeds.index(seed)

    def thumbnail(self, name):
        """PNG bytes of a method's picture in view."""
        return self.sheet.thumbnails([self._row(name, self.seed)])[0]

    def scores(self, name):
        """What one method scores, by score: a pair, the number of the picture in view and the mean over all seeds."""
        row, rows = self._row(name, self.seed), [self._row(name, seed) for seed in self.seeds]
        return {score: (float(values[row]), float(values[rows].mean())) for score, values in self.columns.items()}

    def save(self, name):
        """Write a method's picture in view as a PNG that says in its metadata how to draw it again; returns the path."""
        from PIL import Image, PngImagePlugin

        picture, buffer = Image.open(io.BytesIO(self.thumbnail(name))), io.BytesIO()
        prompt, facts = self.texts[name], PngImagePlugin.PngInfo()
        known = {"prompt": prompt, "seed": self.seed, "preset": self.scorer.gallery.preset.name, "typed": self.prompt, "method": name}
        for key, value in known.items():
            facts.add_text(key, str(value))
        picture.save(buffer, "PNG", pnginfo=facts)
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or "picture"  # a file name whatever was typed
        path = self.folder / f"{words}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}-seed{self.seed}.png"
        write_atomically(path, buffer.getvalue())
        return path

    @property
    def status(self):
        """What is in view, or what to do, as one line."""
        if not self.texts:
            return "Type what you want to see, then press Draw."
        return f"Seed {self.seed}, {self.seeds.index(self.seed) + 1} of {len(self.seeds)}: the same noise to start from.{self.note}"

    def figure(self):
        """A row per seed and a column per method, where nobody can type; drawn now if nothing was."""
        names = list((self if self.texts else self.draw(progress=True)).texts)
        rows = [self._row(name, seed) for seed in self.seeds for name in names]
        titles = [f"{name}:\n{textwrap.fill(self.texts[name], 26)}" for name in names] + [""] * (len(rows) - len(names))
        below = [{score: float(values[row]) for score, values in self.columns.items()} for row in rows]
        return plots.wall(self.sheet.pictures(rows), titles, len(names), 1.7, [f"seed {seed}" for seed in self.seeds], below)
