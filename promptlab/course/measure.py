"""What this machine does in how many seconds and how much memory, with full-size models whose weights are random.

Neither depends on what the weights say, so nothing is downloaded. The models are drawn, embedded and trained with by the course's own code.
"""

import json
import re
import statistics
import tempfile
import time
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path

from promptlab import ppo
from promptlab.config import COLAB, Preset, for_evaluation, preset
from promptlab.course.peak import Peak
from promptlab.models import shapes
from promptlab.models.clip import Clip
from promptlab.models.diffusion import Diffusion
from promptlab.policy import Policy
from promptlab.runtime import device, enough_memory, free_memory, hardware, home, write_atomically

REPEATS = 3  # on a GPU, after one that warms it up; a CPU does everything once
GPT2 = {}  # the small one of 124 million weights is what the library builds where nothing else is said
PROMPTS = ["a red fox in the snow", "an old castle by a lake", "a bowl of fruit", "two robots playing chess"]


@cache
def tokenizer():
    """CLIP's tokenizer, which takes seconds to build."""
    with tempfile.TemporaryDirectory() as folder:
        return shapes.clip_tokenizer(Path(folder))


class RandomDiffusion(Diffusion):
    """The generator of a preset, in the published shapes."""

    def __init__(self, chosen):
        import diffusers
        import torch

        diffusers.utils.logging.set_verbosity_error()
        with torch.device(device()):
            self.pipe = shapes.stable_diffusion(chosen.generator, tokenizer())
        if chosen.scheduler:
            self.pipe.scheduler = getattr(diffusers, chosen.scheduler).from_config(self.pipe.scheduler.config)
        self.pipe.to(device(), hardware().dtype).set_progress_bar_config(disable=True)
        self.pipe.vae.enable_slicing()
        self.folder, self.checker, self.batch = chosen.generator, None, chosen.batch
        self.steps, self.guidance, self._size = chosen.steps, chosen.guidance, chosen.image_size


class RandomClip(Clip):
    """open_clip's model of a name."""

    def __init__(self, architecture):
        import open_clip

        self.model = open_clip.create_model(architecture, load_weights=False, device=device(), precision="fp32").eval()


def measure() -> Path:
    """Measure, print a table, and return the JSON file in the run folder that holds it with device, date and command.

    Settings are those of the preset in use where it draws with Stable Diffusion, else of `colab`. What is measured is written
    as it comes. Raises `PromptlabError` where the GPU is too small.
    """
    chosen = preset() if preset().test_generator else COLAB
    if device().type == "cpu":
        chosen = replace(chosen, batch=1)
        print(
            "There is no GPU here, so this takes long (a quarter of an hour on two cores, estimated): one picture, one update, no repeats."
        )
    facts = about(chosen)
    path = home() / f"measure-{re.sub(r'[^a-z0-9]+', '-', facts['device'].lower()).strip('-')}-{facts['date']}.json"
    rows = []
    few = replace(COLAB, batch=chosen.batch)  # the few-step generator, which `paper` has not
    for part, how in ((picture, for_evaluation(chosen)), (picture, few), (embedding, chosen), (update, chosen)):
        rows.append(part(how))
        print(f"{rows[-1]['what']}: {rows[-1]['seconds']:.3g} s", flush=True)
        write_atomically(path, json.dumps(facts | {"measured": rows}, indent=1))
        free_memory()
    print(f"\n{table(facts, rows)}\nwritten: {path}")
    return path


def about(chosen: Preset) -> dict:
    """What was measured on, when and how."""
    import torch

    where = device()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{where.type} with {torch.get_num_threads()} threads"
    others = {library: metadata.version(library) for library in ("diffusers", "transformers", "open_clip_torch")}
    command = f"PROMPTLAB_PRESET={chosen.name} python -m promptlab measure"
    return {
        "device": name,
        "hardware": str(hardware()),
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "versions": {"torch": torch.__version__} | others,
    }


def picture(chosen: Preset) -> dict:
    """A picture by the generator of a preset, from words to pixels, without the safety checker."""
    drawer, words = RandomDiffusion(chosen), (PROMPTS * chosen.batch)[: chosen.batch]
    what = f"a picture, {chosen.generator}, {chosen.steps} steps, {chosen.image_size} x {chosen.image_size}"
    row = timed(lambda: drawer.generate(words, range(len(words))), what, len(words))
    return row | {"batch": drawer.batch, "dtype": str(drawer.pipe.unet.dtype)[6:]}  # the batch is smaller where memory ran out


def embedding(chosen: Preset) -> dict:
    """An embedding of a picture, resized from what the generator draws."""
    import numpy as np

    eye, count = RandomClip(chosen.clip_architecture), chosen.batch
    pictures = np.random.default_rng(0).integers(0, 256, (count, chosen.image_size, chosen.image_size, 3), np.uint8)
    row = timed(lambda: eye.embed_images(pictures), f"an embedding, {chosen.clip_architecture}", count)
    return row | {"batch": count, "dtype": "float32"}


def update(chosen: Preset) -> dict:
    """An update of PPO with the preset's settings, without drawing: the longest there is, as a random model never ends a rewrite."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    knobs = ("prompts", "samples", "new_tokens", "epochs", "minibatch", "lr")
    settings = ppo.Settings(**{knob: getattr(chosen, f"ppo_{knob}") for knob in knobs}, lora=chosen.lora)
    with torch.device(device()):
        model = GPT2LMHeadModel(GPT2Config(**GPT2))
    policy = Policy(model, tokenizer())  # CLIP's words stand in for GPT-2's, which nobody may have downloaded
    run, pool = ppo.PPO(policy, settings), [f"{prompt}, {i}" for i in range(settings.prompts) for prompt in PROMPTS]
    what = f"a PPO update of GPT-2 ({sum(p.numel() for p in policy.model.parameters()) / 1e6:.0f} million weights), without its pictures"
    row = timed(lambda: run.update(pool, lambda plain, texts, seeds: torch.linspace(-1, 1, len(texts))), what, 1)
    return row | {knob: getattr(settings, knob) for knob in knobs} | {"dtype": "float32"}


def timed(act, what, count) -> dict:
    """A row: the median seconds that each of the `count` things takes which `act` makes, and the most memory held meanwhile."""
    import torch

    cuda, seconds = device().type == "cuda", []
    free_memory()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with Peak() as peak, enough_memory("Close what else uses it, or choose PROMPTLAB_PRESET=colab."):
        for _ in range(1 + REPEATS if cuda else 1):
            began = time.perf_counter()
            act()
            if cuda:
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - began) / count)
    memory = torch.cuda.max_memory_reserved() if cuda else peak.mb << 20
    counted = seconds[1:] or seconds
    return {
        "what": what,
        "seconds": statistics.median(counted),
        "repeats": len(counted),
        "peak_memory_gb": round(memory / 1e9, 2),
        "memory_of": "the GPU" if cuda else "this process",
    }


def table(facts, rows) -> str:
    """The rows as a Markdown table under a line that says where, when and how."""
    lines = [f"{facts['hardware']}, {facts['date']}: {facts['command']}", "", "| what | seconds | peak memory GB |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {r['what']} | {r['seconds']:.3g} | {r['peak_memory_gb']:.1f} |" for r in rows)])
