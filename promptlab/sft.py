"""Supervised fine-tuning: the policy learns to write what the community writes (Hao et al. 2022, section 2.2)."""

from pathlib import Path

from promptlab.config import preset
from promptlab.policy import MARK, Policy, log_probs, merged, run_folder, with_adapters
from promptlab.prompts import split_prompt
from promptlab.runtime import enough_memory, interrupts, read_jsonl, write_jsonl


def as_pairs(records) -> list[dict]:
    """Records as the prompt-completion pairs TRL trains on, in Promptist's format ``x Rephrase: y``."""
    return [{"prompt": r["x"] + MARK, "completion": " " + r["y"]} for r in records]


def own_folder(policy: Policy, records, *settings) -> Path:
    """A folder for one training: the same start, examples and settings go on in it, others never do."""
    return run_folder("sft", policy, (records, settings))


def finetune(policy: Policy, records, folder, epochs=None, lr=None, batch=None, seed=0, held_out=None) -> Policy:
    """Train a copy of `policy` on engineered prompts with `trl.SFTTrainer`, the loss on the rewrite alone.

    `epochs`, `lr` and `batch` are the preset's where none is given; where the preset has a rank for adapters, only those are trained.

    Checkpoints go to `folder` after every epoch and the same call goes on from the last; returns the trained policy. About
    twenty times it writes the loss to `metrics.jsonl` there, with `held_out` records their loss as `eval_loss` too. An interrupt
    is taken after the step in progress: a checkpoint is written first, and a half-trained policy is never returned.
    """
    import copy
    import warnings

    from datasets import Dataset, disable_progress_bars
    from huggingface_hub import constants
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    chosen = preset()
    epochs, lr, batch = epochs or chosen.sft_epochs, lr or chosen.sft_lr, batch or chosen.sft_batch
    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report every training to the hub; this course works offline
    disable_progress_bars()  # ten bars that flash by would bury the one of the training
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated")  # TRL sets it, whatever its name
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)  # TRL looks for a checkpoint in it
    every = max(1, -(-len(records) // batch) * epochs // 20)  # twenty points make a curve, however short the training
    config = SFTConfig(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch, learning_rate=lr, lr_scheduler_type="linear",
        warmup_steps=50, weight_decay=0.01, max_length=policy.room, seed=seed, data_seed=seed, save_strategy="epoch", save_total_limit=1,
        logging_steps=every, eval_strategy="steps" if held_out else "no", eval_steps=every, eval_on_start=bool(held_out),
        per_device_eval_batch_size=batch, report_to="none", gradient_checkpointing=False, bf16=False, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=with_adapters(copy.deepcopy(policy.model), chosen.lora),
        args=config,
        train_dataset=Dataset.from_list(as_pairs(records)),
        eval_dataset=Dataset.from_list(as_pairs(held_out)) if held_out else None,
        processing_class=policy.tokenizer,
    )
    stopping = []

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save |= bool(stopping)
            control.should_training_stop |= bool(stopping)

    trainer.add_callback(Stop())
    with interrupts(lambda: stopping.append(True)), enough_memory(f"Give finetune() a smaller batch, such as batch={max(1, batch // 2)}."):
        trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
    write_jsonl(folder / "metrics.jsonl", trainer.state.log_history)
    if stopping:  # the next lines of a cell must not take it for a trained policy
        print(f"Stopped after step {trainer.state.global_step} of {trainer.state.max_steps}. Run this again to go on from there.")
        raise KeyboardInterrupt
    return Policy(merged(trainer.model), policy.tokenizer)


def losses(folder) -> dict[str, list]:
    """The curves of a training that `finetune` kept in `folder`: (step, loss) in a list each, "training" and "held out"."""
    log = read_jsonl(Path(folder) / "metrics.jsonl")

    def points(key):  # by step, as a training that was taken up again has measured one of them twice
        return sorted({e["step"]: e[key] for e in log if key in e}.items())

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
