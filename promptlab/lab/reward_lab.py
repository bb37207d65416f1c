"""A reward to take apart by hand: sliders, switches and a function of one's own, and hundreds of pictures that change places meanwhile."""

import html
import textwrap
from functools import cached_property

import numpy as np

from promptlab.lab import plots
from promptlab.lab.choose import _table
from promptlab.lab.terms import curve_svg, moved, source_of
from promptlab.lab.weighing import DOZEN, Weighing
from promptlab.lab.widgets import _image_tag, _View

HINT = """In a cell, and run it again after each change:

@lab.use
def my_reward(s):
    return s.terms["aesthetic"] + s.terms["relevance"]"""


class RewardLab(_View, Weighing):
    """A `Weighing` (which explains the arguments) to touch: a page per term, one for a function, for agreement and for training, and below
    them the pictures in their order."""

    @cached_property
    def _tags(self) -> list:
        """Every picture as a small <img>, made once."""
        said = [f"{prompt}, seed {seed}" for prompt, seed in zip(self.sheet.prompts, self.sheet.seeds, strict=True)]
        small = self.sheet.thumbnails(range(len(said)))
        return [_image_tag(png, text, 88) for png, text in zip(small, said, strict=True)]

    def html(self) -> str:
        """The score table, the top dozen and the bottom dozen."""
        order, moves = self._order, self.moves()
        means, rows = self.table(), ("top dozen", f"all {len(order)}", "bottom dozen")
        head = "".join(f'<th scope="col" style="padding-left:8px;white-space:nowrap">{plots.score_html(name)}</th>' for name in means)
        body = ""
        for i, name in enumerate(rows):
            cells = "".join(f'<td style="text-align:right">{some[i]:{plots.FORMATS[score]}}</td>' for score, some in means.items())
            body += f'<tr><th scope="row" style="text-align:left">{name}</th>{cells}</tr>'
        parts = [f'<table style="line-height:1.5;font-size:11px"><tr><td>mean of</td>{head}</tr>{body}</table>']
        for name, rows, first in (("top dozen", order[:DOZEN], 1), ("bottom dozen", order[-DOZEN:], len(order) - len(order[-DOZEN:]) + 1)):
            cards = "".join(self._card(i, place, moves[i]) for place, i in enumerate(rows, first))
            grid = "display:grid;grid-template-columns:repeat(auto-fill,96px);gap:8px"
            row = "max-width:616px;margin:8px 0"  # six a row, or four: a dozen fills its rows
            parts.append(
                f'<div style="{row}"><b>{name.capitalize()}</b><div role="list" aria-label="{name}" style="margin-top:4px;{grid}">{cards}</div></div>'
            )
        return "".join(parts)

    def _card(self, i, place, by):
        kept = "" if "kept" not in self.raters else "<br>words kept" if self.raters["kept"][i] else "<br>\u2717 words lost"
        gold = f"<br>gold {self.raters['gold'][i]:.1f}" if "gold" in self.raters else ""
        return (
            f'<div role="listitem" style="font-size:11px;line-height:1.25;overflow-wrap:anywhere">{self._tags[i]}<br><b>{place}.</b> {moved(by)}<br>'
            f"{html.escape(self.sheet.prompts[i])}, seed&nbsp;{self.sheet.seeds[i]}<br>reward {self.paid[i]:+.2f}{gold}{kept}</div>"
        )

    def agreement_html(self) -> str:
        """How far the reward agrees with gold and with the reader, as a table."""
        rows = []
        for name, value in self.agreement().items():
            if isinstance(value, float):
                rows.append((name, [f"{value:.2f}", "Spearman's correlation: 1 is the same order, 0 no relation"]))
            else:
                mean, low, high, n = value
                rows.append((name, [f"{mean:.0%}", f"of {n} chosen pictures earn more (95 %: {low:.0%} to {high:.0%})"]))
        note = "" if self._chosen else f"<p>No choice of your own yet in {html.escape(str(self.path))}: Choose collects them.</p>"
        return _table(("agrees with", "", ""), rows) + note

    @cached_property
    def widget(self):
        """The view: a page per term, one for a function, one for agreement, one to train; below it the ranking."""
        import ipywidgets as w

        self._line, self._grid, self._progress, self._agrees, self._source = w.HTML(), w.HTML(), w.Output(), w.HTML(), w.HTML()
        self._line.layout.min_height = "44px"  # two lines, so that nothing below jumps while a slider moves
        self._curves = {name: w.HTML() for name in self.terms}
        self._knobs, self._switches, pages = {}, {}, {}
        wide = {"style": {"description_width": "130px"}, "layout": w.Layout(width="auto", max_width="480px")}
        for name, term in self.terms.items():
            self._switches[name] = w.Checkbox(value=self.on[name], description=term.switch, indent=False)
            for slider, (label, least, most, start) in term.sliders.items():
                # Whole steps up to the start: from elsewhere the front end moves a slider onto one, and pictures change places.
                steps = max(1, round(100 * (start - least) / (most - least)))
                step = (start - least) / steps or (most - least) / 100
                self._knobs[slider] = w.FloatSlider(value=self.values[slider], min=least, max=most, step=step, description=label,
                                                    readout_format=f".{max(2, 2 - int(np.floor(np.log10(most - least))))}f", **wide)  # fmt: skip
            hands = w.VBox(
                [self._switches[name], *[self._knobs[slider] for slider in term.sliders]], layout=w.Layout(width="420px", max_width="100%")
            )
            beside = w.Layout(flex_flow="row wrap")  # or below, where there is no room
            pages[term.title] = [w.HBox([hands, self._curves[name]], layout=beside)]
        self._switches["function"] = w.Checkbox(value=self.on["function"], description="rank by my function", indent=False)
        self._updates = w.IntSlider(value=5, min=1, max=30, description="updates", **wide)
        self._button = w.Button(description="Train with this reward", icon="play", layout=w.Layout(width="auto", align_self="flex-start"))
        what = w.HTML("PPO on a copy of the policy after SFT, paid by this reward as it is now; what it writes is drawn below.")
        self._controls, self._stage = w.VBox([what, self._updates, self._button]), w.VBox()
        pages |= {"Your function": [self._switches["function"], self._source], "Agreement": [self._agrees]}
        pages["Train"] = [self._controls, self._progress, self._stage]
        for state, controls in ((self.values, self._knobs), (self.on, self._switches)):
            for name, control in controls.items():
                control.observe(lambda change, state=state, name=name: self._moved(state, name, change["new"]), "value")
        self._button.on_click(lambda _: self._act(self._train_clicked))
        self._pages = w.Tab([w.VBox(page) for page in pages.values()])
        for i, title in enumerate(pages):
            self._pages.set_title(i, title)
        self._pages.observe(lambda _: self._act(self._turned), "selected_index")
        view = self._framed([self._pages, self._line, self._grid], "reward-lab")
        self.__dict__["widget"] = view  # from now on the state shows itself
        self._show_controls(), self._show_run()
        return view

    def _moved(self, state, name, value):
        if self._quiet:
            return
        state[name] = value
        self._rescore()
        self._act(self._refresh)

    def _turned(self):
        if self._pages.get_title(self._pages.selected_index) == "Agreement":
            with self._progress:
                self.read_choices()  # more may have been made since
            self._progress.clear_output()
            self._refresh()

    def _show_controls(self):
        """Put sliders and switches where the state has them, and show what follows."""
        if "widget" not in self.__dict__:
            return
        self._quiet = True  # they move by hand only
        for name, knob in self._knobs.items():
            knob.value = self.values[name]
        for name, switch in self._switches.items():
            switch.value, switch.disabled = self.on[name], name == "function" and self._function is None
        self._quiet = False
        self._refresh()

    def _refresh(self):
        for name, term in self.terms.items():
            self._curves[name].value = curve_svg(term, term.read(self.scores), self.values, self.on[name])
        source = f"<pre>{html.escape(source_of(self._function))}</pre>" if self._function else ""
        self._source.value = f"{source}<pre>{html.escape(HINT)}</pre>"
        self._grid.value = self.html()
        if self._pages.get_title(self._pages.selected_index) == "Agreement":
            self._agrees.value = self.agreement_html()
        self._say(f"\u26a0 {self.problem}" if self.problem else self.summary(), "alert" if self.problem else "status")

    def _train_clicked(self):
        self._say("Loading the policy ...")
        with self._progress:
            self.train(self._updates.value)
        self._progress.clear_output()
        self._refresh()

    def _show_run(self):
        """The run of `train` on its page; while it is busy, its own buttons stand in place of ours."""
        if "widget" not in self.__dict__ or self.run is None:
            return
        self._stage.children = (self.run.widget,)
        self.run.told = lambda: setattr(self._controls.layout, "display", "none" if self.run.running else "")
        self.run.told()

    def figure(self):
        """Both dozens, where nobody can drag."""
        order, moves = self._order, self.moves()
        rows = list(dict.fromkeys([*order[:DOZEN], *order[-DOZEN:]]))
        place = {i: n for n, i in enumerate(order, 1)}
        titles = [f"{place[i]}. {moved(moves[i])}\n{textwrap.fill(self.sheet.prompts[i], 20)}" for i in rows]
        figure = plots.wall(self.sheet.pictures(rows), titles, columns=6, size=1.3, scores=[{"reward": self.paid[i]} for i in rows])
        figure.suptitle("\n".join(textwrap.wrap(self.problem or self.summary(), 110)), fontsize=8, parse_math=False)
        return figure
