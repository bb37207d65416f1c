"""What every notebook repeats: the setup cell, and where Colab, the previous and the next one are; written from one setting.

The setting is `repository` of `[tool.promptlab]` in pyproject.toml; `python -m promptlab links` writes it into the notebooks.
"""

import json
import os
import re
from pathlib import Path

from promptlab.course.notebooks import SETUP_CELL, course
from promptlab.runtime import PromptlabError, checkout, write_atomically

COLAB = "https://colab.research.google.com/github"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
SEGMENT = r"[ \t]*\*\*(?:Colab|Previous|Next):\*\*.*?(?=[ \t]+\*\*|$)"  # to the next bold word, or the end of the line
LINK = r"\]\((?:[^()\s]*/)?(\d\d_\w+)\.ipynb\)"  # to a notebook, wherever it leads now


def repository() -> str:
    """Where Colab installs from, as pyproject.toml says: ``git+https://...``, perhaps with ``@branch``, or nothing.

    Raises `PromptlabError` without a checkout, and for anything else that pip could not install from.
    """
    root = checkout()
    if root is None:
        raise PromptlabError("Notebooks are written in a checkout of promptlab; this copy was installed without one.")
    # A line and no parser, as Python 3.10 has none for TOML.
    found = re.search(
        r'^\[tool\.promptlab\]\n(?:#.*\n)*repository = "(.*)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    if found is None:
        raise PromptlabError(
            f'{root / "pyproject.toml"} has no line `repository = "..."` below [tool.promptlab]. Add it, empty if there is none.'
        )
    if found[1] and not re.fullmatch(r"git\+https://[^\s@\"]+(@[^\s@\"]+)?", found[1]):
        raise PromptlabError(
            f"repository = {found[1]!r} in pyproject.toml is nothing to install from. Write git+https://host/you/promptlab, or nothing."
        )
    return found[1]


def setup_cell(source: str) -> str:
    """The second cell of every notebook, for this repository."""
    return SETUP_CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{source}"')


def address(source: str, path: Path, root: Path) -> str | None:
    """Where Colab opens a notebook of a GitHub repository; None for other ones, which Colab cannot open by a link."""
    found = re.fullmatch(r"git\+https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?(?:@(.+))?", source)
    return f"{COLAB}/{found[1]}/blob/{found[2] or 'main'}/{path.relative_to(root).as_posix()}" if found else None


def link(source: str, here: Path, there: Path, root: Path) -> str:
    """How `here` points to `there`: absolutely where Colab can follow, as every notebook is a machine of its own there; else by file."""
    return address(source, there, root) or Path(os.path.relpath(there, here.parent)).as_posix()


def head(text: str, source: str, path: Path, paths: list[Path], root: Path) -> str:
    """A first cell whose **Colab**, **Previous** and **Next** are as they should be, at the end of the line where they stood, else of the cell."""
    at, here = paths.index(path), address(source, path, root)

    def name(p):
        return f"[{p.stem}]({link(source, path, p, root)})" if p else "none"

    colab = f"[![Open in Colab]({BADGE})]({here})" if here else "upload this file."  # the setup cell says what else it needs
    before, after = paths[at - 1] if at else None, paths[at + 1] if at + 1 < len(paths) else None
    words = f"**Colab:** {colab} **Previous:** {name(before)}. **Next:** {name(after)}."
    lines, places = [], []
    for line in text.splitlines():
        cleaned = re.sub(SEGMENT, "", line)
        if cleaned != line:
            places.append(len(lines))
        lines.append(cleaned)
    if not places:
        return text.rstrip() + f"\n\n{words}"
    lines[places[0]] = f"{lines[places[0]]} {words}".strip()
    return "\n".join(lines)


def stamped(path: Path, paths: list[Path], source: str, root: Path) -> str:
    """A notebook file's text with head, links and setup cell as the setting says; all else byte for byte as it was.

    Raises `PromptlabError` for a file that is no notebook of ours.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells, named = notebook["cells"], {p.stem: p for p in paths}
        if cells[0]["cell_type"] != "markdown" or cells[1]["cell_type"] != "code":
            raise ValueError("it should begin with a title and the setup cell")
        changed = [head("".join(cells[0]["source"]), source, path, paths, root), setup_cell(source)]
        changed += ["".join(cell["source"]) for cell in cells[2:]]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise PromptlabError(f"{path} is no notebook of this course ({type(error).__name__}: {error}).") from error

    def point(match):
        there = named.get(match[1])
        return f"]({link(source, path, there, root)})" if there else match[0]

    for cell, text in zip(cells, changed, strict=True):
        text = re.sub(LINK, point, text) if cell["cell_type"] == "markdown" else text
        if text != "".join(cell["source"]):
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def write() -> list[Path]:
    """Bring every notebook in line with the setting; returns those that changed."""
    source, root = repository(), checkout()
    paths, changed = course(root / "notebooks"), []
    for path in paths:
        text = stamped(path, paths, source, root)
        if text != path.read_text(encoding="utf-8"):
            write_atomically(path, text)
            changed.append(path)
    return changed
