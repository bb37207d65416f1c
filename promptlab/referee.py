"""The referee of an evaluation: an opinion about pictures that no reward ever sees.

On pocket it is the judge, which names what a picture shows, and gold, the taste of that world's people. Where Stable Diffusion
draws, PickScore stands in for both: a CLIP trained on what people picked (Kirstain et al. 2023).
"""

import base64
import hashlib
import inspect
import math
from functools import cached_property

import numpy as np

from promptlab.models.sources import local
from promptlab.models.weights import file_hash
from promptlab.prompts import clean_prompt
from promptlab.runtime import PromptlabError, data_dir

OTHERS = 99  # other typed prompts that the right one must beat; more is stricter


class World:
    """The pocket world's judge and gold, from the judge's folder."""

    def __init__(self, folder):
        from promptlab.pocket.judge import load_judge

        self.model, self.fingerprint = load_judge(folder), f"{file_hash([folder / 'model.safetensors'])}-{rules()}"

    def facts(self, images):
        """What is remembered of each picture, uint8 (n, 128, 128, 3): a dict of gold, subjects (two at most), colour, medium, background."""
        from promptlab.pocket.taste import facts

        return facts(images, self.model)

    def whole(self, fact):
        """Whether what was remembered of a picture is all there."""
        words = [fact.get(key) for key in ("colour", "medium", "background")]
        return is_number(fact.get("gold")) and is_words(words) and is_words(fact.get("subjects")) and len(fact["subjects"]) <= 2

    def gold(self, facts, plain):
        """The gold rating of each picture, 1-10: float array (n,)."""
        return np.array([f["gold"] for f in facts])

    def kept(self, facts, plain):
        """Whether each picture shows every content word that was typed for it: bool array (n,).

        Raises `PromptlabError` for words that name nothing the judge knows.
        """
        from promptlab.pocket.captions import content_of
        from promptlab.pocket.judge import shows

        claims = {p: content_of(clean_prompt(p)) for p in dict.fromkeys(plain)}
        unknown = [p for p, claim in claims.items() if claim is None]
        if unknown:
            raise PromptlabError(f"The judge knows no subject in {unknown[0]!r}. promptlab.pocket.subjects.SUBJECTS lists what it knows.")
        return np.array([all(shows(f, claims[p]).values()) for f, p in zip(facts, plain, strict=True)])


class People:
    """PickScore as gold, and as judge of intent: the typed words must fit a picture better than 99 other people's words do."""

    def __init__(self, source):
        from promptlab.models.pickscore import PickScore

        self.eye, self.known = PickScore(source), {}  # known: embeddings of texts, by text
        self.fingerprint = self.eye.fingerprint

    def facts(self, images):
        """What is remembered of each picture: its embedding, in half precision."""
        return [{"look": base64.b64encode(e.astype(np.float16).tobytes()).decode()} for e in self.eye.embed_images(images)]

    def whole(self, fact):
        """Whether what was remembered of a picture is all there."""
        try:
            look = np.frombuffer(base64.b64decode(fact["look"], validate=True), np.float16)
        except (KeyError, TypeError, ValueError):
            return False
        return look.size == self.words(["a picture"]).shape[1] and bool(np.isfinite(look).all())

    def gold(self, facts, plain):
        """PickScore of each picture for the words typed: float array (n,)."""
        return self.eye.scale * (looks(facts) * self.words(plain)).sum(1)

    def kept(self, facts, plain):
        """Whether the typed words fit each picture best among 100 typed prompts: bool array (n,); by luck one picture in a hundred."""
        own, others = (looks(facts) * self.words(plain)).sum(1), looks(facts) @ self.words(self.crowd).T
        same = np.array([[p == other for other in self.crowd] for p in plain])
        return own > np.where(same, -1, others).max(1)

    def words(self, texts):
        """Embeddings of texts, each computed once: float32 (n, width)."""
        texts = [clean_prompt(t) for t in texts]  # as they are drawn
        new = [t for t in dict.fromkeys(texts) if t not in self.known]
        if new:
            self.known.update(zip(new, self.eye.embed_texts(new), strict=True))
        return np.stack([self.known[t] for t in texts])

    @cached_property
    def crowd(self):
        """What other people typed: validation prompts, which no training saw."""
        from promptlab.prompts import load_prompts

        return list(dict.fromkeys(r["x"] for r in load_prompts("validation")))[:OTHERS]


def rules() -> str:
    """A short hash of how the pocket world is judged, its code and its tables: with other rules, old ratings are not recalled."""
    from promptlab.pocket import judge, taste

    code = [judge.Judge, judge.look, judge.name, taste.table, taste.statistics, taste.gold, taste.facts]
    tables = {name: value for name, value in sorted(vars(taste).items()) if name.isupper()}
    return hashlib.sha256(repr(([inspect.getsource(part) for part in code], tables)).encode()).hexdigest()[:8]


def is_number(value) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_words(value) -> bool:
    """Whether this is a list of strings."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def looks(facts):
    """The embeddings that `People.facts` keeps: float32 (n, width)."""
    return np.stack([np.frombuffer(base64.b64decode(f["look"]), np.float16) for f in facts]).astype(np.float32)


def load_referee(source):
    """The referee that a preset's `judge` names: PickScore's hub id or a folder in its format, else the pocket judge's folder; None for ""."""
    if not source:
        return None
    folder = local(source)
    return World(data_dir() / source) if folder is not None and not (folder / "config.json").exists() else People(source)


def kinds_of_things() -> dict[str, str]:
    """What kind each thing of the pocket world is, such as ``"frog": "wild"``; kinds stand in the order of its tables."""
    from promptlab.pocket.subjects import KIND

    return KIND
