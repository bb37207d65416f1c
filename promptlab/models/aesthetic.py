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


def laion_head(width=768, relu=False):
    """A fresh head in the shape of LAION's predictor: linear layers without activations, so in the end one direction in CLIP's space.

    Its layers are named as published: `layers.0 .2 .4 .6 .7`, with dropout between them while it was trained; with `relu`, the
    head published as reluMSE, `layers.0 .3 .6 .9 .11`.
    """
    from torch import nn

    bend = [nn.ReLU] if relu else []
    sizes, layers = [width, 1024, 128, 64, 16], []
    for into, out, drop in zip(sizes, sizes[1:], (0.2, 0.2, 0.1, None), strict=False):
        layers += [nn.Linear(into, out), *(kind() for kind in bend), *([nn.Dropout(drop)] if drop else [])]
    return nn.Sequential(OrderedDict(layers=nn.Sequential(*layers, nn.Linear(16, 1))))


def head_for(tensors):
    """A fresh head of the shape that these tensors are of, told by their names, or None where it is none that was published."""
    from torch import nn

    if "layers.0.weight" in tensors:  # LAION's improved predictor, for a CLIP of any width
        return laion_head(tensors["layers.0.weight"].shape[-1], relu="layers.3.weight" in tensors)
    if tensors.keys() == {"weight", "bias"} and tensors["weight"].ndim == 2 and len(tensors["weight"]) == 1:  # LAION's first: one layer
        return nn.Linear(tensors["weight"].shape[1], 1)
    return aesthetic_head() if "1.weight" in tensors else None


def load_aesthetic(preset):
    """The aesthetic head of a preset: embeddings (n, width) float32 numpy in, ratings (n,) torch out.

    Which of the published shapes it has is told by the names in its file. Raises `PromptlabError` for a file that is missing, holds
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
    head = head_for(tensors)
    if head is None:
        raise PromptlabError(
            f"{file} holds another kind of head (its first tensor is {next(iter(tensors))!r}) than those that are known here: ours, and LAION's "
            f"linear, linearMSE and reluMSE. Name one of these, or {repair}"
        )
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
