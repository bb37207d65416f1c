"""`python -m promptlab.pocket build` trains the pocket world from nothing; the other verbs rehearse that and measure the result."""

import argparse
import sys
from pathlib import Path

from promptlab.runtime import data_dir, exit_code, home

VERBS = """build: train every model (resumes where it stopped); rehearse: the same in miniature, to see that it works here;
card: measure the models; prompts: the community's prompts and their splits, data/prompts;
reference: train the shipped policies and measure every method, results.json (resumes too);
results: results.json again from what that run measured, when the way intervals are made has changed;
strip: the README's picture and number; pretraining: the preset laptop measured beside pocket, pretraining.json (resumes too)"""


def main(arguments=None) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m promptlab.pocket", description="Build or measure the pocket world.")
    parser.add_argument(
        "verb", choices=("build", "rehearse", "card", "prompts", "reference", "results", "strip", "pretraining"), help=VERBS
    )
    parser.add_argument("--out", type=Path, default=data_dir() / "pocket", help="folder of the finished world (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    from promptlab.pocket import build, card, community, pretraining, reference, strip

    verbs = {
        "build": build.build, "rehearse": build.rehearse, "strip": strip.write, "pretraining": pretraining.write,
        "card": lambda out: card.write(out, build.preset_for(out), build.build_folder() / "cache"),
        "reference": reference.write, "results": reference.write_results, "prompts": lambda _: community.write(data_dir() / "prompts"),
    }  # fmt: skip
    # A rehearsal never writes over the real world.
    out = home() / "pocket" / "rehearsed" if chosen.verb == "rehearse" else chosen.out
    return exit_code(lambda: verbs[chosen.verb](out), "Stopped. The same command goes on from the last checkpoint.")


if __name__ == "__main__":
    sys.exit(main())
