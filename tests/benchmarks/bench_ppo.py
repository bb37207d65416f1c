"""Our PPO against its peers on the same policy, prompts, tokens and pictures: `make bench`, half an hour on two quiet cores.

Writes data/benchmarks/ppo.json, records ``{against, metric, ours, theirs, ratio, command, date}`` with ratio > 1 where ours is better
(a `note` says what lacks), and data/benchmarks/ppo_profile.json, where the seconds of an update go, and what every turn and every
training gave, so that the spread is seen. Goes on where it was stopped.

Each learner is a process of its own (`ppo_worker.py`), all are loaded before the first turn, and they take turns, so that what else
the machine does hits all alike; the first turn warms up and does not count, of the others the median does. All use every core, but
pictures drawn alone use one where that is faster. All get 8 prompts with 12 rewrites each, our layout,
which lets ours draw a prompt's plain picture once and read a prompt once for twelve rewrites, and one picture a rewrite, which the pattern
draws by itself; the paper's rows are all of different prompts, with two pictures of each drawn in one call, so the profile file also says how
the pattern and TRL's PPO fare there ("alone": 96 prompts, one rewrite of each, two pictures). All learn with our step size. Metrics:
- rollouts_per_s: rewrites a second, sampled, drawn, judged and read by policy and reference. 96 rewrites of 8 prompts, one picture each.
- update_s: seconds to read 96 given rewrites and take the 4 gradient steps on them; nothing is written or drawn.
- peak_memory: MB that this takes beside libraries, policy and batch, with all 96 rewrites in a step at once; each can take fewer at a time.
- reward_per_1k_images: what 1,000 pictures, plain ones included, add to the mean reward of rewrites sampled for the validation prompts,
  after about 1,500 pictures from the SFT policy, five training seeds. Against TRL's learners it comes from data/pocket/learners.json
  where that exists: greedy rewrites of test prompts, its training seeds, plain pictures not counted.
Against: `reference_pattern`, the way of the paper's code (`ppo_pattern.py`); `trl_ppo`, PPOTrainer of TRL 1.12, the last that had one, in an
environment of its own; `trl_grpo` and `trl_rloo`, the trainers of the TRL installed, whose rollouts draw through our gallery. Linux only: memory is read from /proc.
"""

import argparse
import datetime
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import venv
import zlib
from pathlib import Path

import numpy as np

from promptlab import evaluation
from promptlab.pocket.kept import write_rows
from promptlab.runtime import PromptlabError, bar, checkout, exit_code, home, write_atomically

HERE, COMMAND, SEEDS = Path(__file__).resolve().parent, "make bench", range(5)
ROOT = HERE.parents[1]
RECORDS, PROFILE = (ROOT / "data" / "benchmarks" / name for name in ("ppo.json", "ppo_profile.json"))
PEERS = ("reference_pattern", "trl_ppo", "trl_grpo", "trl_rloo")
METRICS = {"rollouts_per_s": "higher", "update_s": "lower", "peak_memory": "lower", "reward_per_1k_images": "higher"}
FLOORS = {("reference_pattern", "rollouts_per_s"): 5.0, ("trl_ppo", "update_s"): 1.5, ("trl_grpo", "update_s"): 1.2,
          **{(peer, "reward_per_1k_images"): 1.0 for peer in PEERS}}  # fmt: skip
TURNS = ("update", "rollout", "update, alone", "rollout, alone")  # alone: every rewrite of another prompt, two pictures, as in the paper
SHARE = 0.25  # of an update may go to anything but pictures
PICTURES = ("drawing", "looking and remembering, what drawing does not hide")
NO_REWARD = "PPOTrainer asks for a reward model and takes no function, so it cannot learn from pictures"


# --- what was measured, as records ----------------------------------------------------------------------------------


def record(against, metric, ours, theirs, note=""):
    """One record; where a floor is missed, its note says so."""
    better = None
    if theirs is not None:
        ours, theirs = float(f"{ours:.4g}"), float(f"{theirs:.4g}")
        better = (ours / theirs if METRICS[metric] == "higher" else theirs / ours) if theirs > 0 else None
        if better is None:  # any gain is infinitely better than none
            note = f"it gained nothing by its pictures, so there is no ratio. {note}".strip()
        floor = FLOORS.get((against, metric), 0)
        if better is not None and better < floor:
            note = f"below the floor of {floor:g}. {note}".strip()
    out = {"against": against, "metric": metric, "ours": ours, "theirs": theirs, "ratio": better and round(better, 3), "command": COMMAND}
    return out | {"date": f"{datetime.date.today()}"} | ({"note": note} if note else {})


def records_of(found, learners=None):
    """All records from what the steps found; `learners` are the rows of data/pocket/learners.json, if there are any."""
    middle = lambda step, who: statistics.median(found[step][who]["seconds"])  # noqa: E731
    out = []
    for peer in PEERS:
        if peer != "trl_ppo":
            rate = {who: found["rewrites"] / middle("rollout", who) for who in ("ours", peer)}
            out.append(record(peer, "rollouts_per_s", rate["ours"], rate[peer]))
        else:
            out.append(record(peer, "rollouts_per_s", None, None, NO_REWARD))
        for metric in ("update_s", "peak_memory"):
            if peer in found["update"]:
                value = {who: middle("update", who) if metric == "update_s" else found["update"][who]["mb"] for who in ("ours", peer)}
                out.append(record(peer, metric, value["ours"], value[peer]))
            else:
                out.append(record(peer, metric, None, None, "TRL 1.12 could not be installed"))
        if peer == "trl_ppo":
            out.append(record(peer, "reward_per_1k_images", None, None, NO_REWARD))
        else:
            kept = peer != "reference_pattern" and learners is not None
            ours, theirs = (told(learners, "PPO", peer[4:].upper()) if kept else [gains(found, who) for who in ("ours", peer)])
            apart = evaluation.told(evaluation.interval(np.subtract(ours, theirs)))
            note = f"ours minus theirs {apart}, training seeds: {len(ours)}" + ", from data/pocket/learners.json" * kept
            out.append(record(peer, "reward_per_1k_images", statistics.mean(ours), statistics.mean(theirs), note))
    return out


def gains(found, who):
    """Reward that a learner added to the SFT policy's, per thousand pictures, one number a training seed."""
    start = found["train SFT 0"]["reward"]
    runs = [found[f"train {who} {seed}"] for seed in SEEDS]
    return [(run["reward"] - start) / run["pictures"] * 1000 for run in runs]


def told(rows, *learners):
    """The same of two learners from the rows of learners.json, at the most pictures that both were measured at."""
    from promptlab.pocket.learners import by_seed, summary

    last = max(set.intersection(*({r["pictures"] for r in rows if r["learner"] == who} for who in learners)))
    start = summary(rows, "SFT", "reward", 0)[0]
    return [[(reward - start) / last * 1000 for reward in by_seed(rows, who, "reward", last).values()] for who in learners]


def ratios(told):
    """How many times as long as ours each peer takes, by the medians: a dict."""
    middle = {who: statistics.median(one["seconds"]) for who, one in told.items()}
    return {who: round(seconds / middle["ours"], 2) for who, seconds in middle.items() if who != "ours"}


def turns_of(found):
    """What every turn and training gave: a dict by step, of the seconds of each learner or of one reward and its pictures."""
    turns = {step: {who: [round(s, 2) for s in told["seconds"]] for who, told in found[step].items()} for step in found if step in TURNS}
    return turns | {step: {key: told[key] for key in ("reward", "pictures")} for step, told in found.items() if step.startswith("train")}


def profile_of(parts, seconds):
    """Rows of part, seconds an update, share; means over updates. What no part claims is the rest: advantages, metrics, the optimiser's start."""
    names = list(dict.fromkeys([*PICTURES, "sampling", "reading by policy and reference", "learning"]))
    mean, whole = {name: statistics.mean(p.get(name, 0) for p in parts) for name in names}, statistics.mean(seconds)
    mean["the rest"] = whole - sum(mean.values())
    rows = [{"part": name, "seconds": round(took, 3), "share": round(took / whole, 3)} for name, took in mean.items()]
    other = sum(took for name, took in mean.items() if name not in PICTURES)
    return [*rows, {"part": "all but pictures", "seconds": round(other, 3), "share": round(other / whole, 3)}]


# --- the processes that measure -------------------------------------------------------------------------------------


class Worker:
    """One learner in a process of its own; `turn` lets it work and returns what it says."""

    def __init__(self, python, folder, *given):
        self.log = folder / f"{'-'.join(map(str, given[:3]))}.log"
        self.process = subprocess.Popen(
            [python, str(HERE / "ppo_worker.py"), *map(str, given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"),
            text=True,
        )  # fmt: skip
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            last = "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])
            raise PromptlabError(f"{self.log.stem} ended early: {last}\nAll it said is in {self.log}.")
        return json.loads(line)

    def turn(self, word="go"):
        print(word, file=self.process.stdin, flush=True)
        return self.read()

    def end(self):
        """Stop it; returns the MB it took at most."""
        found = self.turn("stop")["mb"]
        self.process.wait()
        return found


def interleaved(workers, rounds, progress):
    """Let workers take turns, the first of which does not count; returns what each said, a list of answers and the peak."""
    said = {who: [] for who in workers}
    for _ in range(rounds + 1):
        for who, worker in workers.items():
            said[who].append(worker.turn())
            progress.update()
    return {who: {"said": said[who][1:], "seconds": [s["seconds"] for s in said[who][1:]], "mb": workers[who].end()} for who in workers}


def old_trl():
    """The Python that has TRL 1.12, made beside the installed libraries, all of which it shares; None where it cannot be had."""
    folder = Path(sys.prefix) / "trl-1.12"
    python, site = folder / "bin" / "python", Path(importlib.util.find_spec("trl").origin).parents[1]
    try:
        if not list(folder.glob("lib/python*/site-packages/trl-1.12.0.dist-info")):
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "trl==1.12.0"], check=True)
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "others.pth").write_text(f"import site; site.addsitedir({str(site)!r})\n")
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        print(f"TRL 1.12 cannot be had ({error}), so its PPO is left out.")
        return None
    return str(python)


def measure(folder, quick):
    """Take every step that is not in the folder yet; returns what all of them found."""
    kept = folder / "found.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    learners = ROOT / "data" / "pocket" / "learners.json"
    peers, turns = {"ours": sys.executable, "reference_pattern": sys.executable}, 1 if quick else 5
    if not {"update", "update, alone"} <= found.keys() and (python := old_trl()):
        peers["trl_ppo"] = python
    peers |= {"trl_grpo": sys.executable, "trl_rloo": sys.executable}
    size = ["--prompts", 2, "--pictures", 26] if quick else []
    trained = [("SFT", 0), *((who, seed) for who in ("ours", "reference_pattern") for seed in SEEDS)]
    trained += [] if learners.exists() else [(who, seed) for who in ("trl_grpo", "trl_rloo") for seed in SEEDS]
    steps = [*TURNS, "profile", *(f"train {who} {seed}" for who, seed in trained)]
    todo = [step for step in steps if step not in found]
    drawing = {who: python for who, python in peers.items() if who != "trl_ppo"}
    alike = {who: python for who, python in peers.items() if who not in ("trl_grpo", "trl_rloo")}  # these two need groups
    who_takes = dict(zip(TURNS, (peers, drawing, alike, {who: python for who, python in drawing.items() if who in alike}), strict=True))
    alone = ["--prompts", 24 if quick else 96, "--samples", 1, "--images", 2]
    total = {step: len(some) * (turns + 1) for step, some in who_takes.items()} | {"profile": turns}
    with bar(total=sum(total.get(step, 10) for step in todo)) as progress:
        for step in todo:
            progress.set_description(step)
            if step in TURNS:
                what, given = step.split(",")[0], alone if "alone" in step else size
                workers = {who: Worker(python, folder, what, who, 0, *given) for who, python in who_takes[step].items()}
                new = interleaved(workers, turns, progress)
            elif step == "profile":
                said = interleaved({"ours": Worker(sys.executable, folder, "profile", "ours", 0, *size)}, max(1, turns - 1), progress)[
                    "ours"
                ]
                new = profile_of([answer["parts"] for answer in said["said"]], said["seconds"])
            else:
                worker = Worker(sys.executable, folder, *step.split(), *size)
                new = worker.turn()
                worker.end(), progress.update(10)
            found[step] = new
            write_atomically(kept, json.dumps(found))
    return found | {"rewrites": 24 if quick else 96}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny batches, to see whether it runs: nothing is written to data/benchmarks")
    quick = parser.parse_args().quick
    sources = sorted([*(checkout() / "promptlab").rglob("*.py"), *HERE.glob("*ppo*.py")])
    mark = zlib.crc32(b"".join(map(Path.read_bytes, sources)))  # other code is not the same measurement
    folder = home() / "benchmarks" / f"ppo-{'quick-' * quick}{mark:08x}"
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(folder, quick)
    rows = None
    if (ROOT / "data" / "pocket" / "learners.json").exists():
        from promptlab.pocket import learners

        rows = learners.load()
    records, parts = records_of(found, rows), found["profile"]
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    places = (folder / RECORDS.name, folder / PROFILE.name) if quick else (RECORDS, PROFILE)
    write_rows(places[0], records)
    about = {"command": COMMAND, "date": f"{datetime.date.today()}", "machine": machine, "target": SHARE, "parts": parts}
    about["alone"] = {step.split(",")[0]: ratios(found[step]) for step in TURNS if "alone" in step}
    write_atomically(places[1], json.dumps(about | {"turns": turns_of(found)}, indent=1) + "\n")
    for r in records:
        numbers = f"{r['ours']:>10.4g} {r['theirs']:>10.4g}" if r["theirs"] is not None else f"{'-':>10} {'-':>10}"
        print(f"{r['against']:18} {r['metric']:22} {numbers} {r['ratio'] or '':>8}  {r.get('note', '')}")
    print("\nAn update with pictures:")
    for row in parts:
        print(f"{row['part']:34} {row['seconds']:7.2f} s {100 * row['share']:5.0f} %")
    print(f"target for all but pictures: {100 * SHARE:.0f} %")
    print(f"With two pictures of each of 96 prompts, times ours: {about['alone']}\nwritten: {places[0]}, {places[1]}")
    if not quick:
        (folder / "found.json").unlink()  # the next call measures anew


if __name__ == "__main__":
    sys.exit(exit_code(main, "Stopped. Run it again to go on."))
