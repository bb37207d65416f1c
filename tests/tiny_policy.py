"""A policy of a few thousand random weights over a vocabulary of words, for tests of sampling and PPO."""

WORDS = ["frog", "castle", "red", "blue", "oil", "vivid", "rephrase", ":", "a"]


def tiny_policy(seed=0, context=64, width=32):
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from promptlab.policy import Policy

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*WORDS, "<unk>", "<end>"])}, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>", unk_token="<unk>")
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=context, n_embd=width, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3, initializer_range=0.3,
    )  # fmt: skip
    return Policy(GPT2LMHeadModel(config), tokenizer)
