"""All notebooks agree with the one setting: setup cell, badge, previous and next."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

from promptlab import __main__ as cli
from promptlab.course import links, notebooks
from promptlab.runtime import PromptlabError

ROOT = Path(__file__).resolve().parents[2]
COURSE = links.course(ROOT / "notebooks")
GITHUB = "git+https://github.com/you/promptlab"
OPEN = "https://colab.research.google.com/github/you/promptlab/blob/main/notebooks"


def cell(kind, source):
    return {"cell_type": kind, "id": "x", "metadata": {}, "source": source.splitlines(keepends=True)}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A checkout with three notebooks, one of them below; `setting(...)` writes its pyproject.toml."""

    def setting(line):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nrepository = "not this one"\n\n[tool.promptlab]\n# why\n{line}\n[tool.x]\n')

    texts = {
        "00_a": ["# A\n\n**Time:** 5 minutes. **Colab:** old words. **Previous:** nobody knows. **Next:** `01_b`, perhaps.\n\nThe end.", "old", "See [01_b](01_b.ipynb), [x](other.ipynb)."],
        "01_b": ["# B\n\nNo such line.", "old", "`](00_a.ipynb)` in words"],
        "beyond/10_c": ["# C\n\n**Next:** nothing", "old", "Back to [00_a](https://example.org/old/00_a.ipynb)."],
    }  # fmt: skip
    for name, (first, second, third) in texts.items():
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        book = {
            "cells": [cell("markdown", first), cell("code", second), cell("markdown", third), cell("code", 'p = "](01_b.ipynb)"  # é')],
            "nbformat": 4,
        }
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    monkeypatch.setattr(links, "checkout", lambda: tmp_path)
    setting('repository = ""')
    return tmp_path, setting


def sources(house, name):
    book = json.loads((house[0] / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in book["cells"]]


def test_the_notebooks_of_this_course_agree_with_the_setting():
    source = links.repository()
    for path in COURSE:
        assert links.stamped(path, COURSE, source, ROOT) == path.read_text(encoding="utf-8"), f"{path.name}: python -m promptlab links"


def test_without_a_repository_links_are_relative_and_upload_is_explained(house):
    assert [p.name for p in links.write()] == ["00_a.ipynb", "01_b.ipynb", "10_c.ipynb"]
    first, setup, third, code = sources(house, "00_a")
    assert first.startswith("# A\n\n**Time:** 5 minutes. **Colab:** upload this file") and first.endswith(
        "**Previous:** none. **Next:** [01_b](01_b.ipynb).\n\nThe end."
    )
    assert setup == notebooks.SETUP_CELL and 'REPOSITORY = ""' in setup
    assert third == "See [01_b](01_b.ipynb), [x](other.ipynb)." and code == 'p = "](01_b.ipynb)"  # é', "code is left alone"
    assert "old words" not in first and "nobody" not in first and "perhaps" not in first
    first, _, third, _ = sources(house, "beyond/10_c")
    assert first.endswith("**Previous:** [01_b](../01_b.ipynb). **Next:** none.") and third == "Back to [00_a](../00_a.ipynb)."
    assert sources(house, "01_b")[0].startswith("# B\n\nNo such line.\n\n**Colab:** ")
    assert links.write() == [], "once is enough"


def test_with_a_repository_badges_and_links_are_absolute_and_back_again(house):
    links.write()
    before = {p: p.read_text(encoding="utf-8") for p in links.course(house[0] / "notebooks")}
    house[1](f'repository = "{GITHUB}"')
    assert len(links.write()) == 3 and links.write() == []
    first, setup, third, _ = sources(house, "00_a")
    assert f"[![Open in Colab]({links.BADGE})]({OPEN}/00_a.ipynb)" in first and f"**Next:** [01_b]({OPEN}/01_b.ipynb)." in first
    assert f'REPOSITORY = "{GITHUB}"' in setup and third.startswith(f"See [01_b]({OPEN}/01_b.ipynb), [x](other.ipynb)")
    assert f"[00_a]({OPEN}/00_a.ipynb)" in sources(house, "beyond/10_c")[2] and f"({OPEN}/beyond/10_c.ipynb)" in sources(house, "01_b")[0]
    for name in ("00_a", "01_b", "beyond/10_c"):
        for text in (sources(house, name)[0], sources(house, name)[2]):
            assert all(
                where.startswith("https://")
                for where in re.findall(r"\]\((\S*\d\d_\S+)\)", text)
                if name != "01_b" or "in words" not in text
            )
    house[1]('repository = ""')
    assert len(links.write()) == 3
    assert {p: p.read_text(encoding="utf-8") for p in before} == before


@pytest.mark.parametrize(
    "source, expected",
    [
        (f"{GITHUB}.git@v1", "https://colab.research.google.com/github/you/promptlab/blob/v1/notebooks/00_a.ipynb"),
        ("git+https://example.org/you/promptlab", None), ("", None),
    ],
)  # fmt: skip
def test_colab_opens_github_alone(source, expected):
    assert links.address(source, Path("/r/notebooks/00_a.ipynb"), Path("/r")) == expected


@pytest.mark.parametrize(
    "line, message",
    [
        ('repository = "https://github.com/you/promptlab"', "'https://github.com/you/promptlab' .* is nothing to install from. Write git"), ("", "has no line"),
        ('repository = "git+https://a b"', "is nothing to install from"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(house, line, message):
    house[1](line)
    with pytest.raises(PromptlabError, match=message):
        links.write()


@pytest.mark.parametrize(
    "given, source",
    [
        ("https://github.com/you/promptlab", GITHUB), ("https://github.com/you/promptlab/", GITHUB), (GITHUB, GITHUB), ("none", ""),
        ("https://github.com/you/promptlab.git", f"{GITHUB}.git"), ("https://github.com/you/promptlab@v1.2", f"{GITHUB}@v1.2"),
        ("https://github.com/you/promptlab/tree/new/lessons", f"{GITHUB}@new/lessons"),
        ("https://gitlab.example.org:8443/a/b/promptlab@main", "git+https://gitlab.example.org:8443/a/b/promptlab@main"),
    ],
)  # fmt: skip
def test_an_address_as_a_browser_shows_it_is_what_pip_installs_from(given, source):
    """The outside yardstick is how packaging reads `promptlab @ address`."""
    found = links.installable(given)
    assert found == source
    if found:
        assert Requirement(f"promptlab @ {found}").url == found
        scheme, host, path = urlsplit(found)[:3]
        assert (scheme, host) == ("git+https", urlsplit(given).netloc) and path.startswith("/")


@pytest.mark.parametrize(
    "given",
    [
        "", "github.com/you/promptlab", "http://github.com/you/promptlab", "git@github.com:you/promptlab.git", "https://github.com/you",
        "https://github.com/you/promptlab/blob/main/README.md", "https://github.com/you/promptlab?tab=readme", "https://github.com/you/promptlab#egg=x",
        "https://github.com/you/prompt lab", 'https://github.com/you/"x', "https://you:secret@github.com/you/promptlab", "https://github.com", "nonesuch",
        "https://github.com/you/promptlab@", "https://github.com/you/promptlab\nx", "file:///tmp/promptlab",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_nothing_is_written(house, given, capsys):
    before = {p: p.read_bytes() for p in house[0].rglob("*") if p.is_file()}
    assert cli.main(["links", given]) == 1
    said = capsys.readouterr().err
    assert f"{given!r} is no address" in said and "https://github.com/you/promptlab" in said
    assert {p: p.read_bytes() for p in before} == before


def git(*arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@y.z", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository with a package `promptlab` that git finds where it looks for https://github.com/you/promptlab; it has a branch `old`, too."""
    if not shutil.which("git"):
        pytest.skip("no git here")
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n[project]\nname = "promptlab"\nversion = "7.7"\n'
    )
    (folder / "promptlab").mkdir()
    (folder / "promptlab" / "__init__.py").write_text("")
    git("init", "-q", str(folder))
    git("-C", str(folder), "add", ".")
    git("-C", str(folder), "commit", "-qm", "first")
    git("-C", str(folder), "branch", "old")
    for name, value in {
        "COUNT": "3", "KEY_0": f"url.{folder.as_uri()}.insteadOf", "VALUE_0": "https://github.com/you/promptlab",
        "KEY_1": f"url.{tmp_path.as_uri()}/nothing.insteadOf", "VALUE_1": "https://github.com/me", "KEY_2": "safe.directory", "VALUE_2": "*",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    return folder


def test_one_command_sets_the_repository_says_so_and_undoes_it(house, hub, capsys):
    links.write()
    before = {p: p.read_bytes() for p in house[0].rglob("*") if p.suffix in (".ipynb", ".toml") and hub not in p.parents}
    assert cli.main(["links", "https://github.com/you/promptlab"]) == 0
    out = capsys.readouterr().out
    for said in (
        "pyproject.toml",
        "00_a.ipynb",
        "01_b.ipynb",
        "10_c.ipynb",
        f'pip install "{GITHUB}"',
        f"{OPEN}/00_a.ipynb",
        "answers and has 'main'",
        "links none",
    ):
        assert said in out, said
    assert links.repository() == GITHUB and f'REPOSITORY = "{GITHUB}"' in sources(house, "01_b")[1]
    toml = (house[0] / "pyproject.toml").read_text()
    assert toml == before[house[0] / "pyproject.toml"].decode().replace('repository = ""', f'repository = "{GITHUB}"'), (
        "one line and no other"
    )
    assert cli.main(["links", "https://github.com/you/promptlab"]) == 0 and "already agree" in capsys.readouterr().out
    assert cli.main(["links", "none"]) == 0 and "a reader uploads a wheel" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in before} == before


def test_the_command_asks_the_repository_itself(house, hub, capsys):
    cli.main(["links", "https://github.com/you/promptlab@old"])
    assert "answers and has 'old'" in capsys.readouterr().out
    cli.main(["links", "https://github.com/you/promptlab@gone"])
    assert "CHECK: https://github.com/you/promptlab shows no branch or tag 'gone'" in capsys.readouterr().out
    cli.main(["links", "https://github.com/me/promptlab"])
    assert "CHECK: https://github.com/me/promptlab does not answer" in capsys.readouterr().out
    assert links.repository().endswith("/me/promptlab"), "set all the same: it may be pushed later"


@pytest.mark.parametrize("given", ["https://github.com/you/promptlab", "https://github.com/you/promptlab/tree/old"])
def test_pip_installs_from_what_stands_in_the_setup_cell(house, hub, tmp_path, given):
    """What `%pip install -q --no-deps "{source}"` of the setup cell does on Colab, with a package of three files."""
    links.write(given)
    source = re.search('REPOSITORY = "(.*?)"', sources(house, "00_a")[1])[1]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(tmp_path / "here"),
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | {"PIP_NO_INDEX": "1"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "promptlab" / "__init__.py").exists() and (tmp_path / "here" / "promptlab-7.7.dist-info").exists()


def test_a_foreign_file_is_named_and_an_installed_copy_has_nothing_to_write(house, monkeypatch):
    (house[0] / "notebooks" / "02_d.ipynb").write_text('{"cells": []}')
    before = (house[0] / "pyproject.toml").read_text()
    with pytest.raises(PromptlabError, match="02_d.ipynb is no notebook of this course"):
        links.write("https://github.com/you/promptlab")
    assert (house[0] / "pyproject.toml").read_text() == before, "all or nothing"
    monkeypatch.setattr(links, "checkout", lambda: None)
    with pytest.raises(PromptlabError, match="in a checkout"):
        links.write()


def test_the_command_says_what_it_wrote(house, capsys):
    assert cli.main(["links"]) == 0
    out = capsys.readouterr().out
    assert "00_a.ipynb" in out and "10_c.ipynb" in out
    assert cli.main(["links"]) == 0 and "already agree" in capsys.readouterr().out
