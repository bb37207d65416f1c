"""Words a person typed: cleaned, checked, compared."""

import unicodedata

from promptlab.runtime import PromptlabError


def clean_prompt(text: str) -> str:
    """Make any typed text safe to draw and to show: control characters become spaces, white space is folded.

    Letters of every script, emoji and right-to-left text stay as they are. Raises `PromptlabError` if nothing is left.
    """
    if not isinstance(text, str):
        raise PromptlabError(f"A prompt must be text, not {text!r}.")
    # Cc and Cs (control, lone surrogates) break terminals and tokenizers; Cf holds joiners that emoji need, so it stays.
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    kept = " ".join(kept.split())
    if not any(unicodedata.category(c)[0] not in "ZC" for c in kept):
        raise PromptlabError(f"The prompt {text[:40]!r} is empty. Type what the picture should show, for example 'a frog'.")
    return kept


def added_words(plain: str, rewritten: str) -> list[tuple[str, str]]:
    """What a rewrite changed, word by word: pairs such as ``("same", "frog")``, ``("added", "vivid")``, ``("removed", "a")``."""
    from difflib import SequenceMatcher

    a, b = plain.split(), rewritten.split()
    result = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(
        None, [w.strip(",").lower() for w in a], [w.strip(",").lower() for w in b], autojunk=False
    ).get_opcodes():
        if tag == "equal":
            result += [("same", word) for word in b[j1:j2]]
        else:
            result += [("removed", word) for word in a[i1:i2]] + [("added", word) for word in b[j1:j2]]
    return result
