"""The most memory that a process and everything it started hold at one time."""

import os
import threading
import time
from pathlib import Path

EVERY = 0.5  # seconds between two looks, each of which takes some milliseconds


class Peak:
    """Inside a `with` block, the peak memory of process `pid` and all below it, in MB, as `mb`; by default of this process.

    Looks twice a second. A peak between two looks is not missed where the system marks the most a process has ever held
    (Linux): a mark that moved since the last look counts. Pages that several processes share count in each of them.
    """

    def __init__(self, pid=None):
        self.mb, self._pid, self._marks, self._lock = 0, pid or os.getpid(), {}, threading.Lock()
        self._done, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.look(first=True)  # what the process held before the block is not its peak
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.look()

    def _watch(self):
        while not self._done.wait(EVERY):
            self.look()

    def look(self, first=False):
        """Count what is held now; processes that are gone count no longer."""
        with self._lock:  # the thread may be looking too
            self._look(first)

    def _look(self, first):
        import psutil

        try:
            root = psutil.Process(self._pid)
            family = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        held = 0
        for process in family:
            try:
                if process != root and _just_forked(process):
                    continue
                now = process.memory_info().rss
            except psutil.Error:  # it ended just now
                continue
            mark = _mark(process.pid)
            # A process that began since the last look had no mark then: all it ever held falls into this time.
            moved = not first and mark > self._marks.get(process, 0)
            held += max(now, mark) if moved else now
            self._marks[process] = mark
        self.mb = max(self.mb, held >> 20)


def _just_forked(process) -> bool:
    """Whether a process is about to become another program: until then it shows its parent's memory, all of it, as its own."""
    parent = process.parent()
    return parent is not None and time.time() - process.create_time() < EVERY and process.cmdline() == parent.cmdline()


def _mark(pid) -> int:
    """The most bytes process `pid` has held so far, or 0 where the system keeps no such mark."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0
