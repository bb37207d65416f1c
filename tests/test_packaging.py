"""The package as others get it: light to import, bounded dependencies, weights inside the wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from promptlab.course import links

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"


def python(code, **kwargs):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def settings():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("module", ["promptlab", "promptlab.config", "promptlab.runtime", "promptlab.course.notebooks", "promptlab.__main__"])
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, timeout=250)
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.weights
def test_wheel_brings_its_data(tmp_path, wheel):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import promptlab.runtime as r; print(r.checkout(), r.data_dir(), sep='\\n')"
    found = python(code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")}).splitlines()
    packaged = tmp_path / "site" / "promptlab" / "_data"
    assert found == ["None", str(packaged.resolve())]
    ours = {p.relative_to(DATA) for p in DATA.rglob("*") if p.is_file() and not p.name.endswith(".partial")}
    assert ours and {p.relative_to(packaged) for p in packaged.rglob("*") if p.is_file()} == ours


# What a notebook's second cell does on Colab, in an IPython without this checkout: `site` is where pip puts the wheel.
FIRST_CELL = """
import sys
from pathlib import Path
site, cell = sys.argv[1], Path(sys.argv[2]).read_text()
sys.path[:] = [site, *(p for p in sys.path if not (Path(p) / "promptlab").is_dir())]
import google.colab
from IPython.core.interactiveshell import InteractiveShell
import importlib.util
assert importlib.util.find_spec("promptlab") is None, "not installed yet"
shell = InteractiveShell.instance()
for _ in range(2):  # the second time it has nothing to install
    assert shell.run_cell(cell).success
assert Path(sys.modules["promptlab"].__file__).is_relative_to(site)
"""
WORLD = """
from pathlib import Path
from promptlab import config, runtime
from promptlab.evaluation import load_results
from promptlab.policy import stage_policy
from promptlab.prompts import load_prompts
from promptlab.rewards import Scorer
scorer = Scorer(config.preset())
images = scorer.gallery.generator.generate(["a frog"], [1], steps=1)
assert images.shape == (1, 128, 128, 3) and len(load_prompts("sft")) == 6000 and load_results()
assert stage_policy("ppo").rewrite(["a frog"]) and scorer.gallery.judge and len(scorer.texts(["a frog"])) == 1
print(runtime.checkout(), runtime.data_dir())
from promptlab.__main__ import main  # in this process, which has loaded all that it looks for
assert main(["doctor"]) == 0
"""


@pytest.mark.weights
@pytest.mark.timeout(900)
def test_the_wheel_works_on_a_colab_machine_without_a_checkout(tmp_path, wheel, offline_folder):
    import fake_colab

    site, upload, elsewhere = tmp_path / "site", tmp_path / "content", tmp_path / "elsewhere"
    for folder in (site, upload, elsewhere):
        folder.mkdir()
    shutil.copy(wheel, upload)
    cell = tmp_path / "cell.py"
    cell.write_text(links.setup_cell(""))
    path = os.pathsep.join(map(str, (fake_colab.install(tmp_path / "fake"), offline_folder)))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PROMPTLAB_", "PIP_"))} | {"HF_TOKEN": "hf_thisMustNeverBePrinted"}
    env |= {
        "PYTHONPATH": path,
        "PIP_TARGET": str(site),
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "MPLCONFIGDIR": str(tmp_path),
    }

    def run(*command, cwd, **more):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600, cwd=cwd, env=env | more)
        assert done.returncode == 0 and env["HF_TOKEN"] not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.stdout

    out = run("-c", FIRST_CELL, str(site), str(cell), cwd=upload)
    assert "Preset pocket" in out and "your earlier run is on another machine" in out and "found in HF_TOKEN" in out
    assert not list(site.glob("torch*")) and not list(site.glob("numpy*")), "PyTorch and NumPy stay as they are"

    elsewhere.chmod(0o555)
    there = {"PYTHONPATH": os.pathsep.join([str(site), path]), "PROMPTLAB_HOME": str(tmp_path / "home")}
    place = f"None {(site / 'promptlab' / '_data').resolve()}"
    world, found, doctor = run("-c", WORLD, cwd=elsewhere, **there).partition(f"\n{place}\n")
    assert found, f"not {place}, but {world}"
    assert "FAIL" not in doctor and str(site) in doctor and "found in HF_TOKEN" in doctor
    assert not list(elsewhere.iterdir()), "nothing is written where it was started"
