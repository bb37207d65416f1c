"""The parts of the course a reader can click and drag; each keeps its state in plain Python, and the widget is a view of it.

Nothing here draws while a reader drags: pictures come as small copies and scores from the gallery.
"""

import base64
import html
import io
import sys
import textwrap
import traceback
from functools import cached_property

from promptlab.lab import plots
from promptlab.lab.compare import Comparison
from promptlab.runtime import PromptlabError, headless


def live() -> bool:
    """Whether somebody may be there to click: a notebook's kernel that neither a test nor `promptlab run` started."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None and not headless()


def _image_tag(png, alt, pixels):
    """An <img> that carries its picture as a small JPEG (a tenth of the PNG: a dragged slider sends sixteen) and its text."""
    from PIL import Image

    buffer, picture = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((pixels, pixels))
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{pixels}" height="{pixels}" style="vertical-align:bottom"'  # else a gap parts it from what stands below
    return f'<img alt="{html.escape(alt)}" {size} src="data:image/jpeg;base64,{data}">'


def _said(error) -> str:
    """An error as one line: ours are sentences already, any other begins with its kind."""
    return str(error) if isinstance(error, PromptlabError) else f"{type(error).__name__}: {error}"


class _View:
    """Something that shows as a widget where somebody can click, and as a figure elsewhere; `_line` is the widget's line of text."""

    def _ipython_display_(self):
        from IPython.display import display

        display(self.widget if live() else self.figure())

    def _say(self, text, role="status", more=""):
        """Show one line of text in the widget, and below it what unfolds."""
        folded = f"<details><summary>Where</summary><pre>{html.escape(more)}</pre></details>" if more else ""
        self._line.value = f'<div role="{role}"><b>{html.escape(text)}</b>{folded}</div>'

    def _act(self, act):
        """Do what a click or a drag asks for, and say in the widget itself what went wrong.

        What a callback raises or prints reaches nobody in VS Code, and an `Output` widget shows nothing there either.
        """
        try:
            act()
        except PromptlabError as error:
            self._say(f"\u26a0 {error}", "alert")
        except KeyboardInterrupt:
            self._say("\u26a0 Stopped by an interrupt.", "alert")
        except Exception as error:
            self._say(f"\u26a0 Something broke. {_said(error)}", "alert", traceback.format_exc())


class RewardSliders(_View):
    """The sixteen best pictures of a contact sheet under a reward whose two weights and threshold are sliders.

    Nothing is drawn while a reader drags: scores are re-weighted and known pictures change places.
    """

    COUNT = 16

    def __init__(self, sheet, calibration):
        s, c = sheet.scores, calibration
        self.sheet, self.calibration, self._tags = sheet, c, {}
        low, high = float(s.relevance.min()), float(s.relevance.max())
        # Name: (label, least, most, start). Four times the calibrated weight lets either term silence the other.
        self.controls = {
            "aesthetic": ("aesthetic weight", 0.0, 4 * c.aesthetic_scale, c.aesthetic_scale),
            "slope": ("relevance slope", 0.0, 4 * c.relevance_slope, c.relevance_slope),
            "threshold": ("threshold", min(low, c.relevance_threshold), max(high, c.relevance_threshold), c.relevance_threshold),
        }
        self.values = {name: start for name, (_, _, _, start) in self.controls.items()}

    def set(self, **values):
        """Move sliders: `set(slope=0)`; a value outside a slider's range stops at its end."""
        for name, value in values.items():
            if name not in self.controls:
                raise PromptlabError(f"There is no slider {name!r}: use {', '.join(self.controls)}.")
            _, least, most, _ = self.controls[name]
            self.values[name] = min(max(float(value), least), most)
        if "widget" in self.__dict__:
            for name, slider in self._sliders.items():
                slider.value = self.values[name]
            self._refresh()
        return self

    def reward(self):
        """The reward of every picture at the sliders' places, a tensor with one row per picture."""
        s, v = self.sheet.scores, self.values
        return v["aesthetic"] * (s.aesthetic - s.aesthetic_plain) + (v["slope"] * (s.relevance - v["threshold"])).clamp(max=0)

    def rank(self, count=COUNT):
        """Row numbers of the best pictures, best first."""
        return self.sheet.top(self.reward(), count)

    def summary(self):
        """What the best pictures are worth to the raters that no slider sees."""
        rows = self.rank()
        gold, kept = float(self.sheet.gold[rows].mean()), int(self.sheet.kept[rows].sum())
        return f"These {len(rows)}: mean gold {gold:.1f}; {kept} of {len(rows)} still show every word the person typed."

    def html(self):
        """The best pictures as a grid, each with its place, prompt, seed and what the judge says."""
        rows, reward, cells = self.rank(), self.reward(), []
        new = [i for i in rows if i not in self._tags]
        for i, png in zip(new, self.sheet.thumbnails(new) if new else [], strict=True):
            self._tags[i] = _image_tag(png, f"{self.sheet.prompts[i]}, seed {self.sheet.seeds[i]}", 88)
        for place, i in enumerate(rows, 1):
            said = "words kept" if self.sheet.kept[i] else "\u2717 words lost"
            text = f"reward {reward[i]:.2f}, gold {self.sheet.gold[i]:.1f}, {said}"
            prompt = html.escape(self.sheet.prompts[i])
            cells.append(
                f'<div role="listitem" style="width:88px;font-size:11px;line-height:1.25">{self._tags[i]}<br>'
                f"<b>{place}.</b> {prompt}, seed {self.sheet.seeds[i]}<br>{text}</div>"
            )
        return f'<div role="list" style="display:grid;grid-template-columns:repeat(auto-fill,88px);gap:8px">{"".join(cells)}</div>'

    @cached_property
    def widget(self):
        """The view: three sliders, which the arrow keys move too, over the grid."""
        import ipywidgets as w

        self._line, self._shown = w.HTML(), None
        self._grid = w.HTML(layout=w.Layout(max_width="764px"))  # eight in a row, fewer where there is no room
        self._sliders = {}
        for name, (label, least, most, _) in self.controls.items():
            digits = 3 if name == "threshold" else 2
            self._sliders[name] = slider = w.FloatSlider(
                value=self.values[name], min=least, max=most, step=(most - least) / 100, description=label, readout_format=f".{digits}f",
                continuous_update=True, style={"description_width": "130px"}, layout=w.Layout(width="auto", max_width="480px"),
            )  # fmt: skip
            slider.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self._refresh()
        return w.VBox([*self._sliders.values(), self._line, self._grid])

    def _moved(self, name, value):
        self.values[name] = value
        self._act(self._refresh)

    def _refresh(self):
        before, self._shown = self._shown, None  # after an error nothing counts as shown
        now = (self.rank(), tuple(self.values.values()))
        if now != before:
            self._grid.value = self.html()
            self._say(self.summary())
        self._shown = now

    def figure(self):
        """The same sixteen as a figure, for where nobody can drag."""
        rows = self.rank()
        titles = [f"{place}. {textwrap.fill(self.sheet.prompts[i], 18)}" for place, i in enumerate(rows, 1)]
        figure = plots.wall(self.sheet.pictures(rows), titles, columns=8)
        at = ", ".join(f"{label} {self.values[name]:.3g}" for name, (label, *_) in self.controls.items())
        figure.suptitle(f"{at}\n{self.summary()}", fontsize=8)
        return figure


# Copies the text box beside the button. navigator.clipboard is missing on plain http and barred from Colab's frames; this works in both.
COPY = "this.parentElement.querySelector('textarea').select();this.textContent=document.execCommand('copy')?'Copied':'Press Ctrl+C'"


class Compare(_View, Comparison):
    """A `Comparison` (which explains the arguments) to type in and to step through: pictures, scores, and words with what changed."""

    def draw(self, prompt=None, off=None, progress=False):
        """As `Comparison.draw`, and show it."""
        super().draw(prompt, off, progress)
        if "widget" in self.__dict__:
            self._text.value, self._plain.value = self.prompt, self.off
            self._refresh()
        return self

    def show(self, seed):
        """As `Comparison.show`, and show it."""
        super().show(seed)
        if "widget" in self.__dict__:
            self._refresh()
        return self

    def html(self):
        """A card per method: its picture in view, the scores of that and of all seeds, and its words with the changes marked."""
        if not self.texts:
            return ""
        grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,220px));gap:16px"
        diffs = {name: plots.diff_html(self.prompt, text).partition("<p><small>") for name, text in self.texts.items()}
        cards = "".join(self._card(name, words) for name, (words, _, _) in diffs.items())
        legend = "".join(next(iter(diffs.values()))[1:])  # the same for all, so once
        return f'<div role="list" style="{grid}">{cards}</div>{legend}'

    def _card(self, name, words):
        picture = _image_tag(self.thumbnail(name), f"{self.texts[name]}, seed {self.seed}", 184)
        rows = f'<tr><td></td><th>seed {self.seed}</th><th style="padding-left:6px">mean of {len(self.seeds)}</th></tr>'
        for score, pair in self.scores(name).items():
            cells = "".join(f'<td style="text-align:right">{value:{plots.FORMATS[score]}}</td>' for value in pair)
            rows += f'<tr><th style="text-align:left;font-weight:normal">{plots.score_html(score)}</th>{cells}</tr>'
        table = f'<table style="width:184px;font-size:11px;line-height:1.3;white-space:nowrap">{rows}</table>'
        return f'<div role="listitem" style="line-height:1.35;overflow-wrap:anywhere"><b>{html.escape(name)}</b><br>{picture}{table}{words}</div>'

    @cached_property
    def widget(self):
        """The view: words, off switch, Draw and a seed to step through; on a second page a picture's words to copy, and the picture to save."""
        import ipywidgets as w

        wide = {"layout": w.Layout(width="auto", max_width="500px")}  # as wide as there is room
        self._progress, self._line, self._grid, self._copy = w.Output(), w.HTML(), w.HTML(), w.HTML(**wide)
        self._text = w.Text(value=self.prompt, description="Your words", **wide)
        self._plain = w.Checkbox(value=self.off, description="draw my words as they are", indent=False)
        self._button = w.Button(description="Draw", icon="paint-brush", button_style="primary")
        self._stepper = w.SelectionSlider(options=self.seeds, value=self.seed, description="Seed", **wide)
        self._which = w.Dropdown(options=list(self.methods), description="Picture of", **wide)
        self._keep = w.Button(description="Save as PNG", icon="download")
        self._button.on_click(lambda _: self._do(self._draw_typed))
        self._text.on_msg(lambda _, message, __: message.get("event") == "submit" and self._do(self._draw_typed))  # Enter
        self._stepper.observe(lambda change: self._do(lambda: self.show(change["new"])), "value")
        self._which.observe(lambda _: self._do(self._refresh_copy), "value")
        self._keep.on_click(lambda _: self._do(lambda: self._say(f"Saved as {self.save(self._which.value)}")))
        first, second = w.VBox([self._text, self._plain, self._button, self._stepper]), w.VBox([self._which, self._copy, self._keep])
        pages = w.Tab([first, second])
        pages.set_title(0, "Draw"), pages.set_title(1, "Keep")  # Colab's ipywidgets 7 knows no `titles`
        view = w.VBox([pages, self._line, self._progress, self._grid])
        self._refresh()
        return view

    def _do(self, act):
        """Do what a click asks for, with a progress bar that goes when it ends."""
        with self._progress:
            self._act(act)
        self._progress.clear_output()

    def _draw_typed(self):
        self._button.disabled = True
        self._say("Drawing ...")
        try:
            self.draw(self._text.value, self._plain.value, progress=True)
        finally:
            self._button.disabled = False

    def _refresh(self):
        self._stepper.value, self._grid.value = self.seed, self.html()
        self._stepper.disabled = self._keep.disabled = not self.texts
        if self.texts and self._which.options != tuple(self.texts):
            self._which.options = tuple(self.texts)
        self._refresh_copy()
        self._say(self.status)

    def _refresh_copy(self):
        text = html.escape(self.texts.get(self._which.value, ""))
        keys = 'data-lm-suppress-shortcuts="true"'  # or JupyterLab takes an x typed in here to mean: cut this cell
        look = 'rows="2" style="width:100%;box-sizing:border-box" aria-label="prompt" onfocus="this.select()"'
        box = f"<textarea readonly {keys} {look}>{text}</textarea>"
        button = f'<button {keys} class="jupyter-button widget-button" onclick="{COPY}">Copy this prompt</button>'
        self._copy.value = f"{box}<br>{button}" if text else "Nothing is drawn yet."
