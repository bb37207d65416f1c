"""A blind ranking by clicks: the reader's own taste as data, kept the moment each choice is made."""

import io
import json
import random
import time
from functools import cached_property
from pathlib import Path

from promptlab.config import preset
from promptlab.lab.widgets import _image_tag, _View
from promptlab.runtime import PromptlabError, append_jsonl, home


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
        # To disk first: a choice that cannot be kept is not shown as made.
        append_jsonl(self.log, {"time": round(time.time(), 1), "set": self.set, **event})
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

    def _read(self):
        """Earlier choices about these very pictures; lines that are not whole or not ours are passed over."""
        lines = self.log.read_text(encoding="utf8", errors="replace").split("\n") if self.log.exists() else []
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

        self._line = w.HTML()
        self._tie = w.ToggleButton(
            description="Ties with the last one", tooltip="Give the next picture the same place as the one before", icon="equals", layout=w.Layout(width="180px")
        )  # fmt: skip
        self._back = w.Button(description="Undo", icon="undo")
        self._buttons = {}
        cards = []
        for index in self.shown:
            letter = self.letters[index]
            self._buttons[index] = button = w.Button(tooltip=f"Give picture {letter} the next place", layout=w.Layout(width="128px"))
            button.on_click(lambda _, index=index: self._act(lambda: self._click(index)))
            cards.append(w.VBox([w.HTML(_image_tag(self.thumbnails[index], f"picture {letter}", 128)), button]))
        self._back.on_click(lambda _: self._act(self.undo))
        rows = {"grid_template_columns": "repeat(auto-fill, 136px)", "grid_gap": "14px 0"}  # a button stands nearer to its own picture
        grid = w.VBox([w.GridBox(cards, layout=w.Layout(**rows, width="100%"))], layout=w.Layout(max_width="560px"))
        view = self._framed([self._line, w.HBox([self._tie, self._back]), grid], "rank")  # four a row, or three: twelve fill their rows
        self._refresh()
        return view

    def _click(self, index):
        self.pick(index, tie=self._tie.value)
        self._tie.value = False  # a tie is meant once

    def _refresh(self):
        self._say(self.status)
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

        from promptlab.lab.plots import wall

        images = [np.asarray(Image.open(io.BytesIO(self.thumbnails[i])).convert("RGB")) for i in self.shown]
        return wall(images, [f"picture {self.letters[i]}" for i in self.shown], columns=6)
