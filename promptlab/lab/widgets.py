"""The parts of the course a reader can click and drag; each keeps its state in plain Python, and the widget is a view of it.

Nothing here draws while a reader drags: pictures come as small copies and scores from the gallery.
"""

import base64
import html
import io
import json
import sys
import traceback
from functools import cached_property

from promptlab.lab import plots
from promptlab.lab.compare import Comparison
from promptlab.lab.style import CSS
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
    size = f'width="{pixels}" height="{pixels}" style="max-width:100%;height:auto;vertical-align:bottom"'  # else a gap is below
    return f'<img alt="{html.escape(alt)}" {size} src="data:image/jpeg;base64,{data}">'


def _said(error) -> str:
    """An error as one line: ours are sentences already, any other begins with its kind."""
    return str(error) if isinstance(error, PromptlabError) else f"{type(error).__name__}: {error}"


# One line at the end of a view. It names the sliders for screen readers, which ipywidgets leaves nameless, and takes keys for the whole
# view before JupyterLab does; a slider, a tab and a text box keep theirs. What a key shows anew may have held the focus, so the line takes it.
FRONT = """
const KEYS = @keys, SAID = @said;
const OWN = "input, textarea, select, dialog, [contenteditable], [role=slider], [role=tab], .ui-slider-handle";
function render({ el, model }) {
  el.textContent = SAID;
  el.classList.add("promptlab-keys");
  if (KEYS.length) {
    el.tabIndex = 0;
    el.setAttribute("role", "group");
    el.setAttribute("aria-label", SAID);
  }
  const view = () => el.closest(".promptlab-view");
  const name = () => view()?.querySelectorAll(".widget-slider, .widget-hslider").forEach((slider) => {
    const label = slider.querySelector(".widget-label")?.textContent ?? "";
    slider.querySelectorAll("[role=slider], .ui-slider-handle").forEach((handle) => handle.setAttribute("aria-label", label));
    slider.querySelectorAll(".widget-readout").forEach((readout) => {
      readout.setAttribute("aria-label", label + ", as a number");
      if (readout.isContentEditable) readout.setAttribute("role", "textbox");
    });
  });
  const press = (event) => {
    if (!KEYS.includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!view()?.contains(event.target) || event.target.closest(OWN)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    el.focus({ preventScroll: true });
    model.send({ key: event.key });
  };
  const timer = setInterval(name, 300);  // a page of a tab may be made later
  window.addEventListener("keydown", press, true);
  return () => {
    clearInterval(timer);
    window.removeEventListener("keydown", press, true);
  };
}
export default { render };
"""


class _View:
    """Something that shows as a widget where somebody can click, and as a figure elsewhere; `_line` is the widget's line of text."""

    def _ipython_display_(self):
        from IPython.display import display

        display(self.widget if live() else self.figure())

    def _say(self, text, role="status", more=""):
        """Show one line of text in the widget, and below it what unfolds."""
        folded = f"<details><summary>Where</summary><pre>{html.escape(more)}</pre></details>" if more else ""
        self._line.value = f'<div role="{role}" style="line-height:1.4"><b>{html.escape(text)}</b>{folded}</div>'

    def _framed(self, children, name, press=None, keys=(), said=""):
        """The whole view with what only a front end can add (see `FRONT`); `press` gets the key. Without anywidget it does without."""
        import ipywidgets as w

        view = w.VBox(children, layout=w.Layout(width="100%"))  # ipywidgets 7 makes it as narrow as it can
        view.add_class("promptlab-view"), view.add_class(f"promptlab-{name}")
        try:
            import anywidget
        except ImportError:
            return view
        script = FRONT.replace("@keys", json.dumps(list(keys))).replace("@said", json.dumps(said))
        line = type("Front", (anywidget.AnyWidget,), {"_esm": script, "_css": CSS})()
        line.on_msg(lambda _, message, __: self._act(lambda: press(message.get("key"))))
        view.children = (*children, line)
        return view

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


# Copies the text box beside the button. navigator.clipboard is missing on plain http and barred from Colab's frames; this works in both.
COPY = "this.parentElement.querySelector('textarea').select();this.textContent=document.execCommand('copy')?'Copied':'Press Ctrl+C'"


# Opens the dialog behind the cards with a large copy of the picture on this button. Escape closes it, too.
ENLARGE = (
    "const d=this.closest('[data-cards]').querySelector('dialog'),i=this.querySelector('img').cloneNode();i.width=i.height=512;"
    "i.style.maxWidth='85vw';d.children[0].replaceChildren(i);d.children[1].textContent=i.alt;d.showModal()"
)
DIALOG = (
    '<dialog aria-label="enlarged picture" style="background:var(--jp-layout-color1,Canvas);color:var(--jp-content-font-color1,CanvasText);'
    'border:1px solid;text-align:center"><div></div><p style="max-width:512px;overflow-wrap:anywhere"></p>'
    '<button class="jupyter-button widget-button" data-lm-suppress-shortcuts="true" onclick="this.parentElement.close()">Close</button></dialog>'
)


class Compare(_View, Comparison):
    """A `Comparison` (which explains the arguments) to type in, to step through and to enlarge: pictures, scores, words with what changed."""

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
        grid = "display:grid;grid-template-columns:repeat(auto-fill,200px);gap:16px"
        diffs = {name: plots.diff_html(self.prompt, text).partition("<p><small>") for name, text in self.texts.items()}
        cards = "".join(self._card(name, words) for name, (words, _, _) in diffs.items())
        legend = "".join(next(iter(diffs.values()))[1:])  # the same for all, so once
        across = -(-len(diffs) // -(-len(diffs) // 5))  # at most five a row, and rows alike: six are three and three
        return f'<div data-cards style="max-width:{216 * across}px"><div role="list" style="{grid}">{cards}</div>{DIALOG}</div>{legend}'

    def _card(self, name, words):
        said = f"{self.texts[name]}, seed {self.seed}"
        look = f'aria-label="Enlarge {html.escape(said)}" style="padding:0;border:0;background:none;cursor:zoom-in"'
        tag = _image_tag(self.thumbnail(name), said, 200)
        picture = f'<button data-lm-suppress-shortcuts="true" {look} onclick="{ENLARGE}">{tag}</button>'
        rows = f"<tr><td></td><th>seed {self.seed}</th><th>mean of {len(self.seeds)}</th></tr>"
        for score, pair in self.scores(name).items():
            cells = "".join(f'<td style="text-align:right">{value:{plots.FORMATS[score]}}</td>' for value in pair)
            rows += f'<tr><th style="text-align:left;font-weight:normal">{plots.score_html(score)}</th>{cells}</tr>'
        table = f'<table style="font-size:11px;line-height:1.3;white-space:nowrap">{rows}</table>'
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
        said = "Keys: left and right step the seed, after a click on a picture or here. A click on a picture enlarges it."
        steps = {"ArrowLeft": -1, "ArrowRight": 1}
        self._refresh()
        return self._framed(
            [pages, self._line, self._progress, self._grid], "compare", lambda key: self._press(steps.get(key)), steps, said
        )

    def _press(self, step):
        if step and self.texts:
            self.step(step)

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
