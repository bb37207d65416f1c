"""One training loop for all models of the pocket world: seeded per step, checkpointed, resumable."""

import copy
import time

import numpy as np
import torch

from promptlab.models.weights import load_checkpoint, save_checkpoint
from promptlab.runtime import PromptlabError, bar, device, hardware

# Moments of weights that get no gradient decay into denormals, on which a CPU crawls (5 x slower, measured). Worker
# threads inherit the setting when they start, so it must stand before the first parallel operation.
torch.set_flush_denormal(True)

SHARE = 1  # of every stage's steps; a rehearsal of the build makes it smaller
SAVE_EVERY = 120  # seconds: what a kill can cost at most


def trapezoid(step: int, steps: int, warmup: int = 100, decay: float = 0.35) -> float:
    """Learning-rate factor: linear warm-up, constant, then linear to zero over the last `decay` share of the steps.

    Unlike a cosine, the constant part does not depend on `steps`, so a running build can be lengthened.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, decay * steps))


def mixed():
    """bfloat16 where the hardware multiplies it natively; elsewhere it is emulated, and 20 times slower than float32."""
    return torch.autocast(device().type, torch.bfloat16, enabled=hardware().dtype == torch.bfloat16)


def optimisers(modules, lr, lr_scale, weight_decay, muon):
    """AdamW for everything, except that weight matrices of the modules named in `muon` go to Muon (Jordan et al. 2024).

    Convolutions count as matrices (out, in * height * width). Also returns each such parameter with its flat view, whose
    gradient has to be pointed at the parameter's own before every step.
    """
    flat, groups = [], []
    for name, module in modules.items():
        matrices = [p for p in module.parameters() if p.ndim >= 2 and name in muon]
        flat += [(p, torch.nn.Parameter(p.data.view(len(p), -1))) for p in matrices]
        rest = [p for p in module.parameters() if p.ndim < 2 or name not in muon]
        groups.append({"params": rest, "lr": lr * (lr_scale or {}).get(name, 1.0)})
    made = [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)]
    if flat:
        made.append(torch.optim.Muon([v for _, v in flat], lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return made, flat


def train(name, folder, steps, modules, loss_of, lr, batch, size, ema=(), lr_scale=None, weight_decay=0.01, seed=0, log=None, muon=()):
    """Train `modules` for `steps` steps and return them, averaged where named in `ema`.

    Args: `modules` a dict of nn.Modules; `loss_of(indices)` the loss of a numpy array of `batch` example indices below
    `size`, computed in bfloat16 where that is fast (`mixed`); `lr_scale` per-module learning-rate factors; `log` a file for `step loss` lines.
    Every step seeds itself from (seed, step), so a run that was killed and resumed ends in the same weights.
    """
    dev, path = device(), folder / f"{name}.ckpt"
    steps = max(2, int(steps * SHARE)) if SHARE < 1 else steps
    for module in modules.values():
        module.to(dev).train()
    made, flat = optimisers(modules, lr, lr_scale, weight_decay, muon)
    base = [[g["lr"] for g in optimiser.param_groups] for optimiser in made]
    average = {k: copy.deepcopy(modules[k]).requires_grad_(False).eval() for k in ema}
    start, state = 0, load_checkpoint(path)
    if state:
        try:
            start = state["step"]
            for k, m in modules.items():
                m.load_state_dict(state["modules"][k])
            for k, m in average.items():
                m.load_state_dict(state["average"][k])
            if "optimisers" in state and start < steps:
                for optimiser, moments in zip(made, state["optimisers"], strict=True):
                    optimiser.load_state_dict(moments)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise PromptlabError(
                f"{path} belongs to another model ({type(error).__name__}). Delete it to start this stage again."
            ) from error
    parameters = [p for m in modules.values() for p in m.parameters()]
    progress, saved, smooth = bar(total=steps, initial=start, desc=name), time.monotonic(), None

    def checkpoint(step, final=False):
        state = {
            "step": step,
            "modules": {k: m.state_dict() for k, m in modules.items()},
            "average": {k: m.state_dict() for k, m in average.items()},
        }
        save_checkpoint(state if final else state | {"optimisers": [o.state_dict() for o in made]}, path)

    for step in range(start, steps):
        torch.manual_seed(1_000_003 * seed + step)
        indices = np.random.default_rng((seed, step)).integers(size, size=batch)
        for optimiser, values in zip(made, base, strict=True):
            for group, value in zip(optimiser.param_groups, values, strict=True):
                group["lr"] = value * trapezoid(step, steps)
        with mixed():
            loss = loss_of(indices)
        if not torch.isfinite(loss):
            raise PromptlabError(f"{name}: the loss became {loss.item()} at step {step}. Run again: it resumes from the last checkpoint.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for parameter, view in flat:
            view.grad = parameter.grad.view_as(view)
        for optimiser in made:
            optimiser.step()
        for parameter in parameters:
            parameter.grad = None
        with torch.no_grad():
            keep = min(0.998, (step + 1) / (step + 10))
            for k, m in average.items():
                for slow, fast in zip(m.state_dict().values(), modules[k].state_dict().values(), strict=True):
                    slow.lerp_(fast, 1 - keep) if slow.is_floating_point() else slow.copy_(fast)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        progress.set_postfix_str(f"loss {smooth:.4f}", refresh=False)
        progress.update()
        if log and step % 100 == 99:
            with open(log, "a") as f:
                f.write(f"{name} {step + 1} {smooth:.5f}\n")
        if time.monotonic() - saved > SAVE_EVERY:
            checkpoint(step + 1)
            saved = time.monotonic()
    progress.close()
    if start < steps:
        checkpoint(steps, final=True)
    return {k: average.get(k, m).eval() for k, m in modules.items()}
