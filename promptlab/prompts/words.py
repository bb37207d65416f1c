"""Words a person typed: cleaned, checked, compared."""

import re
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


# Words that praise or place a picture and say nothing about what is in it; a prompt that opens with some has its content later.
PRAISE = {"masterpiece", "best quality", "high quality", "highly detailed", "trending on artstation", "award winning", "8k", "4k", "hd", "uhd",
          "ultra hd", "ultra realistic", "photorealistic", "hyperrealistic", "absurdres", "concept art", "digital art", "beautiful"}  # fmt: skip
SWITCH = r"--[a-z]+(?: [\w:.]+)?|<[^<>]*>"  # --ar 16:9, <lora:name:1>
# "an oil painting of a castle": the words before "of" say how, those after it what.
MEDIA_OF = r"(?:painting|photo|photograph|drawing|sketch|render|portrait|illustration|picture|image|print|sculpture|sign|art|canvas|silhouette|aquarelle)"


def split_prompt(text: str) -> tuple[str, list[str]]:
    """Split a prompt into what is in the picture and the modifiers that say how: ``("a castle", ["oil painting", "at sunset"])``.

    Understands what people type for Stable Diffusion: commas of several scripts, line breaks, weights ``(word:1.2)``,
    emphasis ``((word))``, alternatives ``[a|b]`` (the first counts), switches ``--ar 16:9``, ``<lora:name:1>``. A prompt
    without commas is all content. Raises `PromptlabError` for an empty one.
    """
    typed = clean_prompt(text)
    text = clean_prompt(", ".join(text.splitlines()))
    switches, text = re.findall(SWITCH, text), re.sub(SWITCH, " ", text)
    text = re.sub(r"\[([^\[\]|]*)\|[^\[\]]*\]", r"\1", text)  # [cow|horse]: drawn in turns
    text = re.sub(r":\s*\d*\.?\d+(?=[)\]])", "", text)  # (word:1.2)
    text = re.sub(r"[()\[\]{}]", "", text)
    parts = [" ".join(p.split()).strip(" .;") for p in re.split(r"[,\uff0c\u3001\u060c|;]|\bBREAK\b", text)]
    parts = [p for p in parts if p]
    if not parts:
        return typed, []
    at = next((i for i, p in enumerate(parts) if p.lower() not in PRAISE), 0)
    content, rest = parts[at], parts[:at] + parts[at + 1 :]
    found = re.match(rf"(?:an? |the )?((?:[\w-]+ ){{0,3}}{MEDIA_OF})(?: painting)? of (.+)", content, re.IGNORECASE)
    if found:
        content, rest = found[2], [found[1], *rest]
    return content, rest + switches
