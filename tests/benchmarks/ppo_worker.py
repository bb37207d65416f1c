"""One learner in a process of its own, which works only when told to; `bench_ppo.py` starts several and lets them take turns.

    ppo_worker.py update ours|reference_pattern|trl_ppo|trl_grpo|trl_rloo    learn from given rewrites
    ppo_worker.py rollout ours|reference_pattern|trl_grpo|trl_rloo           sample, draw, judge, read
    ppo_worker.py profile ours                                               whole updates, and where their seconds go
    ppo_worker.py train SFT|ours|reference_pattern|trl_grpo|trl_rloo SEED    draw as many pictures as told, then measure the policy

Each line on stdin is an order, and gets one JSON line in answer: "go" is the next turn, anything else the end. What libraries print goes to stderr.
"""

import argparse
import copy
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))


class Turns:
    """The worker's end of the line to `bench_ppo.py`."""

    def __init__(self):
        self.line = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.began, self.base = None, 0

    def starts(self):
        """What is in memory now belongs to the libraries, the policy and the batch, not to the learner."""
        import torch

        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.base = memory("VmRSS")

    def wait(self, **more):
        """Say how long the turn that ends here took, and sleep until the next one begins."""
        settle()
        self.say(**more, **({"seconds": time.perf_counter() - self.began} if self.began else {"ready": True}))
        if sys.stdin.readline().strip() != "go":
            self.say(mb=memory("VmHWM") - self.base)
            os._exit(0)  # without a word from trainers that are in the middle of something
        self.began = time.perf_counter()

    def say(self, **what):
        print(json.dumps(what), file=self.line, flush=True)


def settle():
    """Let a GPU end what it was asked to do: only then is the clock's time that of the work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory(name):
    """A figure in MB as Linux keeps it of this process, VmRSS now or VmHWM at most; with a GPU, the same of what its tensors take there."""
    import torch

    if torch.cuda.is_available():
        return {"VmRSS": torch.cuda.memory_allocated, "VmHWM": torch.cuda.max_memory_allocated}[name]() / 2**20
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def scorer_in(folder):
    """The pocket world's scorer with an empty memory of pictures, and how many it has drawn, a list of one number."""
    from promptlab import config
    from promptlab.rewards import Scorer

    scorer, drawn = Scorer(config.POCKET, folder), [0]
    generate = scorer.gallery.generator.generate

    def counted(prompts, *given, **more):
        drawn[0] += len(prompts)
        return generate(prompts, *given, **more)

    scorer.gallery.generator.generate = counted
    return scorer, drawn


def batch(pool, settings, number):
    """The prompts of an update, and the seed of its pictures: those of `PPO.rollout`."""
    import torch

    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(number))[: settings.prompts]
    return [pool[i] for i in order.tolist() for _ in range(settings.samples)], 1_000_000 + number


def updates(who, policy, pool, settings, turns):
    """Turns of learning from one and the same batch, no picture drawn."""
    import ppo_trl
    import torch
    from ppo_pattern import Pattern

    from promptlab import ppo

    plain, _ = batch(pool, settings, 0)
    rewrites = policy.sample(plain, seed=0, new_tokens=settings.new_tokens)
    scores = torch.randn(len(plain), generator=torch.Generator().manual_seed(0))
    slow = replace(settings, lr=ppo_trl.LR, decay=0)
    if who == "trl_ppo":
        ppo_trl.ppo_updates(policy, slow, rewrites, scores, turns)
    elif who.startswith("trl"):
        ppo_trl.online_updates(who[4:].upper(), policy, slow, rewrites, scores, plain, turns)
    else:
        policy.sample = lambda *_, **__: rewrites
        turns.starts()
        run = ppo.PPO(policy, slow) if who == "ours" else Pattern(policy, slow)
        while True:
            turns.wait()
            run.update(pool if who == "ours" else plain, lambda *_: scores)


def rollouts(who, policy, pool, settings, turns):
    """Turns of sampling, drawing and reading; other prompts each time."""
    import ppo_trl
    from ppo_pattern import Pattern, alone, quickest

    from promptlab import ppo
    from promptlab.rewards import PictureReward

    scorer, _ = scorer_in(tempfile.mkdtemp())
    reward, look = PictureReward(scorer), list(range(settings.images))
    scorer.gallery.judge  # noqa: B018 - loaded now
    if who == "ours":
        run = ppo.PPO(policy, settings)
        work = lambda plain: run.rollout(pool, reward)  # noqa: E731 - it picks the same prompts itself
    elif who == "reference_pattern":
        run, threads = Pattern(policy, settings), quickest(lambda: scorer.gallery.generator.generate(pool[:1] * len(look), look))
        work = lambda plain: run.rollout(plain, alone(scorer, look, threads))  # noqa: E731
    else:
        plain, run = batch(pool, settings, 0)[0], SimpleNamespace()
        paid = lambda plain, written: reward(plain, written, look).tolist()  # noqa: E731
        work = ppo_trl.online_rollout(who[4:].upper(), policy, settings, plain, paid)
    for run.done in itertools.count():
        plain, first = batch(pool, settings, run.done)
        look[:] = range(first, first + settings.images)
        turns.wait()
        work(plain)


def profile(policy, pool, settings, turns):
    """Turns of whole updates with pictures; each answer says how many seconds each part took."""
    from promptlab import ppo
    from promptlab.rewards import PictureReward

    scorer, _ = scorer_in(tempfile.mkdtemp())
    run, spent, looking = ppo.PPO(policy, settings), Counter(), "looking and remembering, what drawing does not hide"

    def timed(work, part, inside=None):
        def timed_work(*given, **more):
            settle()
            began = time.perf_counter()
            found = work(*given, **more)
            settle()
            took = time.perf_counter() - began
            spent.update({part: took} | ({inside: -took} if inside else {}))
            return found

        return timed_work

    policy.sample, run.read = timed(policy.sample, "sampling"), timed(run.read, "reading by policy and reference")
    run.learn, reward = timed(run.learn, "learning"), timed(PictureReward(scorer), looking)
    generator = scorer.gallery.generator
    generator.generate = timed(generator.generate, "drawing", looking)
    while True:
        turns.wait(parts=dict(spent))
        spent.clear()
        run.update(pool, reward)


def train(who, seed, start, pool, settings, pictures, turns):
    """One turn: a training that draws about so many pictures, then the mean reward of sampled rewrites of the validation prompts."""
    from ppo_pattern import Pattern

    from promptlab.evaluation import SCORING
    from promptlab.pocket import peers
    from promptlab.prompts import load_prompts
    from promptlab.rewards import PictureReward

    scorer, drawn = scorer_in(tempfile.mkdtemp())
    reward, policy, kept = PictureReward(scorer), copy.deepcopy(start), {}
    turns.wait()
    if who == "reference_pattern":
        run = Pattern(policy, replace(settings, seed=seed))
        # Another prompt in every row, as in the paper, and as many pictures in an update as ours: so both take as many gradient steps.
        wide = replace(settings, prompts=settings.prompts * (settings.samples + 1) // 2, samples=1)
        for number in range(max(1, round(pictures / (2 * wide.prompts)))):
            plain, look = batch(pool, wide, 1_000_003 * seed + number)
            run.update(plain, lambda x, y, look=look: reward(x, y, [look]))
    elif who != "SFT":
        peers.SETTINGS = settings
        name, group = "PPO" if who == "ours" else who[4:].upper(), settings.prompts * (settings.samples + 1)
        last = max(1, round(pictures / group))

        def watch(_, found):
            kept["model"] = copy.deepcopy(found.model)

        peers.LEARNERS[name](start, pool, reward, seed, (last,), watch)
        policy.model = kept["model"]
    spent, plain = drawn[0], [r["x"] for r in load_prompts("validation")][: 150 if pictures > 300 else 8]
    texts = policy.sample(plain, seed=0, new_tokens=settings.new_tokens).texts
    turns.wait(reward=scorer.rewards(plain, texts, SCORING[:1]).mean().item(), pictures=spent)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("update", "rollout", "profile", "train"))
    parser.add_argument("who")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=1500)
    given, turns = parser.parse_args(), Turns()
    from promptlab import ppo
    from promptlab.policy import load_policy
    from promptlab.prompts import load_prompts
    from promptlab.runtime import data_dir

    s = ppo.Settings()
    settings = replace(s, prompts=given.prompts, samples=given.samples, images=given.images, minibatch=given.prompts * given.samples)
    policy, pool = load_policy(data_dir() / "pocket" / "sft"), list(dict.fromkeys(r["x"] for r in load_prompts("ppo")))
    if given.what == "train":
        train(given.who, given.seed, policy, pool, settings, given.pictures, turns)
    elif given.what == "profile":
        profile(policy, pool, settings, turns)
    else:
        {"update": updates, "rollout": rollouts}[given.what](given.who, policy, pool, settings, turns)


if __name__ == "__main__":
    main()
