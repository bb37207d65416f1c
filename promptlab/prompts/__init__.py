"""Prompts: what is typed, how it is split and recorded, where it comes from. What every stage needs of it has its short name here."""

from promptlab.prompts.load import load_prompts
from promptlab.prompts.words import added_words, clean_prompt, split_prompt

__all__ = ["added_words", "clean_prompt", "load_prompts", "split_prompt"]
