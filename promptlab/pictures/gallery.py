"""Every picture ever drawn, remembered: embeddings, facts and small copies in one SQLite file.

Keeping embeddings and not scores is what lets a slider re-score thousands of pictures while it moves, and lets a
stopped run go on without drawing anything again.
"""

import io
import json
import sqlite3
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from promptlab.pictures.load import load_generator
from promptlab.referee import load_referee
from promptlab.runtime import PromptlabError, bar, local_home

TABLE = "create table if not exists pictures (key text primary key, embedding blob, facts text, thumbnail blob)"
THUMBNAIL = 128  # pixels a side, the size at which widgets show pictures


class Gallery:
    """Draws what is not yet known and recalls the rest. Safe under two processes and a kill: SQLite commits per batch."""

    def __init__(self, preset, clip, folder=None):
        self.preset, self.clip = preset, clip
        self.path = Path(folder or local_home() / preset.name / "cache") / "pictures.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            raise PromptlabError(
                f"{self.path} cannot be opened ({error}). Delete it, or let PROMPTLAB_HOME name another folder."
            ) from error
        self._write(TABLE)

    def _write(self, statement, rows=((),)):
        """Run one statement for every row, all of them or none."""
        try:
            with self.db:
                self.db.executemany(statement, rows)
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
        other.generator = self.generator  # one in memory is enough
        return other

    @cached_property
    def version(self):
        """A hash of the CLIP and judge that looked; with the generator's key it names a row."""
        return f"{self.clip.fingerprint}-{self.judge.fingerprint if self.judge else ''}"

    def _look(self, prompts, seeds, progress, column):
        keys = [json.dumps([self.version, *self.generator.key(p, s)]) for p, s in zip(prompts, seeds, strict=True)]
        # A row from another machine has no small picture (promptlab.course.keeping): it is drawn again where one is asked for.
        missing = {k: (p, s) for k, p, s in zip(keys, prompts, seeds, strict=True) if self._recall(k, column) is None}
        todo, batch = list(missing.items()), self.generator.batch
        done = bar(total=len(todo), desc="drawing", disable=not (progress and todo))
        for i in range(0, len(todo), batch):
            some = todo[i : i + batch]
            images = self.generator.generate([p for _, (p, _) in some], [s for _, (_, s) in some])
            self._remember([k for k, _ in some], images)
            done.update(len(some))
        done.close()
        rows = {k: self._recall(k, column) for k in dict.fromkeys(keys)}
        return [rows[k] for k in keys]

    def _recall(self, key, column):
        """One column of a row, or None where the picture is not known."""
        try:
            row = self.db.execute(f"select {column} from pictures where key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return row and row[0]

    def _remember(self, keys, images):
        from PIL import Image

        embeddings, facts, small = self.clip.embed_images(images), self.judge.facts(images) if self.judge else [{} for _ in images], []
        for image in images:
            picture, buffer = Image.fromarray(image), io.BytesIO()
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            picture.save(buffer, "PNG")
            small.append(buffer.getvalue())
        rows = [(k, e.astype(np.float32).tobytes(), json.dumps(f), t) for k, e, f, t in zip(keys, embeddings, facts, small, strict=True)]
        self._write("insert or replace into pictures values (?, ?, ?, ?)", rows)

    def embeddings(self, prompts, seeds, progress=False):
        """CLIP image embeddings, float32 (n, width), of one picture per (prompt, seed)."""
        return np.stack([np.frombuffer(row, np.float32) for row in self._look(prompts, seeds, progress, "embedding")])

    def facts(self, prompts, seeds, progress=False):
        """What the referee keeps of each picture, one dict each; on pocket gold, subjects (best two), colour, medium, background."""
        return [json.loads(row) for row in self._look(prompts, seeds, progress, "facts")]

    def thumbnails(self, prompts, seeds, progress=False):
        """PNG bytes of one picture per (prompt, seed), at most 128 pixels a side."""
        return self._look(prompts, seeds, progress, "thumbnail")

    def pictures(self, prompts, seeds, progress=False):
        """The same as uint8 (n, 128, 128, 3) arrays."""
        from PIL import Image

        return np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in self.thumbnails(prompts, seeds, progress)])
