"""An aesthetic head on CLIP image embeddings, fitted to noisy ratings as LAION's was to people's."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from promptlab.models.aesthetic import aesthetic_head
from promptlab.pocket.taste import gold, truth_as_seen
from promptlab.pocket.training import on_device, train
from promptlab.runtime import bar

BOX, BATCH = 0.01, 256
RATERS = 10  # per picture; three make a noisier head: Spearman on drawn pictures .767 instead of .779, all else equal


def _gold_of_block(block):
    pictures, images = block
    return gold(images, truth_as_seen(pictures))


def gold_of_renders(pictures, images, size=500):
    """The gold rating of rendered pictures (n,), whose content is known; on every core."""
    blocks = [(pictures[i : i + size], images[i : i + size]) for i in range(0, len(images), size)]
    with ProcessPoolExecutor() as pool:
        return np.concatenate(list(bar(pool.map(_gold_of_block, blocks), total=len(blocks), desc="gold")))


def simulated_ratings(truth, seed=0):
    """What RATERS people would answer, 1-10: gold plus each rater's own noise and offset, rounded, averaged over raters."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1.2, (RATERS, len(truth))) + rng.normal(0, 0.5, (RATERS, 1))
    return np.clip(np.round(truth + noise), 1, 10).mean(0)


def fit(embeddings, ratings, folder, steps=None):
    """Regress mean ratings (n,) on CLIP embeddings (n, width) of the same pictures; squared error."""
    torch.manual_seed(0)
    x, y = on_device(embeddings), on_device(ratings).float()
    head = aesthetic_head(x.shape[1])
    torch.nn.init.constant_(head[-1].bias, float(y.mean()))

    def loss_of(indices):
        return F.mse_loss(head(x[indices]).squeeze(-1).float(), y[indices])

    return train("aesthetic", folder, BOX, {"head": head}, loss_of, 1e-3, BATCH, len(x), ema=("head",), weight_decay=0.15, steps=steps)["head"]
