"""Blind choices between two pictures, by mouse or keys: whose rewrites a reader likes better."""

import html
import io
import textwrap
import time
from functools import cached_property

from promptlab.lab.plots import score_html, wall
from promptlab.lab.widgets import _image_tag, _View
from promptlab.preferences import ANSWERS, Choices
from promptlab.runtime import PromptlabError

HASTE = 0.3  # seconds in which nobody looks at two pictures: a double click, or keys pressed while the kernel was busy
ROWS = 6  # pairs in a still figure

# A line that takes keys for the whole view. It listens before JupyterLab does, for which 1 means: make this cell a heading.
KEYS = """
function render({ el, model }) {
  el.textContent = "Keys: 1 left, 2 right, 0 tie, u undo, s skip. They work after a click on a picture or a button.";
  el.tabIndex = 0;
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", el.textContent);
  el.classList.add("promptlab-keys");
  const mine = (target) => el.closest(".promptlab-choose")?.contains(target);
  const press = (event) => {
    const key = event.key?.toLowerCase();
    if (!["1", "2", "0", "u", "s"].includes(key) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!mine(event.target) || event.target.closest("input, textarea")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat) model.send({ key });
  };
  const focus = (event) => { if (mine(event.target) && event.target.closest("img")) el.focus(); };
  window.addEventListener("keydown", press, true);
  window.addEventListener("click", focus);
  return () => {
    window.removeEventListener("keydown", press, true);
    window.removeEventListener("click", focus);
  };
}
export default { render };
"""


class Choose(_View, Choices):
    """`Choices` (which explains the arguments) to make by mouse or keys: 1 left, 2 right, 0 tie, u undo, s skip; stopping early is fine."""

    _number, _since = None, 0.0  # the question in view, and since when

    def answer(self, number, answer, reason=""):
        """As `Choices.answer`, and show the next pair."""
        super().answer(number, answer, reason)
        self._refresh()

    def undo(self):
        """As `Choices.undo`, and show that pair again."""
        super().undo()
        self._refresh()

    @property
    def status(self):
        """How far the reader is, and what was passed over, as one line."""
        done = sum((ask["pair"], ask["again"]) in self.choices for ask in self.asks)
        skipped = sum(ask["again"] and self.choices.get((ask["pair"], False), 0) is None for ask in self.asks)  # these never come back
        notes = f" Left out, as both methods wrote the same: {_count(self.same, 'pair')}." if self.same else ""
        notes += f" Passed over in {self.path.name}: {_count(self.damaged, 'damaged line')}." if self.damaged else ""
        if self.waiting:
            return f"Question {done + 1} of {len(self.asks) - skipped}.{notes}"
        return f"All {done} questions are answered. Look at the results, or undo.{notes}"

    def results_html(self):
        """The scores, the agreements and the reader's own consistency as tables."""
        if not self._made():
            return "<p>No choice yet.</p>"
        number, percent = ("{:+.2f}", "{1:+.2f} to {2:+.2f}"), ("{:.0%}", "{1:.0%} to {2:.0%}", "{3}")
        scores = [(html.escape(name), [cell.format(*values) for cell in number]) for name, values in self.scores().items()]
        scores = [(name, [cell.replace("-inf to +inf", "unknown: all about one prompt") for cell in cells]) for name, cells in scores]
        agrees = [(score_html(name), [cell.format(*values) for cell in percent]) for name, values in self.agreement().items()]
        own = self.consistency()
        agrees += [("you, when a pair came back", [cell.format(*own) for cell in percent])] if own else []
        return (
            _table(("method", "score", "95 % interval"), scores)
            + "<p>Bradley-Terry scores in log-odds: 0 is the average method here; with 1 more it is chosen 73 times in 100.</p>"
            + _table(("agrees with your choices", "share", "95 % interval", "choices"), agrees)
            + "<p>50 % is chance. A score can hardly agree with you more often than you do yourself.</p>"
        )

    @cached_property
    def thumbnails(self) -> dict:
        """PNG bytes of every picture that is asked about, by (text, image seed)."""
        wanted = list(dict.fromkeys((ask[side]["text"], ask["seed"]) for ask in self.pairs.values() for side in ("left", "right")))
        return dict(zip(wanted, self.scorer.gallery.thumbnails(*map(list, zip(*wanted, strict=True)), progress=True), strict=True))

    @cached_property
    def widget(self):
        """The view: two pictures with a button each, tie, skip, undo, a reason, keys; on a second page the results."""
        import ipywidgets as w

        def button(key, word):
            made = w.Button(description=f"{key} {word}", tooltip=f"{word} (key {key})", layout=w.Layout(width="auto", min_width="80px"))
            made.on_click(lambda _: self._act(lambda: self._press(key)))
            return made

        self._line, self._asked, self._sides = w.HTML(), w.HTML(), [w.HTML(), w.HTML()]
        self._buttons = {key: button(key, word) for key, word in [*ANSWERS.items(), ("u", "undo")]}
        self._reason = w.Text(description="Reason", placeholder="optional", layout=w.Layout(width="auto", max_width="524px"))
        cards = [w.VBox([side, self._buttons[key]]) for side, key in zip(self._sides, "12", strict=True)]
        halves = {"grid_template_columns": "repeat(2, minmax(0, 260px))", "grid_gap": "8px"}  # left stays left where room is short
        grid = w.GridBox(cards, layout=w.Layout(**halves, width="100%", max_width="528px"))
        below = [w.HBox([self._buttons[key] for key in "0su"]), self._reason, *self._keys()]
        self._progress, self._results = w.Output(), w.HTML()
        self._pages = w.Tab([w.VBox([self._asked, grid, *below]), w.VBox([self._progress, self._results])])
        self._pages.set_title(0, "Choose"), self._pages.set_title(1, "Unblinded results")
        self._pages.observe(lambda _: self._act(self._refresh), "selected_index")
        view = self._framed([self._line, self._pages], "choose")
        self.__dict__["widget"] = view  # from now on `_refresh` shows it
        self._refresh()
        return view

    def _keys(self):
        """The line that takes keys, or nothing where anywidget is missing: the buttons do it all."""
        try:
            import anywidget
        except ImportError:
            return []
        keys = type("Keys", (anywidget.AnyWidget,), {"_esm": KEYS})()
        keys.on_msg(lambda _, message, __: self._act(lambda: self._press(message.get("key"))))
        return [keys]

    def _press(self, key):
        """Do what a button or a key stands for, about the pictures in view."""
        if self._pages.selected_index == 1 or key not in self._buttons:
            return
        if key == "u":
            self.undo()
        elif self._number and time.monotonic() - self._since > HASTE:
            try:
                self.answer(self._number, key, self._reason.value)
            except PromptlabError:
                self._refresh()
                raise
            self._reason.value = ""

    def _refresh(self):
        if "widget" not in self.__dict__:
            return
        self.read()  # another notebook may have gone on
        number = next(iter(self.waiting), None)
        if number is None:
            self._asked.value = self._sides[0].value = self._sides[1].value = ""
        elif number != self._number:
            ask = self.asks[number - 1]
            self._asked.value = f"Which picture would you rather have for <b><bdi>{html.escape(ask['prompt'])}</bdi></b>?"
            for name, side in zip(("left", "right"), self._sides, strict=True):
                side.value = _image_tag(self.thumbnails[ask[name]["text"], ask["seed"]], f"{name} picture for {ask['prompt']}", 256)
            self._since = time.monotonic()
        self._number = number
        self._say(self.status)
        if self._pages.selected_index == 1:
            with self._progress:
                self._results.value = self.results_html()
            self._progress.clear_output()

    def figure(self):
        """The next few pairs with their numbers, where nobody can click; the scores once all are answered."""
        import numpy as np
        from PIL import Image

        from promptlab.lab.figures import bars

        asks = [(number, self.asks[number - 1]) for number in self.waiting[:ROWS]]
        if not asks:
            rows = {name: tuple(np.clip(values, -5, 5)) for name, values in self.scores().items()}
            return bars(rows, what="Bradley-Terry score, log-odds; bar: 95 % interval, cut at 5")
        shown = [self.thumbnails[ask[side]["text"], ask["seed"]] for _, ask in asks for side in ("left", "right")]
        images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in shown]
        labels = [textwrap.fill(f"{number}: {textwrap.shorten(ask['prompt'], 60)}", 20) for number, ask in asks]
        figure = wall(images, ['"1"', '"2"'] * len(asks), 2, 1.5, labels)
        figure.set_size_inches(4.7, 1.75 * len(asks) + 0.5)  # room for the labels
        figure.suptitle(
            f'choose.answer({asks[0][0]}, "1") takes the left one, "2" the right one,\n"0" a tie, "s" skips; choose.undo()', fontsize=8
        )
        return figure


def _count(number, word):
    return f"{number} {word}{'s' * (number != 1)}"


def _table(head, rows):
    """An HTML table: a heading per column, and rows of (name, cells)."""
    lines = "".join(f'<th style="text-align:left;padding-right:12px">{word}</th>' for word in head)
    for name, cells in rows:
        columns = "".join(f'<td style="padding-right:12px">{cell}</td>' for cell in cells)
        lines += f'</tr><tr><th style="text-align:left;font-weight:normal;padding-right:12px">{name}</th>{columns}'
    return f"<table><tr>{lines}</tr></table>"
