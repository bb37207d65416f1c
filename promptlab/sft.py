"""Supervised fine-tuning: the policy learns to write what the community writes (Hao et al. 2022, section 2.2)."""

from pathlib import Path

from promptlab.policy import MARK, Policy, log_probs
from promptlab.prompts import split_prompt
from promptlab.runtime import write_jsonl


def as_pairs(records) -> list[dict]:
    """Records as the prompt-completion pairs TRL trains on, in Promptist's format ``x Rephrase: y``."""
    return [{"prompt": r["x"] + MARK, "completion": " " + r["y"]} for r in records]


def finetune(policy: Policy, records, folder, epochs=3, lr=5e-4, batch=32, seed=0) -> Policy:
    """Train a copy of `policy` on engineered prompts with `trl.SFTTrainer`, the loss on the rewrite alone.

    Checkpoints go to `folder` after every epoch and the same call goes on from the last; returns the trained policy.
    """
    import copy

    from datasets import Dataset
    from huggingface_hub import constants
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report every training to the hub; this course works offline
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)  # TRL looks for a checkpoint in it
    config = SFTConfig(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch, learning_rate=lr, lr_scheduler_type="linear",
        warmup_steps=50, weight_decay=0.01, max_length=policy.room, seed=seed, data_seed=seed, save_strategy="epoch", save_total_limit=1,
        logging_steps=25, report_to="none", gradient_checkpointing=False, bf16=False, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=copy.deepcopy(policy.model),
        args=config,
        train_dataset=Dataset.from_list(as_pairs(records)),
        processing_class=policy.tokenizer,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
    write_jsonl(folder / "metrics.jsonl", trainer.state.log_history)
    return Policy(trainer.model, policy.tokenizer)


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
