"""`python -m promptlab.pocket build` trains the pocket world from nothing; the other verbs rehearse that and measure the result."""

import argparse
import sys
from pathlib import Path

from promptlab.runtime import data_dir, exit_code, home

VERBS = {
    "build": "train every model (resumes where it stopped)",
    "rehearse": "the same in miniature, to see that it works here",
    "card": "measure the models",
    "sheet": "drawn pictures with numbers and, in another file, what was asked for: can you name them?",
    "prompts": "the community's prompts and their splits, data/prompts",
    "reference": "train the shipped policies and measure every method, results.json (resumes too)",
    "results": "its intervals again, without drawing",
    "strip": "the README's picture and number",
    "evolve": "evolved keywords against chance and fashion, evolution.json (resumes too)",
    "learners": "DPO, GRPO, RLOO and others beside PPO, at equally many pictures, learners.json (resumes too)",
    "tastes": "PPO with the tastes of three simulated readers, tastes.json (resumes too)",
    "pretraining": "the preset laptop measured beside pocket, pretraining.json (resumes too)",
}


def main(arguments=None) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m promptlab.pocket", description="Build or measure the pocket world.")
    parser.add_argument("verb", choices=tuple(VERBS), help="; ".join(f"{verb}: {what}" for verb, what in VERBS.items()))
    parser.add_argument("--out", type=Path, default=data_dir() / "pocket", help="folder of the finished world (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=9.0, help="of a build, shared out among its stages (default: %(default)s)")
    parser.add_argument("--stages", default="", help="of a build, with commas between, such as unet,generator (default: all)")
    parser.add_argument("--minutes", type=float, help="after which training stops with a checkpoint; the same command goes on")
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.hours < 1000:
        parser.error(f"--hours takes a number above 0, such as 9; got {chosen.hours}")
    # Only now, as PyTorch takes seconds.
    from promptlab.pocket import build, card, community, evolving, learners, pretraining, reference, sheet, strip, tastes, training

    stages = [s for s in chosen.stages.split(",") if s]
    unknown = [s for s in stages if s not in build.STAGES]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r}. Choose from: {', '.join(build.STAGES)}")
    verbs = {
        "build": lambda out: build.build(out, chosen.hours, stages), "rehearse": build.rehearse, "sheet": sheet.write, "strip": strip.write,
        "card": lambda out: card.write(out, build.preset_for(out), build.build_folder() / "cache"), "reference": reference.write,
        "results": reference.write_results, "pretraining": pretraining.write, "evolve": evolving.write,
        "learners": learners.write, "tastes": tastes.write, "prompts": lambda _: community.write(data_dir() / "prompts"),
    }  # fmt: skip
    training.stop_after(chosen.minutes)
    # A rehearsal never writes over the real world.
    out = home() / "pocket" / "rehearsed" if chosen.verb == "rehearse" else chosen.out
    return exit_code(lambda: verbs[chosen.verb](out), "Stopped. The same command goes on from the last checkpoint.")


if __name__ == "__main__":
    sys.exit(main())
