"""Where we are: folders, hardware, files written and read safely, and errors a reader can act on."""

import gc
import glob
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parent


class PromptlabError(Exception):
    """A mistake a user can repair; its message names the value and the next step."""


def checkout() -> Path | None:
    """The folder of the repository this package runs from, or None where it was installed without one."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else None


def home() -> Path:
    """The folder for everything a user makes: `PROMPTLAB_HOME`, else `runs/` of the checkout or working directory.

    Jupyter starts a kernel in the notebook's folder, so anywhere inside a checkout means the checkout. Its `%env` hands a value
    over as typed, so `~`, `$HOME` and quotes are understood here. Raises `PromptlabError` where a file is in the way.
    """
    root, here = checkout(), Path.cwd()
    named = os.environ.get("PROMPTLAB_HOME", "").strip().strip("\"'")
    try:
        folder = Path(os.path.expandvars(named)).expanduser() if named else (root if root and root in here.parents else here) / "runs"
        folder = folder.resolve()
    except (OSError, RuntimeError) as error:  # "~nobody/x", links in a circle
        raise PromptlabError(f"PROMPTLAB_HOME is {named!r}, which names no folder ({error}). Write its whole path.") from error
    for place in (folder, *folder.parents):
        if os.path.exists(place) and not os.path.isdir(place):
            raise PromptlabError(f"The run folder {folder} cannot be made: {place} is a file. Let PROMPTLAB_HOME name another folder.")
    return folder


def on_colab() -> bool:
    """Whether this is a Colab notebook."""
    return "google.colab" in sys.modules


MOUNT = Path("/content/drive")  # where Colab puts Google Drive


def local_home() -> Path:
    """`home()`, or a folder on Colab's own disk where that lies on Drive: many small writes are slow there, and SQLite gets damaged."""
    return Path("/content/runs") if home().is_relative_to(MOUNT) else home()


def data_dir() -> Path:
    """The folder of shipped weights and data: `data/` of the checkout, else the copy inside the installed package."""
    root = checkout()
    return root / "data" if root else PACKAGE / "_data"


# How a reader gets broken weights back.
if checkout():
    REPAIR = "git checkout -- data/pocket, or build them again with: python -m promptlab.pocket build"
else:
    REPAIR = "pip install --force-reinstall --no-deps the same wheel or repository, or run: python -m promptlab.pocket build"


def device():
    """The torch device everything runs on: the first GPU there is, NVIDIA's or AMD's, Intel's (xpu) or Apple's (mps), else the CPU."""
    import torch

    found = {"cuda": torch.cuda.is_available(), "xpu": torch.xpu.is_available(), "mps": torch.backends.mps.is_available()}
    return torch.device(next((name for name, there in found.items() if there), "cpu"))


class Hardware(NamedTuple):
    """What `hardware()` found; printed, it is its one-line reason."""

    device: Any  # torch.device
    dtype: Any  # torch.dtype that large frozen models are loaded in; trained weights stay float32
    reason: str

    def __str__(self):
        return self.reason


def hardware() -> Hardware:
    """The device, the number format that suits it, and why in one line."""
    import torch

    where = device()
    if where.type == "cpu":
        # A CPU that multiplies bfloat16 natively draws twice as fast in it; elsewhere it is emulated, and slower.
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
        dtype = torch.bfloat16 if fast else torch.float32
        threads = torch.get_num_threads()
        reason = f"CPU with {threads} thread{'s' * (threads > 1)} in {str(dtype)[6:]}, as PyTorch {torch.__version__} sees no GPU"
        return Hardware(where, dtype, reason)
    if where.type != "cuda":  # what an operation lacks there runs on the CPU (promptlab/__init__.py), and float32 is what all of them know
        name = {"mps": "an Apple GPU (mps)", "xpu": "an Intel GPU (xpu)"}[where.type]
        return Hardware(where, torch.float32, f"{name} in float32, as not every operation knows a shorter format there")
    name, memory = torch.cuda.get_device_name(where), torch.cuda.get_device_properties(where).total_memory / 2**30
    # bfloat16 has float32's range, so nothing overflows; older GPUs (a T4) only emulate it, at a fraction of float16's speed.
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Hardware(where, torch.bfloat16, f"{name} ({memory:.0f} GB) in bfloat16, the first GPU")
    return Hardware(where, torch.float16, f"{name} ({memory:.0f} GB) in float16, as it has no fast bfloat16")


def headless() -> bool:
    """True where nobody can click: the notebook was started by `python -m promptlab run` or by the tests."""
    return bool(os.environ.get("PROMPTLAB_HEADLESS"))


def short(full: int, few: int) -> int:
    """`full`, or `few` where `PROMPTLAB_SHORT` is set: the tests run every cell of a lesson, with less training in it."""
    return few if os.environ.get("PROMPTLAB_SHORT") else full


def bar(items=None, **kwargs):
    """A tqdm progress bar that suits a terminal and a notebook."""
    from tqdm.auto import tqdm

    return tqdm(items, dynamic_ncols=True, **kwargs)


@contextmanager
def interrupts(stop):
    """Inside the block the first interrupt calls `stop()`, so that no half-made step is lost; a second one breaks off."""
    pressed = []

    def on_interrupt(*_):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)
        stop()

    if threading.current_thread() is not threading.main_thread():  # only there do interrupts arrive
        yield
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def exit_code(command, stopped: str) -> int:
    """Run a command's function and return its exit code; errors a user can repair are printed without a traceback, an interrupt as `stopped`."""
    try:
        return command() or 0
    except PromptlabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def free_memory():
    """Give back what deleted models held, on the CPU and on the GPU; `del` the model first.

    An error's traceback keeps every variable of the failed cell alive, and IPython keeps what cells returned, so both are
    cleared: `Out[3]` and `_` are gone afterwards.
    """
    kept = {name: sys.__dict__.pop(name, None) for name in ("last_exc", "last_value", "last_type", "last_traceback")}
    for trace in (kept["last_traceback"], *(getattr(kept[name], "__traceback__", None) for name in ("last_exc", "last_value"))):
        traceback.clear_frames(trace)  # which takes None as well
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.InteractiveTB.__dict__.pop("tb", None)  # the formatter of tracebacks keeps the last one as well
        shell.last_execution_result = None  # and so does this, or what the last cell returned
        if shell.displayhook.do_full_cache:
            shell.displayhook.flush()
        shell.push(dict.fromkeys(("_", "__", "___"), ""), interactive=False)  # flush() leaves them behind
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and device().type != "cpu":
        getattr(torch, device().type).empty_cache()


@contextmanager
def enough_memory(advice: str):
    """Turn running out of GPU memory inside the block into a `PromptlabError` that ends with the advice."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PromptlabError(f"The GPU has too little memory ({first_line(error)}). {advice}") from error


def write_atomically(path, content: str | bytes):
    """Write a file so that a kill or a full disk leaves the previous one intact; missing folders are made.

    Raises `PromptlabError` where the file cannot be written.
    """
    path = Path(path)
    try:
        partial = partial_of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(partial, path)
        except BaseException:  # an interrupt, too, leaves nothing behind
            remove(partial)
            raise
    except OSError as error:
        raise PromptlabError(f"Could not write {path} ({error}). Free some space, or let PROMPTLAB_HOME name another folder.") from error


def partial_of(path: Path) -> Path:
    """Where to write a file or folder until it is whole: beside it, and no two processes in one place.

    What killed processes left of the same file or folder is removed first: it may be what fills the disk.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and not alive(int(pid)):
            remove(left)
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def alive(pid: int) -> bool:
    """Whether a process of this machine is running; on Windows always True, as asking there would end it."""
    try:
        return os.name == "nt" or os.kill(pid, 0) is None
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True


def remove(path: Path):
    """Delete a file or folder as far as that can be done, without a word where it cannot."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def read_jsonl(path) -> list:
    """The rows of a file that `write_jsonl` wrote. Raises `OSError` where it cannot be read, `ValueError` where it is damaged."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def whole_rows(path) -> tuple[list[dict], int]:
    """The rows of a log that can be read, and how many of its lines cannot; no rows where there is no log. For logs that may be damaged."""
    try:
        lines = [line for line in Path(path).read_bytes().split(b"\n") if line.strip()]
    except OSError:
        return [], 0
    rows = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    rows = [row for row in rows if isinstance(row, dict)]
    return rows, len(lines) - len(rows)


def write_jsonl(path, rows):
    """Write one JSON value per line, as `write_atomically` writes."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_jsonl(path, row):
    """Add one row to a log in one write, so that two processes never mix theirs; in ASCII, so that no character of a text ends it early.

    Raises `PromptlabError` where it cannot be written.
    """
    line = json.dumps(row).encode() + b"\n"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            if file.tell():  # a kill or a full disk may have cut the last line short: never write behind half a line
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else b"\n" + line
            if file.write(line) < len(line):
                raise OSError("the disk is full")
    except OSError as error:
        raise PromptlabError(f"Could not write {path} ({error}). Free some space, or let PROMPTLAB_HOME name another folder.") from error


def first_line(error, width: int = 160) -> str:
    """The first line of an error, shortened: libraries explain themselves at length."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:width]
