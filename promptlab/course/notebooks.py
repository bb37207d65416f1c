"""Run the course's notebooks without a browser: live progress, executed copies, pictures, one table."""

import asyncio
import atexit
import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from promptlab.config import preset
from promptlab.course.peak import Peak
from promptlab.runtime import PromptlabError, checkout, home, write_atomically

# The second cell of every notebook, identical everywhere; a test compares each with this text.
SETUP_CELL = """\
# Setup, the same in every notebook. On Colab it installs promptlab (PyTorch and NumPy stay as they
# are), elsewhere nothing.
import importlib.util
import sys
from pathlib import Path

# Where Colab installs from, as [tool.promptlab] in pyproject.toml says; empty: a wheel you upload.
REPOSITORY = ""
if "google.colab" in sys.modules and importlib.util.find_spec("promptlab") is None:
    source = REPOSITORY or max(map(str, Path().glob("promptlab-*.whl")), default="")
    if not source:
        raise FileNotFoundError("Make a wheel (pip wheel --no-deps .), upload it with the folder "
                                "icon on the left, run this cell again.")
    %pip install -q --no-deps "{source}"
from promptlab import config, runtime
from promptlab.course import colab
colab.setup()  # what is missing on Colab, and your earlier run; elsewhere it does nothing
print(f"Preset {config.preset().name}: {config.preset().purpose}. Runs on: {runtime.hardware()}.")"""


def course(folder: Path) -> list[Path]:
    """Every notebook in the order of its number, those in folders below too."""
    return sorted((p for p in folder.rglob("[0-9]*.ipynb") if ".ipynb_checkpoints" not in p.parts), key=lambda p: p.name)


def find(names=()) -> list[Path]:
    """The notebooks of the course in order, or those `names` picks: `00_tour`, `00`, also `11` from beyond/, or a path to an .ipynb file.

    Raises `PromptlabError` naming what does not exist.
    """
    folder = (checkout() or Path.cwd()) / "notebooks"
    core = sorted(folder.glob("*.ipynb"))
    every = core + [p for p in course(folder) if p.parent != folder]
    known = f"{folder} has: {', '.join(p.stem for p in every) or 'no notebooks'}."
    if not names and not core:
        raise PromptlabError(f"{known} Run this inside a checkout of promptlab, or name .ipynb files.")
    chosen = []
    for name in names:
        path = Path(name)
        is_file = path.suffix == ".ipynb" and path.is_file()
        hits = [path] if is_file else [p for p in every if name in (p.stem, p.name, p.stem.split("_")[0])]
        if not hits:
            raise PromptlabError(f"There is no notebook {name!r}. {known}")
        chosen += hits
    return chosen or core


def run_folder() -> Path:
    """Where `run` keeps executed notebooks, pictures and the table."""
    return home() / preset().name / "run"


def run(names=(), folder=None) -> list[dict]:
    """Execute notebooks one after the other, each in a fresh kernel that ends with it, and keep what they made.

    Returns one record per notebook, as `execute` does, and a last one for the whole run, whose peak counts this process too;
    `table.md` and `table.json` in `folder` hold the same. A notebook that fails does not stop the others.
    """
    folder, records, began = Path(folder or run_folder()), [], time.monotonic()
    with Peak() as peak:
        for path in find(names):
            records.append(execute(path, folder))
            whole = _whole(records, time.monotonic() - began, max([peak.mb, *(r["peak_memory_mb"] for r in records)]))
            write_atomically(folder / "table.json", json.dumps([*records, whole], indent=1))
            write_atomically(folder / "table.md", table([*records, whole]))
    return [*records, whole]


def _whole(records, seconds, peak_mb) -> dict:
    """The record of a run of several notebooks."""
    result = "failed" if any(r["error"] for r in records) else "ok"
    cells = sum(r["cells"] for r in records)
    return {"notebook": "whole run", "cells": cells, "seconds": round(seconds, 1), "peak_memory_mb": peak_mb, "result": result, "error": ""}


def execute(path, folder) -> dict:
    """Execute one notebook in its own kernel, which ends with it; its copy and its pictures go to `folder`, also where a cell fails.

    Returns a record `{notebook, cells, seconds, peak_memory_mb, result, error}`: `cells` counts the code cells that ran,
    `peak_memory_mb` is the most that the kernel and all it started held at one time, and `error` names the failing cell by its
    number in the margin (In [7] is cell 7), or is empty.
    """
    import nbformat
    from nbclient.exceptions import CellExecutionError

    path, folder = Path(path).resolve(), Path(folder)
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        raise PromptlabError(f"{path} is not a notebook ({type(error).__name__}: {error}).") from error
    progress = Progress(path.stem, sum(_runs(c) for c in notebook.cells))
    client, error = _client(notebook, path.parent, progress), ""
    try:
        # cleanup_kc: nbclient would leave a kernel alive that it did not make itself.
        client.execute(env=_environment(), cwd=str(path.parent), cleanup_kc=True)
    except CellExecutionError as failure:
        error = f"{path.stem} failed in cell {progress.cell}: {failure.ename}: {failure.evalue}"
    except Exception as failure:  # the kernel died or never started; where Ctrl-C ended it, that is no failure
        if not progress.stopped:
            error = f"{path.stem} failed in cell {progress.cell}: {type(failure).__name__}: {failure} (killed, or out of memory?)"
    finally:  # also where the reader pressed Ctrl-C
        progress.end_kernel()
        atexit.unregister(client._cleanup_kernel)  # where a kernel ended before it answered, nbclient forgets to
        progress.close(error)
        write_atomically(folder / path.name, nbformat.writes(notebook))
        save_pictures(notebook, folder / "pictures", path.stem)
    if progress.stopped:  # also where all cells had run: no other notebook shall begin
        raise KeyboardInterrupt
    return {
        "notebook": path.stem,
        "cells": progress.done,
        "seconds": round(progress.seconds(), 1),
        "peak_memory_mb": progress.peak.mb if progress.peak else 0,
        "result": "failed" if error else "ok",
        "error": error,
    }


def table(records) -> str:
    """The records of `run` as a Markdown table; errors stand below it."""
    rows = ["| notebook | cells | seconds | peak memory MB | result |", "|---|---:|---:|---:|---|"]
    rows += [f"| {r['notebook']} | {r['cells']} | {r['seconds']} | {r['peak_memory_mb']} | {r['result']} |" for r in records]
    errors = [r["error"] for r in records if r["error"]]
    return "\n".join(rows + ([""] + errors if errors else [])) + "\n"


def save_pictures(notebook, folder, stem) -> list[Path]:
    """Write every PNG among a notebook's outputs as `<stem>-<cell>-<number>.png`, in place of those of an earlier run."""
    folder, paths = Path(folder), []
    for old in folder.glob(f"{stem}-*.png"):
        old.unlink()
    for cell in notebook.cells:
        data = [o["data"]["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        for number, png in enumerate(data, 1):
            paths.append(folder / f"{stem}-{cell.execution_count or 0:02d}-{number}.png")
            write_atomically(paths[-1], base64.b64decode(png))
    return paths


class Progress:
    """One line that says which cell runs: rewritten in place in a terminal, one line a cell in a log."""

    def __init__(self, name, cells):
        self.name, self.cells, self.cell, self.done, self.pid, self.peak = name, cells, 0, 0, None, None
        self.started = self.cell_started = time.monotonic()
        self.live, self.stopped = sys.stdout.isatty(), False
        self._say(f"{name}  {cells} cells")

    def seconds(self):
        return time.monotonic() - self.started

    def kernel_started(self, pid):
        """From here on there is a process to watch, and to end."""
        self.pid, self.peak = pid, Peak(pid)
        self.peak.__enter__()
        if self.stopped:  # Ctrl-C came while it was being made
            self.stop()

    def start_cell(self, cell, cell_index):
        if _runs(cell):
            self.cell, self.cell_started = self.cell + 1, time.monotonic()
            if self.live:
                self._say(f"{self.name}  cell {self.cell}/{self.cells}  ...  {cell.source.strip().splitlines()[0]}")

    def finish_cell(self, cell, cell_index, execute_reply):
        self.peak.look()
        if execute_reply["content"]["status"] == "ok":
            self.done += 1
        self._say(f"{self.name}  cell {self.cell}/{self.cells}  {time.monotonic() - self.cell_started:.1f} s")

    def stop(self):
        """What Ctrl-C does: end the kernel, so that the waiting client returns and what ran so far is kept."""
        self.stopped = True
        self.end_kernel()

    def end_kernel(self):
        """End the kernel at once, with what its cells started and left behind; nothing happens where all is gone."""
        if self.pid is None:
            return
        self.peak.__exit__()
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)  # a kernel leads a group of its own
            else:
                os.kill(self.pid, signal.SIGTERM)  # Windows ends a process by any signal
        self.pid = None

    def close(self, error):
        state = "FAILED" if error else "ok" if self.done == self.cells else "stopped"
        self._say(f"{self.name}  {state}  {self.done}/{self.cells} cells  {self.seconds():.1f} s", last=True)
        if error:
            print(error, flush=True)

    def _say(self, text, last=False):
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print("\r\033[K" + text[:width], end="\n" if last else "", flush=True)
        else:
            print(text, flush=True)


def _runs(cell) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _client(notebook, folder, progress):
    """An nbclient for this notebook whose kernel is this very Python.

    The kernel spec `python3` of a user's folder often belongs to another environment, so none is looked up.
    """
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name):
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
            return KernelSpec(argv=argv, language="python", display_name="Python 3")

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **kwargs):
            # nbclient's own handlers close its sockets under the running cell. Windows and threads have no such handlers.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().add_signal_handler(number, progress.stop)
            await super().start_kernel(**kwargs)
            progress.kernel_started(self.provisioner.pid)

    return NotebookClient(
        notebook,
        km=Manager(kernel_name="python3", kernel_spec_manager=ThisPython()),
        timeout=None,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=progress.start_cell,
        on_cell_executed=progress.finish_cell,
    )


def _environment() -> dict:
    """What a notebook's kernel sees: this run folder and preset, nobody to click, figures inline, and on pocket no network."""
    env = dict(os.environ) | {"PROMPTLAB_HOME": str(home()), "PROMPTLAB_PRESET": preset().name, "PROMPTLAB_HEADLESS": "1"}
    env.pop("MPLBACKEND", None)  # another backend would swallow the figures
    root = checkout()
    if root:  # the notebook tests this code, not an older copy installed elsewhere
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), env.get("PYTHONPATH")]))
    if preset().name == "pocket":
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return env
