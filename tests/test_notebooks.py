"""The course: how each notebook is made, and that it runs from top to bottom."""

import json
from pathlib import Path

import nbformat
import pytest
import tiny_hub
from nbformat.v4 import new_code_cell

from promptlab.course import links, notebooks

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
COURSE = sorted(FOLDER.rglob("[0-9]*.ipynb"), key=lambda path: path.name)
each = pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def test_the_course_begins_with_the_tour_and_numbers_are_unique():
    assert COURSE and COURSE[0].name == "00_tour.ipynb"
    numbers = [path.stem.split("_")[0] for path in COURSE]
    assert len(set(numbers)) == len(numbers), numbers
    assert {p for p in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts} == set(COURSE), "every name begins with a number"


@each
def test_notebook_is_valid_and_stripped(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata, "saved widget state breaks the page on GitHub"
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and "keep_output" not in cell.metadata.get("tags", []):
            assert not cell.outputs and cell.execution_count is None, f"cell {number} has outputs: nbstripout --keep-id {path}"


@each
def test_notebook_opens_with_a_title_and_the_setup_cell(path):
    first, second = read(path).cells[:2]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    setup = links.setup_cell(links.repository())
    assert second.cell_type == "code" and second.source == setup, (
        f"the second cell should be as `python -m promptlab links` writes it:\n{setup}"
    )


# What each lesson demonstrates, one row an effect: after which cell it shows, in words, the expression that measures it there, and
# between which values it lies. A range around zero says that the null is what the lesson teaches.
EFFECTS = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((Path(__file__).parent / "demonstrations").glob("*.json"))}


def with_effects(path, folder):
    """A copy of a notebook in which every effect is measured right after its cell; a cell that is not there is an error."""
    notebook, rows = read(path), EFFECTS.get(path.stem, [])
    places = {cell.id: i for i, cell in enumerate(notebook.cells)}
    for row in sorted(rows, key=lambda row: places[row["cell"]], reverse=True):
        measuring = new_code_cell(f"print('EFFECT', float({row['value']}))", metadata={"effect": row})
        notebook.cells.insert(places[row["cell"]] + 1, measuring)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


def measured(notebook):
    """The effects of an executed copy: (row, value) each."""
    for cell in notebook.cells:
        if "effect" in cell.metadata:
            said = "".join(o.get("text", "") for o in cell.outputs)
            yield cell.metadata["effect"], float(said.split("EFFECT")[1])


@each
@pytest.mark.weights
@pytest.mark.timeout(2400)
def test_notebook_runs_and_shows_what_it_says(path, tmp_path, monkeypatch, record_property):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))  # one each: what a lesson shows hangs on no other, nor on the order
    monkeypatch.setenv("PROMPTLAB_SHORT", "1")  # the same cells with a shorter training in them
    copy = with_effects(path, tmp_path / "with effects")
    record = notebooks.execute(copy, tmp_path)
    for name in ("seconds", "peak_memory_mb"):
        record_property(name, record[name])
    assert not record["error"], record["error"]
    assert record["cells"] == sum(c.cell_type == "code" and bool(c.source.strip()) for c in read(copy).cells)
    assert record["peak_memory_mb"] < 6000
    found = list(measured(read(tmp_path / path.name)))
    for r, v in found:
        record_property("effect", f"{path.stem} {r['cell']}: {r['shows']} {v:.3g} ({r['low']:g} to {r['high']:g})")
    missed = [f"{r['cell']}: {r['shows']} {v:.4g}, not {r['low']:g} to {r['high']:g}" for r, v in found if not r["low"] <= v <= r["high"]]
    assert not missed, "\n".join(missed)


@pytest.fixture(scope="session")
def ipython_folder(tmp_path_factory):
    """Where kernels find a preset colab whose models lie on this disk, tiny and with random weights; the rest of it is real."""
    folder = tmp_path_factory.mktemp("ipython")
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    fields = tiny_hub.save_colab(tmp_path_factory.mktemp("hub"))
    lines = "import dataclasses", "from promptlab import config", f"config.PRESETS['colab'] = dataclasses.replace(config.COLAB, **{fields})"
    (startup / "colab.py").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("path", [p for p in COURSE if p.parent == FOLDER], ids=lambda path: path.stem)
@pytest.mark.weights
@pytest.mark.timeout(2400)
def test_one_word_runs_a_notebook_on_stable_diffusion(path, ipython_folder, tmp_path, monkeypatch):
    """Same cells, preset colab: pipeline, checker, CLIP, head, PickScore, GPT-2 and prompts go through the code that the hub's go through."""
    for name, value in {"HOME": tmp_path, "SHORT": "1", "PRESET": "colab"}.items():
        monkeypatch.setenv(f"PROMPTLAB_{name}", str(value))
    monkeypatch.setenv("IPYTHONDIR", str(ipython_folder))
    record = notebooks.execute(path, tmp_path)
    assert not record["error"], record["error"]
    said = "".join(o.get("text", "") for cell in read(tmp_path / path.name).cells for o in cell.get("outputs", []))
    assert "Preset colab" in said and (tmp_path / "colab" / "cache" / "pictures.sqlite").exists()
