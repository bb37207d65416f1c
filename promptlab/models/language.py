"""Language models of transformers, from a folder, a hub id or a pip package: adapters added in, surplus tokens left out, no code of theirs run."""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path

from promptlab.models.sources import fetch, language_files, package_file
from promptlab.models.weights import load_tensors, reading_weights
from promptlab.runtime import PromptlabError

REPAIR = "train it again, or name the folder of another policy"


def load_language(source):
    """A causal language model in float32, all of it ready to train, and its tokenizer.

    A folder with a low-rank adapter gives its base model with the adapter added in. Raises `PromptlabError` where something is
    missing, damaged, no causal language model, would run code of its own, or does not fit its tokenizer.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # it takes milliseconds
    packed = package_file(source)
    if packed:
        model, tokenizer = read(packed.parent, gguf_file=packed.name)
        model.hf_quantizer.remove_quantization_config(model)  # unpacked to float32; the trainer refuses whatever still says "quantized"
        return check_tokens(model, tokenizer, packed.parent)
    folder = fetch(source, language_files)
    if folder.is_file():
        raise PromptlabError(file_sentence(folder))
    if (folder / "adapter_config.json").exists():
        return read_adapter(folder)
    model, tokenizer = read(folder)
    if tokenizer is None:
        raise PromptlabError(f"{folder} holds a model without a tokenizer. Put the tokenizer that it was trained with into that folder.")
    return check_tokens(model, tokenizer, folder)


def file_sentence(file) -> str:
    """What to do where a file was named in place of a model's folder."""
    if file.suffix == ".gguf":
        return f"{file} is a GGUF file, made to run a model and not to train it. Name the folder of the model that it was made from."
    return f"{file} is one file of a model, and its settings and tokenizer lie beside it. Name its folder: {file.parent}"


def read(folder, **options):
    """Model and tokenizer as they lie in a folder; the tokenizer is None where there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    common = {"local_files_only": True, "trust_remote_code": False} | options
    # Old models come as .bin files only; transformers reads those as plain tensors (weights_only).
    safe = {} if options else {"use_safetensors": bool(list(folder.glob("*.safetensors"))) or not list(folder.glob("*.bin"))}
    with reading_weights(folder, REPAIR), no_code(folder):
        model, found = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", output_loading_info=True, **common, **safe)
        one_step_gelu(model)
        tokenizer = AutoTokenizer.from_pretrained(folder, **common) if options or has_tokenizer(folder) else None
    if found["missing_keys"]:
        raise PromptlabError(
            f"{folder} lacks weights of a {type(model).__name__}, such as {min(found['missing_keys'])!r}. Is it another kind of model?"
        )
    return model, tokenizer


def one_step_gelu(model):
    """Let torch compute GPT-2's activation in one step where transformers takes eight: the same formula, 12 to 25 % less time for an update."""
    import torch
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def has_tokenizer(folder) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any(f.name.startswith(("tokenizer.", "vocab.", "spiece.")) for f in folder.iterdir()) if folder.is_dir() else True


@contextmanager
def no_code(folder):
    """Inside the block an error about a model that brings its own Python code becomes a sentence; it is never run, whatever is answered."""
    try:
        yield
    except Exception as error:
        if "trust_remote_code" not in str(error):
            raise
        raise PromptlabError(
            f"{folder} brings Python code of its own (auto_map in its settings), which is never run here. "
            "Choose a model that transformers knows by itself."
        ) from error


def check_tokens(model, tokenizer, folder):
    """Model and tokenizer once they fit: special tokens that the model has no row for are never used, any other is a mismatch.

    Many add "[PAD]" to a tokenizer and leave the model as it is; padding is the end token here.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    surplus = {i: word for word, i in tokenizer.get_vocab().items() if i >= rows}
    added, special = tokenizer.added_tokens_decoder, set(tokenizer.all_special_tokens)
    harmless = all((i in added and added[i].special) or word in special for i, word in surplus.items())
    if not harmless or tokenizer.eos_token_id in surplus or set(tokenizer.encode("a")) & surplus.keys():
        raise PromptlabError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, the model in {folder} knows {rows}: they do not "
            "belong together. Put the tokenizer that the model was trained with into its folder."
        )
    if tokenizer.pad_token_id in surplus:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


# --- adapters -------------------------------------------------------------------------------------------------------


def read_adapter(folder):
    """The base model of a low-rank adapter with the adapter added into its weights, and the adapter's tokenizer, else the base's."""
    with reading_weights(folder / "adapter_config.json", REPAIR):
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(settings.get("base_model_name_or_path"))
    weights = next((folder / f"adapter_model.{kind}" for kind in ("safetensors", "bin") if (folder / f"adapter_model.{kind}").exists()), None)
    if weights is None:
        raise PromptlabError(f"{folder} is an adapter of {base} without its weights (adapter_model.safetensors). To repair it: {REPAIR}")
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise PromptlabError(f"{folder} is an adapter of {base}, which needs the library peft. To repair it: pip install peft") from error
    found = base_folder(folder, base)
    model, tokenizer = read(found)
    if has_tokenizer(folder):
        from transformers import AutoTokenizer

        with reading_weights(folder, REPAIR), no_code(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    stored = load_tensors(weights, REPAIR)
    with reading_weights(folder, REPAIR), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells how it sets right what GPT-2's layers need
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise PromptlabError(
                f"{folder} is an adapter of the kind {config.peft_type.value}, which cannot be added into the weights of {base}. Name a LoRA, or a whole model."
            )
        grow_vocabulary(model, stored)
        adapted = PeftModel.from_pretrained(model, folder, config=config)
        missing = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - stored.keys()
        if missing:  # the library warns, and goes on with an adapter that changes nothing
            raise PromptlabError(f"{weights} is an adapter of another model than {found}: it lacks {min(missing)!r}. Name its own base in {folder}/adapter_config.json.")
        model = adapted.merge_and_unload()
    print(f"{folder}: a low-rank adapter, added into the weights of its base model {base}.")
    if tokenizer is None:
        raise PromptlabError(f"Neither {folder} nor its base model {found} holds a tokenizer. Put the one that it was trained with into {folder}.")
    return check_tokens(model.requires_grad_(True), tokenizer, folder)


def base_folder(folder, base) -> Path:
    """Where the base model of an adapter is, on this disk or downloaded; a relative path may count from the adapter's own folder."""
    beside = (folder / base).resolve()
    try:
        found = beside if beside.is_dir() else fetch(base, language_files)
    except PromptlabError as error:
        raise PromptlabError(f"{folder} is an adapter of {base}, which is not here. {error}") from None
    if not found.is_dir() or found == folder:
        raise PromptlabError(
            f"{folder} is an adapter of {base}, which is not here. Put that model there, or write its folder into "
            f"{folder}/adapter_config.json as base_model_name_or_path."
        )
    return found


def grow_vocabulary(model, stored):
    """Give the model as many rows of embeddings as the adapter was stored with: who adds tokens trains their rows, too."""
    words = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is words).rsplit(".", 1)[-1]
    rows = [t.shape[0] for key, t in stored.items() if key.endswith((f".{name}.weight", f".{name}.modules_to_save.weight"))]
    if rows and rows[0] > words.weight.shape[0]:
        model.resize_token_embeddings(rows[0], mean_resizing=False)
