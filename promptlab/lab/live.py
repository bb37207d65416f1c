"""A PPO run to watch: its curves and pictures grow while it trains, and buttons pause it, stop it, and let it go on."""

import base64
import html
import io
import threading
from functools import cached_property
from pathlib import Path

from promptlab import ppo
from promptlab.lab import plots
from promptlab.lab.widgets import _image_tag, _said, _View, live
from promptlab.policy import run_folder
from promptlab.runtime import PromptlabError, interrupts, on_colab, whole_rows

SEED = 11  # of the pictures that show what the policy writes now


def own_folder(policy, settings) -> Path:
    """A folder for a run from these weights with these settings: the same run goes on in it, another one never does."""
    return run_folder("ppo", policy, settings)


def attach() -> "LiveRun":
    """The run that was begun last in this kernel, to be shown once more: in another cell, or after its page was closed.

    Raises `PromptlabError` where there is none, as after a restart of the kernel: then the same call as before goes on from the run folder.
    """
    if LiveRun._latest is None:
        raise PromptlabError("No run was begun in this kernel. Run the cell that began it again: it goes on from its run folder.")
    return LiveRun._latest


class LiveRun(_View):
    """A run of `ppo.train`, begun at once: in a thread where somebody can click, so that its buttons work, else right here.

    Args: as `ppo.train`, of which `policy` is the one that learns, and `folder` by default one of its own (delete it to begin
    anew, also after a change of `reward` or `pool`); `prompts` are rewritten after every update, and the metrics keep that
    as "film"; where the reward has a scorer, as `PictureReward` has, pictures show it too. A run still going in another cell is
    stopped first, as two would halve each other's speed.
    """

    _latest = None

    def __init__(self, policy, pool, reward, updates, settings=None, prompts=(), folder=None):
        if isinstance(prompts, str):
            raise PromptlabError(f"`prompts` is a list of prompts, not one: write [{prompts!r}].")
        LiveRun._stop_latest()
        self.policy, self.pool, self.reward, self.updates = policy, pool, reward, updates
        self.settings, self.prompts = settings or ppo.Settings(), list(prompts or ())
        self.folder = Path(folder or own_folder(policy, self.settings))
        rows, _ = whole_rows(self.folder / "metrics.jsonl")  # to look at until the first update; what counts is the checkpoint
        self.history = [r for r in rows if {"update", "reward"} <= r.keys()] if (self.folder / "ppo.ckpt").exists() else []
        self.begun, self.first = len(self.history), []  # updates that an earlier call made; `prompts` as the start rewrites them
        self.held, self._go = False, threading.Event()  # whether it stands still now; cleared to make it
        self._thread = self._page = self.told = None  # `told` is called after whatever changes the buttons
        LiveRun._latest = self  # once nothing can go wrong: a run that was never made cannot be waited for
        self._begin()

    @classmethod
    def _stop_latest(cls):
        if cls._latest is not None and cls._latest.running:
            cls._latest.stop()
            cls._latest._join()

    def _begin(self):
        self.stopping, self.error = False, None
        self._go.set()
        if live() and not on_colab():  # there a thread cannot reach a widget
            self._busy, self._thread = True, threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        else:
            self._work_here()

    def _train(self, quiet):
        if self.prompts and not self.first:
            self.first = self.policy.rewrite(self.prompts)
        return ppo.train(self.policy, self.pool, self.reward, self.folder, self.updates, self.settings, self._watch, quiet=quiet)

    def _work(self):
        try:
            self.history = self._train(True)
        except BaseException as error:  # a thread has nobody to raise to; `wait` does
            self.error = error
        self._busy = False
        self._act(self._refresh)

    def _work_here(self):
        if live():
            from IPython.display import display

            self._page = display(self._html(True), display_id=True)  # grows on the page, where a widget would not while its cell runs
        with interrupts(self.stop):
            self.history = self._train(self._page is not None)
        if self._page:
            self._page.update(self._html(False))
            self._page = None

    def _watch(self, run, metrics):
        if self.prompts:
            metrics["film"] = run.policy.rewrite(self.prompts)
        if self.history is not run.history:  # the first update of this call
            self.history, self.begun = run.history, metrics["update"]
        if self.paused and run.done < self.updates:
            run.save(self.folder / "ppo.ckpt")  # a pause may outlast the kernel
            self.held = True
            self._show_update()
            self._go.wait()
            self.held = False
        self._show_update()
        return self.stopping

    def _show_update(self):
        if self.running:
            self._act(self._refresh)  # a picture that cannot be drawn must not end the run
        else:
            self._refresh()

    def pause(self):
        """Let the update in progress end, write a checkpoint, and wait for `resume`; nothing happens where no thread trains."""
        if self.running and not self.stopping:
            self._go.clear()
        self._refresh_line()

    def resume(self):
        """Go on: after a pause at once; after a stop or an error from the checkpoint. Nothing happens where all updates are made."""
        if self.running and self.stopping:
            self._join()
        if self.running:
            self._go.set()
        elif self.unfinished:
            LiveRun._stop_latest()
            LiveRun._latest = self
            self._begin()
        self._refresh_line()

    def stop(self):
        """Let the update in progress end, write a checkpoint, and return; `resume`, or the same call, goes on from there."""
        self.stopping = True
        self._go.set()
        if self._page is None:  # else an interrupt brought us here, perhaps amid a message to the page
            self._refresh_line()

    @property
    def running(self):
        """Whether a thread is at work on it, or stands still in a pause."""
        return self._thread is not None and self._busy

    @property
    def paused(self):
        """Whether it was told to pause; `held` says whether it has come to that."""
        return self.running and not self._go.is_set()

    @property
    def unfinished(self):
        """Whether updates are left to make."""
        return self.error is not None or len(self.history) < self.updates

    def wait(self) -> list[dict]:
        """The metrics, once the run has ended; a paused one goes on first, an interrupt is a `stop`. Raises what went wrong in the run."""
        if self.paused:
            self.resume()
        self._join()
        if self.error:
            raise self.error
        return self.history

    def _join(self):
        with interrupts(self.stop):
            while self._thread is not None and self._thread.is_alive():
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
        """The status, and after a pause or a stop what is kept and how to go on."""
        if self.error:
            return f"Stopped by an error: {_said(self.error)}"
        if training and self.held and self.paused:
            return self.status + " Paused: a checkpoint is kept."
        early = self.history and not training and self.unfinished
        return self.status + " Stopped: a checkpoint is kept, and the same cell goes on from it." * bool(early)

    @cached_property
    def widget(self):
        """The view: a line of text, two buttons, the curves, and pictures of what the policy wrote before and writes now."""
        import ipywidgets as w

        wide = {"layout": w.Layout(width="auto", min_width="148px")}
        self._line, self._curves, self._pictures = w.HTML(), w.HTML(), w.HTML()
        self._pause, self._button = w.Button(icon="pause", **wide), w.Button(icon="stop", **wide)
        self._pause.on_click(lambda _: self._act(self.pause if self.running and not self.paused else self.resume))
        self._button.on_click(lambda _: self._act(self.stop))
        self._buttons = w.HBox([self._pause, self._button])
        view = self._framed([self._line, self._buttons, self._curves, self._pictures], "live")
        self.__dict__["widget"] = view  # from now on the training thread refreshes it too
        self._refresh()
        return view

    def _refresh(self):
        """Show all that an update has changed."""
        if self._page:
            self._page.update(self._html(True))
        if "widget" not in self.__dict__:
            return
        if self.history:
            self._curves.value, self._pictures.value = self._picture(), self._samples()
        self._refresh_line()

    def _refresh_line(self):
        """Show what a click has changed."""
        if "widget" not in self.__dict__:
            return
        running, paused = self.running, self.paused
        left = not running and self.unfinished
        self._say(self._line_of(running), "alert" if self.error else "status")
        self._pause.description, self._pause.icon = ("Resume", "play") if paused or left else ("Pause", "pause")
        self._pause.disabled = not (left or running and not self.stopping)
        self._button.description = "Stopping after this update" if running and self.stopping else "Stop"
        self._button.disabled = self.stopping or not running
        self._buttons.layout.display = "" if running or left else "none"  # nothing is left to press
        if self.told:
            self.told()

    def _picture(self):
        """The curves as an <img> that says in words what they show."""
        from matplotlib.figure import Figure

        buffer = io.BytesIO()  # a figure without pyplot, whose state the thread would share with the reader's cells
        plots.curves(self.history, figure=Figure()).savefig(buffer, format="png")
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{html.escape(self.status)}" style="max-width:100%;vertical-align:bottom" src="data:image/png;base64,{data}">'

    @property
    def _gallery(self):
        return getattr(getattr(self.reward, "scorer", None), "gallery", None)

    def _frames(self):
        """What the policy made of `prompts` before it learnt and makes of them now: `[(when, rewrites)]`, or nothing that could be drawn."""
        films = [m for m in self.history if "film" in m]
        if not (films and self.first and self._gallery):
            return []
        return [("before", self.first), (f"after update {films[-1]['update'] + 1}", films[-1]["film"])]

    def _samples(self):
        """The pictures of `_frames` as HTML, a row each, all from one seed."""
        rows = ""
        for when, texts in self._frames():
            tags = [
                _image_tag(png, f"{text}, {when}", 96)
                for png, text in zip(self._gallery.thumbnails(texts, [SEED] * len(texts)), texts, strict=True)
            ]
            cells = "".join(
                f'<div role="listitem" style="width:104px;overflow-wrap:anywhere">{tag}<br>{html.escape(text)}</div>'
                for tag, text in zip(tags, texts, strict=True)
            )
            rows += f'<div style="margin:8px 0 4px"><b>{when}</b></div><div role="list" aria-label="{when}" style="display:flex;flex-wrap:wrap;gap:8px">{cells}</div>'
        return f'<div style="font-size:11px;line-height:1.25">{rows}</div>' if rows else ""

    def samples(self):
        """The same pictures as a figure. Raises `PromptlabError` where there are none: no prompts, no update yet, or no scorer."""
        import textwrap

        frames = self._frames()
        if not frames:
            raise PromptlabError("There is nothing to draw: give `prompts`, a reward with a scorer, and wait for the first update.")
        texts = [text for _, some in frames for text in some]
        pictures, labels = self._gallery.pictures(texts, [SEED] * len(texts)), [textwrap.fill(when, 8) for when, _ in frames]
        return plots.wall(pictures, [textwrap.fill(text, 22) for text in texts], len(self.prompts), 1.5, labels)

    def _html(self, training):
        """What a reader sees while the run blocks its cell: where it is, how to stop it, the curves."""
        from IPython.display import HTML

        hint = " To stop after the update in progress: interrupt (Runtime menu). A checkpoint is kept." if training else ""
        line = f"<b>{html.escape(self._line_of(training))}</b>{hint}"
        return HTML(line + (self._picture() if self.history and training else ""))

    def figure(self):
        """The curves, where nobody can click."""
        return plots.curves(self.history)
