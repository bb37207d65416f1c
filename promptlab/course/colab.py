"""What Google Colab needs: libraries that fit, an earlier run brought to this machine, and a hub token found but never shown.

Every notebook is a machine of its own there, and forgets it within hours. `promptlab.course.keeping` says what of a run is kept, here on
Drive or in a zip file.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from promptlab.config import preset
from promptlab.runtime import MOUNT, PromptlabError, on_colab

# Colab's own: the driver, the compiled libraries and the page itself were built to fit these, so they stay as they are.
LEFT_ALONE = ("torch", "torchvision", "numpy", "jupyterlab", "ipykernel", "ipywidgets")
OFFER = """\
Each notebook is a machine of its own here. If you have run an earlier one, your earlier run is on another machine. To bring it here:
  from promptlab.course import colab
  colab.load_drive()   from your Drive, where colab.save_drive() put it
  colab.load_zip()     from a zip file that colab.save_zip() made: upload it with the folder icon on the left first
Or go on: the weights that came along stand in for yours."""


def setup():
    """The second half of the setup cell: on Colab missing libraries, the hub token, and where an earlier run may be; elsewhere nothing."""
    if not on_colab():
        return
    install_missing()
    from promptlab.course.keeping import checkpoints  # which loads NumPy: not before the libraries are settled

    print(f"Hub token: {find_token() or 'none; the models of this course need none'}.")
    if not checkpoints():
        print(OFFER)


def install_missing():
    """Install what our package asks for and Colab lacks or has too old; the session restarts only where such a library was loaded already.

    Raises `PromptlabError` where pip cannot do it without touching one of LEFT_ALONE.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    before = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    have = {canonicalize_name(name): version for name, version in before.items()}
    wanted = []
    for r in map(Requirement, metadata.requires("promptlab") or []):
        name = canonicalize_name(r.name)
        if (r.marker and not r.marker.evaluate({"extra": ""})) or (name in have and r.specifier.contains(have[name], prereleases=True)):
            continue
        if name not in LEFT_ALONE:
            wanted.append(f"{r.name}{r.specifier}")
        elif name in have:
            print(f"Colab has {name} {have[name]}; promptlab was tested with {r.specifier}. It stays as it is.")
    if not wanted:
        return
    print(f"Installing {', '.join(wanted)} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "constraints.txt"
        fixed.write_text("".join(f"{name}=={have[name]}\n" for name in LEFT_ALONE if name in have))
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", str(fixed), *wanted], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PromptlabError(
            f"pip could not install {', '.join(wanted)} ({last}). Choose Runtime > Disconnect and delete runtime, and run this cell again."
        )
    after = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    restart_if_replaced({name for name, version in before.items() if after.get(name) != version})


def restart_if_replaced(names):
    """Restart the session if one of these distributions had been loaded: a half-old library fails in strange ways. Says so first."""
    loaded = {name for module, owners in metadata.packages_distributions().items() if module in sys.modules for name in owners}
    replaced = sorted(loaded & set(names))
    if replaced:
        print(f"The session restarts now, as {', '.join(replaced)} was loaded in another version. Then run this cell again.", flush=True)
        restart()


def restart():
    """End this kernel; Colab starts another."""
    time.sleep(1)  # until the message is on the page
    os.kill(os.getpid(), signal.SIGKILL)


def find_token() -> str:
    """Where a token for the hub was found, in words, never the token; on Colab a secret becomes HF_TOKEN, where every library looks."""
    if os.environ.get("HF_TOKEN"):
        return "found in HF_TOKEN"
    if on_colab():
        try:
            from google.colab import userdata

            token = userdata.get("HF_TOKEN")
        except Exception:  # no such secret, or this notebook may not read it: each version of Colab has its own errors
            token = None
        if token:
            os.environ["HF_TOKEN"] = token
            return "found in Colab's secrets"
    from huggingface_hub import constants

    return f"found in {constants.HF_TOKEN_PATH}" if Path(constants.HF_TOKEN_PATH).is_file() else ""


# --- Drive ----------------------------------------------------------------------------------------------------------


def mount_drive() -> Path:
    """Connect your Drive, which asks you in the browser, and return the folder of this course on it.

    Raises `PromptlabError` outside Colab and where you decline.
    """
    if not on_colab():
        raise PromptlabError("Drive can only be mounted in a Colab notebook. Here, save_zip() and load_zip() do the same.")
    from google.colab import drive

    try:
        drive.mount(str(MOUNT))
    except Exception as error:  # declined, timed out, or no Google account: Colab raises several kinds
        raise PromptlabError(f"Drive was not mounted ({error}). Run this again and allow it, or use save_zip() and load_zip().") from error
    return MOUNT / "MyDrive" / "promptlab"


def discard(path: Path):
    """Delete a file so that it takes no room in Drive's bin, where what is deleted counts for a month: emptied first."""
    os.truncate(path, 0)
    path.unlink()


def save_drive() -> Path:
    """Copy this preset's run to Drive and return the folder; what lies there and is newer or longer stays, and is named.

    The checkpoints of an earlier save go once newer ones of the same stage are there.
    """
    from promptlab.course.carrying import outdone
    from promptlab.course.keeping import ARCHIVE, gather, is_small

    target = mount_drive() / preset().name
    with tempfile.TemporaryDirectory() as folder:
        files = gather(folder)
        old = outdone({name: path for name, path in files.items() if name != ARCHIVE}, target)
        for name, path in files.items():
            place = target / name
            if name in old or (
                place.exists()
                and name != ARCHIVE
                and (place.stat().st_size, int(place.stat().st_mtime)) == (path.stat().st_size, int(path.stat().st_mtime))
            ):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(place.name + ".partial")
            shutil.copy2(path, partial)
            if place.exists():
                discard(place)
            os.replace(partial, place)
    saved = {}  # the stages of which there is a checkpoint now, and when it was written: one of another stage, or a newer one, stays
    for name in files.keys() - old:
        if name != ARCHIVE and not is_small(name):
            saved[name.split("/")[0]] = max(saved.get(name.split("/")[0], 0), files[name].stat().st_mtime)
    for left in sorted(target.rglob("*")):
        name = left.relative_to(target).as_posix()
        stage = name.split("/")[0]
        if left.is_file() and name not in files and not is_small(name) and left.stat().st_mtime < saved.get(stage, 0) + 1:
            discard(left)
    print(f"Saved to {target}.")
    if old:
        print(f"Left as it was there, being newer or longer: {', '.join(sorted(old))}. colab.load_drive() brings it here.")
    return target


def load_drive():
    """Bring this preset's run from Drive to this machine; what is here and newer or longer stays, and is named.

    Raises `PromptlabError` where none was saved, or where it does not fit on this machine's disk.
    """
    from promptlab.course.carrying import bring, check_room, is_litter, staging

    root = mount_drive()
    source = root / preset().name
    # A ".partial" beside no file of that name is whole: a save was stopped between emptying the old one and naming the new.
    found = {f.relative_to(source).as_posix(): f for f in sorted(source.rglob("*")) if f.is_file()}
    files = {name: f for name, f in found.items() if not name.endswith(".partial") and not is_litter(name)}
    for name, f in found.items():
        if name.endswith(".partial") and not is_litter(name):
            files.setdefault(name.removesuffix(".partial"), f)
    if not files:
        saved = sorted(p.name for p in root.glob("*") if p.is_dir())
        raise PromptlabError(
            f"{source} holds no run. Saved on this Drive: {', '.join(saved) or 'none'}. Run colab.save_drive() after a training."
        )
    check_room(source, sum(f.stat().st_size for f in files.values()))
    with staging() as folder:
        try:
            for name, f in files.items():
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(f, place)
        except OSError as error:
            raise PromptlabError(f"{source} cannot be copied ({error}). Nothing was changed here; run this again.") from error
        bring(folder, source)


# --- a zip file -----------------------------------------------------------------------------------------------------


def zip_path() -> Path:
    """The zip file of this preset's run, in the working directory."""
    return Path.cwd() / f"promptlab-{preset().name}.zip"


def save_zip(path=None) -> Path:
    """Put this preset's run into one zip file and return it; on Colab the browser downloads it.

    Raises `PromptlabError` where the file cannot be written; an earlier one of that name is then as it was.
    """
    from promptlab.course.carrying import pack
    from promptlab.course.keeping import gather

    path = Path(path or zip_path())
    partial = path.with_name(path.name + ".partial")
    with tempfile.TemporaryDirectory() as folder:
        files = gather(folder)
        try:
            pack(files, partial)
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()  # or it would keep a full disk full
            raise PromptlabError(f"Could not write {path} ({error}). Free some space, or name another file.") from error
    print(f"Saved to {path}.")
    if on_colab():
        from google.colab import files as browser

        browser.download(str(path))
    return path


def load_zip(path=None):
    """Bring this preset's run from a zip file to this machine; what is here and newer or longer stays, and is named.

    Raises `PromptlabError` where the file is missing, damaged, locked, of another preset, would write outside the run folder, or
    unpacks to more than fits; nothing here is changed then.
    """
    from promptlab.course.carrying import bring, staging, unpack

    path = Path(path or zip_path())
    with staging() as folder:
        unpack(path, folder)
        bring(folder, path)
