"""Writes data/benchmarks/many_gpus.md: what the preset `paper` would take on 1, 8 and 64 GPUs, computed from what one of them was measured to do.

`python tests/benchmarks/many_gpus.py` writes it again.
"""

import sys
from pathlib import Path

from promptlab.config import COLAB, PAPER

# One H200 in bfloat16, 2026-11-27, `PROMPTLAB_PRESET=colab python -m promptlab measure`; seconds and GB.
PICTURE, PICTURE_GB = 0.147, 4.3  # of Stable Diffusion v1-4 in 20 steps, eight at once
EMBEDDING = 0.0046  # of ViT-L/14
UPDATE, UPDATE_GB = 0.805, 7.0  # of GPT-2 small by `colab`'s settings, without pictures
# Assumed, not measured: bytes a second that a sum over all gradients moves, between GPUs of one machine and of several.
WITHIN, BETWEEN = 200e9, 25e9
WEIGHTS = 124e6


def language(preset, gpus) -> float:
    """Seconds of the language model in an update: in proportion to tokens and passes, and to rewrites where they are more than were measured."""
    work = lambda p, rewrites: rewrites * p.ppo_new_tokens * (2 + p.ppo_epochs)  # noqa: E731 - written once, read once, then learnt from
    known = COLAB.ppo_prompts * COLAB.ppo_samples
    return UPDATE * work(preset, max(known, largest(preset, gpus))) / work(COLAB, known)


def largest(preset, gpus) -> int:
    """Rewrites of the GPU that has most: those of a prompt stay together."""
    return -(-preset.ppo_prompts // gpus) * preset.ppo_samples


def exchange(preset, gpus) -> float:
    """Seconds of an update in which gradients are summed: a ring moves each number twice, once for every step."""
    steps = preset.ppo_epochs * -(-preset.ppo_prompts * preset.ppo_samples // preset.ppo_minibatch)
    return 0.0 if gpus == 1 else steps * 2 * 4 * WEIGHTS * (gpus - 1) / gpus / (WITHIN if gpus <= 8 else BETWEEN)


def run(preset, gpus) -> dict:
    """What a run takes: seconds of an update by its parts, hours in all, pictures."""
    prompts = -(-preset.ppo_prompts // gpus)
    pictures = preset.ppo_images * (prompts + largest(preset, gpus))  # the plain prompt's beside those of its rewrites
    parts = {"drawing": pictures * (PICTURE + EMBEDDING), "language": language(preset, gpus), "exchange": exchange(preset, gpus)}
    hours = preset.ppo_updates * sum(parts.values()) / 3600
    return parts | {"prompts": prompts, "pictures": pictures, "update": sum(parts.values()), "hours": hours, "gpu_hours": gpus * hours}


def page(preset=PAPER, counts=(1, 8, 64)) -> str:
    """The page."""
    runs, one = [run(preset, n) for n in counts], run(preset, 1)
    rows = {
        "prompts an update, on the GPU that has most": [f"{r['prompts']}" for r in runs],
        "pictures an update, likewise": [f"{r['pictures']}" for r in runs],
        "drawing and embedding, s": [f"{r['drawing']:.1f}" for r in runs],
        "language model, s": [f"{r['language']:.2f}" for r in runs],
        "sums of gradients, s (bandwidth assumed)": [f"{r['exchange']:.2f}" for r in runs],
        "**an update, s**": [f"**{r['update']:.1f}**" for r in runs],
        f"**a run of {preset.ppo_updates} updates**": [f"**{r['hours']:.1f} h**" if r["hours"] >= 1 else f"**{60 * r['hours']:.1f} min**" for r in runs],
        "times as fast as one": [f"{one['hours'] / r['hours']:.1f}" for r in runs],
        "GPU hours": [f"{r['gpu_hours']:.1f}" for r in runs],
    }  # fmt: skip
    table = ["| | " + " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in counts) + " |", "|---|" + "---:|" * len(counts)]
    table += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    noise = lambda rewrites: rewrites * 50257 * 4 / 1e9  # noqa: E731
    return TEXT.format(
        table="\n".join(table), count=preset.ppo_prompts * preset.ppo_samples * preset.ppo_updates, total=one["pictures"] * preset.ppo_updates,
        picture=PICTURE, embedding=EMBEDDING, update=UPDATE, memory=PICTURE_GB + UPDATE_GB, small=noise(256), large=noise(16384),
        within=WITHIN / 1e9, between=BETWEEN / 1e9, prompts=preset.ppo_prompts,
    )  # fmt: skip


TEXT = """<!-- python tests/benchmarks/many_gpus.py -->
# What 8 and 64 GPUs would take

The preset `paper`: GPT-2 small, Stable Diffusion v1-4 in 20 steps, {count:,} rewrites and {total:,} pictures in all. **Computed, not
measured**: no run of ours has used more than one GPU. One H200 was measured on 2026-11-27 (`python -m promptlab measure`): {picture} s a
picture, {embedding} s an embedding, {update} s the language model's part of an update of 48 rewrites. From these the update of `paper` is
scaled: pictures by their number, the language model by tokens, passes and rewrites. Fewer than 48 rewrites are taken to last as long as 48,
as a token is written in steps that hardly get shorter; more of them, in proportion, which is too much, as larger batches run faster.

{table}

Memory: {memory:.1f} GB on every GPU, the sum of the two measured peaks (4.3 GB drawing eight pictures at once, 7.0 GB learning), to which CLIP and
the rating head add what their weights weigh (1.7 GB in float32, counted). Sums of gradients are taken to move {within:.0f} GB/s within a machine of
8 and {between:.0f} GB/s between machines; both are assumptions.

## How it is started

```
PROMPTLAB_PRESET=paper accelerate launch --multi_gpu --num_processes 8 -m promptlab ppo     # one machine with 8 GPUs; sft and evaluate likewise
accelerate launch --multi_gpu --num_machines 8 --num_processes 64 --machine_rank 0 --main_process_ip ADDRESS --main_process_port 29500 \\
    -m promptlab ppo --preset paper                                                           # on each of 8 machines, with its own rank
accelerate launch --config_file data/benchmarks/fsdp.yaml -m promptlab ppo --preset paper    # the policy divided among the GPUs
```

On a machine without a GPU the first and the last line start processes that talk by gloo; both were tried so, with two processes
(`accelerate launch --cpu` starts one alone, unless it has MPI).
`PROMPTLAB_HOME` has to be a folder that all machines see. What is shared and what is not:

- **Prompts** are shared as equally as can be; the rewrites of one prompt stay on one GPU. {prompts} prompts on 64 GPUs are 4 each; on 60 GPUs, 16 have 5
  and the rest wait for them. Fewer prompts than processes is an error that says so.
- **Results** do not depend on the number of processes, but for rounding: the random numbers of sampling are drawn for the whole batch in every
  process. For 256 rewrites that is {small:.2f} GB a token, for 16,384 {large:.1f} GB, which is where another way to seed would be needed.
- **Advantages** are whitened over all rewrites, each gradient step is over the whole minibatch and weighs tokens, not processes.
- **One** process writes checkpoints, metrics and the bar. A run of 8 goes on with 64, or with one.
- If a process fails, the launcher ends all; the same command goes on from the last checkpoint. So does Ctrl-C, which loses the update in progress.
- **More GPUs than 64** want more prompts an update (`ppo.Settings(prompts=...)`): with 4 on a GPU, two fifths of an update are no drawing any more.

## A policy that does not fit

With `fsdp.yaml`, weights, gradients and Adam's moments of the policy, and the weights of its reference, are divided among the GPUs: 16 + 4 bytes for
each of its numbers, over all GPUs in place of each. Two CPU processes that train a small policy this way make the steps that one makes, and each goes
on from the other's checkpoint (`tests/test_processes.py`); **on GPUs it was never run**, nor with a large policy. While it starts, the whole
policy and its reference have to fit into each GPU for a moment (8 bytes for each number), and a checkpoint is put together in the memory of each
process. Of the settings in that file only `distributed_type` and what starts processes is read; `sft` leaves FSDP to transformers' own trainer, also untried.
What is cheaper for most: `Settings(lora=16)` needs no moments for what it does not train.

The cache of pictures is one SQLite file. Processes of one machine share it; on a network folder SQLite's locks cannot be relied on, so runs on several
machines want a `PROMPTLAB_HOME` whose `cache` folder is a link to a local disk of each.
"""


if __name__ == "__main__":
    folder = Path(__file__).resolve().parents[2] / "data" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "many_gpus.md").write_text(page())
    print(page() if "-v" in sys.argv else f"written: {folder / 'many_gpus.md'}")
