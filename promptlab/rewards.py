"""From pictures to a reward: CLIP embeddings kept on disk, a table of scores, and the paper's formula in five lines."""

import json
import reprlib
import time
from dataclasses import dataclass

import numpy as np

from promptlab.models.aesthetic import load_aesthetic
from promptlab.models.clip import Clip
from promptlab.pictures.gallery import Gallery
from promptlab.pictures.sheets import ContactSheet
from promptlab.prompts import clean_prompt
from promptlab.runtime import REPAIR, PromptlabError, data_dir

PAPER_SLOPE, PAPER_THRESHOLD = 20.0, 0.28
# What carries them over to another CLIP and another head: engineered prompts score 5.87 and .26 in the paper, plain words 5.47
# and .28 (Hao et al. 2022, table 2), so they gain .40 by the first term of the reward and lose 20 x .02 by the second.
PAPER_GAIN, PAPER_LOSS = 0.40, 0.40


@dataclass
class Scores:
    """One row per picture of a rewrite, beside the plain prompt's picture with the same seed; float tensors (rows,)."""

    pair: object  # which (plain, rewritten) pair the row belongs to, int
    seed: object  # the image seed, int
    aesthetic: object  # rating of the rewrite's picture
    aesthetic_plain: object  # rating of the plain prompt's picture
    relevance: object  # cosine between the plain words and the rewrite's picture
    relevance_plain: object  # cosine between the plain words and their own picture
    blacked_out: object = None  # whether the safety checker hid one of the row's two pictures, bool: no mean counts such a row
    prompt: object = None  # which plain prompt the row belongs to, int: pairs of one prompt share it

    def __len__(self):
        return len(self.pair)

    def counted(self):
        """Which rows count in a mean: bool (rows,)."""
        import torch

        return torch.ones(len(self), dtype=torch.bool) if self.blacked_out is None else ~self.blacked_out


@dataclass(frozen=True)
class Calibration:
    """How a preset's scores map to the paper's scale."""

    relevance_slope: float  # k: the paper's 20
    relevance_threshold: float  # r0: the paper's .28
    aesthetic_scale: float  # 1 in the paper

    def __str__(self):
        return (
            f"reward = {self.aesthetic_scale:.2f} x (aesthetic gain) + min(0, {self.relevance_slope:.1f} x (relevance - {self.relevance_threshold:.3f})). "
            f"The paper has 1, {PAPER_SLOPE:.0f} and {PAPER_THRESHOLD}: its threshold is what a plain picture scores, and by its other two numbers "
            f"engineered prompts gain {PAPER_GAIN:.2f} in looks and lose {PAPER_LOSS:.2f} in relevance; ours are the same three rules on this CLIP and head."
        )


def promptist_reward(s: Scores, c: Calibration):
    """The paper's reward without the KL term, one float per picture; each term per picture first, so that averaging comes last.

    Source: Hao et al. 2022, section 2.2: aesthetic gain over the plain prompt, plus relevance to the plain words
    clamped at zero, so that more relevance than a plain picture has earns nothing.
    """
    aesthetic_gain = c.aesthetic_scale * (s.aesthetic - s.aesthetic_plain)
    relevance_penalty = (c.relevance_slope * (s.relevance - c.relevance_threshold)).clamp(max=0)
    return aesthetic_gain + relevance_penalty


def mean_per_pair(values, scores: Scores):
    """Average one value per picture over the pictures of each (plain, rewritten) pair; raises for NaN, naming the pair.

    Rows that the safety checker blacked out are left out. A pair of which nothing is left gets the mean of the same prompt's other
    pairs, else of all others: it moves no mean, and teaches a policy nothing. Raises `PromptlabError` where no row at all is left.
    """
    import torch

    pairs, rows = int(scores.pair.max()) + 1, scores.counted()
    if not torch.isfinite(values[rows]).all():
        bad = int(scores.pair[rows & ~torch.isfinite(values)][0])
        raise PromptlabError(
            f"The reward of pair {bad} is {values[scores.pair == bad].tolist()}: a reward must be a finite number for every picture."
        )
    if not rows.any():
        raise PromptlabError(
            f"The safety checker blacked out a picture in each of {len(rows)} rows, so nothing is left to average. "
            "Use other words or seeds; promptlab.config.SAFETY says how the checker is switched off, and what that means."
        )
    total = torch.zeros(pairs).index_add_(0, scores.pair[rows], values[rows].float())
    count = torch.bincount(scores.pair[rows], minlength=pairs)
    means = total / count.clamp(min=1)
    for pair in scores.pair.unique()[count[scores.pair.unique()] == 0].tolist():
        alike = rows if scores.prompt is None else rows & (scores.prompt == scores.prompt[scores.pair == pair][0])
        means[pair] = means[scores.pair[alike if alike.any() else rows].unique()].mean()
    return means


def as_scores(rewards, plain, written):
    """What a reward function returned, as a float32 tensor (rewrites,) without a gradient.

    Raises `PromptlabError` unless it is one finite number per rewrite, naming the first that is not.
    """
    import torch

    try:
        scores = torch.as_tensor(rewards, dtype=torch.float32).detach()
    except Exception as error:  # torch, numpy and a reader's own types each raise their own kinds
        raise PromptlabError(
            f"A reward is one number per rewrite: expected {len(plain)}, got {reprlib.repr(rewards)}, a {type(rewards).__name__}. "
            "Let the function return a list or a tensor of numbers."
        ) from error
    if scores.shape != (len(plain),):
        raise PromptlabError(f"A reward is one number per rewrite: expected {len(plain)}, got a tensor of shape {tuple(scores.shape)}.")
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise PromptlabError(
            f"The reward of {plain[bad[0]]!r} rewritten as {written[bad[0]]!r} is {scores[bad[0]].item()}: it must be a finite number."
        )
    return scores


class Scorer:
    """Generator, CLIP and aesthetic head of a preset, with every embedding kept on disk."""

    def __init__(self, preset, folder=None, calibration=True):
        self.clip, self.rate = Clip(preset.clip, preset.clip_architecture), load_aesthetic(preset)
        self.gallery = Gallery(preset, self.clip, folder)
        self.calibration = load_calibration(preset) if calibration else None
        self._texts = {}

    def texts(self, prompts):
        """CLIP embeddings of prompts, read as they are drawn: cleaned. Each is computed once."""
        prompts = [clean_prompt(p) for p in prompts]
        new = [p for p in dict.fromkeys(prompts) if p not in self._texts]
        if new:
            self._texts |= zip(new, self.clip.embed_texts(new), strict=True)
        return np.stack([self._texts[p] for p in prompts])

    def score(self, plain, rewritten, seeds, progress=False) -> Scores:
        """Draw (or recall) and score rewrites.

        Args: `plain`, `rewritten` lists of equal length; `seeds` a list of image seeds used for every pair, the same for
        the plain and the rewritten prompt (common random numbers). Returns len(plain) x len(seeds) rows. Those of which the
        safety checker blacked out a picture are marked, and their number is printed.
        """
        import torch

        if len(plain) != len(rewritten) or not len(seeds) or not len(plain):
            raise PromptlabError(
                f"score() needs equally many plain and rewritten prompts and a seed: got {len(plain)}, {len(rewritten)}, {len(seeds)}."
            )
        x, y = ([p for p in prompts for _ in seeds] for prompts in (plain, rewritten))
        all_seeds = list(seeds) * len(plain)
        looks = self.gallery.embeddings(y + x, all_seeds * 2, progress)
        hidden = self.gallery.blacked_out(y + x, all_seeds * 2).reshape(2, len(y)).any(0)
        if hidden.any():
            alone = int(hidden.reshape(len(plain), -1).all(1).sum())
            print(
                f"The safety checker blacked out pictures in {int(hidden.sum())} of {len(hidden)} rows: no mean counts them."
                + (f" Of {alone} of {len(plain)} pairs nothing is left: they count as the mean of the others." if alone else "")
            )
        now, before, words = looks[: len(y)], looks[len(y) :], self.texts(x)
        relevance, relevance_plain = (torch.from_numpy((pictures * words).sum(1)) for pictures in (now, before))
        number = {p: i for i, p in enumerate(dict.fromkeys(plain))}
        return Scores(
            pair=torch.arange(len(plain)).repeat_interleave(len(seeds)), seed=torch.tensor(all_seeds),
            aesthetic=self.rate(now), aesthetic_plain=self.rate(before), relevance=relevance, relevance_plain=relevance_plain,
            blacked_out=torch.from_numpy(hidden), prompt=torch.tensor([number[p] for p in x]),
        )  # fmt: skip

    def rewards(self, plain, rewritten, seeds, progress=False):
        """The Promptist reward of each pair, averaged over its pictures: float tensor (pairs,)."""
        scores = self.score(plain, rewritten, seeds, progress)
        return mean_per_pair(promptist_reward(scores, self.calibration), scores)


def calibrate(scorer, plain, engineered, seeds, progress=False) -> Calibration:
    """Carry the paper's slope, threshold and scale over to this CLIP and head, from pictures of plain and of engineered prompts, one for one.

    The threshold is the median relevance of plain pictures; engineering gains .40 by the aesthetic term and loses .40 by the other,
    as in the paper. Raises `PromptlabError` where engineered pictures are not rated higher, or are not less relevant.
    """
    s = scorer.score(plain, engineered, seeds, progress)
    counted = s.counted()
    if not counted.any():
        raise PromptlabError(
            f"The safety checker blacked out a picture in every row of {len(plain)} prompts. Calibrate on others, or on more."
        )
    gain, lost = (float(d[counted].mean()) for d in (s.aesthetic - s.aesthetic_plain, s.relevance_plain - s.relevance))
    if min(gain, lost) <= 0:
        raise PromptlabError(
            f"These engineered prompts change the rating by {gain:+.3f} and the relevance by {-lost:+.3f}: no yardstick, as it takes a gain and a loss. "
            "Give calibrate() better engineered prompts, or more."
        )
    threshold = float(s.relevance_plain[counted].median())
    return Calibration(relevance_slope=PAPER_LOSS / lost, relevance_threshold=threshold, aesthetic_scale=PAPER_GAIN / gain)


def load_calibration(preset) -> Calibration:
    """The preset's calibration as `python -m promptlab.pocket build` measured it; the paper's where it has the paper's CLIP and head."""
    if not preset.calibration:
        return Calibration(PAPER_SLOPE, PAPER_THRESHOLD, 1.0)
    path = data_dir() / preset.calibration
    try:
        return Calibration(**json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError) as error:
        raise PromptlabError(f"{path} cannot be read ({error}). To repair it: {REPAIR}") from error


class PictureReward:
    """A scorer's reward, and in `last` what else was seen in the same pictures: `PPO.update` adds that to its metrics."""

    def __init__(self, scorer):
        self.scorer, self.last = scorer, {}

    def __call__(self, plain, written, seeds):
        began, sheet = time.perf_counter(), ContactSheet(self.scorer, plain, written, list(seeds), progress=False)
        rewards = mean_per_pair(promptist_reward(sheet.scores, self.scorer.calibration), sheet.scores)
        pictures = len({*zip(sheet.prompts, sheet.seeds, strict=True), *zip(sheet.plain, sheet.seeds, strict=True)})
        seen = sheet.scores.counted()
        self.last = {"gold": sheet.gold[seen].mean().item()} if self.scorer.gallery.judge else {}
        self.last |= {name: getattr(sheet.scores, name)[seen].mean().item() for name in ("aesthetic", "relevance")}
        self.last |= {} if seen.all() else {"blacked_out": int((~seen).sum())}
        self.last["images_per_second"] = pictures / (time.perf_counter() - began)  # drawn, or recalled from an earlier run
        return rewards
