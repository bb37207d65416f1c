"""What every notebook repeats: the setup cell, and where Colab, the previous and the next one are; written from one setting.

The setting is `repository` of `[tool.promptlab]` in pyproject.toml. `python -m promptlab links https://github.com/you/promptlab` sets
it and writes it into the notebooks, `python -m promptlab links none` undoes that, and without an address only the notebooks are written.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from promptlab.course.notebooks import SETUP_CELL, course
from promptlab.runtime import PromptlabError, checkout, first_line, write_atomically

COLAB = "https://colab.research.google.com/github"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
SEGMENT = r"[ \t]*\*\*(?:Colab|Previous|Next):\*\*.*?(?=[ \t]+\*\*|$)"  # to the next bold word, or the end of the line
LINK = r"\]\((?:[^()\s]*/)?(\d\d_\w+)\.ipynb\)"  # to a notebook, wherever it leads now
# A line and no parser, as Python 3.10 has none for TOML.
SETTING = re.compile(r'^(\[tool\.promptlab\]\n(?:#.*\n)*repository = ")(.*)("$)', re.MULTILINE)
# What pip installs from: on GitHub an owner and a name, elsewhere two parts or more; then perhaps a branch, tag or commit.
FORM = re.compile(
    r"git\+(https://(?:github\.com(?:/[\w.-]+){2}|(?!github\.com/)[\w.-]+(?::\d+)?(?:/[\w.~-]+){2,}))(?:@([\w./-]+))?", re.ASCII
)


def repository() -> str:
    """Where Colab installs from, as pyproject.toml says: ``git+https://...``, perhaps with ``@branch``, or nothing.

    Raises `PromptlabError` without a checkout, and for anything else that pip could not install from.
    """
    source = SETTING.search(settings())[2]
    if source and not FORM.fullmatch(source):
        raise PromptlabError(
            f"repository = {source!r} in pyproject.toml is nothing to install from. Write git+https://host/you/promptlab, or nothing."
        )
    return source


def settings() -> str:
    """The text of pyproject.toml, which has the setting. Raises `PromptlabError` without a checkout or without that line."""
    root = checkout()
    if root is None:
        raise PromptlabError("Notebooks are written in a checkout of promptlab; this copy was installed without one.")
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    if not SETTING.search(text):
        raise PromptlabError(
            f'{root / "pyproject.toml"} has no line `repository = "..."` below [tool.promptlab]. Add it, empty if there is none.'
        )
    return text


def installable(given: str) -> str:
    """What pip installs from, for the address of a repository as a browser shows it, or with ``git+`` and ``@branch``; "none" is nothing.

    Raises `PromptlabError` for what is no such address, also for one with a name or a token before the host: it would be published.
    """
    if given == "none":
        return ""
    bare = given.strip().rstrip("/").removeprefix("git+")
    source = "git+" + re.sub(r"^(https://github\.com/[^/@]+/[^/@]+)/tree/", r"\1@", bare)  # as a browser shows a branch
    if not FORM.fullmatch(source):
        raise PromptlabError(
            f"{given!r} is no address of a repository. Write https://github.com/you/promptlab, perhaps with @branch at its end, or none."
        )
    return source


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

    colab = f"[![Open in Colab]({BADGE})]({here})" if here else "upload this file and a wheel."  # the setup cell says what else it needs
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


def write(given: str | None = None) -> list[Path]:
    """Bring every notebook in line with the setting, where an address is given after changing the setting; returns the files that changed.

    Raises `PromptlabError`, before anything is written, for a wrong address or a file that is no notebook of ours.
    """
    text, root = settings(), checkout()
    source = repository() if given is None else installable(given)
    paths = course(root / "notebooks")
    wanted = {root / "pyproject.toml": SETTING.sub(lambda found: found[1] + source + found[3], text)}
    wanted |= {path: stamped(path, paths, source, root) for path in paths}
    changed = {path: text for path, text in wanted.items() if text != path.read_text(encoding="utf-8")}
    for path, text in changed.items():
        write_atomically(path, text)
    return list(changed)


def update(given: str | None = None):
    """`write`, and say what was written and what it means for a reader on Colab."""
    changed = write(given)
    print("\n".join(f"written: {path}" for path in changed) or "The notebooks already agree with pyproject.toml.")
    if given is None:
        return
    source, root = repository(), checkout()
    if not source:
        print("No repository: lessons link to each other by file, and on Colab a reader uploads a wheel.")
        return
    badge = address(source, course(root / "notebooks")[0], root)
    print(f'The setup cell on Colab: pip install "{source}"')
    print(f"The first badge: {badge}" if badge else "No badges: Colab opens notebooks of GitHub only.")
    print(f"{reach(source)}\nTo undo: python -m promptlab links none")


def reach(source: str) -> str:
    """Ask the repository itself, and say as a sentence whether it answers and has the branch that is installed and linked."""
    url, branch = FORM.fullmatch(source).groups(default="main")
    public = os.environ | {"GIT_TERMINAL_PROMPT": "0"}  # Colab has neither your password nor what keeps it
    try:
        command = ["git", "-c", "credential.helper=", "ls-remote", url, branch]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=public)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Not checked whether {url} answers ({type(error).__name__})."
    if done.returncode:
        return f"CHECK: {url} does not answer ({first_line(done.stderr)}). Colab needs it public, and spelt as here."
    if not done.stdout:
        return f"CHECK: {url} shows no branch or tag {branch!r} (a commit would not be seen from here). Name another one with @ at the end."
    return f"{url} answers and has {branch!r}."
