"""One training loop for all models of the pocket world: seeded per step, checkpointed, resumable, on a GPU one CUDA graph a step."""

import copy
import time
import warnings

import numpy as np
import torch

from promptlab.models.weights import load_checkpoint, save_checkpoint
from promptlab.runtime import PromptlabError, bar, device, hardware

# Moments of weights that get no gradient decay into denormals, on which a CPU crawls (5 x slower, measured). Worker
# threads inherit the setting when they start, so it must stand before the first parallel operation.
torch.set_flush_denormal(True)

HOURS = 9.0  # of a whole build; every stage takes its `box`, a share of it
STEPS = None  # where a rehearsal sets it: the steps of every stage, whatever its box
SAVE_EVERY = 120  # seconds: what a kill can cost at most
DEADLINE = float("inf")  # on the clock of time.monotonic(): when training stops with a checkpoint
WARM = 3  # steps that leave no trace, in which a GPU's libraries choose their kernels before they are recorded


def stop_after(minutes=None):
    """Let all training of this process stop with a checkpoint after so many minutes: what a machine lent for a while needs."""
    global DEADLINE
    DEADLINE = time.monotonic() + 60 * minutes if minutes else float("inf")


def trapezoid(step: int, steps: float, warmup: int = 100, decay: float = 0.35) -> float:
    """Learning-rate factor: linear warm-up, constant, then linear to zero over the last `decay` share of the steps.

    Unlike a cosine, the constant part does not depend on `steps`, so a running build can be lengthened.
    """
    return max(0.0, min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, decay * steps)))


def on_device(array):
    """A numpy array as a tensor on the device: a GPU holds the whole data set, a CPU reads it from where it lies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file mapped for reading is never written to, which torch would warn of
        return torch.from_numpy(np.asarray(array)).to(device())


def batch_for(sizes):
    """The batch size of a dict from device type to size; a device that is not in it gets the CPU's."""
    return sizes.get(device().type, sizes["cpu"])


def mixed(**kwargs):
    """bfloat16 where the hardware multiplies it natively; elsewhere it is emulated, and 20 times slower than float32."""
    return torch.autocast(device().type, torch.bfloat16, enabled=hardware().dtype == torch.bfloat16, **kwargs)


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
    on_gpu = device().type == "cuda"
    made = [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True, capturable=on_gpu)]
    if flat:
        made.append(torch.optim.Muon([v for _, v in flat], lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return made, flat


class Step:
    """One training step: loss, gradients, optimisers, averages. On a GPU it is recorded once and replayed, without Python between.

    What changes from step to step stands in tensors: the indices of the batch, the learning-rate factor and how much the
    averages keep. Every optimiser moves in proportion to its learning rate, so the factor scales the move it made.
    """

    def __init__(self, modules, averages, loss_of, made, flat, batch, graph):
        self.modules, self.averages, self.loss_of, self.made, self.flat = modules, averages, loss_of, made, flat
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.before = [torch.empty_like(p) for p in self.parameters]
        self.slow, self.fast, self.counters = [], [], []
        for name, average in averages.items():
            for a, b in zip(average.state_dict().values(), modules[name].state_dict().values(), strict=True):
                if a.is_floating_point():
                    self.slow.append(a), self.fast.append(b)
                else:
                    self.counters.append((a, b))
        self.on_gpu = device().type == "cuda"
        self.indices = torch.zeros(batch, dtype=torch.long, device=device())
        self.factor, self.renew = torch.zeros((), device=device()), torch.zeros((), device=device())
        self.graph = self.record() if graph and self.on_gpu else None

    def compute(self):
        """The step itself, on whatever the tensors hold; returns the loss."""
        with mixed(cache_enabled=not self.on_gpu):  # what a cache holds would be computed once, when the graph is recorded
            loss = self.loss_of(self.indices)
        loss.backward()
        with torch.no_grad():
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            torch._foreach_copy_(self.before, self.parameters)
            for parameter, view in self.flat:
                view.grad = parameter.grad.view_as(view)
            for optimiser in self.made:
                optimiser.step()
            torch._foreach_sub_(self.parameters, self.before)
            torch._foreach_mul_(self.parameters, self.factor)
            torch._foreach_add_(self.parameters, self.before)
            if self.slow:
                moves = torch._foreach_sub(self.fast, self.slow)
                torch._foreach_mul_(moves, self.renew)
                torch._foreach_add_(self.slow, moves)
            for a, b in self.counters:
                a.copy_(b)
        return loss.detach()

    def record(self):
        """The step as a CUDA graph, after a few that change neither weights nor averages."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self.compute()
                self.forget()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self.compute()
        return graph

    def forget(self):
        """Drop all gradients, so that the next step starts from none."""
        for parameter in self.parameters:
            parameter.grad = None

    def __call__(self, indices, factor, renew):
        self.indices.copy_(torch.from_numpy(indices), non_blocking=True)
        self.factor.fill_(factor), self.renew.fill_(renew)
        if self.graph:
            self.graph.replay()
            return self.loss
        loss = self.compute()
        self.forget()
        return loss


def train(name, folder, box, modules, loss_of, lr, batch, size, ema=(), lr_scale=None, weight_decay=0.01, seed=0, muon=(), steps=None, graph=True):
    """Train `modules` for their share `box` of the build's time, or for `steps` steps, and return them, averaged where named in `ema`.

    Args: `modules` a dict of nn.Modules; `loss_of(indices)` the loss of a tensor of `batch` example indices below `size`,
    computed in bfloat16 where that is fast (`mixed`); `lr_scale` per-module learning-rate factors; `graph=False` for a loss whose shapes change
    from step to step. Every step seeds itself from (seed, step): with `steps`, a run that was killed and resumed ends in the
    same weights; by time, as many steps as fit are done, and the learning rate falls by the time that is left.
    """
    dev, path, steps = device(), folder / f"{name}.ckpt", steps or STEPS
    seconds = None if steps else box * HOURS * 3600
    for module in modules.values():
        module.to(dev).train()
    average = {k: copy.deepcopy(modules[k]).requires_grad_(False).eval() for k in ema}
    made, flat = optimisers(modules, lr, lr_scale, weight_decay, muon)
    start, spent, curve, state = 0, 0.0, [], load_checkpoint(path)
    if state:
        try:
            start, spent, curve = state["step"], state["seconds"], state["curve"]
            for k, m in modules.items():
                m.load_state_dict(state["modules"][k])
            for k, m in average.items():
                m.load_state_dict(state["average"][k])
            for optimiser, moments in zip(made, state.get("optimisers", ()), strict=False):
                optimiser.load_state_dict(moments)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise PromptlabError(
                f"{path} belongs to another model ({type(error).__name__}). Delete it to start this stage again."
            ) from error
    done = bool(state) and "optimisers" not in state
    if not done:
        begun = saved = time.monotonic()
        progress = bar(total=steps or round(seconds), initial=start if steps else round(spent), desc=name, unit="step" if steps else "s")

        def checkpoint(step, final=False):
            kept = {
                "step": step, "seconds": spent + time.monotonic() - begun, "samples": step * batch, "curve": curve,
                "modules": {k: m.state_dict() for k, m in modules.items()}, "average": {k: m.state_dict() for k, m in average.items()},
            }  # fmt: skip
            save_checkpoint(kept if final else kept | {"optimisers": [o.state_dict() for o in made]}, path)

        advance = Step(modules, average, loss_of, made, flat, batch, graph)
        step, smooth, every = start, None, 1 if dev.type == "cpu" else 50  # reading a loss makes a GPU wait
        while True:
            now = time.monotonic()
            total = steps or max(step + 1, step * seconds / (spent + now - begun))
            if step >= total or (seconds and spent + now - begun >= seconds):
                break
            torch.manual_seed(1_000_003 * seed + step)
            indices = np.random.default_rng((seed, step)).integers(size, size=batch)
            loss = advance(indices, trapezoid(step, total), 1 - min(0.998, (step + 1) / (step + 10)))
            step += 1
            if step % every == 0 or step == steps:
                value = loss.item()
                if not np.isfinite(value):
                    raise PromptlabError(f"{name}: the loss became {value} at step {step - 1}. Run again: it resumes from the last checkpoint.")
                smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
                progress.set_postfix_str(f"loss {smooth:.4f}", refresh=False)
                progress.update((step if steps else round(spent + now - begun)) - progress.n)
            if step % 100 == 0 and smooth is not None:
                curve.append([step, round(smooth, 5)])
            if now - saved > SAVE_EVERY or now > DEADLINE:
                checkpoint(step)
                saved = now
            if now > DEADLINE:
                raise KeyboardInterrupt
        progress.close()
        checkpoint(step, final=True)
    return {k: average.get(k, m).eval() for k, m in modules.items()}
