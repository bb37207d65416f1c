"""`python -m promptlab.pocket build` trains the pocket world from nothing; `card` measures it again, `strip` remakes the README's picture."""

import argparse
import sys
from pathlib import Path

from promptlab.runtime import PromptlabError, data_dir


def main(arguments=None) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m promptlab.pocket", description="Build or measure the pocket world.")
    parser.add_argument(
        "verb",
        choices=("build", "card", "strip"),
        help="build: train every model (resumes where it stopped); card: measure them; strip: the README's picture and number",
    )
    parser.add_argument("--out", type=Path, default=data_dir() / "pocket", help="folder of the finished world (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    from promptlab.pocket import build, card, strip

    try:
        {"build": build.build, "card": card.write, "strip": strip.write}[chosen.verb](chosen.out)
    except PromptlabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
