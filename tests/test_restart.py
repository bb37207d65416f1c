"""kill -9 at any moment, run again: the same weights and metrics to the last bit, for PPO and SFT; a damaged checkpoint costs the one before."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from test_ppo import FAST, POOL, count
from test_processes import begin, server, together, weights  # noqa: F401 - the server is a fixture
from test_sft import DAMAGES, RECORDS, quiet
from tiny_policy import tiny_policy

from promptlab import ppo, restart, sft
from promptlab.ppo import PPO
from promptlab.restart import before
from promptlab.runtime import PromptlabError

UPDATES = 5


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def dying(real, at, half=False):
    """The same function, killed in its call number `at`, or with `half` behind it."""
    calls = []

    def mortal(*args, **kwargs):
        calls.append(args)
        if len(calls) == at and not half:
            die()
        answer = real(*args, **kwargs)
        if len(calls) == at:
            die()
        return answer

    return mortal


def torn(real, at, name):
    """`Path.write_bytes` that writes half of a file of this name and is killed, the time number `at` it is written."""
    calls = []

    def write(path, data):
        calls.extend([path] if path.name.startswith(f"{name}.") else [])
        if len(calls) == at and calls[-1] is path:
            real(path, bytes(data)[: len(data) // 2])
            die()
        return real(path, data)

    return write


def learn(folder, plan=None, at=1):
    """A run of PPO, killed as planned."""
    reward = count("vivid")
    if plan == "an update":
        reward = dying(reward, at)
    elif plan == "behind a rollout":
        PPO.learn = dying(PPO.learn, 8 * at)
    elif plan == "a checkpoint half written":
        Path.write_bytes = torn(Path.write_bytes, at, "ppo.ckpt")
    elif plan == "between two checkpoints":  # the last has become the one before, the new one is not there
        restart.save_checkpoint = dying(restart.save_checkpoint, at)
    elif plan == "behind a checkpoint":
        restart.save_checkpoint = dying(restart.save_checkpoint, at, half=True)
    elif plan == "the log half written":
        Path.write_bytes = torn(Path.write_bytes, at, "metrics.jsonl")
    policy = tiny_policy()
    history = ppo.train(policy, POOL, reward, folder, UPDATES, FAST, every=2)
    return history, weights(policy.model), (folder / "metrics.jsonl").read_bytes()


def tune(folder, plan=None, at=1):
    """A training of SFT, killed as planned."""
    import trl

    if plan == "a step":
        trl.SFTTrainer.training_step = dying(trl.SFTTrainer.training_step, 4 * at)
    elif plan == "a checkpoint half written":
        torch.save = dying(torch.save, 3 * at - 1)
    elif plan == "before the seal":
        sft.seal = dying(sft.seal, at)
    elif plan == "behind the seal":
        sft.seal = dying(sft.seal, at, half=True)
    policy = sft.finetune(quiet(tiny_policy()), RECORDS, folder, epochs=3, lr=1e-2, batch=8, held_out=RECORDS[:4])
    return weights(policy.model), sft.losses(folder)


def same(one, two):
    """Whether two answers are equal to the last bit."""
    if isinstance(one, dict | list | tuple):
        keys = one if isinstance(one, dict) else range(len(one))
        return len(one) == len(two) and all(same(one[k], two[k]) for k in keys)
    return np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two


def killed(job, *args):
    """Run it in a process of its own, which has to be killed."""
    child, pipe = begin(job, *args)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, pipe.recv() if pipe.poll() else "it hangs"


def killed_at_random(job, folder, lasts, times, seed):
    """Kill so many runs in one folder, each after a random part of the seconds that a whole one lasts; some may be done before."""
    chance = random.Random(seed)
    for _ in range(times):
        child, _ = begin(job, folder)
        time.sleep(chance.uniform(0, lasts))
        with suppress(ProcessLookupError):
            child.kill()
        child.join(20)


def straight(job, folder):
    """What an undisturbed run returns, and how long it takes."""
    began = time.perf_counter()
    (answer,) = together(1, job, folder)
    return answer, time.perf_counter() - began


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    together(1, os.getpid)  # the server starts, and is not part of the time
    return straight(learn, tmp_path_factory.mktemp("ppo"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return straight(tune, tmp_path_factory.mktemp("sft"))


@pytest.mark.parametrize("plan, at", [
    ("an update", 3), ("behind a rollout", 1), ("a checkpoint half written", 1), ("a checkpoint half written", 2), ("between two checkpoints", 2),
    ("behind a checkpoint", 1), ("the log half written", 2),
])  # fmt: skip
def test_ppo_killed_anywhere_ends_the_same(learned, tmp_path, plan, at):
    killed(learn, tmp_path, plan, at)
    (again,) = together(1, learn, tmp_path)
    assert same(again, learned[0])
    assert sorted(f.name for f in tmp_path.iterdir()) == ["metrics.jsonl", "ppo-before.ckpt", "ppo.ckpt"], "no half of a file is left"


def test_ppo_killed_at_random_ends_the_same(learned, tmp_path):
    killed_at_random(learn, tmp_path, learned[1], times=4, seed=0)
    (again,) = together(1, learn, tmp_path)
    assert same(again, learned[0])


@pytest.mark.parametrize(
    "plan, at", [("a step", 1), ("a step", 2), ("a checkpoint half written", 2), ("before the seal", 2), ("behind the seal", 2)]
)
def test_sft_killed_anywhere_ends_the_same(tuned, tmp_path, plan, at):
    killed(tune, tmp_path, plan, at)
    (again,) = together(1, tune, tmp_path)
    assert same(again, tuned[0])


def test_sft_killed_at_random_ends_the_same(tuned, tmp_path):
    killed_at_random(tune, tmp_path, tuned[1], times=2, seed=1)
    (again,) = together(1, tune, tmp_path)
    assert same(again, tuned[0])


# --- two checkpoints ------------------------------------------------------------------------------------------------


def run(folder, updates):
    policy = tiny_policy()
    return ppo.train(policy, POOL, count("vivid"), folder, updates, FAST, every=1, quiet=True), weights(policy.model)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d != "a folder"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, capsys, damage):
    whole = run(tmp_path / "a", 3)
    run(tmp_path / "b", 2)
    file = tmp_path / "b" / "ppo.ckpt"
    DAMAGES[damage](file)
    assert same(run(tmp_path / "b", 3), whole)
    what = "was never finished" if damage == "gone" else "is damaged"
    assert capsys.readouterr().out == f"{file} {what}. The run goes on from the checkpoint before it, after update 1.\n"
    assert [PPO(tiny_policy(), FAST).load(f).done for f in (file, before(file))] == [3, 2], "and both are whole again"


def test_a_damaged_checkpoint_never_replaces_a_whole_one(tmp_path):
    run(tmp_path, 2)
    file = tmp_path / "ppo.ckpt"
    DAMAGES["cut"](file)
    kept = before(file).read_bytes()
    resumed = PPO(tiny_policy(), FAST)
    assert restart.resume(resumed, file) and resumed.done == 1
    resumed.save(file)
    assert before(file).read_bytes() == kept and PPO(tiny_policy(), FAST).load(file).done == 1


def test_where_both_are_damaged_the_newest_is_named_and_nothing_is_deleted(tmp_path):
    run(tmp_path, 2)
    file = tmp_path / "ppo.ckpt"
    for f in (file, before(file)):
        DAMAGES["cut"](f)
    with pytest.raises(PromptlabError, match=f"{file} is damaged, and there is no whole checkpoint before it"):
        run(tmp_path, 3)
    assert file.exists() and before(file).exists()


def test_the_checkpoint_of_another_run_is_never_passed_over(tmp_path):
    run(tmp_path, 2)
    with pytest.raises(PromptlabError, match="another model"):
        ppo.train(tiny_policy(width=16), POOL, count("vivid"), tmp_path, 3, FAST, quiet=True)


def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    run(tmp_path / "a", 2)
    whole = run(tmp_path / "c", 3)

    def full(path, data):
        if path.name.startswith("ppo.ckpt"):
            raise OSError(28, "No space left on device")
        return real(path, data)

    real = Path.write_bytes
    with monkeypatch.context() as patch, pytest.raises(PromptlabError, match="Free some space"):
        patch.setattr(Path, "write_bytes", full)
        run(tmp_path / "a", 3)
    assert same(run(tmp_path / "a", 3), whole)
    assert json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])["update"] == 2
