"""The package as others get it: light to import, bounded dependencies, weights inside the wheel."""

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from promptlab import links

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"


def python(code, **kwargs):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def settings():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("module", ["promptlab", "promptlab.config", "promptlab.runtime", "promptlab.notebooks", "promptlab.__main__"])
def test_import_loads_nothing_heavy(module):
    heavy = "{'torch', 'numpy', 'transformers', 'diffusers', 'matplotlib', 'nbclient', 'tqdm'}"
    assert python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import promptlab; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.3


def test_every_dependency_has_an_upper_bound(settings):
    groups = [settings["project"]["dependencies"], *settings["project"]["optional-dependencies"].values()]
    free = {"packaging"}  # numbered by the year
    for requirement in (Requirement(r) for group in groups for r in group):
        operators = {s.operator for s in requirement.specifier}
        assert "==" not in operators, f"{requirement} is pinned"
        assert ">=" in operators and ("<" in operators or requirement.name in free), f"{requirement} has no range"


def test_version_and_dependencies_are_those_installed(settings):
    assert python("import promptlab; print(promptlab.__version__)") == metadata.version("promptlab")
    installed = {str(Requirement(r)) for r in metadata.requires("promptlab") if "extra" not in r}
    wanted = {str(Requirement(r.replace("_", "-"))) for r in settings["project"]["dependencies"]}
    assert installed == wanted, "pyproject.toml changed since the install: make test, or pip install -e ."


def test_environment_file_says_what_each_line_is_for():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    assert all("#" in line for line in lines if line.strip() and line.strip() != "dependencies:")


def test_setup_cell_installs_from_the_repository_of_pyproject(settings):
    source = settings["tool"]["promptlab"]["repository"]
    assert links.repository() == source and f'REPOSITORY = "{source}"' in links.setup_cell(source)


@pytest.mark.weights
def test_wheel_brings_its_data(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"], cwd=ROOT, check=True, timeout=100)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import promptlab.runtime as r; print(r.checkout(), r.data_dir(), sep='\\n')"
    found = python(code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")}).splitlines()
    packaged = tmp_path / "site" / "promptlab" / "_data"
    assert found == ["None", str(packaged.resolve())]
    ours = {p.relative_to(DATA) for p in DATA.rglob("*") if p.is_file() and not p.name.endswith(".partial")}
    assert ours and {p.relative_to(packaged) for p in packaged.rglob("*") if p.is_file()} == ours
