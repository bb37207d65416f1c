"""A PPO run to watch: in a thread or not, stopped by a button or an interrupt, and what its views say."""

import importlib.machinery
import importlib.util
import os
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
from fakes import FakeScorer
from matplotlib.figure import Figure
from tiny_policy import tiny_policy

from promptlab import ppo
from promptlab.lab import live
from promptlab.runtime import PromptlabError, interrupts

FAST = ppo.Settings(prompts=4, samples=2, new_tokens=4, minibatch=8, epochs=1)
POOL = ["a frog", "a red castle", "blue frog", "castle"]


def vivid(plain, written, seeds):
    return torch.tensor([float(w.split().count("vivid")) for w in written])


def run(tmp_path, updates=3, reward=vivid, policy=None, **kwargs):
    return live.LiveRun(policy or tiny_policy(), POOL, reward, updates, FAST, folder=tmp_path, **kwargs)


@pytest.fixture
def clickable(monkeypatch):
    monkeypatch.setattr(live, "live", lambda: True)


def test_where_nobody_can_click_it_runs_right_here(tmp_path, capfd):
    r = run(tmp_path)
    assert not r.running and [m["update"] for m in r.wait()] == [0, 1, 2]
    assert "ppo" in capfd.readouterr().err, "a progress bar"
    assert isinstance(r.figure(), Figure) and r.status.startswith("3 of 3 updates: reward +")


def test_a_thread_trains_while_the_notebook_goes_on(tmp_path, clickable, capfd):
    go = threading.Event()

    def reward(plain, written, seeds):
        assert threading.current_thread() is not threading.main_thread() and go.wait(60)
        return vivid(plain, written, seeds)

    r = run(tmp_path, reward=reward)
    view = r.widget
    assert r.running and (r._pause.description, r._button.description) == ("Pause", "Stop")
    assert 'role="status"' in r._line.value and "<b>The first update is on its way.</b></div>" in r._line.value
    go.set()
    assert len(r.wait()) == 3 and not r.running
    assert r._button.disabled and r._buttons.layout.display == "none" and "3 of 3 updates" in view.children[0].value
    assert 'alt="3 of 3 updates: reward' in r._curves.value and "ppo:" not in capfd.readouterr().err
    again = live.LiveRun(tiny_policy(), POOL, vivid, 3, FAST, folder=tmp_path)
    again.wait()
    assert again.widget and again._button.disabled and again._pause.disabled, "shown after its end"


def test_a_thread_learns_what_the_foreground_learns(tmp_path, monkeypatch):
    one, two = tiny_policy(), tiny_policy()
    first = run(tmp_path / "a", policy=one).wait()
    monkeypatch.setattr(live, "live", lambda: True)
    assert run(tmp_path / "b", policy=two).wait() == first
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


@pytest.fixture
def page(monkeypatch, clickable):
    """A Colab page: what was put on it, and every later state of it."""
    import IPython.display

    states = []

    class Handle:
        def update(self, shown):
            states.append(shown.data)

    def display(shown, display_id):
        assert display_id is True
        states.append(shown.data)
        return Handle()

    colab = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("google.colab", None))  # libraries ask for its spec
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(IPython.display, "display", display)
    return states


def test_on_colab_it_runs_in_the_foreground_and_one_display_grows(tmp_path, page, capfd):
    r = run(tmp_path)
    assert r._thread is None and len(r.history) == 3 and len(page) == 5
    assert "first update is on its way" in page[0] and "interrupt (Runtime menu)" in page[0] and "<img" not in page[0]
    assert all(f"<b>{n} of 3 updates" in page[n] and "data:image/png" in page[n] and "A checkpoint is kept" in page[n] for n in (1, 2, 3))
    assert page[4].startswith("<b>3 of 3 updates") and "<img" not in page[4] and "interrupt" not in page[4], (
        "the run itself shows its curves"
    )
    assert "ppo" not in capfd.readouterr().err, "no bar beside it"


def test_on_colab_an_interrupt_writes_a_checkpoint_and_returns(tmp_path, page):
    def reward(plain, written, seeds):
        if len(page) == 2:  # the second update
            os.kill(os.getpid(), signal.SIGINT)
        return vivid(plain, written, seeds)

    assert len(run(tmp_path, 9, reward).history) == 2 and (tmp_path / "ppo.ckpt").exists()
    assert "<b>2 of 9 updates" in page[-1] and "Stopped: a checkpoint is kept, and the same cell goes on from it." in page[-1]
    assert len(run(tmp_path, 3).history) == 3, "the same call goes on"
    assert "It went on from update 2." in page[-1] and "Stopped" not in page[-1]


@pytest.mark.parametrize("press", [lambda r: r._button.click(), lambda r: r.stop()], ids=["button", "method"])
def test_a_stop_writes_a_checkpoint_and_the_same_call_goes_on(tmp_path, clickable, press):
    at, go = threading.Event(), threading.Event()

    def reward(plain, written, seeds):
        at.set()
        assert go.wait(60)
        return vivid(plain, written, seeds)

    r = run(tmp_path, 4, reward)
    assert r.widget and at.wait(60)
    press(r)
    assert r._button.description == "Stopping after this update" and r._button.disabled and r._pause.disabled
    go.set()
    assert len(r.wait()) == 1, "the update in progress is not lost"
    again = run(tmp_path, 4)
    assert again.history[0] == r.history[0] and len(again.wait()) == 4


@pytest.mark.parametrize("threaded", [False, True])
def test_an_interrupt_is_a_stop(tmp_path, monkeypatch, threaded):
    monkeypatch.setattr(live, "live", lambda: threaded)
    before, calls = signal.getsignal(signal.SIGINT), []

    def reward(plain, written, seeds):
        calls.append(seeds)
        if len(calls) == 2:
            while threaded and signal.getsignal(signal.SIGINT) == before:  # until the reader's cell waits
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        if len(calls) >= 2 and threaded:
            time.sleep(0.3)  # the main thread takes notice of the signal
        return vivid(plain, written, seeds)

    assert len(run(tmp_path, 9, reward).wait()) in ((2, 3) if threaded else (2,))
    assert signal.getsignal(signal.SIGINT) == before, "handed back"
    assert (tmp_path / "ppo.ckpt").exists()


def test_a_second_interrupt_breaks_off():
    asked, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts(lambda: asked.append(1)):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # Python takes notice
            assert asked == [1]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_run_stops_the_first_and_goes_on_where_it_stopped(tmp_path, clickable):
    begun = threading.Event()

    def slow(plain, written, seeds):
        begun.set()
        time.sleep(0.05)
        return vivid(plain, written, seeds)

    first = run(tmp_path, 1000, slow)
    assert begun.wait(60)
    second = run(tmp_path, 3)
    assert not first.running and 1 <= len(first.history) < 1000
    assert second.wait()[: len(first.history)] == first.history and len(second.history) == max(3, len(first.history))


def test_what_goes_wrong_in_a_thread_is_said_and_raised(tmp_path, clickable):
    go = threading.Event()
    r = run(tmp_path, reward=lambda *_: go.wait(60) and torch.tensor([float("nan")] * 8))
    assert r.widget
    go.set()
    with pytest.raises(PromptlabError, match="finite number"):
        r.wait()
    assert "Stopped by an error" in r._line.value and "finite number" in r._line.value and r._button.disabled


def test_a_reward_that_breaks_is_named_by_its_kind(tmp_path, clickable):
    go = threading.Event()
    r = run(tmp_path, reward=lambda *_: go.wait(60) and {}["beauty"])
    assert r.widget
    go.set()
    with pytest.raises(KeyError):
        r.wait()
    assert "Stopped by an error: KeyError: &#x27;beauty&#x27;" in r._line.value


def test_what_breaks_while_the_curves_are_drawn_is_said_in_the_widget(tmp_path, clickable, monkeypatch):
    r = run(tmp_path)
    r.wait()
    assert r.widget
    monkeypatch.setattr(r, "_picture", lambda: 1 / 0)
    r._act(r._refresh)
    assert 'role="alert"' in r._line.value and "ZeroDivisionError" in r._line.value


def test_curves_that_cannot_be_drawn_do_not_end_the_run(tmp_path, clickable, monkeypatch):
    go = threading.Event()
    r = run(tmp_path, reward=lambda *args: go.wait(60) and vivid(*args))
    assert r.widget
    monkeypatch.setattr(r, "_picture", lambda: 1 / 0)
    go.set()
    assert len(r.wait()) == 3 and r.error is None


class Gate:
    """A reward that lets one update through at a time, and says when one has arrived."""

    def __init__(self):
        self.tickets, self.arrived = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, plain, written, seeds):
        self.arrived.release()
        assert self.tickets.acquire(timeout=60)
        return vivid(plain, written, seeds)


def until(true, seconds=60):
    for _ in range(100 * seconds):
        if true():
            return True
        time.sleep(0.01)
    return False


def test_a_pause_keeps_a_checkpoint_and_a_resume_learns_what_no_pause_would_have(tmp_path, monkeypatch):
    whole = run(tmp_path / "a", 4).wait()
    monkeypatch.setattr(live, "live", lambda: True)
    gate = Gate()
    r = run(tmp_path / "b", 4, gate)
    assert r.widget and gate.arrived.acquire(timeout=60)
    r._pause.click()
    assert r.paused and not r.held and r._pause.description == "Resume", "the update in progress is not lost"
    gate.tickets.release()
    assert until(lambda: "Paused: a checkpoint is kept." in r._line.value) and r.held and (tmp_path / "b" / "ppo.ckpt").exists()
    assert len(r.history) == 1 and r.running and not gate.arrived.acquire(blocking=False), "nothing happens in a pause"
    r._pause.click()
    assert not r.paused and r._pause.description == "Pause"
    gate.tickets.release(9)
    assert r.wait() == whole


def test_a_pause_may_outlast_the_kernel(tmp_path, clickable):
    """The same call in another kernel goes on from what the pause kept, and learns the same."""
    whole = run(tmp_path / "a", 3).wait()
    gate = Gate()
    r = run(tmp_path / "b", 3, gate)
    assert gate.arrived.acquire(timeout=60)
    r.pause()
    gate.tickets.release()
    assert until(lambda: r.held)
    shutil.copytree(tmp_path / "b", tmp_path / "c")  # what a killed kernel leaves
    r.stop()
    assert len(r.wait()) == 1 and not r.paused
    again = run(tmp_path / "c", 3)
    assert again.wait() == whole and "It went on from update 1." in again.status


def test_after_a_stop_the_same_button_goes_on(tmp_path, clickable):
    whole = run(tmp_path / "a", 3).wait()
    gate = Gate()
    r = run(tmp_path / "b", 3, gate)
    assert r.widget and gate.arrived.acquire(timeout=60)
    r._button.click()
    gate.tickets.release(9)
    assert len(r.wait()) == 1 and r.unfinished
    assert (r._pause.description, r._pause.disabled, r._button.disabled) == ("Resume", False, True)
    r._pause.click()
    assert r.wait() == whole and not r.unfinished
    r.resume()
    assert not r.running, "nothing is left to do"


def test_a_run_goes_on_after_an_error_was_repaired(tmp_path, clickable):
    broken = [ConnectionError("gone")]

    def reward(plain, written, seeds):
        if len(r.history) == 1 and broken:
            raise broken.pop()
        return vivid(plain, written, seeds)

    go = threading.Event()
    r = run(tmp_path, 3, lambda *args: go.wait(60) and reward(*args))
    assert r.widget
    go.set()
    with pytest.raises(ConnectionError):
        r.wait()
    assert 'role="alert"' in r._line.value and r._pause.description == "Resume" and not r._pause.disabled
    r._pause.click()
    assert len(r.wait()) == 3 and 'role="status"' in r._line.value


def test_waiting_for_a_paused_run_lets_it_go_on(tmp_path, clickable):
    gate = Gate()
    r = run(tmp_path, 2, gate)
    r.pause()
    gate.tickets.release(9)
    assert until(lambda: r.held) and len(r.wait()) == 2


def test_a_new_run_ends_a_paused_one(tmp_path, clickable):
    gate = Gate()
    first = run(tmp_path / "a", 9, gate)
    first.pause()
    gate.tickets.release()
    assert until(lambda: first.held)
    assert len(run(tmp_path / "b", 1).wait()) == 1 and not first.running and len(first.wait()) == 1


def test_a_pause_where_nothing_runs_does_nothing(tmp_path):
    r = run(tmp_path, 1)
    r.pause()
    assert not r.paused and not r.running and len(r.wait()) == 1


def test_the_run_of_this_kernel_is_shown_again(tmp_path, clickable, monkeypatch):
    monkeypatch.setattr(live.LiveRun, "_latest", None)
    with pytest.raises(PromptlabError, match="No run was begun in this kernel"):
        live.attach()
    r = run(tmp_path, 1)
    view = r.widget
    r.wait()
    assert live.attach() is r and live.attach().widget is view, "the same state, in as many places as it is displayed"


def test_pictures_show_the_start_above_now_from_one_seed(tmp_path, clickable):
    scorer = FakeScorer()
    go, policy = threading.Event(), tiny_policy()
    first = policy.rewrite(POOL[:2])
    pay = type("Pay", (), {"scorer": scorer, "__call__": lambda self, *args: go.wait(60) and vivid(*args)})()
    r = run(tmp_path, 2, pay, policy, prompts=POOL[:2])
    assert r.widget and r._pictures.value == ""
    with pytest.raises(PromptlabError, match="nothing to draw"):
        r.samples()
    go.set()
    now = r.wait()[-1]["film"]
    shown = r._pictures.value
    assert r.first == first and shown.count("<img") == 4 and "<b>before</b>" in shown and "<b>after update 2</b>" in shown
    assert [shown.count(f'alt="{text}, before"') for text in first] == [1, 1]
    colours = [ax.images[0].get_array()[0, 0].tolist() for ax in r.samples().axes]
    assert colours == [list(c) for c in scorer.gallery.colours([*first, *now], [live.SEED] * 4)]


def test_prompts_are_rewritten_after_every_update_for_the_film(tmp_path):
    policy = tiny_policy()
    history = run(tmp_path, policy=policy, prompts=POOL[:2]).history
    assert all(len(m["film"]) == 2 for m in history) and history[-1]["film"] == policy.rewrite(POOL[:2])
    assert run(tmp_path, prompts=POOL[:2]).history == history, "kept with the metrics"


def test_every_start_and_every_setting_has_its_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    folders = {live.own_folder(tiny_policy(seed), ppo.Settings(kl=kl)) for seed in (0, 1) for kl in (0.1, 0.2) for _ in range(2)}
    assert len(folders) == 4 and all(f.parent == tmp_path.resolve() / "pocket" / "ppo" for f in folders)
    assert live.LiveRun(tiny_policy(), POOL, vivid, 1, FAST).folder == live.own_folder(tiny_policy(), FAST)


SLIPS = {
    "no policy": {"policy": None}, "no settings": {"settings": {"kl": 0.1}}, "one prompt": {"prompts": "a frog"}, "a number": {"prompts": 3},
    "no pool": {"pool": []}, "no folder": {"folder": 3}, "no updates": {"updates": None},
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_a_slip_in_its_arguments_leaves_the_next_run_alone(tmp_path, clickable, slip):
    right = {"policy": tiny_policy(), "pool": POOL, "reward": vivid, "updates": 1, "settings": FAST, "folder": tmp_path}
    with pytest.raises((PromptlabError, TypeError, AttributeError)):
        live.LiveRun(**right | slip).wait()
    assert len(live.LiveRun(**right | {"policy": tiny_policy()}).wait()) == 1


def test_prompts_may_be_none_and_never_one_text(tmp_path):
    assert run(tmp_path, 1, prompts=None).prompts == []
    with pytest.raises(PromptlabError, match=r"write \['a frog'\]"):
        run(tmp_path, 1, prompts="a frog")


def test_an_error_of_the_run_before_is_not_raised_in_the_next(tmp_path, clickable):
    at = threading.Event()

    def fails(plain, written, seeds):
        at.set()
        time.sleep(0.3)
        raise ConnectionError("gone")

    first = run(tmp_path / "a", reward=fails)
    assert at.wait(60)
    assert len(run(tmp_path / "b", 1).wait()) == 1
    with pytest.raises(ConnectionError):
        first.wait()


@pytest.mark.parametrize("log", [b"", b"\0" * 50, b'{"update": 0}\n{"upd', None], ids=["empty", "zeros", "cut", "lost"])
def test_a_damaged_log_is_mended_from_the_checkpoint(tmp_path, clickable, log):
    whole = run(tmp_path, 2).wait()
    file = tmp_path / "metrics.jsonl"
    text = file.read_bytes()
    file.unlink() if log is None else file.write_bytes(log)
    again = run(tmp_path, 2)
    assert again.widget and again.wait() == whole and file.read_bytes() == text
    assert [m["update"] for m in run(tmp_path, 3).wait()] == [0, 1, 2]


def test_it_says_from_where_it_went_on_by_the_checkpoint_not_by_the_log(tmp_path, clickable):
    run(tmp_path, 2).wait()
    (tmp_path / "ppo.ckpt").unlink()
    new = run(tmp_path, 1)
    assert len(new.wait()) == 1 and "It went on" not in new.status
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text() * 3)  # ahead of the checkpoint
    further = run(tmp_path, 3)
    assert len(further.wait()) == 3 and "It went on from update 1." in further.status
