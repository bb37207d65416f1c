"""Words a person typed: cleaned, checked, compared."""

import re
import unicodedata

from promptlab.runtime import PromptlabError

# Characters that show nothing and would make the same prompt another picture: byte order mark, soft hyphen, word joiner, zero-width space.
UNSEEN = {0xFEFF: None, 0xAD: None, 0x2060: None, 0x200B: " "}


def clean_prompt(text: str) -> str:
    """Make any typed text safe to draw and to show: control characters become spaces, white space is folded, what shows nothing goes.

    Letters of every script, emoji and right-to-left text stay as they are. Raises `PromptlabError` if nothing is left.
    """
    if not isinstance(text, str):
        raise PromptlabError(f"A prompt must be text, not {text!r}.")
    # Cc and Cs (control, lone surrogates) break terminals and tokenizers; Cf holds joiners that emoji need, so the others stay.
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text.translate(UNSEEN))
    kept = " ".join(kept.split())
    if not _shows(kept):
        raise PromptlabError(f"The prompt {text[:40]!r} is empty. Type what the picture should show, for example 'a frog'.")
    return kept


def _shows(text) -> bool:
    """Whether a text has anything but space and what shows nothing."""
    return any(unicodedata.category(c)[0] not in "ZC" for c in text)


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


# Words that tell nothing of what is in a picture; people combine them freely ("ultra-detailed", "best quality"), so they are known one by
# one. PRAISE says nothing at all, HOW how a picture is made; LITTLE words count only beside one of those.
PRAISE = frozenset("""masterpiece masterpieces masterwork quality detail details detailed hd uhd fhd uhq hdr highres absurdres resolution res definition newest
    highest finest exquisite best beautiful gorgeous stunning amazing perfect flawless incredible breathtaking award awards winning popular official trending
    artstation cgsociety deviantart pixiv unreal unity engine octane wallpaper aesthetic score rating sfw
    photorealistic photoreal hyperrealistic hyperreal hyperdetailed ultradetailed ultrarealistic superdetailed
    \u6770\u4f5c \u5091\u4f5c \u6700\u4f73\u8d28\u91cf \u6700\u9ad8\u8d28\u91cf \u9ad8\u8d28\u91cf \u9ad8\u753b\u8d28 \u6700\u9ad8\u54c1\u8cea \u9ad8\u54c1\u8cea""".split())  # fmt: skip
HOW = PRAISE | frozenset("""painting paintings photo photos photograph photography drawing sketch render rendering rendered portrait illustration
    illustrations picture image art artwork anime manga cartoon comic watercolor watercolour gouache acrylic charcoal lithograph etching engraving
    pastel aquarelle lineart vector pixel cgi 3d 2d 5d concept digital realism realistic semirealistic impressionism impressionist expressionism
    surrealism surreal cubism minimalism minimalist style styles stylized source
    cinematic cinematography film movie scene still shot close closeup body angle footage polaroid kodak analog dslr raw nikon canon leica lens
    macro iso mm hour bokeh depth focus sharp lighting lit backlit illumination volumetric
    color colors colour colours colored palette vivid vibrant colorful colourful monochrome grayscale greyscale sepia
    moody dramatic atmospheric ethereal dreamy whimsical epic cute expressive intricate elaborate elegant
    lifelike illustrated tracing raytraced processing processed contrast grain tone tones saturated canvas solo""".split())  # fmt: skip
LITTLE = frozenset("""a an the of in on with and or by for very more most extremely highly super ultra hyper insanely incredibly good great high
    top max maximum professional real masterful fine k cg up year oil ink pen pencil crayon chalk paper line lines black white old vintage
    retro modern contemporary soft hard warm cold cool natural studio global ambient dark bright light rim golden shallow full upper wide
    field view fantasy sci fi science fiction gothic noir baroque western japanese chinese european korean game book cover design editorial fashion
    street documentary stock f mark ii iii iv safe questionable explicit general level skin eyes face hands background texture textures shading shadows visual key
    dynamic composition coherent symmetrical post""".split())  # fmt: skip

# --ar 16:9 and Midjourney's on a phone, —ar 16:9; <lora:name:1>. A switch begins after a space: "a castle--ruined" is prose.
SWITCH = (
    r"(?i:(?<![^\s,;])(?:--|\u2014(?=(?:ar|aspect|v|q|s|c|no|niji|style|stylize|chaos|seed|tile|weird|iw|sref|cref)\b))[a-z][\w-]*"
    r"(?: (?!--|\u2014)[^\s,()\[\]<>]+)?|<[^<>]*>)"
)
UNWANTED = r"(?i:(?<![^\s,;])(?:--|\u2014)(?:no|neg\w*)\b.*?(?=\s(?:--|\u2014)[a-z]|$))"  # --no text, watermark
# Where a text that was copied with its generation parameters stops saying what is wanted.
PARAMETERS = (
    r"(?im:(?<![^\s,.;])(?:negative[ _]prompts?|undesired content)\s*[:\uff1a]|^[ \t]*(?:steps:\s*\d|negative:)"
    r"|\bsteps:\s*\d+,\s*(?:sampler|cfg|seed|size|model))"
)
# "an oil painting of a castle": the words before "of" say how, those after it what; unless a thing of its own stands before it, as in
# "a man taking a photo of a bear", which such words betray.
MEDIA_OF = r"(?:painting|photo|photograph|drawing|sketch|render|portrait|illustration|picture|image|print|sculpture|sign|art|canvas|silhouette|aquarelle)"
THING = (
    r"(?i:\b(?:an?|the|this|that|his|her|its|their|my|your|our|some|of|with|in|into|at|from|for|by|to|under|over|near|beside|is|are|has|have|who"
    r"|on(?! (?:canvas|paper|wood|board|silk)\b)|m[ae]n|wom[ae]n|girls?|boys?|persons?|people|guy|lady|kids?|child(?:ren)?|tourists?"
    r"|(?:take|hold|show|draw|paint|make|look|carrie)s"
    r"|(?!(?:paint|draw|etch|engrav|render|print|stunn|amaz|breathtak|charm|strik|glow|interest|outstand|light|haunt|lov|winn)ing\b)\w+ing)\b)"
)
HIDDEN = {ord(c): 0xFDD0 + i for i, c in enumerate("()[]{}|:,;.<>-\uff0c\u3001\u060c\uff1b")}  # to what Unicode keeps free for such ends
SHOWN = {hidden: shown for shown, hidden in HIDDEN.items()}
NARROW = str.maketrans("\uff08\uff09\uff3b\uff3d\uff5b\uff5d\uff5c", "()[]{}|")  # full-width brackets
SEPARATOR = r"[,;|\uff0c\u3001\u060c\uff1b\u061b]|\s\.\s|\bBREAK\b"


def split_prompt(text: str) -> tuple[str, list[str]]:
    """Split a prompt into what is in the picture and the modifiers that say how: ``("a castle", ["oil painting", "at sunset"])``.

    Understands what people type for Stable Diffusion and Midjourney: commas of several scripts, line breaks, weights ``(word:1.2)``,
    emphasis ``((word))``, alternatives ``[a|b]``, ``{a|b}`` and ``[a:b:0.5]`` (the first counts), escaped brackets, quotes, switches
    ``--ar 16:9``, ``<lora:name:1>``. What is not wanted (``--no x``, ``Negative prompt: x``) is no modifier. Praise and style come
    first in many prompts and are never the content where something else is named. A prompt without commas is all content. Raises
    `PromptlabError` for an empty one.
    """
    typed = clean_prompt(text)
    text = ", ".join(wanted(text).splitlines())
    if not _shows(text):
        return typed, []
    text = clean_prompt(text).translate(NARROW)
    text = re.sub(r'(?i)(?<!\S)--prompt "([^"]*)"', r"\1", text)  # a line of A1111's "prompts from file"
    if re.fullmatch(r'"[^"]*"|\u201c[^\u201c\u201d]*\u201d', text):
        text = text[1:-1]  # copied with the quotes of a table
    text = re.sub(r"\\[()\[\]{}|:,;]", _hide, text)  # \(series\): brackets that are meant as such
    text = re.sub(r'(?<!\w)"[^"]*"(?!\w)|\u201c[^\u201c\u201d]*\u201d', _hide, text)  # a sign that says "hello, world"
    text = re.sub(UNWANTED, " ", text)
    switches, text = re.findall(SWITCH, text), re.sub(SWITCH, " ", text)
    text = _without_weights(_first_alternatives(text))
    text = re.sub(r"[()\[\]{}]", "", re.sub(r"(?<=\d),(?=\d)", _hide, text))  # a check for $10,000
    parts = [" ".join(p.split()).strip(" .;").translate(SHOWN) for p in re.split(SEPARATOR, text)]
    parts = [p for p in parts if p]
    if not parts:
        return typed, []
    at = next((i for tells in (says_how, praises) for i, p in enumerate(parts) if not tells(p)), 0)
    content, rest = parts[at], parts[:at] + parts[at + 1 :]
    found = re.match(rf"(?:an? |the )?((?:[\w'-]+ ){{0,5}}?{MEDIA_OF}(?: painting)?) of (.+)", content, re.IGNORECASE)
    if found and not re.search(THING, found[1]):
        content, rest = found[2], [found[1], *rest]
    return content, rest + [s.translate(SHOWN) for s in switches]


def wanted(text: str) -> str:
    """What a copied text asks for: it ends where ``Negative prompt:`` or generation parameters such as ``Steps: 20, Sampler: ...`` begin."""
    return re.split(PARAMETERS, text, maxsplit=1)[0]


def praises(part: str) -> bool:
    """Whether a modifier only praises: ``best quality``, ``8k``."""
    return _made_of(part, PRAISE)


def says_how(part: str) -> bool:
    """Whether a part of a prompt praises or says how the picture is made: ``best quality``, ``oil painting``, ``by Monet``."""
    return _made_of(part, HOW) or bool(
        re.fullmatch(r"(?i:(?:in )?(?:(?!in |of |with |and |on |at )[\w'-]+ ){1,3}(?:style|styled|aesthetics?))", part)
        or re.match(
            r"(?i:(?:in )?(?:the )?style of |(?:(?:art|artwork|drawn|painted|made|inspired) )?by (?!an? |the )|trending on |featured on )",
            part,
        )
    )


def _made_of(part, telling) -> bool:
    """Whether words of `telling`, and sizes such as "8k", make up a part together with little words and numbers."""
    words = re.findall(r"\d+ ?[kpd]\b|\d+|[^\W\d_]+", part.lower())
    told = [w for w in words if w in telling or re.fullmatch(r"\d+ ?[kp]", w)]
    return bool(told) and all(w in told or w in LITTLE or w.isdigit() for w in words)


def _hide(match) -> str:
    """Signs that part nothing here, out of the way until everything is parted."""
    return match[0].lstrip("\\").translate(HIDDEN)


def _first_alternatives(text) -> str:
    """The first of what is drawn in turns or by chance, from the inside out: ``[a|b]``, ``[a:b:0.5]``, ``{a|b}``, ``{2$$a|b}``, ``a.swap(b)``."""
    text = re.sub(r"\.swap\([^()]*\)", "", text)
    for _ in range(5):  # nested deeper than anyone types
        if not any(c in text for c in "([{"):
            break
        text = re.sub(r"[:\uff1a] ?[-+]?[\d.,]+ ?(?=\))", "", text)  # (word:1.2)
        text = re.sub(r"\[([^\[\]|:]*):([^\[\]|:]*): ?[\d.]+%? ?\]", lambda m: m[1].strip() or m[2], text)
        text = re.sub(r"\[([^\[\]{}|]*)\|[^\[\]{}]*\]", r"\1", text)
        text = re.sub(r"\{(?:[\d-]+\$\$(?:[^${}|]*\$\$)?)?(?:[\d.]+::)?([^\[\]{}|]*)\|[^\[\]{}]*\}", r"\1", text)
    return text


def _without_weights(text) -> str:
    """Without ``[word:1.2]``, ``(word)1.2``, ``(word)++``, and with Midjourney's ``a::2 b::-1`` as parts, of which negative ones are not wanted."""
    text = re.sub(r"[:\uff1a] ?[-+]?[\d.,]+ ?(?=[)\]}])", "", text)
    text = re.sub(r"(?<=\))(?:[+-]+|[\d.]+)(?=[\s,)]|$)", "", text).replace(")(", ") (")
    if "::" in text:
        pieces = re.split(r"::\s*(-?[\d.]*)", text)
        pairs = zip(pieces[::2], [*pieces[1::2], ""], strict=True)
        text = ", ".join(p for p, weight in pairs if not weight.startswith("-") and not re.fullmatch(r"[-\d.\s]*", p))
    return text
