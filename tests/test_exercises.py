"""Every exercise of the course, four ways: blank, with its folded answer, and with the mistakes its hints are for."""

import contextlib
import copy
import io
import re
import types
from pathlib import Path

import nbformat
import pytest
import torch
from tiny_policy import tiny_policy

from promptlab import config, evaluation, ppo, runtime
from promptlab.lab import plots
from promptlab.rewards import Scores

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"

# (notebook, function): wrong bodies, each with a piece of the hint it must get
MISTAKES = {
    ("00_tour", "gain"): {
        "return mean(new.values()) - mean(plain.values())": "one dict only must not count",
        "return mean(plain[s] - new[s] for s in plain.keys() & new.keys())": "better must be positive",
    },
    ("00_tour", "report"): {"return max(chosen)": "luck included", "return max(fresh)": "now the new seeds choose"},
    ("00_tour", "cost"): {"return prompts * n * k": "plain ones cost too", "return 2 * prompts * n * k": "draw plain ones once"},
    ("01_sft", "labels"): {
        "return prompt + completion + [end]": "what people type",
        "return [-100] * len(prompt) + completion": "nothing teaches it to stop",
        "return prompt + [-100] * (len(completion) + 1)": "turned round",
    },
    ("01_sft", "way_gone"): {
        "return sum((s - p) / (b - p) for p, s, b in zip(plain, sft, best)) / len(plain)": "average first",
        "return sum(sft) / sum(best)": "begins at plain",
        "return (sum(best) - sum(plain)) / (sum(sft) - sum(plain))": "upside down",
    },
    ("01_sft", "without_placebo"): {
        "return [r for r in records if not set(r['y'].split(', ')) & set(PLACEBO_WORDS)]": "too few examples",
        "import re; return [r | {'y': re.sub('|'.join(PLACEBO_WORDS), '', r['y'])} for r in records]": "empty places",
        "return [r | {'y': ', '.join(r['y'].split(', ')[:2])} for r in records]": "good words were lost",
        "return [r | {'y': r['y'].replace(', masterpiece', '')} for r in records]": "still there",
        "[r.update(y=', '.join(w for w in r['y'].split(', ') if w not in PLACEBO_WORDS)) for r in records]; return records": "lent to you",
    },
    ("02_rewards", "my_penalty"): {
        "return (k * (relevance - r0)).mean(1).clamp(max=0)": "Clamp inside, average outside",
        "return (k * (relevance - r0)).clamp(min=0).mean(1)": "cuts the wrong side",
        "return (k * (relevance - r0)).mean(1)": "Nothing is clamped",
        "return (k * (relevance - r0)).clamp(max=0).sum(1)": "add up where you should average",
        "return (k * (relevance - r0)).clamp(max=0).mean(0)": "mean(1) runs along a row",
    },
    ("02_rewards", "my_budget"): {
        "return math.ceil(sd / target)": "the square is missing",
        "return int((sd / target) ** 2)": "Round up",
    },
    ("02_rewards", "silhouettes_please"): {
        'return -sheet.similarity("a silhouette")': "is a sign turned round",
        'return s.aesthetic + sheet.similarity("a silhouette")': "Weigh it up",
        "return s.aesthetic": "Which words would",
    },
    ("03_ppo", "token_pay"): {
        "pay = -kl * (log_p - log_ref); pay[-1] = score; return pay": "replaces the leash price",
        "pay = kl * (log_p - log_ref); pay[-1] += score; return pay": "sign is turned round",
        "return score - kl * (log_p - log_ref)": "comes once",
        "pay = 0 * log_p; pay[-1] = score; return pay": "leash is missing",
    },
    ("03_ppo", "objective"): {
        "return ratio.clamp(1 - clip, 1 + clip) * advantage": "Only the clipped product",
        "return torch.maximum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)": "PPO is the pessimist",
        "return (ratio * advantage).clamp(1 - clip, 1 + clip)": "the clip is for the ratio",
        "return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)": "has the other sign",
    },
    ("03_ppo", "ending_pays"): {
        "return torch.tensor([float(word in t) for t in written])": "paid wherever it stands",
        "return torch.tensor([float(t.count(word)) for t in written])": "learned to repeat it",
        "return torch.ones(len(written))": "cannot know what you want",
        "return -torch.tensor([float(t.endswith(word)) for t in written])": "punishes the word",
    },
    ("04_evaluation", "my_interval"): {
        "return plots.interval((b - a).mean(1))[1:]": "better must be positive",
        "return evaluation.interval(a.mean(1), minus=b.mean(1))[1:]": "Subtract first",
        "return plots.interval((a - b).ravel())[1:]": "average within each noun",
        "return plots.interval((a - b).mean(0))[1:]": "mean(1)",
        "d = (a - b).mean(1); half = 1.96 * d.std(ddof=1) / len(d)**0.5; return d.mean() - half, d.mean() + half": "12 need Student's t",
        "return np.percentile(a - b, (2.5, 97.5))": "ends of single differences",
    },
    ("04_evaluation", "my_report"): {
        "return rewards[:, :, :2].mean(2).max(1).mean()": "luck included",
        "return rewards.mean(2).max(1).mean()": "the bug of section 3",
        "return rewards[:, :, 2:].mean(2).max(1).mean()": "seeds that should only score",
        "return rewards[np.arange(len(rewards)), rewards.mean(2).argmax(1), 2:].mean()": "had a say in the choice",
        "return rewards[:, rewards[:, :, :2].mean((0, 2)).argmax(), 2:].mean()": "a fixed suffix",
    },
    ("04_evaluation", "my_fooler"): {
        'return "a castle, oil painting, at sunset, vivid colors"': "Both like it",
        'return "a pizza, blurry, black and white"': "Both dislike it",
        'return "a fox"': "A middling picture",
    },
    ("11_pretraining", "extra"): {
        "return pretrained_out - ours_out": "in domain it has one too",
        "return (pretrained_in - ours_in) - (pretrained_out - ours_out)": "turned round",
    },
    ("11_pretraining", "adapter"): {"return a * b": "stays frozen", "return r * a * b": "two matrices"},
    ("11_pretraining", "perplexity"): {
        "every = [v for row in logs for v in row]; return sum(math.exp(-v) for v in every) / len(every)": "exponential of the mean",
        "return math.exp(-sum(sum(row) / len(row) for row in logs) / len(logs))": "each counts once",
        "every = [v for row in logs for v in row]; return math.exp(sum(every) / len(every))": "surprise is not",
    },
}


def exercise_cells(name):
    """The code cells of a notebook's exercises: functions to fill in and their checks."""
    cells = nbformat.read(next(FOLDER.rglob(f"{name}.ipynb")), 4).cells
    start = next(i for i, c in enumerate(cells) if c.cell_type == "markdown" and re.match(r"## .*xercises", c.source))
    return [c for c in cells[start:] if c.cell_type == "markdown" or re.search(r"^def ", c.source, re.M)]


def folded_answer(name, function):
    """The lines of the answer that stands folded behind an exercise, as a function body."""
    cells = exercise_cells(name)
    at = next(i for i, c in enumerate(cells) if c.cell_type == "code" and c.source.startswith(f"def {function}("))
    text = next(c.source for c in cells[at:] if c.cell_type == "markdown" and "<summary>Answer" in c.source)
    block = re.search(r"<summary>Answer</summary>\s*```python\ndef .*?\n(.*?)```", text, re.S)
    return block[1] if block else "    " + re.search(r"<summary>Answer</summary>\s*`(.*?)`", text, re.S)[1]


def said(name, function=None, body=None):
    """What the checks of a notebook print, by exercise, once `body` stands in one of its functions."""
    known = {"torch": torch, "plots": plots, "evaluation": evaluation, **silhouettes(), **foolable(), **probe()}
    printed, names = [], []
    for cell in exercise_cells(name):
        if cell.cell_type == "markdown":
            continue
        source, head = cell.source, re.match(r"def (\w+)\(.*\):\n", cell.source)
        if head and not head[1].startswith("check"):
            names.append(head[1])
            if head[1] == function:
                source = re.sub(r"^    .*$", lambda _: body, source, count=1, flags=re.M)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(source, known)
        printed += out.getvalue().splitlines()
    return dict(zip(names, printed, strict=True))


def silhouettes():
    """Sixty pictures, a third of them silhouettes, which CLIP finds a little more like "a silhouette" and the head ugly."""
    torch.manual_seed(0)
    dark = torch.arange(60) % 3 == 0
    column = torch.rand(60)
    scores = Scores(
        torch.arange(60),
        torch.ones(60),
        5 + torch.randn(60) - dark.float(),
        5 + torch.randn(60),
        0.3 + 0.1 * column,
        0.3 + 0.1 * torch.rand(60),
    )
    likeness = 0.2 + 0.05 * dark + 0.005 * torch.rand(60)
    sheet = types.SimpleNamespace(
        similarity=lambda text: likeness,
        prompts=["a fox, silhouette" if d else "a fox, photo" for d in dark],
        gold=torch.rand(60),
        top=lambda values, count=16: values.argsort(descending=True, stable=True)[:count].tolist(),
    )
    return {"s": scores, "sheet": sheet, "c": types.SimpleNamespace(relevance_threshold=0.35)}


def foolable():
    """A scorer whose learned score goes by colour alone, while gold also asks whether the words suit the subject."""
    count = lambda prompts, words: [sum(w in p for w in words) for p in prompts]  # noqa: E731
    rich, poor, unfit = ("neon", "oil", "vivid", "sunset", "night"), ("blurry", "black"), ("bear, stained",)

    class Gallery:
        def embeddings(self, prompts, seeds):
            return torch.tensor([[5.0 + a - 2 * b] for a, b in zip(count(prompts, rich), count(prompts, poor), strict=True)])

    class Sheet:
        def __init__(self, scorer, plain, written, seeds):
            self.gold = scorer.gallery.embeddings(written, seeds)[:, 0] - 6 * torch.tensor(count(written, unfit))

    scorer = types.SimpleNamespace(gallery=Gallery(), rate=lambda embeddings: embeddings[:, 0])
    names = {"sheets": types.SimpleNamespace(ContactSheet=Sheet), "config": config}
    return {"scorer": scorer, "measured": {"plain": {"aesthetic": torch.full((8,), 5.5).numpy()}}, **names}


def probe():
    """What the probe of 03_ppo needs, with a policy so small that it learns in a second what the course's learns in ten."""
    trial = ppo.Settings(prompts=5, samples=16, new_tokens=6, minibatch=40, epochs=2, lr=3e-3, kl=0.0, kl_target=None)
    pool = ["a frog", "a red castle", "blue frog", "castle", "red frog"]
    names = {"policy": tiny_policy(), "pool": pool, "endings": ["vivid"], "trial": trial, "updates": 60}
    return {"ppo": ppo, "copy": copy, "runtime": runtime, **names}


@pytest.mark.parametrize("name", sorted({name for name, _ in MISTAKES}))
def test_blank_exercises_say_not_yet(name):
    known = {f for n, f in MISTAKES if n == name}
    assert said(name) == dict.fromkeys(known, "not yet"), "every exercise of the notebook needs its row in MISTAKES"


@pytest.mark.parametrize("name, function", MISTAKES)
def test_folded_answers_pass(name, function):
    lines = said(name, function, "    import math\n" + folded_answer(name, function))
    assert lines.pop(function).lower().startswith("right")
    assert set(lines.values()) == {"not yet"}


@pytest.mark.parametrize("name, function, body, hint", [(n, f, b, h) for (n, f), wrong in MISTAKES.items() for b, h in wrong.items()])
def test_mistakes_get_their_own_hint(name, function, body, hint):
    said_here = said(name, function, f"    import math\n    {body}")[function]
    assert hint in said_here and not said_here.lower().startswith("right.")
