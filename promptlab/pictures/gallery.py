"""Every picture ever drawn, remembered: embeddings, facts and small copies in one SQLite file.

Keeping embeddings and not scores is what lets a slider re-score thousands of pictures while it moves, and lets a
stopped run go on without drawing anything again.
"""

import io
import json
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from promptlab.pictures.load import load_generator
from promptlab.referee import load_referee
from promptlab.runtime import PromptlabError, bar, local_home

TABLE = "create table if not exists pictures (key text primary key, embedding blob, facts text, thumbnail blob)"
SIZES = "create table if not exists sizes (version text primary key, bytes integer)"  # of an embedding, by who looked
THUMBNAIL = 128  # pixels a side, the size at which widgets show pictures


class Gallery:
    """Draws what is not yet known and recalls the rest. Safe under two processes, two threads and a kill: SQLite commits per batch."""

    def __init__(self, preset, clip, folder=None):
        self.preset, self.clip = preset, clip
        self.lock, self.drawing, self.looking = (threading.RLock() for _ in range(3))  # one thread reads or writes, one draws, one looks
        self.path = Path(folder or local_home() / preset.name / "cache") / "pictures.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            raise PromptlabError(
                f"{self.path} cannot be opened ({error}). Delete it, or let PROMPTLAB_HOME name another folder."
            ) from error
        self._write(TABLE), self._write(SIZES)

    def _write(self, statement, rows=((),)):
        """Run one statement for every row, all of them or none."""
        try:
            with self.lock, self.db:
                self.db.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _read(self, statement, key):
        """The first row of an answer, or None."""
        try:
            with self.lock:
                return self.db.execute(statement, (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error):
        return PromptlabError(
            f"{self.path} cannot be used as a cache ({error}). Free some space, or delete it: its pictures are drawn again when needed."
        )

    @cached_property
    def generator(self):
        """The text-to-image model, loaded when the first picture must be drawn."""
        return load_generator(self.preset)

    @cached_property
    def judge(self):
        """The referee (promptlab.referee), loaded when a picture is first asked for; None for a preset without one."""
        return load_referee(self.preset.judge)

    def seen_by(self, eye):
        """A gallery of the same pictures as another eye sees them, anything with `fingerprint` and `embed_images`; no referee looks on."""
        other = Gallery(replace(self.preset, judge=""), eye, self.path.parent)
        with self.lock:
            other.generator, other.drawing, other.looking = self.generator, self.drawing, self.looking  # one in memory is enough
        return other

    @cached_property
    def version(self):
        """A hash of the CLIP and judge that looked; with the generator's key it names a row."""
        return f"{self.clip.fingerprint}-{self.judge.fingerprint if self.judge else ''}"

    def _look(self, prompts, seeds, progress, column):
        with self.lock:  # two threads must not load the generator twice
            keys = [json.dumps([self.version, *self.generator.key(p, s)]) for p, s in zip(prompts, seeds, strict=True)]
        # A row from another machine has no small picture (promptlab.course.keeping): it is drawn again where one is asked for.
        rows = {k: self._recall(k, column) for k in dict.fromkeys(keys)}
        missing = {k: (p, s) for k, p, s in zip(keys, prompts, seeds, strict=True) if rows[k] is None}
        todo, batch = list(missing.items()), self.generator.batch
        done = bar(total=len(todo), desc="drawing", disable=not (progress and todo))
        batches, images, before = [todo[i : i + batch] for i in range(0, len(todo), batch)], None, ([], None)
        if batches:
            batches.append([])
        for some in batches:  # each is looked at and written while the next is drawn: half of that keeps only one core busy
            with beside(self._remember, *before):
                if some:
                    with self.drawing:  # a copy: the generator may draw the next batch into the same memory
                        images = np.array(self.generator.generate([p for _, (p, _) in some], [s for _, (_, s) in some]))
            done.update(len(before[0]))
            before = [k for k, _ in some], images
        done.close()
        rows |= {k: self._recall(k, column) for k in missing}
        if any(row is None for row in rows.values()):
            raise self._broken("a row that was just written is not there")
        return [rows[k] for k in keys]

    def _recall(self, key, column):
        """One column of a row, read, or None where the picture is not known or the row is damaged: it is drawn again then."""
        row = self._read(f"select {column} from pictures where key = ?", key)
        return None if row is None else {"embedding": self._embedding, "facts": self._fact, "thumbnail": picture_or_none}[column](row[0])

    def _embedding(self, blob):
        if not isinstance(blob, bytes) or len(blob) != self._bytes:
            return None
        values = np.frombuffer(blob, np.float32)
        return values if np.isfinite(values).all() else None

    @cached_property
    def _bytes(self):
        """How long a whole embedding is: an eye says so only by looking, once."""
        known = self._read("select bytes from sizes where version = ?", self.version)
        if known is None:
            known = (4 * self.clip.embed_images(np.zeros((1, THUMBNAIL, THUMBNAIL, 3), np.uint8)).shape[1],)
            self._write("insert or replace into sizes values (?, ?)", [(self.version, *known)])
        return known[0]

    def _fact(self, text):
        try:
            fact = json.loads(text)
        except (ValueError, TypeError):
            return None
        whole = getattr(self.judge, "whole", lambda _: True)  # a referee of your own need not say
        return fact if isinstance(fact, dict) and whole(fact) else None

    def _remember(self, keys, images):
        from PIL import Image

        if not keys:
            return
        with self.looking:
            embeddings, facts, small = self.clip.embed_images(images), self.judge.facts(images) if self.judge else [{} for _ in images], []
        if hasattr(self.generator, "blacked_out"):
            black = self.generator.blacked_out(images)
            facts = [fact | {"blacked_out": True} if hidden else fact for fact, hidden in zip(facts, black, strict=True)]
        for image in images:
            picture, buffer = Image.fromarray(image), io.BytesIO()
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            picture.save(buffer, "PNG", compress_level=1)  # a quarter of the time for a tenth more bytes
            small.append(buffer.getvalue())
        rows = [(k, e.astype(np.float32).tobytes(), json.dumps(f), t) for k, e, f, t in zip(keys, embeddings, facts, small, strict=True)]
        self._write("insert or replace into pictures values (?, ?, ?, ?)", rows)

    def embeddings(self, prompts, seeds, progress=False):
        """CLIP image embeddings, float32 (n, width), of one picture per (prompt, seed)."""
        return np.stack(self._look(prompts, seeds, progress, "embedding"))

    def facts(self, prompts, seeds, progress=False):
        """What the referee keeps of each picture, one dict each; on pocket gold, subjects (two at most), colour, medium, background."""
        return self._look(prompts, seeds, progress, "facts")

    def blacked_out(self, prompts, seeds):
        """Which pictures a safety checker has blacked out, bool (n,): they show nothing that could be scored."""
        return np.array([fact.get("blacked_out") is True for fact in self.facts(prompts, seeds)], bool)

    def thumbnails(self, prompts, seeds, progress=False):
        """PNG bytes of one picture per (prompt, seed), at most 128 pixels a side."""
        return self._look(prompts, seeds, progress, "thumbnail")

    def pictures(self, prompts, seeds, progress=False):
        """The same as uint8 (n, 128, 128, 3) arrays."""
        from PIL import Image

        return np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in self.thumbnails(prompts, seeds, progress)])


@contextmanager
def beside(work, *given):
    """Do some work in a thread of its own meanwhile; at the end it is waited for, and what went wrong there is raised here."""
    import torch

    wrong, grad = [], torch.is_grad_enabled()  # a new thread would begin with gradients

    def run():
        try:
            with torch.set_grad_enabled(grad):
                work(*given)
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if wrong:
            raise wrong[0]


def picture_or_none(png):
    """The bytes of a PNG picture, or None where they are damaged."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as picture:
            picture.load()
            return png if picture.mode == "RGB" else None
    except Exception:  # Pillow has many kinds of error for damaged bytes
        return None
