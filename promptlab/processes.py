"""One training in several processes, as `accelerate launch` starts them: which share is ours, and what all of them found.

Every process holds the whole policy, works on its own share of the prompts and of each gradient step, and gets what the others
found; so all make the same steps with the same weights. Alone, every function here hands back what it is given, and nothing of the
library accelerate is set up.
"""

import os
import sys

from promptlab.runtime import PromptlabError, device

COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")  # in which launchers tell how many there are


def count() -> int:
    """How many processes share the work."""
    return max([1, *(int(os.environ[name]) for name in COUNTS if os.environ.get(name, "").isdecimal())])


def join():
    """Meet the others, before anything is loaded: from then on `runtime.device` is the GPU of this process. Returns accelerate's state.

    Only the first process prints. A process that fails ends all of them, as the launcher sees to it. Alone, there is nobody to meet.
    """
    if count() == 1:
        return None
    import atexit

    import torch
    from accelerate import PartialState

    known = torch.distributed.is_initialized()
    state = PartialState(cpu=device().type == "cpu")
    if not known:
        atexit.register(state.destroy_process_group)
        if not state.is_main_process:
            sys.stdout = open(os.devnull, "w")
    return state


def index() -> int:
    """The number of this process among them, from 0."""
    return 0 if count() == 1 else join().process_index


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return index() == 0


def share(n, of=1) -> slice:
    """Which rows are ours of `n` things with `of` rows each, which stay together: neighbours, as equally many as can be.

    Raises `PromptlabError` where there is not one thing for each process.
    """
    if count() == 1:
        return slice(0, n * of)
    if n < count():
        raise PromptlabError(f"{count()} processes cannot share {n} prompts. Start at most {n}, or give more prompts.")
    with join().split_between_processes(list(range(n))) as mine:
        return slice(mine[0] * of, (mine[-1] + 1) * of)


def every(found) -> list:
    """What each process found, in their order; tensors in it are on the CPU."""
    if count() == 1:
        return [found]
    from accelerate.utils import gather_object, send_to_device

    join()
    return gather_object([send_to_device(found, "cpu")])


def portions(rows, largest, most) -> list:
    """Our rows in portions of at most `most` as (rows, True), where the `largest` share has so many rows.

    Every process gets equally many portions, as those that divide a policy have to read in step: who has none left reads the first row
    of all as (row, False), and counts it for nothing.
    """
    import torch

    parts = [(part, True) for part in rows.split(most)] if len(rows) else []
    return parts + [(torch.zeros(1, dtype=torch.long), False)] * (-(-largest // most) - len(parts))


def divided(tensor) -> bool:
    """Whether of this tensor each process has a part (`promptlab.sharding`)."""
    return hasattr(tensor, "full_tensor")


def add_gradients(parameters):
    """Give every parameter the sum of what all processes have as its gradient."""
    if count() == 1:
        return
    import torch
    from accelerate.utils import reduce

    join()
    learning = [p for p in parameters if p.grad is not None]
    alone = [p for p in learning if not divided(p)]
    for p in learning:
        if divided(p):  # the mean is known already
            p.grad.mul_(count())
    total = reduce(torch.cat([p.grad.flatten() for p in alone]), "sum")  # at once: a message of its own for each would take longer
    for p, part in zip(alone, total.split([p.numel() for p in alone]), strict=True):
        p.grad.copy_(part.view_as(p))


def merged_figures(parts, weights) -> dict:
    """Figures that each process noted about its share, as those of the whole: counts and rates are added, others averaged by weight."""
    out = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        noted = [(part[key], weight) for part, weight in zip(parts, weights, strict=True) if key in part]
        if isinstance(noted[0][0], float) and not key.endswith("per_second"):
            out[key] = sum(value * weight for value, weight in noted) / sum(weight for _, weight in noted)
        else:
            out[key] = sum(value for value, _ in noted) if isinstance(noted[0][0], int | float) else noted[0][0]
    return out


def same_start(model, done):
    """Raise `PromptlabError` unless all processes start with the same weights after as many updates: they would part without a sign of it."""
    if count() == 1:
        return
    mine = [p.detach().double().abs().sum().item() for p in model.parameters() if not divided(p)]
    starts = every((done, f"{sum(mine):.9g}"))
    if len(set(starts)) > 1:
        raise PromptlabError(
            f"The processes start apart, (updates made, sum of weights) {starts}: "
            "let PROMPTLAB_HOME name a folder that all of them see, and start them again."
        )
