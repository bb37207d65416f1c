"""Exercises that check themselves: a reader's function is tried on inputs drawn at random, and told what is wrong with what it returns."""

import contextlib
import copy
import dis
import io
import numbers
import sys
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
    """What `check` prints: what is said of most trials, as two mistakes may return the same by chance. Only the first one may print."""
    said = []
    for inputs, right, *more in cases:
        hints = more[0] if more else {}
        known, other = ({}, hints) if isinstance(hints, str) else (hints, "Not this.")
        with contextlib.redirect_stdout(io.StringIO() if said else sys.stdout):
            said.append(trial(answer, inputs, right, known, other))
    wrong = [text for text in said if not text.startswith("Right")]
    if not wrong:
        return said[-1]
    often, times = Counter(wrong).most_common(1)[0]
    return often if 2 * times > len(wrong) else next((text for text in wrong if text.startswith("Not this")), wrong[0])


def trial(answer, inputs, right, known, other) -> str:
    """What is said of one call of the answer: `known` are the mistakes with a sentence of their own, `other` is said of all others."""
    try:
        got = asked(answer, inputs)
        if got is None:
            blank = {step.opname for step in dis.get_instructions(answer)} <= EMPTY
            return "not yet" if blank else "Your function returns nothing: is a `return` missing?"
        said = right(got) if callable(right) else compared(got, right, inputs, known, other)
        if not said.startswith("Right") and not alike(again := asked(answer, inputs), got):
            return f"Asked the same twice, you say {brief(got)}, then {brief(again)}: an answer that is drawn anew is luck."
        return said
    except (Exception, SystemExit) as error:  # a reader may write anything
        told = f"Your function could not be run or read ({type(error).__name__}: {str(error)[:200]})."
        return next((text for text, kind in known.items() if kind is type(error)), told)


def asked(answer, inputs):
    """What an answer returns for copies of the inputs; a generator as the list it makes."""
    got = answer(*copy.deepcopy(inputs))
    return list(got) if hasattr(got, "__next__") else got


def compared(got, right, inputs, known, other) -> str:
    """What is said of a returned value beside the right one."""
    for text, value in {"Right.": right, **known}.items():
        if alike(got, value):
            return text
    if form(got) != form(right):
        return f"Return {form(right)}, not {brief(got)}."
    given = ", ".join(brief(value, 200 // len(inputs)) for value in inputs)
    return f"{other} For {given} it is {brief(right)}, you say {brief(got)}."


def alike(got, right) -> bool:
    """Whether two values are equal: numbers of any library to three digits, in a list or tensor of the same shape; else exactly."""
    if form(got) != form(right):
        return False
    got, right = plain(got), plain(right)
    try:
        one, other = np.asarray(got), np.asarray(right)
    except ValueError:  # rows of several lengths
        return got == right
    if not {one.dtype.kind, other.dtype.kind} <= set("biuf"):  # words
        return got == right
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def form(value) -> str:
    """What kind of thing a value is, whichever library it is from."""
    value = plain(value)
    if isinstance(value, list):
        return f"{len(value)} values"
    return "one number" if isinstance(value, (int, float)) else "a word" if isinstance(value, str) else f"a {type(value).__name__}"


def plain(value):
    """A value in Python's own types: lists for tuples, arrays and tensors; a number for one that holds a single number."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist() if np.prod(value.shape) != 1 else value.item()
    if isinstance(value, numbers.Number) and not isinstance(value, (int, float, complex)):
        return float(value)  # a fraction, a decimal
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def brief(value, most=200) -> str:
    """A value in one line of at most `most` characters, with four digits a number."""
    value = plain(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        text = f"[{', '.join(map(brief, value))}]"
    elif fields := value if isinstance(value, dict) else getattr(value, "__dict__", None):
        text = f"{{{', '.join(f'{key}: {brief(v)}' for key, v in fields.items())}}}"
    else:
        text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
