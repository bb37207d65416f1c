"""A policy too large for one GPU: its weights, their gradients and Adam's moments are divided among the processes (FSDP, Zhao et al. 2023).

Each layer is put together only while it computes. That is done where accelerate's configuration says ``distributed_type: FSDP``, as
`data/benchmarks/fsdp.yaml` does; of what else such a file may say about FSDP nothing is read. All processes have to call every
function here, and the model, equally often.
"""

import os

from promptlab.processes import count, divided


def on() -> bool:
    """Whether the processes divide the policy."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def divide(*models):
    """Divide the weights of some models among the processes, layer by layer; returns a whole copy of the first one, on the CPU.

    Where they are not to be divided, nothing happens, and there is no copy.
    """
    if not on():
        return None
    import copy

    from torch.distributed.fsdp import fully_shard

    plain = copy.deepcopy(models[0]).cpu()
    for model in models:
        layers = set(model._no_split_modules or ())  # what transformers calls one layer of this architecture
        for module in [m for m in model.modules() if type(m).__name__ in layers] + [model]:
            fully_shard(module)
    return plain


def reading():
    """What a model that is only read runs in: inference mode, which FSDP does not know, or no gradients."""
    import torch

    return torch.no_grad() if on() else torch.inference_mode()


def whole(state):
    """A state with every divided tensor put together, on the CPU."""
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    return state.full_tensor().cpu() if divided(state) else state


def as_divided(tensor, like):
    """A whole tensor, divided as `like` is; itself where that is not."""
    from torch.distributed.tensor import distribute_tensor

    alike = divided(like) and getattr(tensor, "shape", None) == like.shape
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements) if alike else tensor


def load(model, state):
    """Fill a model from a whole state."""
    if on():
        own = model.state_dict()
        state = {name: as_divided(tensor, own[name]) for name, tensor in state.items()}
    model.load_state_dict(state)


def load_optimiser(optimiser, state):
    """Fill an optimiser from a whole state."""
    if on():
        weights = [p for group in optimiser.param_groups for p in group["params"]]
        moments = {i: {name: as_divided(value, weights[i]) for name, value in known.items()} for i, known in state["state"].items()}
        state = state | {"state": moments}
    optimiser.load_state_dict(state)


def clip(weights, longest):
    """Shorten the gradient of all weights together to a length, as `clip_grad_norm_` does; returns the length it had."""
    import torch

    if not on():
        return torch.nn.utils.clip_grad_norm_(weights, longest)
    gradients = [p.grad for p in weights if p.grad is not None]
    norm = torch.stack([whole(g.norm()).cpu() for g in gradients]).norm()
    for g in gradients:
        g.mul_(float((longest / (norm + 1e-6)).clamp(max=1)))
    return norm
