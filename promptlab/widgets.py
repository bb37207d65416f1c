"""The parts of the course a reader can click and drag; each keeps its state in plain Python, and the widget is a view of it.

Nothing here draws while a reader drags: pictures come as small copies and scores from the gallery.
"""

import base64
import html
import io
import json
import random
import sys
import textwrap
import time
from functools import cached_property
from pathlib import Path

from promptlab.config import preset
from promptlab.runtime import PromptlabError, headless, home


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
    return f'<img alt="{html.escape(alt)}" width="{pixels}" height="{pixels}" src="data:image/jpeg;base64,{data}">'


class _View:
    """Something that shows as a widget where somebody can click, and as a figure elsewhere."""

    def _ipython_display_(self):
        from IPython.display import display

        display(self.widget if live() else self.figure())


class RankTwelve(_View):
    """Rank pictures by clicking the best of those left, blind to prompts and scores; ties, undo and stopping early are fine.

    Args: `prompts`, `seeds`, `thumbnails` (PNG bytes) one per picture; `log` the JSONL file each choice is appended to the
    moment it is made, and from which a later kernel takes up the ranking of the same pictures.
    """

    def __init__(self, prompts, seeds, thumbnails, log=None):
        if not len(prompts) == len(seeds) == len(thumbnails) or not 2 <= len(prompts) <= 26:
            raise PromptlabError(
                f"A ranking takes 2 to 26 pictures, each with prompt and seed: got {len(prompts)}, {len(seeds)}, {len(thumbnails)}."
            )
        self.prompts, self.seeds, self.thumbnails = list(prompts), [int(s) for s in seeds], list(thumbnails)
        self.log = Path(log or home() / preset().name / "rewards" / "ranking.jsonl")
        self.set = [[p, s] for p, s in zip(self.prompts, self.seeds, strict=True)]
        self.shown = random.Random(json.dumps(self.set)).sample(range(len(prompts)), len(prompts))  # blind, and the same after a restart
        self.groups = []  # best first: lists of picture numbers, more than one where they tie
        self._undo = []  # what `groups` was before each choice
        for event in self._read():
            if event["action"] == "undo" or event["picture"] not in self.ranked:  # two open notebooks may both have chosen it
                self._apply(event)

    @property
    def letters(self):
        """The name each picture is shown under, by picture number."""
        return {index: chr(65 + place) for place, index in enumerate(self.shown)}

    @property
    def ranked(self):
        """Numbers of the pictures chosen so far, best first."""
        return [i for group in self.groups for i in group]

    def pick(self, picture, tie=False):
        """Put a picture (its letter, or its number in `prompts`) in the next place, or beside the one before it if `tie`."""
        names = {letter: i for i, letter in self.letters.items()}
        index = names.get(picture.upper()) if isinstance(picture, str) else picture
        if index not in self.letters or index in self.ranked:
            raise PromptlabError(
                f"Picture {picture!r} is not among those left: {', '.join(sorted(n for n, i in names.items() if i not in self.ranked))}."
            )
        self._make(
            {"action": "tie" if tie and self.groups else "pick", "prompt": self.prompts[index], "seed": self.seeds[index], "picture": index}
        )

    def undo(self):
        """Take the last choice back; nothing happens where there is none."""
        if self._undo:
            self._make({"action": "undo"})

    def ranks(self):
        """A place per picture in the order of `prompts`, 1 the best; ties share the average of their places, pictures never
        clicked share the last ones. None where nobody has ranked anything."""
        if not self.groups:
            return None
        rest = [i for i in self.letters if i not in self.ranked]
        places, start = [0.0] * len(self.prompts), 1
        for group in [*self.groups, rest] if rest else self.groups:
            for i in group:
                places[i] = start + (len(group) - 1) / 2
            start += len(group)
        return places

    def _make(self, event):
        self._append(event)  # to disk first: a choice that cannot be kept is not shown as made
        self._apply(event)
        if "widget" in self.__dict__:
            self._refresh()

    def _apply(self, event):
        if event["action"] == "undo":
            self.groups = self._undo.pop() if self._undo else []
            return
        self._undo.append([list(g) for g in self.groups])
        if event["action"] == "tie" and self.groups:
            self.groups[-1].append(event["picture"])
        else:
            self.groups.append([event["picture"]])

    def _append(self, event):
        line = json.dumps({"time": round(time.time(), 1), "set": self.set, **event}, ensure_ascii=False).encode()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a+b") as file:
                if file.tell():  # a kill may have cut the last line short: never write behind half a line
                    file.seek(-1, 2)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line + b"\n")
        except OSError as error:
            raise PromptlabError(
                f"Could not write {self.log} ({error}). Free some space, or let PROMPTLAB_HOME name another folder."
            ) from error

    def _read(self):
        """Earlier choices about these very pictures; lines that are not whole or not ours are passed over."""
        lines = self.log.read_text(encoding="utf8", errors="replace").splitlines() if self.log.exists() else []
        for line in lines:
            try:
                event = json.loads(line)
                if event["set"] == self.set and (event["action"] == "undo" or event["picture"] in self.letters):
                    yield event
            except (ValueError, TypeError, KeyError):
                continue

    @property
    def status(self):
        """What to do next, as one line."""
        left, many = len(self.prompts) - len(self.ranked), "picture" if len(self.ranked) == 1 else "pictures"
        if not left:
            return f"All {len(self.prompts)} are ranked. Run the next cell."
        start = (
            "Choose the picture you would hang up first."
            if not self.ranked
            else f"{len(self.ranked)} {many} ranked. Choose the best of the {left} left."
        )
        return start + (" Or stop here: the rest then shares the last place." if len(self.ranked) > 1 else "")

    @cached_property
    def widget(self):
        """The view: pictures with a button each, a tie switch, undo. Tab moves, Enter or Space chooses."""
        import ipywidgets as w

        self._errors, self._line = w.Output(), w.HTML()
        self._tie = w.ToggleButton(
            description="Ties with the last one", tooltip="Give the next picture the same place as the one before", icon="equals", layout=w.Layout(width="180px")
        )  # fmt: skip
        self._back = w.Button(description="Undo", icon="undo")
        self._buttons = {}
        cards = []
        for index in self.shown:
            letter = self.letters[index]
            self._buttons[index] = button = w.Button(tooltip=f"Give picture {letter} the next place", layout=w.Layout(width="128px"))
            button.on_click(lambda _, index=index: self._click(index))
            cards.append(w.VBox([w.HTML(_image_tag(self.thumbnails[index], f"picture {letter}", 128)), button]))
        self._back.on_click(lambda _: self._click(None))
        grid = w.GridBox(cards, layout=w.Layout(grid_template_columns="repeat(auto-fill, 136px)", width="100%", max_width="840px"))
        view = w.VBox([self._line, w.HBox([self._tie, self._back]), grid, self._errors])
        self._refresh()
        return view

    def _click(self, index):
        with self._errors:  # an error inside a callback is printed nowhere else
            if index is None:
                self.undo()
            else:
                self.pick(index, tie=self._tie.value)
                self._tie.value = False

    def _refresh(self):
        self._line.value = f"<b>{html.escape(self.status)}</b>"
        places = self.ranks()
        for index, button in self._buttons.items():
            done = index in self.ranked
            button.description = f"{self.letters[index]}: place {places[index]:g}" if done else self.letters[index]
            button.disabled = done
        self._tie.disabled = not self.groups
        self._back.disabled = not self._undo

    def figure(self):
        """The same pictures under the same letters, where nobody can click."""
        import numpy as np
        from PIL import Image

        from promptlab.plots import wall

        images = [np.asarray(Image.open(io.BytesIO(self.thumbnails[i])).convert("RGB")) for i in self.shown]
        return wall(images, [f"picture {self.letters[i]}" for i in self.shown], columns=6)


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
        return f"These {len(rows)}: mean gold {gold:.1f} of 10; {kept} of {len(rows)} still show every word the person typed."

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
        return f'<div role="list" style="display:grid;grid-template-columns:repeat(8,88px);gap:8px">{"".join(cells)}</div>'

    @cached_property
    def widget(self):
        """The view: three sliders, which the arrow keys move too, over the grid."""
        import ipywidgets as w

        self._errors, self._line, self._grid, self._shown = w.Output(), w.HTML(), w.HTML(), None
        self._sliders = {}
        for name, (label, least, most, _) in self.controls.items():
            digits = 3 if name == "threshold" else 2
            self._sliders[name] = slider = w.FloatSlider(
                value=self.values[name], min=least, max=most, step=(most - least) / 100, description=label, readout_format=f".{digits}f",
                continuous_update=True, style={"description_width": "130px"}, layout=w.Layout(width="480px"),
            )  # fmt: skip
            slider.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self._refresh()
        return w.VBox([*self._sliders.values(), self._line, self._grid, self._errors])

    def _moved(self, name, value):
        with self._errors:
            self.values[name] = value
            self._refresh()

    def _refresh(self):
        now = (self.rank(), tuple(self.values.values()))
        if now != self._shown:
            self._shown = now
            self._line.value, self._grid.value = f"<b>{html.escape(self.summary())}</b>", self.html()

    def figure(self):
        """The same sixteen as a figure, for where nobody can drag."""
        from promptlab.plots import wall

        rows = self.rank()
        titles = [f"{place}. {textwrap.fill(self.sheet.prompts[i], 18)}" for place, i in enumerate(rows, 1)]
        figure = wall(self.sheet.pictures(rows), titles, columns=8)
        at = ", ".join(f"{label} {self.values[name]:.3g}" for name, (label, *_) in self.controls.items())
        figure.suptitle(f"{at}\n{self.summary()}", fontsize=8)
        return figure
