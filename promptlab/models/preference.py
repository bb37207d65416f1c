"""A taste learnt from choices between two pictures: CLIP image embeddings in, one rating a picture out.

Three losses for the same choices, as Askell et al. (2021, "A General Language Assistant as a Laboratory for Alignment") compare them for
texts: imitation looks at what was chosen alone, binary discrimination tells the chosen from the others as two classes, ranked preference
asks only that the chosen one of each pair is rated higher. Their preference model is first trained on many cheap ranked pairs: `pretrain`.
"""

import numpy as np

from promptlab.runtime import PromptlabError

# What holds each weight at zero, against the summed loss: a Gaussian prior. More, and a hundred choices cannot say much; less, and ten say
# too much. From .03 to .3 the share of new pairs in the right order moved by less than .03 (three
# simulated readers, 30 and 60 choices).
PULL = 0.1
FEWEST = 20  # pairs that a cheap question must be about


def imitation(chosen, other):
    """Ratings high for what was chosen; what it was chosen over is not looked at.

    With weights held at zero, the mean embedding of the chosen becomes the liked direction: the likeliest centre of directions
    (von Mises-Fisher; Banerjee et al. 2005).
    """
    return -chosen.mean()


def binary(chosen, other):
    """Chosen and not chosen as two classes: cross-entropy of each picture alone, whatever pair it comes from."""
    from torch.nn.functional import logsigmoid

    return -(logsigmoid(chosen) + logsigmoid(-other)).mean() / 2


def ranked(chosen, other):
    """The mean of -log(chance that the chosen one wins its pair), the chance being sigmoid of the difference (Bradley and Terry 1952)."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen - other).mean()


LOSSES = {"imitation": imitation, "binary": binary, "ranked": ranked}


def fit(chosen, other, loss=ranked, see=None, pull=PULL):
    """A taste fitted to choices: a function from embeddings (n, width) to ratings (n,) torch, as `load_aesthetic` gives one.

    A weighted sum of what is seen of a picture, and a constant, as a few dozen choices tell little more than a direction. The prompt's
    own embedding is not seen: both pictures of a pair share it, so in a sum it cancels. The same choices give the same taste.

    Args: `chosen`, `other` embeddings (pairs, width) of the picture taken and of the one it was taken over, row by row; `loss(chosen,
    other)` gets the ratings of both, (pairs,), and returns one number; `see` turns embeddings into the columns that are weighed, as
    `pretrain` gives it, None: the embedding's own numbers. Raises `PromptlabError` for no pairs, shapes that differ, and a loss that is
    no finite number.
    """
    import torch

    chosen, other = np.asarray(chosen, np.float32), np.asarray(other, np.float32)
    if chosen.shape != other.shape or chosen.ndim != 2 or not len(chosen):
        raise PromptlabError(f"fit() needs a chosen and another picture of every pair: got embeddings of {chosen.shape} and {other.shape}.")
    see = see or (lambda embeddings: embeddings)
    rows = [torch.from_numpy(np.hstack([see(x), np.ones((len(x), 1))]).astype(np.float64)) for x in (chosen, other)]
    weights = torch.zeros(rows[0].shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        total = len(chosen) * loss(*(x @ weights for x in rows)) + pull / 2 * weights.square().sum()
        if not torch.isfinite(total):
            raise PromptlabError(f"The loss of these {len(chosen)} choices is {total.item()}: it must be a finite number.")
        total.backward()
        return total

    optimiser.step(step)
    learnt = weights.detach().float()

    def rate(embeddings):
        return torch.from_numpy(np.asarray(see(np.asarray(embeddings, np.float32)), np.float32)) @ learnt[:-1] + learnt[-1]

    return rate


def pretrain(looks, pairs, says, rate):
    """What cheap ranked pairs teach: a function from embeddings (n, width) to columns (n, questions + 1), for `fit` to weigh.

    A cheap question is a word: of two pictures of one prompt, the one whose wording says it wins, and nobody has to look. Each teaches a
    taste by the ranked loss. A column is the rating by such a taste, the last one that by `rate`; together they are about as long as
    an embedding.

    Args: `looks` embeddings of pictures (pictures, width); `pairs` of them (pairs, 2); `says` which wording says what, bool (pictures,
    words); words that tell fewer than FEWEST pairs apart are left out.
    """
    tastes = []
    for said in np.asarray(says).T:
        apart = pairs[said[pairs[:, 0]] != said[pairs[:, 1]]]
        if len(apart) >= FEWEST:
            won = np.where(said[apart[:, :1]], apart, apart[:, ::-1])
            tastes.append(fit(*looks[won.T]))

    def judged(embeddings):
        return np.stack([np.asarray(taste(embeddings)) for taste in (*tastes, rate)], 1)

    known = judged(looks)
    mean, spread = known.mean(0), known.std(0) * known.shape[1] ** 0.5
    return lambda embeddings: (judged(embeddings) - mean) / spread


def ordered(ratings, pairs):
    """Whether the first picture of each pair is rated higher: 1, 0, or .5 where both are rated the same; float (pairs,).

    Args: `ratings` one number per picture; `pairs` whole numbers (pairs, 2), the picture that should win first.
    """
    ratings, pairs = np.asarray(ratings, float), np.asarray(pairs)
    return (np.sign(ratings[pairs[:, 0]] - ratings[pairs[:, 1]]) + 1) / 2
