"""What the lessons beyond the course read: results kept in `data/pocket`, and the test prompts they were measured on."""

import json
import random
from contextlib import contextmanager

from promptlab.prompts import load_prompts
from promptlab.runtime import PromptlabError, write_atomically


@contextmanager
def reading(path, command):
    """Inside the block, what a missing or damaged file raises becomes a `PromptlabError` that names the file and the `command` that makes it."""
    try:
        yield
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise PromptlabError(
            f"{path} cannot be read ({type(error).__name__}: {error}). `git checkout -- data/pocket` restores it, "
            f"`{command}` measures it again."
        ) from error


def write_rows(path, rows):
    """Write rows as a JSON list, one a line, so that what changed between two runs can be read."""
    write_atomically(path, "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def of_each_set(count) -> list[dict]:
    """`count` records of each set of test prompts, in domain and out of it, by chance; the same every time. All where there are fewer."""
    by_set = {name: [r for r in load_prompts("test") if r["set"] == name] for name in ("in_domain", "out_of_domain")}
    return [r for some in by_set.values() for r in random.Random(0).sample(some, min(count, len(some)))]
