"""A language model that follows instructions, asked to rephrase what rules would otherwise rephrase (promptlab.prompts.sources)."""

from collections.abc import Callable

from promptlab.prompts.records import normalised
from promptlab.prompts.words import split_prompt
from promptlab.runtime import PromptlabError

# What a language model is asked for, in place of the rules (promptlab.prompts.sources).
REQUESTS = {
    "RMC": "Ask for the same picture in other words, in one short sentence. Keep every thing that is named. Answer with the sentence only: {}",
    "RTP": "These keywords describe a picture. Turn them into one plain sentence. Answer with the sentence only: {}",
}


def reword(records, write: Callable[[list[str]], list[str]]) -> tuple[list[dict], int]:
    """Let a language model rephrase the RMC and RTP sources; returns the records and how many targets it could not do.

    `write` answers a list of requests, such as `instruct(...)`. An answer that is empty, over 60 words, or has lost a word of
    the main content is no source of that target: the whole target goes, so that every target keeps four.
    """
    todo = [r for r in records if r["kind"] in REQUESTS]
    asked = [REQUESTS[r["kind"]].format(split_prompt(r["y"])[0] if r["kind"] == "RMC" else r["y"]) for r in todo]
    answers = [" ".join(a.split()).strip(" \"'") for a in write(asked)]
    new, failed = {}, set()
    for r, answer in zip(todo, answers, strict=True):
        needed = set(normalised(split_prompt(r["y"])[0]).split())
        if not answer or len(answer.split()) > 60 or not needed <= set(normalised(answer).split()):
            failed.add(r["id"])
        new[r["id"], r["kind"]] = answer
    kept = [r | {"x": new.get((r["id"], r["kind"]), r["x"])} for r in records if r["id"] not in failed or r["set"] != "in_domain"]
    return kept, len(failed)


def instruct(name, batch=16, new_tokens=80) -> Callable[[list[str]], list[str]]:
    """An instruction-following language model, by hub id or folder, as a function from requests to answers; greedy, so it repeats itself.

    Raises `PromptlabError` where it cannot be loaded or has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from promptlab.runtime import hardware

    where = hardware()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, dtype=where.dtype, trust_remote_code=False)
        model = model.to(where.device).eval()
    except Exception as error:  # transformers and the hub raise their own kinds
        why = type(error).__name__
        if "trust_remote_code" in str(error):
            why = "it brings Python code of its own, which is never run here"
        raise PromptlabError(
            f"The language model {name!r} cannot be loaded ({why}). Check the hub id and the network, name a local folder, or leave it out: then rules rephrase."
        ) from None  # the hub's traceback may show a header with the reader's token
    if not tokenizer.chat_template:
        raise PromptlabError(f"{name!r} has no chat template, so it follows no instructions. Name one whose id ends in Instruct or Chat.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def write(requests):
        import torch

        answers = []
        for i in range(0, len(requests), batch):
            chats = [[{"role": "user", "content": text}] for text in requests[i : i + batch]]
            inputs = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, return_tensors="pt", padding=True, return_dict=True
            )
            with torch.inference_mode():
                rows = model.generate(
                    **inputs.to(where.device), max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
            answers += tokenizer.batch_decode(rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers

    return write
