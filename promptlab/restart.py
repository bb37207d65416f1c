"""Checkpoints of a PPO run: the newest and the one before, so that a kill at any moment, and a damaged file, cost a few updates at most."""

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

from promptlab.models.weights import load_checkpoint, save_checkpoint
from promptlab.processes import first
from promptlab.runtime import PromptlabError, whole_rows, write_jsonl
from promptlab.sharding import load, load_optimiser, whole


def before(path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_stem(f"{path.stem}-before")


def save(run, path):
    """Write a checkpoint; the last one becomes the one before. A kill or a full disk leaves a whole one at every moment.

    Of several processes, the first writes.
    """
    state = {
        "settings": asdict(run.settings), "done": run.done, "kl": run.kl, "optimiser": run.optimiser.state_dict(),
        "policy": run.policy.model.state_dict(), "reference": run.reference.state_dict(), "value": run.value.state_dict(),
        "history": json.dumps(run.history),  # as text, which stays readable whatever a reward adds to the metrics
    }  # fmt: skip
    state = whole(state)
    if not first():
        run.kept = path
        return
    if run.kept == path and path.exists():  # one that this run wrote or read: a damaged file never replaces a whole one
        os.replace(path, before(path))
        run.kept = before(path)
    save_checkpoint(state, path)
    run.kept = path


def resume(run, path) -> bool:
    """Go on from the newest checkpoint that is whole, and say so where that is the one before; False where there is none at all.

    Raises `PromptlabError` where all are damaged, or the newest whole one belongs to another run.
    """
    found = [file for file in (path, before(path)) if file.exists()]
    file = next(filter(is_whole, found), None)
    if file is None and found:
        raise PromptlabError(
            f"{found[0]} is damaged, and there is no whole checkpoint before it. Delete {path.stem}*.ckpt there to begin anew."
        )
    if file is not None:
        restore(run, load_checkpoint(file), file)
    if file == before(path):
        what = "is damaged" if path in found else "was never finished"
        print(f"{path} {what}. The run goes on from the checkpoint before it, after update {run.done}.")
    return file is not None


def is_whole(file) -> bool:
    """Whether a checkpoint is, to the last byte, what was written: torch writes a zip file with checksums, but reads it without a look at them."""
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except Exception:  # zipfile and zlib have many kinds of error for damaged bytes
        return False


def restore(run, state, path):
    """Set a run to a checkpoint's state. Raises `PromptlabError` where it belongs to another run; then nothing has changed."""
    models = {"policy": run.policy.model, "reference": run.reference, "value": run.value}
    try:
        if run.settings != type(run.settings)(**state["settings"]):
            raise ValueError("it was made with other settings")
        for name, model in models.items():
            mine, theirs = ({k: v.shape for k, v in weights.items()} for weights in (model.state_dict(), state[name]))
            if mine != theirs:
                raise ValueError("it holds another model")
        history, done, kl = json.loads(state.get("history", "[]")), state["done"], state["kl"]
        load_optimiser(run.optimiser, state["optimiser"])
        for name, model in models.items():
            load(model, state[name])
    except Exception as error:  # torch names a foreign file in many ways
        raise PromptlabError(
            f"{path} is no checkpoint of this run ({type(error).__name__}: {error}). Delete it, or give the run another folder."
        ) from error
    run.history, run.done, run.kl, run.kept = history, done, kl, path


def repair(run, log):
    """Write the metrics again where they are not those of the checkpoint, which is the one that counts: a log gets lost, cut, or ahead.

    Checkpoints of earlier versions hold none, so there the log is all there is.
    """
    rows, _ = whole_rows(log)
    if len(run.history) < run.done:
        known = {row["update"]: row for row in rows if "update" in row}
        run.history = [known[i] for i in range(run.done) if i in known]
        if missing := run.done - len(run.history):
            print(f"{log} is damaged or lost: the metrics of {missing} of {run.done} updates are missing. The weights are whole.")
    elif rows != run.history:
        write_jsonl(log, run.history)
