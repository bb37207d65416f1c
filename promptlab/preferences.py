"""Choices between two pictures: what is asked, the file they are kept in, and what they say, with intervals."""

import contextlib
import hashlib
import json
import random
import time
from functools import cached_property
from pathlib import Path

import numpy as np

from promptlab.prompts import clean_prompt, split_prompt
from promptlab.runtime import PromptlabError, append_jsonl, home, whole_rows

FIELDS = ("prompt", "seed", "method_a", "text_a", "method_b", "text_b")  # of a pair
ANSWERS = {"1": "left", "2": "right", "0": "tie", "s": "skip"}
RESULT = {"left": 1.0, "right": 0.0, "tie": 0.5, "skip": None}  # how far the left one won
EVERY = 10  # one of so many pairs comes back
Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations of its mean


def fit(wins):
    """The likeliest Bradley-Terry scores, (k,) with sum 0, and their covariance by the observed information, (k, k).

    Args: `wins[i, j]` how often i was chosen over j; halves are fine. By Newton's method; finite where everybody won and lost something.
    Source: Bradley and Terry 1952.
    """
    from scipy.special import expit, log_expit

    likelihood = lambda score: (wins * log_expit(score[:, None] - score)).sum()  # noqa: E731
    score, games = np.zeros(len(wins)), wins + wins.T
    for _ in range(200):
        chance = expit(score[:, None] - score)
        weight = games * chance * (1 - chance)
        covariance = np.linalg.inv(np.diag(weight.sum(1)) - weight + 1 / len(wins)) - 1 / len(wins)  # the inverse among scores with sum 0
        step = covariance @ (wins - games * chance).sum(1)
        if abs(step).max() < 1e-9:
            break
        while likelihood(score + step) < likelihood(score) - 1e-9:  # too long, and never downhill
            step = step / 2
        score = score + step - (score + step).mean()
    return score, covariance


def bradley_terry(choices, groups) -> dict:
    """How strong each method is: `{method: (score, low, high)}`, the strongest first, with 95 % intervals.

    A score is in log-odds: 0 is the average method here, and a method is chosen over one of `d` less with chance 1 / (1 + exp(-d)).

    Args: `choices` are (method, other, result), a result of 1 for the first, 0 for the other, .5 for a tie, which is half a win for each;
    `groups` a label per choice, such as its prompt: what is chosen about one prompt hangs together. Between any two methods 2/k of a
    tie is added (k methods), as many in all as Firth's (1993) penalty adds, so that a method that never lost has a finite score.
    An interval is the wider of two: by the observed information, and by the spread between groups (Liang and Zeger 1986) with
    Student's t. One group alone shows no spread: from -inf to inf.
    """
    from scipy.special import expit
    from scipy.stats import t

    names = list(dict.fromkeys(name for choice in choices for name in choice[:2]))
    if len(names) < 2:
        return {}
    place, labels = {name: i for i, name in enumerate(names)}, {label: i for i, label in enumerate(dict.fromkeys(groups))}
    wins = (1 - np.eye(len(names))) / len(names)
    for one, other, result in choices:
        wins[place[one], place[other]] += result
        wins[place[other], place[one]] += 1 - result
    score, covariance = fit(wins)
    surprise = np.zeros((len(labels), len(names)))  # by group: wins beyond those expected
    for (one, other, result), label in zip(choices, groups, strict=True):
        more = result - expit(score[place[one]] - score[place[other]])
        surprise[labels[label], place[one]] += more
        surprise[labels[label], place[other]] -= more
    count, moved = len(labels), surprise @ covariance
    half = np.full(len(names), np.inf)
    if count > 1:
        between = np.sqrt((moved**2).sum(0) * count / (count - 1))
        half = np.maximum(Z * np.sqrt(np.diag(covariance)), t.ppf(0.975, count - 1) * between)
    return {names[i]: (float(score[i]), float(score[i] - half[i]), float(score[i] + half[i])) for i in np.argsort(-score, kind="stable")}


def share(values, groups):
    """The mean of values from 0 to 1 with its 95 % interval and their number: `(mean, low, high, n)`; None where there are none.

    Wilson's (1927) interval, which stays within 0 to 1, with Student's t. `groups` holds a label per value: values of one group hang
    together, so they count as fewer than they are, by how far their mean varies between groups, and at the least as the effective
    number of groups (Kish 1965), which counts too where nothing varies. One group alone: from 0 to 1.
    """
    from scipy.stats import t

    values, n = np.asarray(values, float), len(values)
    if not n:
        return None
    labels = {label: i for i, label in enumerate(dict.fromkeys(groups))}
    index, mean = [labels[label] for label in groups], values.mean()
    if len(labels) == 1:
        return float(mean), 0.0, 1.0, n
    fewest = n**2 / (np.bincount(index) ** 2).sum()
    varies = (np.bincount(index, values - mean) ** 2).sum() / n**2 * fewest / (fewest - 1)
    worth = min(max(mean * (1 - mean) / varies, fewest), n) if varies else fewest
    z = t.ppf(0.975, len(labels) - 1)
    middle, half = mean + z**2 / (2 * worth), z * np.sqrt(mean * (1 - mean) / worth + z**2 / (4 * worth**2))
    low, high = ((middle + side * half) / (1 + z**2 / worth) for side in (-1, 1))
    return float(mean), float(low), float(high), n


def plan(pairs, preset, seed) -> list[dict]:
    """What is asked, one dict a question, in the order it is asked: pairs and sides by chance, of every ten pairs the first once more.

    That one has its sides turned round, so that a habit of one side shows. Chance hangs on the seed and on the pair alone, so a
    restart asks the same. A pair of equal texts is one picture twice and left out. Raises `PromptlabError` for a pair that lacks
    something, compares a method with itself, or is there twice.
    """
    found = {}
    for number, pair in enumerate(pairs, 1):
        if missing := [field for field in FIELDS if field not in pair]:
            raise PromptlabError(f"Pair {number} lacks {', '.join(missing)}: a pair is a dict of {', '.join(FIELDS)}.")
        sides = sorted([str(pair[f"method_{side}"]), clean_prompt(pair[f"text_{side}"])] for side in "ab")
        prompt, image_seed = clean_prompt(pair["prompt"]), int(pair["seed"])
        key = hashlib.sha256(json.dumps([preset, prompt, image_seed, sides]).encode()).hexdigest()[:16]
        if sides[0][0] == sides[1][0] or key in found:
            wrong = "was there before" if key in found else f"names {sides[0][0]!r} twice"
            raise PromptlabError(f"Pair {number} {wrong}: a pair compares two methods, and stands in the list once.")
        chance = random.Random(f"{seed} {key}")
        left, right = ({"method": method, "text": text} for method, text in chance.sample(sides, 2))
        ask = {"pair": key, "again": False, "prompt": prompt, "seed": image_seed, "left": left, "right": right}
        found[key] = chance.random(), ask
    order = [ask for _, ask in sorted(found.values(), key=lambda one: one[0]) if ask["left"]["text"] != ask["right"]["text"]]
    asks = []
    for i, ask in enumerate(order, 1):
        asks.append(ask)
        if i % EVERY == 0:
            first = order[i - EVERY]
            asks.append(first | {"again": True, "left": first["right"], "right": first["left"]})
    return asks


def ways(prompts, records, n=4, seed=0) -> list[list[str]]:
    """`n` ways to word each prompt: its words with what somebody added to another thing, drawn by chance from the `y` of `records`."""
    rng, written = random.Random(seed), dict.fromkeys(r["y"] for r in records)
    endings = list(dict.fromkeys(filter(None, (", ".join(split_prompt(y)[1]) for y in written))))
    return [[f"{prompt}, {ending}" for ending in rng.sample(endings, n)] for prompt in prompts]


def wins(path, preset) -> list[dict]:
    """What a file of choices says, whatever was asked: a dict of prompt, seed, chosen and other text for each pair that one picture won.

    As in `Choices` the first answer counts and an undo takes it away; ties, skips, pairs that came back, damaged lines and choices
    made with another preset are passed over. No file: no choices.
    """
    found = {}
    for row in whole_rows(path)[0]:
        with contextlib.suppress(KeyError, TypeError):
            if row["preset"] != preset or row["again"]:
                continue
            if row["action"] == "undo":
                found.pop(row["pair"], None)
                continue
            won, sides = RESULT[row["answer"]], [row[side]["text"] for side in ("left", "right")]
            chosen, other = sides if won == 1 else sides[::-1]
            win = {"prompt": row["prompt"], "seed": row["seed"], "chosen": chosen, "other": other}
            found.setdefault(row["pair"], win if won in (0, 1) else None)
    return [win for win in found.values() if win]


class Choices:
    """Blind choices between two methods' pictures, kept in a file: what `lab.choose.Choose` shows, without any front end.

    Args: `pairs` dicts of prompt, seed, method_a, text_a, method_b, text_b: what two methods made of a prompt, drawn from one image seed;
    `path` the JSONL file each choice is appended to the moment it is made, and from which a later kernel goes on (None: the run folder);
    `scorer` draws and rates; `seed` decides order and sides. Raises `PromptlabError` for pairs that cannot be asked about (see `plan`).
    """

    def __init__(self, pairs, path, scorer, seed=0):
        self.scorer, self.preset = scorer, scorer.gallery.preset.name
        self.path = Path(path or home() / self.preset / "choose" / "choices.jsonl")
        self.asks = plan(pairs, self.preset, seed)
        self.pairs = {ask["pair"]: ask for ask in self.asks if not ask["again"]}
        if not self.pairs:
            raise PromptlabError(f"There is nothing to choose: of {len(pairs)} pairs none shows two different pictures.")
        self.same = len(pairs) - len(self.pairs)  # pairs left out
        self.read()

    # --- the file ---------------------------------------------------------------------------------------------------

    def read(self):
        """Take up the file, choices of another notebook among them: the first answer to a question counts, an undo takes it away."""
        rows, self.damaged = whole_rows(self.path)
        self.choices = {}  # (pair, whether it came back) to how far the pair's left one won, None where skipped; in the file's order
        for row in rows:
            try:
                if ask := self.pairs.get(row["pair"]):
                    self._take(row, (ask["pair"], bool(row["again"])), ask)
            except (KeyError, TypeError):
                self.damaged += 1

    def _take(self, row, key, ask):
        if row["action"] == "undo":
            self.choices.pop(key, None)
            return
        won, shown = RESULT[row["answer"]], [row[side]["method"] for side in ("left", "right")]
        methods = [ask[side]["method"] for side in ("left", "right")]
        if shown not in (methods, methods[::-1]):
            raise KeyError(shown)
        self.choices.setdefault(key, won if won is None or shown == methods else 1 - won)

    def _append(self, event):
        """Keep an event at once, and take up what the file holds now."""
        append_jsonl(self.path, {"time": round(time.time(), 1), "preset": self.preset, **event})
        self.read()

    # --- choosing ---------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[int]:
        """Numbers of the questions still to answer, from 1; a pair comes back only once it has an answer other than a skip."""
        return [
            number
            for number, ask in enumerate(self.asks, 1)
            if (ask["pair"], ask["again"]) not in self.choices and (not ask["again"] or self.choices.get((ask["pair"], False)) is not None)
        ]

    def answer(self, number, answer, reason=""):
        """Answer one question: "1" the left picture, "2" the right one, "0" a tie, "s" neither; a reason is kept with it.

        Raises `PromptlabError` for another answer, and for a question that is answered or not asked.
        """
        if (key := str(answer).lower()) not in ANSWERS:
            raise PromptlabError(f"The answer {answer!r} is none of 1 (left), 2 (right), 0 (tie), s (skip).")
        self.read()
        if number not in self.waiting:
            raise PromptlabError(
                f"Question {number!r} waits for no answer; another notebook may have given it. Next: {self.waiting[:3] or 'none'}."
            )
        self._append({"action": "choose", **self.asks[number - 1], "answer": ANSWERS[key], "reason": str(reason).strip()})

    def undo(self):
        """Take the latest choice in the file back, by one more line; nothing happens where there is none."""
        self.read()
        if self.choices:
            pair, again = list(self.choices)[-1]
            self._append({"action": "undo", "pair": pair, "again": again})

    # --- what the choices say ---------------------------------------------------------------------------------------

    def _made(self, again=False):
        """Pairs with a choice or a tie, and how far the left one won: `[(ask, won)]`."""
        return [(self.pairs[pair], won) for (pair, back), won in self.choices.items() if back == again and won is not None]

    def scores(self) -> dict:
        """Bradley-Terry scores, `{method: (score, low, high)}`, best first (see `bradley_terry`); a pair that came back counts once."""
        made = self._made()
        return bradley_terry(
            [(ask["left"]["method"], ask["right"]["method"], won) for ask, won in made], [ask["prompt"] for ask, _ in made]
        )

    def consistency(self):
        """How often a pair that came back got its first answer: `(share, low, high, pairs)`, or None; a tie and a choice agree by half."""
        first = {key: won for (key, back), won in self.choices.items() if not back and won is not None}
        twice = [(ask["prompt"], abs(won - first[ask["pair"]])) for ask, won in self._made(again=True) if ask["pair"] in first]
        return share([1 - apart for _, apart in twice], [prompt for prompt, _ in twice])

    def agreement(self) -> dict:
        """How often each score is higher for the chosen picture: `{score: (share, low, high, choices)}`.

        Equal scores count half. What the reader called a tie, and what a safety checker has blacked out, is left out.
        """
        found = {}
        for name, value in self.rated.items():
            agrees, groups = [], []
            for ask, won in self._made():
                left, right = (value.get((ask["prompt"], ask[side]["text"], ask["seed"])) for side in ("left", "right"))
                if won != 0.5 and left is not None and right is not None:
                    agrees.append(0.5 if left == right else float((left > right) == won))
                    groups.append(ask["prompt"])
            found[name] = share(agrees, groups)
        return {name: value for name, value in found.items() if value}

    @cached_property
    def rated(self) -> dict:
        """What each score says of each picture: `{score: {(prompt, text, image seed): value}}`; draws the plain pictures, too."""
        from promptlab.pictures.sheets import ContactSheet
        from promptlab.rewards import promptist_reward

        pictures = list(
            dict.fromkeys((ask["prompt"], ask[side]["text"], ask["seed"]) for ask in self.pairs.values() for side in ("left", "right"))
        )
        plain, texts, seeds = map(list, zip(*pictures, strict=True))
        self.scorer.gallery.embeddings(texts + plain, seeds * 2, progress=True)  # all at once
        found = {}
        for seed in dict.fromkeys(seeds):
            some = [picture for picture in pictures if picture[2] == seed]
            sheet = ContactSheet(self.scorer, [p for p, _, _ in some], [t for _, t, _ in some], [seed], progress=False)
            s, counted = sheet.scores, sheet.scores.counted()
            columns = {"reward": promptist_reward(s, self.scorer.calibration), "aesthetic": s.aesthetic, "relevance": s.relevance}
            with contextlib.suppress(PromptlabError):  # a preset without a judge
                columns["gold"] = sheet.gold
            for name, values in columns.items():
                found.setdefault(name, {}).update((p, float(v)) for p, v, seen in zip(some, values, counted, strict=True) if seen)
        return found
