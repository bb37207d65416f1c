"""The aesthetic head: a CLIP image embedding in, one rating out."""

from collections import OrderedDict

import numpy as np

from promptlab.models.sources import fetch, head_files, repair_for
from promptlab.models.weights import load_tensors, reading_weights
from promptlab.runtime import PromptlabError


def aesthetic_head(width=256, hidden=1024):
    """A fresh head from a CLIP image embedding to one rating, shaped like LAION's but with activations between its layers.

    The norm without weights makes numbers of size 1 out of an embedding of length 1, whose entries are small.
    """
    from torch import nn

    first = [nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.3)]
    return nn.Sequential(*first, nn.Linear(hidden, 256), nn.GELU(), nn.Linear(256, 1))


def laion_head(width=768):
    """A fresh head in the shape of LAION's predictor: linear layers without activations, so in the end one direction in CLIP's space.

    Its layers are named as published: `layers.0 .2 .4 .6 .7`, with dropout between them while it was trained.
    """
    from torch import nn

    first = [nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64), nn.Dropout(0.1)]
    return nn.Sequential(OrderedDict(layers=nn.Sequential(*first, nn.Linear(64, 16), nn.Linear(16, 1))))


def load_aesthetic(preset):
    """The aesthetic head of a preset: embeddings (n, width) float32 numpy in, ratings (n,) torch out.

    Which of the two shapes it has is told by the names in its file. Raises `PromptlabError` for a file that is missing, holds
    code, or holds another model, and where embeddings are of another width than the head reads.
    """
    import torch

    found = fetch(preset.aesthetic, head_files)
    repair = repair_for(found, "aesthetic")
    file = found
    if not found.is_file():
        names = [f.name for f in sorted(found.iterdir())] if found.is_dir() else []
        file = found / next(iter(head_files(names)), "model.safetensors")
    tensors = load_tensors(file, repair)
    head = laion_head() if "layers.0.weight" in tensors else aesthetic_head()
    with reading_weights(file, repair):
        head.load_state_dict(tensors)
    head.eval().float()
    width = next(layer.in_features for layer in head.modules() if isinstance(layer, torch.nn.Linear))

    def rate(embeddings):
        embeddings = np.asarray(embeddings, np.float32)
        if embeddings.shape[-1] != width:
            raise PromptlabError(
                f"The head in {file} rates embeddings of {width} numbers, and this CLIP gives {embeddings.shape[-1]}. "
                "Let clip and aesthetic of the preset name two that belong together."
            )
        with torch.inference_mode():
            return head(torch.from_numpy(embeddings)).squeeze(-1)

    return rate
