"""Three readers of the pocket world who never tire: each has a taste that is written down here, and makes mistakes.

They stand in where nobody has chosen yet, and they are a yardstick: what they like is known exactly, so a learnt taste can be checked
against it. Each likes something of their own, and besides what everybody likes (gold): people agree more often than not.
"""

from dataclasses import dataclass

import numpy as np

from promptlab.models.preference import fit, ordered, pretrain
from promptlab.pocket.captions import BACKGROUND_WORDS, EFFECT_WORDS, MEDIUM_WORDS
from promptlab.pocket.taste import NORMS, statistics
from promptlab.preferences import ways, wins
from promptlab.prompts import load_prompts, split_prompt
from promptlab.runtime import PromptlabError, home

ERRORS = 0.1  # share of choices turned round by chance
COMMON = 0.5  # weight of gold beside the own taste, both with a spread of about 1
GOLD = 4.5, 1.7  # mean and standard deviation of gold over pictures of the community's prompts
READERS = {
    "night": "likes it dark, best of all at night",
    "flat": "likes even surfaces and strong colours",
    "paper": "likes watercolours, and pencil sketches half as much",
}
SEED, WAYS, HELD = 7, 4, 40  # of an album: the image seed, wordings of a prompt, and prompts that nothing is learnt from
PARTS = 4  # draws of choices, from different pairs up to a quarter of them all
LEAST = 30  # choices from which on a real reader counts


def likings(facts, images) -> dict:
    """How much each of READERS likes pictures: `{name: float (n,)}`, of use for comparing one reader's only.

    Args: `facts` what the judge keeps of each picture; `images` uint8 (n, 128, 128, 3).
    """
    pixels = {key: (value - NORMS[key][0]) / NORMS[key][1] for key, value in statistics(images).items()}
    is_a = lambda key, word: np.array([fact[key] == word for fact in facts], float)  # noqa: E731
    own = {
        "night": 1.5 * is_a("background", "night") - pixels["exposure"],
        "flat": 0.7 * pixels["colour"] - pixels["sharpness"],
        "paper": 3 * is_a("medium", "watercolor") + 1.5 * is_a("medium", "pencil sketch"),
    }
    common = COMMON * (np.array([fact["gold"] for fact in facts]) - GOLD[0]) / GOLD[1]
    return {name: liked + common for name, liked in own.items()}


def liking(name, facts, images):
    """`likings` of one reader. Raises `PromptlabError` for a name that is none of READERS."""
    if name not in READERS:
        raise PromptlabError(f"There is no reader {name!r}. Choose one of: {', '.join(READERS)}.")
    return likings(facts, images)[name]


def judged(name, sheet):
    """How much a reader likes each picture of a contact sheet: float (n,). Of "you" nobody knows the rule: what your taste says, then."""
    return sheet.scores.aesthetic.numpy() if name == "you" else liking(name, sheet.facts, sheet.pictures(range(len(sheet))))


def choose(liked, pairs, seed=0, errors=ERRORS):
    """What a reader chooses: the same pairs (n, 2), each with the picture taken first; a share of `errors` is turned round by chance.

    Args: `liked` how much the reader likes each picture; `pairs` whole numbers, two pictures a row.
    """
    pairs = np.asarray(pairs)
    turned = (liked[pairs[:, 0]] < liked[pairs[:, 1]]) ^ (np.random.default_rng(seed).random(len(pairs)) < errors)
    return np.where(turned[:, None], pairs[:, ::-1], pairs)


@dataclass(frozen=True)
class Album:
    """Pictures to choose from: some prompts in WAYS wordings each, and the pairs of pictures of one prompt."""

    prompts: list  # what was typed, one per picture
    texts: list  # what was drawn, one per picture
    looks: np.ndarray  # their embeddings (n, width)
    likes: dict  # by reader: how much they like each picture (n,)
    learn: np.ndarray  # pairs (m, 2) to learn from, in an order by chance
    held: np.ndarray  # pairs of HELD other prompts, to check on
    see: object  # what cheap ranked pairs of the first teach (`preference.pretrain`): every word of the world, and the shipped head

    def checked(self, name, rate):
        """Of each held prompt's pairs, the share that a taste `rate` orders as a reader does who makes no mistake: (HELD,)."""
        pairs = choose(self.likes[name], self.held, errors=0)
        return ordered(rate(self.looks), pairs).reshape(HELD, -1).mean(1)

    def picked(self, name, rate):
        """Of each held prompt's pictures the one that a taste rates highest: how much more the reader likes it than their mean, (HELD,)."""
        here = np.unique(self.held)
        liked, best = self.likes[name][here].reshape(HELD, WAYS), rate(self.looks[here]).view(HELD, WAYS).argmax(1)
        return liked[range(HELD), best] - liked.mean(1)

    def taste(self, name, count, part=0, errors=ERRORS, **how):
        """A taste learnt from `count` choices of a reader; each `part` has other pairs and other mistakes. `how` goes to `preference.fit`."""
        some = np.roll(self.learn, -len(self.learn) // PARTS * part, axis=0)[:count]
        return fit(*self.looks[choose(self.likes[name], some, part, errors).T], **how)

    def runs(self, count, **how):
        """`checked` for such a taste of every reader in READERS and every part: (3 x PARTS, HELD)."""
        return np.array([self.checked(name, self.taste(name, count, part, **how)) for name in READERS for part in range(PARTS)])

    def questions(self, count):
        """The first pairs to learn from, as `preferences.Choices` asks them."""
        return [
            {
                "prompt": self.prompts[a],
                "seed": SEED,
                "method_a": "one",
                "text_a": self.texts[a],
                "method_b": "other",
                "text_b": self.texts[b],
            }
            for a, b in self.learn[:count]
        ]


def album(scorer, prompts=120) -> Album:
    """Draw (or recall) an album: prompts that PPO may see, worded with what the community added to other things."""
    typed = list(dict.fromkeys(r["x"] for r in load_prompts("ppo") if r["kind"] in ("MC", "held out")))[:prompts]
    texts = [text for some in ways(typed, load_prompts("sft"), WAYS) for text in some]
    seeds, gallery = [SEED] * len(texts), scorer.gallery
    looks = gallery.embeddings(texts, seeds, progress=True)
    facts, images = gallery.facts(texts, seeds), gallery.pictures(texts, seeds)
    pairs = np.array([[(WAYS * p + i, WAYS * p + j) for i in range(WAYS) for j in range(i)] for p in range(len(typed))])
    learn = np.random.default_rng(0).permutation(pairs[:-HELD].reshape(-1, 2))
    words = [set(spellings) for table in (MEDIUM_WORDS, BACKGROUND_WORDS, EFFECT_WORDS) for spellings in table.values()]
    said = [set(split_prompt(text)[1]) for text in texts]
    says = np.array([[bool(some & spellings) for spellings in words] for some in said])
    see = pretrain(looks, learn, says, scorer.rate)
    return Album([p for p in typed for _ in range(WAYS)], texts, looks, likings(facts, images), learn, pairs[-HELD:].reshape(-1, 2), see)


def choices(scorer, shown: Album, stand_in="night", path=None):
    """Whose choices there are to learn from, and what they chose: a name, and embeddings of the chosen and of the others, (pairs, width).

    Yours, from the file that `lab.choose.Choose` keeps (`path`, None: its own place), if they are LEAST or more; else as many of the
    simulated reader `stand_in`. Prints in one line which of them.
    """
    preset = scorer.gallery.preset.name
    own = wins(path or home() / preset / "choose" / "choices.jsonl", preset)
    if len(own) >= LEAST:
        print(f"Your own {len(own)} choices.")
        seeds = [win["seed"] for win in own]
        return "you", *(scorer.gallery.embeddings([win[side] for win in own], seeds) for side in ("chosen", "other"))
    print(f"{len(own)} choices of yours, fewer than {LEAST}: a simulated reader stands in, who {READERS[stand_in]}.")
    pairs = choose(shown.likes[stand_in], shown.learn[:LEAST])
    return stand_in, shown.looks[pairs[:, 0]], shown.looks[pairs[:, 1]]
