"""Exercises that check themselves: a reader's function is tried on inputs drawn at random, and told what is wrong with what it returns."""

import copy
import dis
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import torch

EMPTY = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}  # all that a blank does: it returns None


def check(answer: Callable, cases: Iterable[tuple]) -> None:
    """Prints what a reader's function earns: "not yet" while it is blank, "Right.", or one sentence about its mistake.

    `cases` are trials, best drawn at random: `(inputs, right)` or `(inputs, right, hints)`. `inputs` are the arguments, of which the
    function gets copies. `right` is what to return; where several things are, a function that says "Right." of one, or what is wrong.
    `hints` says more of a mistake: {sentence: what it returns, or the kind of error it raises}, or one sentence for any mistake.
    Whatever goes wrong in the reader's function is told, and stops nothing.
    """
    print(verdict(answer, cases))


def verdict(answer, cases) -> str:
    """What `check` prints: of what is said of the trials, the sentence said most often, as two mistakes may return the same once."""
    said = [trial(answer, inputs, right, hints[0] if hints else {}) for inputs, right, *hints in cases]
    wrong = Counter(text for text in said if not text.startswith("Right"))
    return wrong.most_common(1)[0][0] if wrong else said[-1]


def trial(answer, inputs, right, hints) -> str:
    """What is said of one call of the answer."""
    try:
        got = answer(*copy.deepcopy(inputs))
        if got is None:
            blank = {step.opname for step in dis.get_instructions(answer)} <= EMPTY
            return "not yet" if blank else "Your function returns nothing: is a `return` missing?"
        said = right(got) if callable(right) else compared(got, right, hints, inputs)
        if not said.startswith("Right") and not alike(again := answer(*copy.deepcopy(inputs)), got):
            return f"Asked the same twice, you say {brief(got)}, then {brief(again)}: an answer that is drawn anew is luck."
        return said
    except Exception as error:  # a reader may write anything
        known = [text for text, kind in hints.items() if kind is type(error)] if isinstance(hints, dict) else []
        return known[0] if known else f"Your function could not be run or read ({type(error).__name__}: {error})."


def compared(got, right, hints, inputs) -> str:
    """What is said of a returned value beside the right one."""
    if alike(got, right):
        return "Right."
    given = f"For {', '.join(map(brief, inputs))}"
    if isinstance(hints, str):
        return f"{hints} {given} it is {brief(right)}, you say {brief(got)}."
    if known := [text for text, wrong in hints.items() if alike(got, wrong)]:
        return known[0]
    if form(got) != form(right):
        return f"Return {form(right)}, not {brief(got)}."
    return f"Not this. {given} it is {brief(right)}, you say {brief(got)}."


def alike(got, right) -> bool:
    """Whether two values are equal: numbers of any library as far as float32 goes, in the same form; anything else exactly."""
    if form(got) != form(right):
        return False
    try:
        one, other = (np.asarray(plain(value), float) for value in (got, right))
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    except (TypeError, ValueError):  # no numbers
        return plain(got) == plain(right)


def form(value) -> str:
    """What kind of thing a value is: numbers and lists of any library are alike, a tensor of several numbers is asked for as one."""
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return f"a tensor of shape {tuple(value.shape)}"
    value = plain(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "one number" if isinstance(value, (int, float)) else "a word" if isinstance(value, str) else f"a {type(value).__name__}"


def plain(value):
    """A value in Python's own types: lists for tuples, arrays and tensors; one number of a tensor that holds one."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def brief(value) -> str:
    """A value in one line of at most 200 characters, with four digits a number."""
    value = plain(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        text = f"[{', '.join(map(brief, value))}]"
    elif fields := value if isinstance(value, dict) else getattr(value, "__dict__", None):
        text = f"{{{', '.join(f'{key}: {brief(v)}' for key, v in fields.items())}}}"
    else:
        text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
