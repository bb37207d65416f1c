"""The training loop: resumable to the bit, and stubborn about broken checkpoints and losses."""

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from promptlab.pocket import training
from promptlab.pocket.training import load_checkpoint, save_checkpoint, train, trapezoid
from promptlab.runtime import PromptlabError

DATA = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
STEPS = 12


class Run:
    """One small training run that can be stopped and started again; counts the steps it computed."""

    def __init__(self, folder, stop_before=None, checkpoint_after=(), monkeypatch=None, **kwargs):
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
        self.other, self.seen = nn.Linear(4, 1), []
        self.start = {k: v.clone() for k, v in self.net.state_dict().items()}

        def loss_of(indices):
            step = STEPS - self.left()
            if step == stop_before:
                raise KeyboardInterrupt
            if monkeypatch:
                monkeypatch.setattr(training, "SAVE_EVERY", -1 if step in checkpoint_after else 1e9)
            self.seen.append(indices.clone())
            x = DATA[indices] + 0.1 * torch.randn(len(indices), 4)
            return (self.net(x).float() - self.other(x).float() - x.sum(1, keepdim=True)).pow(2).mean()

        self.resumed_at = (load_checkpoint(folder / "tiny.ckpt") or {}).get("step", 0) if (folder / "tiny.ckpt").exists() else 0
        self.left = lambda: STEPS - self.resumed_at - len(self.seen)
        modules = {"net": self.net, "other": self.other}
        self.result = train("tiny", folder, 0, modules, loss_of, 1e-2, 8, len(DATA), ema=("net",), steps=STEPS, **kwargs)

    def weights(self):
        return {f"{k}.{n}": v for k, m in self.result.items() for n, v in m.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.mark.parametrize("muon", [(), ("net",)], ids=["AdamW", "Muon"])
def test_a_run_stopped_and_resumed_ends_in_the_same_bits(tmp_path, monkeypatch, muon):
    straight = Run(folder(tmp_path, "a"), muon=muon)
    assert len(straight.seen) == STEPS
    place = folder(tmp_path, "b")
    with pytest.raises(KeyboardInterrupt):  # killed three steps after the last checkpoint
        Run(place, stop_before=8, checkpoint_after=(4,), monkeypatch=monkeypatch, muon=muon)
    assert load_checkpoint(place / "tiny.ckpt")["step"] == 5
    again = Run(place, muon=muon)
    assert len(again.seen) == STEPS - 5, "only what the checkpoint had not seen"
    assert all((a == b).all() for a, b in zip(again.seen, straight.seen[5:], strict=True)), "the same examples"
    assert same(again.weights(), straight.weights())
    final = [torch.load(p / "tiny.ckpt", weights_only=True) for p in (tmp_path / "a", place)]
    for part in ("modules", "average"):
        for name in final[0][part]:
            assert same(final[0][part][name], final[1][part][name])


def test_a_second_stop_costs_nothing_either(tmp_path, monkeypatch):
    straight, place = Run(folder(tmp_path, "a")), folder(tmp_path, "b")
    for stop, save in ((3, 1), (9, 6)):
        with pytest.raises(KeyboardInterrupt):
            Run(place, stop_before=stop, checkpoint_after=(save,), monkeypatch=monkeypatch)
    assert same(Run(place).weights(), straight.weights())


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path):
    first = Run(tmp_path)
    again = Run(tmp_path)
    assert not again.seen and same(first.weights(), again.weights())
    assert not any(m.training for m in again.result.values())
    assert "optimisers" not in torch.load(tmp_path / "tiny.ckpt", weights_only=True), "it would triple the file for nothing"
    assert os.listdir(tmp_path) == ["tiny.ckpt"]


def test_seeds_differ_and_repeat(tmp_path):
    runs = [Run(folder(tmp_path, str(i)), seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert same(runs[0].weights(), runs[1].weights()) and not same(runs[0].weights(), runs[2].weights())
    assert not (runs[0].seen[0] == runs[0].seen[1]).all() and all(i.max() < len(DATA) for i in runs[0].seen)


def test_the_average_follows_the_weights(tmp_path):
    """After one step it is a tenth of the start and nine tenths of the new weights."""
    net = nn.Linear(4, 1)
    before = net.weight.detach().clone()
    loss = lambda i: net(DATA[i]).float().pow(2).mean()  # noqa: E731
    out = train("one", tmp_path, 0, {"net": net}, loss, 1e-1, 8, len(DATA), ema=("net",), steps=1)["net"]
    assert out is not net and not torch.equal(before, net.weight)
    torch.testing.assert_close(out.weight.data, 0.1 * before + 0.9 * net.weight.data)


def test_learning_rates_per_module(tmp_path):
    a, b = nn.Linear(4, 1), nn.Linear(4, 1)
    frozen = b.weight.detach().clone()
    loss = lambda i: (a(DATA[i]) + b(DATA[i])).float().pow(2).mean()  # noqa: E731
    train("two", tmp_path, 0, {"a": a, "b": b}, loss, 1e-2, 8, len(DATA), lr_scale={"b": 0.0}, steps=3)
    assert torch.equal(b.weight, frozen) and not torch.equal(a.weight, frozen)


def test_muon_gets_the_matrices_and_adamw_the_rest(tmp_path):
    """One step of Muon, at a hundredth of the rate, moves a matrix by an orthogonal one; a convolution counts as (out, in * height * width)."""
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 3))
    before = [p.detach().clone() for p in net.parameters()]
    x = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    train("muon", tmp_path, 0, {"net": net}, lambda i: net(x).float().pow(2).mean(), 1e-2, 8, 8, weight_decay=0.0, muon=("net",), steps=1)
    for old, new in zip(before, net.parameters(), strict=True):
        moved = (new - old).detach()
        if new.ndim >= 2:
            size = torch.linalg.svdvals(moved.flatten(1)) / (1e-4 * 0.2 * max(moved.flatten(1).shape) ** 0.5)
            assert ((size > 0.5) & (size < 1.5)).all(), "all directions about equally far: Newton-Schulz is that rough"
        else:
            torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-4), rtol=1e-2, atol=0)


def test_training_learns_and_logs(tmp_path):
    net = nn.Linear(4, 1)
    loss = lambda i: (net(DATA[i]).float() - DATA[i].sum(1, keepdim=True)).pow(2).mean()  # noqa: E731
    train("learn", tmp_path, 0, {"net": net}, loss, 3e-2, 16, len(DATA), steps=300)
    assert (net.weight - 1).abs().max() < 0.1
    kept = load_checkpoint(tmp_path / "learn.ckpt")
    assert [step for step, _ in kept["curve"]] == [100, 200, 300] and kept["samples"] == 300 * 16
    assert kept["curve"][-1][1] < kept["curve"][0][1]


def test_a_time_box_ends_in_time_with_the_rate_at_zero(tmp_path, monkeypatch):
    """A stage gets its share of the build's hours, killed or not; what was spent counts when it goes on."""
    monkeypatch.setattr(training, "HOURS", 4 / 3600)
    net, rates = nn.Linear(4, 1), []
    monkeypatch.setattr(training, "trapezoid", lambda step, steps: rates.append(trapezoid(step, steps)) or rates[-1])
    loss = lambda i: (net(DATA[i]).float() - DATA[i].sum(1, keepdim=True)).pow(2).mean()  # noqa: E731
    training.stop_after(1 / 60)
    with pytest.raises(KeyboardInterrupt):
        train("box", tmp_path, 0.5, {"net": net}, loss, 3e-2, 16, len(DATA))
    training.stop_after()
    half = load_checkpoint(tmp_path / "box.ckpt")
    assert "optimisers" in half and 0.9 < half["seconds"] < 1.9
    train("box", tmp_path, 0.5, {"net": net}, loss, 3e-2, 16, len(DATA))
    done = load_checkpoint(tmp_path / "box.ckpt")
    assert "optimisers" not in done and done["step"] > half["step"] and 1.9 < done["seconds"] < 4
    assert rates[-1] < 0.1 < max(rates), "it falls to zero as the time runs out"
    assert (net.weight - 1).abs().max() < 0.1


def test_trapezoid_by_hand():
    factor = lambda step: trapezoid(step, 1000, warmup=100, decay=0.2)  # noqa: E731
    assert [factor(s) for s in (0, 49, 99, 500, 800)] == [0.01, 0.5, 1.0, 1.0, 1.0]
    assert (factor(900), factor(999)) == (0.5, 0.005)
    assert trapezoid(500, 1000) == trapezoid(500, 5000), "a build can be lengthened while the rate is constant"


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    net, calls = nn.Linear(4, 1), []

    def loss_of(indices):
        calls.append(1)
        return net(DATA[indices]).float().mean() * (float("nan") if len(calls) == 4 else 1)

    with pytest.raises(PromptlabError, match="sick.*nan.*step 3"):
        train("sick", tmp_path, 0, {"net": net}, loss_of, 1e-2, 8, len(DATA), steps=10)
    state = load_checkpoint(tmp_path / "sick.ckpt")
    assert state["step"] == 3 and all(torch.isfinite(v).all() for v in state["modules"]["net"].values())


# --- checkpoints that are not what they should be -------------------------------------------------------------------


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a checkpoint")
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"step": 3}))
    elif how == "other model":
        torch.save({"step": 3, "seconds": 1.0, "curve": [], "modules": {"net": nn.Linear(2, 2).state_dict()}, "average": {}}, path)
    elif how == "no checkpoint of ours":
        torch.save({"weights": torch.zeros(3)}, path)


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "pickle", "other model", "no checkpoint of ours"])
def test_a_broken_checkpoint_is_named_and_left_alone(tmp_path, how):
    Run(tmp_path)
    path = tmp_path / "tiny.ckpt"
    damage(path, how)
    before = path.read_bytes()
    with pytest.raises(PromptlabError, match=r"tiny\.ckpt.*[Dd]elete"):
        Run(tmp_path)
    assert path.read_bytes() == before


def test_a_checkpoint_cannot_run_code(tmp_path):
    target = tmp_path / "owned"
    torch.save({"step": 0, "modules": Malice(str(target))}, tmp_path / "tiny.ckpt")
    with pytest.raises(PromptlabError, match=r"tiny\.ckpt"):
        load_checkpoint(tmp_path / "tiny.ckpt")
    assert not target.exists()
    assert load_checkpoint(tmp_path / "none.ckpt") is None


@pytest.mark.parametrize("fails", ["write", "rename"])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, fails):
    path = tmp_path / "tiny.ckpt"
    save_checkpoint({"step": 1}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    if fails == "rename":
        monkeypatch.setattr(os, "replace", full)
    else:
        if not os.path.exists("/dev/full"):
            pytest.skip("needs Linux's /dev/full")
        (tmp_path / f"tiny.ckpt.{os.getpid()}.partial").symlink_to("/dev/full")  # a real device without space
    with pytest.raises(PromptlabError, match=r"tiny\.ckpt"):
        save_checkpoint({"step": 2, "x": torch.zeros(1000)}, path)
    assert load_checkpoint(path)["step"] == 1 and os.listdir(tmp_path) == ["tiny.ckpt"]


@pytest.mark.parametrize("kind, size", [("cpu", 24), ("cuda", 64), ("mps", 24)])
def test_a_device_nobody_thought_of_gets_the_cpus_batch(monkeypatch, kind, size):
    monkeypatch.setattr(training, "device", lambda: torch.device(kind))
    assert training.batch_for({"cpu": 24, "cuda": 64}) == size
