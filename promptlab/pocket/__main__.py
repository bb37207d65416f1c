"""`python -m promptlab.pocket build`: train the pocket world from nothing."""

from pathlib import Path

from promptlab.pocket.build import build
from promptlab.runtime import data_dir

if __name__ == "__main__":
    import sys

    build(Path(sys.argv[2]) if len(sys.argv) > 2 else data_dir() / "pocket")
