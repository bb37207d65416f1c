"""Supervised fine-tuning: the policy learns to write what the community writes (Hao et al. 2022, section 2.2)."""

import json
import logging
from pathlib import Path

from promptlab import processes
from promptlab.config import preset
from promptlab.models.weights import check_weights, file_hash, writing
from promptlab.policy import MARK, Policy, log_probs, merged, run_folder, with_adapters
from promptlab.prompts import split_prompt
from promptlab.runtime import (
    PromptlabError,
    bar,
    device,
    enough_memory,
    first_line,
    interrupts,
    remove,
    whole_rows,
    write_atomically,
    write_jsonl,
)


def as_pairs(records) -> list[dict]:
    """Records as the prompt-completion pairs TRL trains on, in Promptist's format ``x Rephrase: y``."""
    return [{"prompt": r["x"] + MARK, "completion": " " + r["y"]} for r in records]


def own_folder(policy: Policy, records, *settings) -> Path:
    """A folder for one training: the same start, examples and settings go on in it, others never do."""
    return run_folder("sft", policy, (records, settings))


def finetune(policy: Policy, records, folder, epochs=None, lr=None, batch=None, seed=0, held_out=None, lora=None) -> Policy:
    """Train a copy of `policy` on engineered prompts with `trl.SFTTrainer`, the loss on the rewrite alone.

    `epochs`, `lr`, `batch` and `lora`, the rank of adapters that alone are trained (0: all weights), are the preset's where none is given.

    Checkpoints go to `folder` after every epoch and the same call goes on from the last that is whole; returns the trained policy.
    Raises `PromptlabError` where it cannot be written, or holds another training. About twenty times it writes the loss to `metrics.jsonl` there, with `held_out` records their loss as `eval_loss` too. An interrupt
    is taken after the step in progress: a checkpoint is written first, and a half-trained policy is never returned. Several processes
    (`promptlab.processes`) share each batch.
    """
    import copy
    import warnings

    from datasets import Dataset, disable_progress_bars
    from huggingface_hub import constants
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    chosen = preset()
    epochs, lr, batch = epochs or chosen.sft_epochs, lr or chosen.sft_lr, batch or chosen.sft_batch
    each, left = divmod(batch, processes.count())
    if left:
        raise PromptlabError(
            f"{processes.count()} processes cannot share a batch of {batch} equally. Start {batch} or another divisor of it."
        )
    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report every training to the hub; this course works offline
    disable_progress_bars()  # ten bars that flash by would bury the one of the training
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated")  # TRL sets it, whatever its name
    logging.getLogger("transformers.trainer").addFilter(not_about_tied_weights)
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    every = max(1, -(-len(records) // batch) * epochs // 20)  # twenty points make a curve, however short the training
    config = SFTConfig(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=each, learning_rate=lr, lr_scheduler_type="linear",
        warmup_steps=50, weight_decay=0.01, max_length=policy.room, seed=seed, data_seed=seed, save_strategy="epoch",
        logging_steps=every, eval_strategy="steps" if held_out else "no", eval_steps=every, eval_on_start=bool(held_out),
        per_device_eval_batch_size=each, report_to="none", gradient_checkpointing=False, bf16=False, dataloader_pin_memory=False,
        disable_tqdm=True, use_cpu=device().type == "cpu",
    )  # fmt: skip
    trainer = SFTTrainer(
        model=with_adapters(copy.deepcopy(policy.model), chosen.lora if lora is None else lora),
        args=config,
        train_dataset=Dataset.from_list(as_pairs(records)),
        eval_dataset=Dataset.from_list(as_pairs(held_out)) if held_out else None,
        processing_class=policy.tokenizer,
    )
    start, stopping, steps = last_whole(folder, trainer.model), [], []

    class Keep(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            self.bar = bar(total=state.max_steps, initial=state.global_step, desc="sft", disable=not processes.first())

        def on_step_end(self, args, state, control, **_):
            steps.append(state.global_step), self.bar.update()
            stop = any(processes.every(bool(stopping)))  # if one was interrupted, all were meant
            control.should_save |= stop
            control.should_training_stop |= stop

        def on_epoch_end(self, args, state, control, **_):
            # No mean of the loss may reach across a checkpoint: who goes on from there does not know its first half.
            control.should_log = True

        def on_log(self, args, state, control, logs, **_):
            if "loss" in logs:
                self.bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)

        def on_train_end(self, args, state, control, **_):
            self.bar.close()

        def on_save(self, args, state, control, **_):
            processes.every(None)  # each writes a file of its own into it
            if not processes.first():
                return
            written = folder / f"checkpoint-{state.global_step}"
            seal(written)
            for other in checkpoints(folder):  # only now: until its seal is there, the one before is the last that is whole
                if other != written:
                    remove(other)

    trainer.remove_callback(PrinterCallback), trainer.add_callback(Keep())  # one line that moves, and no table under it
    try:
        with (
            interrupts(lambda: stopping.append(True)),
            enough_memory(f"Give finetune() a smaller batch, such as batch={max(1, batch // 2)}."),
            writing(folder),
        ):
            trainer.train(resume_from_checkpoint=start and str(start))
    except BaseException as error:
        broken = folder / f"checkpoint-{trainer.state.global_step}"
        if broken != start and fault(broken) and not unsealed(broken):  # half a checkpoint would keep a full disk full
            remove(broken)
        if start is None or steps or isinstance(error, PromptlabError) or not isinstance(error, Exception):
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
        raise PromptlabError(f"{start} is no checkpoint to go on from ({why}). Delete it, or give the training another folder.") from error
    if processes.first():
        write_jsonl(folder / "metrics.jsonl", trainer.state.log_history)
    processes.every(None)  # nobody reads it before it is whole
    if stopping:  # the next lines of a cell must not take it for a trained policy
        print(f"Stopped after step {trainer.state.global_step} of {trainer.state.max_steps}. Run this again to go on from there.")
        raise KeyboardInterrupt
    return Policy(merged(trainer.model), policy.tokenizer)


# --- checkpoints: transformers writes them file by file, so a kill or a second interrupt leaves half of one ----------


SEAL = "whole.json"  # written last into a checkpoint: a hash of every file that a training goes on from
READ = ("*.safetensors", "*.index.json", "*.pt", "*.pth", "config.json", "adapter_config.json", "trainer_state.json")


def checkpoints(folder) -> list[Path]:
    """The checkpoints in a training's folder, whole or not, the newest first."""
    found = [p for p in Path(folder).glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=lambda p: -int(p.name.removeprefix("checkpoint-")))


def seal(checkpoint):
    """Say that a checkpoint is whole."""
    files = {f for pattern in READ for f in checkpoint.glob(pattern)}
    write_atomically(checkpoint / SEAL, json.dumps({f.name: file_hash([f]) for f in sorted(files)}))


def marks(checkpoint) -> dict:
    """What the seal of a checkpoint says, or nothing."""
    try:
        return dict(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def fault(checkpoint) -> str:
    """What is wrong with a checkpoint, in a few words; empty where every file is as it was written."""
    sealed = marks(checkpoint)
    try:
        damaged = [name for name, mark in sealed.items() if file_hash([checkpoint / name]) != mark]
    except OSError as error:
        return f"a file of it cannot be read ({error})"
    return f"{damaged[0]} is damaged" if damaged else "" if sealed else "it was never finished"


def unsealed(checkpoint) -> bool:
    """Whether a checkpoint without a seal has what a whole one has: they had none in earlier versions."""
    try:
        check_weights(checkpoint)
        return not marks(checkpoint) and json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] >= 0
    except (PromptlabError, OSError, ValueError, KeyError, TypeError):
        return False


def last_whole(folder, model) -> Path | None:
    """The newest checkpoint that is whole, or None; says which newer ones are passed over, and why.

    Raises `PromptlabError` where it holds the weights of another model.
    """
    found = checkpoints(folder)
    faults = {p: fault(p) for p in found}
    start = next((p for p in found if not faults[p]), None) or next((p for p in found if unsealed(p)), None)
    goes_on = f"The training goes on from {start.name}" if start else "The training begins anew"
    for broken in found[: found.index(start) if start else None]:
        print(f"{broken} is passed over: {faults[broken]}. {goes_on}.")
    file = start and start / "model.safetensors"  # of adapters, peft tells by itself
    if file and file.exists():
        from safetensors import safe_open

        with safe_open(file, framework="numpy") as weights:
            lacking = {name for name, _ in model.named_parameters()} - set(weights.keys())
        if lacking:
            raise PromptlabError(f"{start} is of another model (without {min(lacking)!r}). Delete it, or give the training another folder.")
    return start


def not_about_tied_weights(record) -> bool:
    """Drops a line of transformers that reads like damage: weights used twice are stored once. What truly lacks, `last_whole` has told."""
    return not record.getMessage().startswith("There were missing keys in the checkpoint model loaded")


def losses(folder) -> dict[str, list]:
    """The curves of a training that `finetune` kept in `folder`: (step, loss) in a list each, "training" and "held out".

    Says so where lines of its log are damaged. Raises `PromptlabError` where none is left.
    """
    path = Path(folder) / "metrics.jsonl"
    log, broken = whole_rows(path)
    again = "finetune() with the same arguments and folder writes it again from its checkpoint"
    if not log:
        raise PromptlabError(f"{path} is missing or damaged: {again}.")
    if broken:
        print(f"{path}: {broken} of {broken + len(log)} lines are damaged and left out; {again}.")

    def points(key):  # by step, as a training that was taken up again has measured one of them twice
        return sorted({e["step"]: e[key] for e in log if all(isinstance(e.get(k), int | float) for k in ("step", key))}.items())

    return {"training": points("loss"), "held out": points("eval_loss")}


def held_out_loss(policy: Policy, records, batch=64) -> float:
    """Mean negative log-likelihood in nats per token of the records' own rewrites."""
    import torch

    total, count = 0.0, 0
    for i in range(0, len(records), batch):
        rewrites = policy.encode_rewrites([r["x"] for r in records[i : i + batch]], [" " + r["y"] for r in records[i : i + batch]])
        with torch.inference_mode():
            log_p, _ = log_probs(policy.model, rewrites)
        total, count = total - (log_p * rewrites.mask).sum().item(), count + int(rewrites.mask.sum())
    return total / count


def format_rate(texts, finished) -> float:
    """Share of rewrites that ended by themselves and read ``content, modifier, modifier``: no part empty, none twice."""

    def well_formed(text):
        parts = [p.strip() for p in text.split(",")]
        return len(parts) > 1 and all(parts) and len(set(parts)) == len(parts) and bool(split_prompt(text)[1])

    return sum(well_formed(t) and bool(f) for t, f in zip(texts, finished, strict=True)) / len(texts)
