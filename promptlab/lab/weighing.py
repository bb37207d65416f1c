"""A ranking of ready pictures under a reward that its reader weighs or writes, without any front end: what `reward_lab.RewardLab` shows."""

import copy
from functools import cached_property
from pathlib import Path

import numpy as np

from promptlab.lab.terms import Formula, LabReward, chosen_pictures, moved, name_of, spearman, terms_of, with_columns
from promptlab.pictures.sheets import ENDINGS, PLAIN, cross
from promptlab.preferences import share
from promptlab.runtime import PromptlabError, home

DOZEN = 12


class Weighing:
    """A ranking of ready pictures under a reward that a reader weighs with sliders, or writes.

    Nothing is drawn while a slider moves: scores are weighed anew and known pictures change places.

    Args: every one of `prompts` is drawn with every one of `endings` from every one of `seeds`, or recalled; `columns` maps a name to
    a function of the contact sheet, which returns one number per picture: a term more, and a column `s.<name>`; `choices` is the file
    of blind choices to agree with (None: where `Choose` keeps them).
    """

    def __init__(self, scorer, prompts=PLAIN, endings=ENDINGS, seeds=(1,), columns=None, choices=None):
        if not prompts or not endings or not len(seeds):
            raise PromptlabError(f"A reward lab needs prompts, endings and seeds: got {list(prompts)}, {list(endings)}, {list(seeds)}.")
        self.scorer, self.prompts, self.columns, self.run = scorer, list(prompts), dict(columns or {}), None
        self.sheet = cross(scorer, self.prompts, list(endings), list(seeds))
        self.scores = with_columns(self.sheet, self.columns)
        self.terms = terms_of(self.scores, scorer.calibration)
        self.sliders = {name: slider for term in self.terms.values() for name, slider in term.sliders.items()}
        self.values = {name: start for name, (_, _, _, start) in self.sliders.items()}
        self.on = {name: term.on for name, term in self.terms.items()} | {"function": False}
        self._function, self.problem = None, ""  # the reader's, and what is wrong with the reward
        self._quiet = False  # whether sliders are moved from here
        self._seen = np.flatnonzero(self.scores.counted().numpy())  # rows without a picture that a safety checker blacked out
        self.raters = {}
        for name in ("gold", "kept"):
            try:
                self.raters[name] = getattr(self.sheet, name).float().numpy()
            except PromptlabError:  # a preset without a judge, words that name nothing it knows
                continue
        self.path = Path(choices or home() / scorer.gallery.preset.name / "choose" / "choices.jsonl")
        self._rescore()
        self._start = self.places()
        self.read_choices()

    # --- the reward -------------------------------------------------------------------------------------------------

    def set(self, **changes):
        """Move sliders and switches: `set(slope=0)`, `set(relevance=False)`; a value outside a slider's range stops at its end."""
        for name, value in changes.items():
            if isinstance(value, bool) and name in self.on:
                self.on[name] = value and (name != "function" or self._function is not None)
            elif not isinstance(value, bool) and name in self.sliders:
                _, least, most, _ = self.sliders[name]
                self.values[name] = min(max(float(value), least), most)
            else:
                raise PromptlabError(f"There is no slider or switch {name!r} for {value!r}: {', '.join({**self.sliders, **self.on})}.")
        self._rescore()
        self._show_controls()
        if self.problem:
            raise PromptlabError(self.problem)
        return self

    def formula(self) -> Formula:
        """The reward as it is now; later moves do not change it."""
        return Formula(self.terms, dict(self.values), dict(self.on), self._function if self.on["function"] else None)

    @property
    def reward(self):
        """The reader's function of the scores, or None; assign one to rank by it. What is wrong with it is said, and the last good one stays."""
        return self._function

    @reward.setter
    def reward(self, function):
        before = self._function, self.on["function"]
        self._function, self.on["function"] = function, function is not None
        self._rescore()
        if self.problem:
            self._function, self.on["function"] = before
            self.problem = (
                f"{self.problem.rstrip('.')}. {f'{name_of(before[0])} stays' if before[1] else 'The reward of the sliders stays'}."
            )
            print(self.problem)
        self._show_controls()

    def use(self, function):
        """`@lab.use` above a function of the scores is `lab.reward = function`."""
        self.reward = function
        return function

    def _rescore(self):
        """Pay every picture anew and sort them; where the reward breaks, `problem` says how, and the order stays."""
        try:
            self.paid = self.formula().checked(self.scores, self.sheet.plain, self.sheet.prompts).numpy()
        except PromptlabError as error:
            self.problem = str(error)
            return
        self.problem, self._order = "", self._seen[np.argsort(-self.paid[self._seen], kind="stable")]

    # --- what it does -----------------------------------------------------------------------------------------------

    def rank(self) -> list:
        """Row numbers of the pictures, the best paid first."""
        return self._order.tolist()

    def places(self):
        """The place of each row, 0 the best; pictures that a safety checker blacked out have none, -1."""
        places = np.full(len(self.sheet), -1)
        places[self._order] = np.arange(len(self._order))
        return places

    def moves(self):
        """How many places each row has risen (below 0: fallen) since the calibrated reward: int array, one per row."""
        return self._start - self.places()

    def agreement(self) -> dict:
        """How far the reward agrees with others: Spearman's correlation with gold, and `(share, low, high, choices)` with the reader's choices.

        Within a prompt it is the mean over prompts; that is what a rewriter is paid for, which chooses among rewrites of one prompt.
        """
        found, rows = {}, self._seen
        if "gold" in self.raters:
            prompt = np.arange(len(self.sheet)) // (len(self.sheet) // len(self.prompts))
            each = [spearman(self.paid[i], self.raters["gold"][i]) for i in (rows[prompt[rows] == k] for k in range(len(self.prompts)))]
            found = {"gold": spearman(self.paid[rows], self.raters["gold"][rows]), "gold, within a prompt": float(np.mean(each))}
        if self._chosen:
            agrees, groups = [], []
            for s, plain, written, seen in self._chosen:
                chosen, other = self.formula().checked(s, plain, written).numpy().reshape(2, -1)
                agrees.append(((1 + np.sign(chosen - other)) / 2)[seen])
                groups += [p for p, both in zip(plain, seen, strict=False) if both]
            found["your choices"] = share(np.concatenate(agrees), groups)
        return found

    def read_choices(self):
        """Take up the reader's blind choices; pictures that no cache knows are drawn."""
        self._chosen = chosen_pictures(self.path, self.scorer, self.columns)

    def table(self) -> dict:
        """Means of the top dozen, of all pictures, and of the bottom dozen, by score."""
        s, rows = self.scores, self._order
        columns = {"reward": self.paid, "aesthetic": s.aesthetic.numpy(), "relevance": s.relevance.numpy(), **self.raters}
        return {{"kept": "intent"}.get(n, n): [float(v[i].mean()) for i in (rows[:DOZEN], rows, rows[-DOZEN:])] for n, v in columns.items()}

    def summary(self) -> str:
        """What pays, how far the order agrees with gold, and what has moved most, as one line."""
        pays = name_of(self._function) if self.on["function"] else " + ".join(n for n in self.terms if self.on[n]) or "nothing"
        moves, gold = self.moves()[self._seen], self.agreement().get("gold, within a prompt")
        agrees = "" if gold is None else f"; agrees with gold, within a prompt, by {gold:.2f}"
        said = "All stand where they began."
        if moves.any():
            up, down = self._seen[moves.argmax()], self._seen[moves.argmin()]
            said = f"Rises most: {self.sheet.prompts[up]} ({moved(moves.max())}). Falls most: {self.sheet.prompts[down]} ({moved(moves.min())})."
        return f"Pays for {pays}{agrees}. {said}"

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, updates=5, policy=None, pool=None, settings=None):
        """Train a copy of a policy by PPO with this very reward, in the background where somebody can click; returns the `LiveRun`.

        Args: `policy` None for the one after SFT; `pool` None for the training prompts. The reward is what it is now: later moves do
        not change it, and another reward has another run folder.
        """
        from promptlab import ppo
        from promptlab.lab.live import LiveRun
        from promptlab.policy import run_folder
        from promptlab.prompts import load_prompts

        policy, settings = copy.deepcopy(policy or self._sft), settings or ppo.Settings()
        pool = pool or list(dict.fromkeys(row["x"] for row in load_prompts("ppo")))
        shown = self.prompts[:: -(-len(self.prompts) // 4)]
        reward = LabReward(self)
        self.run = LiveRun(policy, pool, reward, updates, settings, shown, run_folder("lab", policy, (settings, *reward.mark)))
        self._show_run()
        return self.run

    @cached_property
    def _sft(self):
        from promptlab.policy import stage_policy

        return stage_policy("sft")

    def _show_controls(self):
        """Where there is a view, it shows what has changed."""

    def _show_run(self):
        """Where there is a view, it shows the run of `train`."""
