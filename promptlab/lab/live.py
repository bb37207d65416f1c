"""A PPO run to watch: its curves grow while it trains, and a button stops it."""

import base64
import html
import io
import threading
from functools import cached_property
from pathlib import Path

from promptlab import ppo
from promptlab.lab import plots
from promptlab.lab.widgets import _said, _View, live
from promptlab.policy import run_folder
from promptlab.runtime import PromptlabError, interrupts, on_colab, whole_rows


def own_folder(policy, settings) -> Path:
    """A folder for a run from these weights with these settings: the same run goes on in it, another one never does."""
    return run_folder("ppo", policy, settings)


class LiveRun(_View):
    """A run of `ppo.train`, begun at once: in a thread where somebody can click, so that the stop button works, else right here.

    Args: as `ppo.train`, of which `policy` is the one that learns, and `folder` by default one of its own (delete it to begin
    anew, also after a change of `reward` or `pool`); `prompts` are rewritten after every update, and the metrics keep that
    as "film". A run still going in another cell is stopped first, as two would halve each other's speed.
    """

    _latest = None

    def __init__(self, policy, pool, reward, updates, settings=None, prompts=(), folder=None):
        if isinstance(prompts, str):
            raise PromptlabError(f"`prompts` is a list of prompts, not one: write [{prompts!r}].")
        if LiveRun._latest is not None and LiveRun._latest.running:
            LiveRun._latest.stop()
            LiveRun._latest._join()
        self.policy, self.settings, self.updates, self.prompts = policy, settings or ppo.Settings(), updates, list(prompts or ())
        self.folder = Path(folder or own_folder(policy, self.settings))
        rows, _ = whole_rows(self.folder / "metrics.jsonl")  # to look at until the first update; what counts is the checkpoint
        self.history = [r for r in rows if {"update", "reward"} <= r.keys()] if (self.folder / "ppo.ckpt").exists() else []
        self.begun = len(self.history)  # updates that an earlier call made
        self.stopping, self.error, self._thread = False, None, None

        def train(quiet):
            return ppo.train(policy, pool, reward, self.folder, updates, self.settings, self._watch, quiet=quiet)

        self._page, LiveRun._latest = None, self  # once nothing can go wrong: a run that was never made cannot be waited for
        if live() and not on_colab():  # there a thread cannot reach a widget
            self._thread = threading.Thread(target=self._work, args=(train,), daemon=True)
            self._thread.start()
        else:
            self._work_here(train)

    def _work(self, train):
        try:
            self.history = train(True)
        except BaseException as error:  # a thread has nobody to raise to; `wait` does
            self.error = error
        self._act(lambda: self._refresh(False))

    def _work_here(self, train):
        if live():
            from IPython.display import display

            self._page = display(self._html(True), display_id=True)  # grows on the page, where a widget would not while its cell runs
        with interrupts(self.stop):
            self.history = train(self._page is not None)
        if self._page:
            self._page.update(self._html(False))
            self._page = None

    def _watch(self, run, metrics):
        if self.prompts:
            metrics["film"] = run.policy.rewrite(self.prompts)
        if self.history is not run.history:  # the first update of this call
            self.history, self.begun = run.history, metrics["update"]
        self._refresh(True)
        return self.stopping

    def stop(self):
        """Let the update in progress end, write a checkpoint, and return; the same call goes on from there."""
        self.stopping = True
        if self._page is None:  # else an interrupt brought us here, perhaps amid a message to the page
            self._refresh(self.running)

    @property
    def running(self):
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> list[dict]:
        """The metrics, once the run has ended; an interrupt is a `stop`. Raises what went wrong in the run."""
        self._join()
        if self.error:
            raise self.error
        return self.history

    def _join(self):
        with interrupts(self.stop):
            while self.running:
                self._thread.join(0.2)

    @property
    def status(self):
        """Where the run is, as one line."""
        if not self.history:
            return "The first update is on its way."
        last, said = self.history[-1], []
        for name, form in (("reward", "+.2f"), ("gold", ".1f"), ("kl", ".1f")):
            said += [f"{'KL' if name == 'kl' else name} {last[name]:{form}}"] if name in last else []
        since = f" It went on from update {self.begun}." if self.begun else ""
        return f"{len(self.history)} of {self.updates} updates: {', '.join(said)}.{since}"

    def _line_of(self, training):
        """The status, and after a stop what is kept and how to go on."""
        if self.error:
            return f"Stopped by an error: {_said(self.error)}"
        early = self.history and not training and len(self.history) < self.updates
        return self.status + " Stopped: a checkpoint is kept, and the same cell goes on from it." * bool(early)

    @cached_property
    def widget(self):
        """The view: a line of text, a stop button, the curves."""
        import ipywidgets as w

        self._line, self._curves, self._button = w.HTML(), w.HTML(), w.Button(icon="stop", layout=w.Layout(width="260px"))
        self._button.on_click(lambda _: self._act(self.stop))
        view = w.VBox([self._line, self._button, self._curves])
        self.__dict__["widget"] = view  # from now on the training thread refreshes it too
        self._refresh(self.running)
        return view

    def _refresh(self, running):
        if self._page:
            self._page.update(self._html(True))
        if "widget" not in self.__dict__:
            return
        self._line.value = f"<b>{html.escape(self._line_of(running))}</b>"
        self._button.description = "stopping after this update" if running and self.stopping else "stop here" if running else "ended"
        self._button.disabled = self.stopping or not running
        if self.history:
            self._curves.value = self._picture()

    def _picture(self):
        """The curves as an <img> that says in words what they show."""
        from matplotlib.figure import Figure

        buffer = io.BytesIO()  # a figure without pyplot, whose state the thread would share with the reader's cells
        plots.curves(self.history, figure=Figure()).savefig(buffer, format="png")
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{html.escape(self.status)}" style="max-width:100%" src="data:image/png;base64,{data}">'

    def _html(self, training):
        """What a reader sees while the run blocks its cell: where it is, how to stop it, the curves."""
        from IPython.display import HTML

        hint = " To stop after the update in progress: interrupt (Runtime menu). A checkpoint is kept." if training else ""
        line = f"<b>{html.escape(self._line_of(training))}</b>{hint}"
        return HTML(line + (self._picture() if self.history and training else ""))

    def figure(self):
        """The curves, where nobody can click."""
        return plots.curves(self.history)
