"""The command line: `python -m promptlab` and a verb, such as `doctor`, `run`, `sft`, `ppo`, `evaluate` or `rewrite "a frog"`."""

import argparse
import contextlib
import importlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path

from promptlab import config, runtime
from promptlab.course import colab, links, notebooks, site
from promptlab.models import sources
from promptlab.models.weights import check_weights
from promptlab.runtime import PromptlabError

# Distributions whose import name is another.
IMPORT_NAME = {"open-clip-torch": "open_clip", "pillow": "PIL", "ipython": "IPython"}


def main(arguments=None) -> int:
    """Run one command and return the exit code; errors a user can repair are printed without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m promptlab", description="Teach a small language model to write better image prompts.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what is installed, which hardware and preset are used, and what is broken")
    command = commands.add_parser("run", help="execute the notebooks without a browser")
    command.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="for example 00_tour, or a path to an .ipynb file; default: all")
    command = commands.add_parser(
        "prompts", help="fetch public collections of prompts for a Stable Diffusion preset (without it, our keyword tables serve)"
    )
    command.add_argument(
        "collection", nargs="?", help="engineered prompts: a hub id, a folder or a file; default: Gustavosta/Stable-Diffusion-Prompts"
    )
    for kind in ("typed", "captions", "parti"):
        command.add_argument(f"--{kind}", metavar="COLLECTION", help="likewise, to test on; 'none' leaves it out")
    command.add_argument(
        "--column",
        action="append",
        metavar="NAME",
        help="the column that holds the texts, where it is not called prompt, caption or text; repeat it where your files differ",
    )
    command.add_argument(
        "--instruct", metavar="MODEL", help="an instruction-following language model that rephrases, by hub id or folder; default: rules"
    )
    command.add_argument("--limit", type=int, default=50_000, help="rows to read of each collection, chosen by chance; default: 50000")
    policies(commands)
    commands.add_parser("measure", help="how long Stable Diffusion, CLIP and PPO of GPT-2 take on this machine; downloads nothing")
    command = commands.add_parser("links", help="write the setup cell, badges and links of a repository into every notebook")
    command.add_argument("repository", nargs="?", help="such as https://github.com/you/promptlab; 'none' undoes it; default: as it is set")
    commands.add_parser("site", help="build the course as a site from its executed notebooks: searchable, and it needs no network")
    chosen = parser.parse_args(arguments)
    if getattr(chosen, "preset", None):
        os.environ["PROMPTLAB_PRESET"] = chosen.preset  # before anything asks for it, in this process and those it starts
    verbs = {
        "doctor": doctor,
        "run": lambda: run(chosen.notebooks),
        "measure": measure,
        "prompts": lambda: prompts(chosen),
        "links": lambda: links.update(chosen.repository),
        "site": site.build,
        "sft": lambda: sft(chosen),
        "ppo": lambda: ppo(chosen),
        "evaluate": lambda: evaluate(chosen),
        "rewrite": lambda: rewrite(chosen),
    }
    return runtime.exit_code(verbs[chosen.command], "\nStopped. What was made so far is kept.")


def policies(commands):
    """The verbs that train a policy, measure it and use it, with their options."""
    sayings = {
        "sft": "fine-tune the language model on engineered prompts, as lesson 01 does; goes on where it stopped",
        "ppo": "train the policy of sft by its reward, as lesson 03 does; goes on where it stopped",
        "evaluate": "measure plain prompts, sft and ppo on the test prompts of lesson 04",
        "rewrite": "rewrite prompts, a line for each",
    }
    command = {name: commands.add_parser(name, help=saying, description=saying) for name, saying in sayings.items()}
    for name, c in command.items():
        c.add_argument("--preset", choices=tuple(config.PRESETS), help="default: PROMPTLAB_PRESET, else pocket")
        if name != "evaluate":
            c.add_argument("--seed", type=int, default=0, help="for another run; default: 0")
        if name != "rewrite":
            made = "results.json goes; default: the run folder" if name == "evaluate" else "the policy goes; default: where lessons find it"
            c.add_argument("--out", type=Path, metavar="FOLDER", help=f"where {made}")
    command["ppo"].add_argument("--updates", type=positive, help="default: a full run of the preset")
    command["rewrite"].add_argument("prompts", nargs="+", metavar="PROMPT", help='such as "a frog"')
    command["rewrite"].add_argument("--stage", choices=("sft", "ppo"), default="ppo", help="which policy; default: ppo")
    command["rewrite"].add_argument("--n", type=positive, default=1, help="sample so many for each prompt; default: one, the likeliest")


def positive(text) -> int:
    """A whole number above 0, as argparse asks for it."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"takes a whole number above 0, such as 3; got {text!r}")
    return int(text)


def run(names) -> int:
    """Execute notebooks, print the table and where everything is; 1 where one failed."""
    records = notebooks.run(names)
    folder = notebooks.run_folder()
    print(f"\n{notebooks.table(records)}\nexecuted notebooks and table.md: {folder}\npictures: {folder / 'pictures'}")
    return int(any(r["result"] != "ok" for r in records))


def measure():
    """Time the big models on this machine, with random weights."""
    from promptlab.course import measure as measuring

    measuring.measure()


def prompts(chosen):
    """Fetch, filter and divide public collections, and say what was kept and where."""
    from promptlab.prompts import collections, instruct, load

    if config.preset().prompts:
        raise PromptlabError(
            f"The preset {config.preset().name} brings its own prompts. Set PROMPTLAB_PRESET to one that draws with Stable Diffusion."
        )
    given = {"prompts": chosen.collection, "typed": chosen.typed, "captions": chosen.captions, "parti": chosen.parti}
    wanted = {kind: None if name == "none" else name for kind, name in given.items() if name}
    defaults = dict(zip(given, collections.COLLECTIONS, strict=True))
    size = sum(collections.COLLECTIONS[n].megabytes for n in (defaults | wanted).values() if n in collections.COLLECTIONS)
    print(f"Downloads about {size} MB the first time (estimated).", flush=True)
    writer = instruct.instruct(chosen.instruct) if chosen.instruct else None
    splits, manifest = collections.fetch(**wanted, limit=chosen.limit, writer=writer, column=chosen.column)
    folder = load.write(splits, manifest)
    for name, c in manifest["collections"].items():
        gone = ", ".join(f"{n} by {why}" for why, n in c["filtered out"].items()) or "none"
        print(f"{name} ({c['licence']}): {c['kept']} of {c['read']} kept; filtered out: {gone}")
    print(f"{', '.join(f'{s} {len(r)}' for s, r in splits.items())} records in {folder}")


def sft(chosen):
    """Fine-tune the preset's language model on all its engineered prompts, and keep the policy."""
    from promptlab.policy import stage_policy
    from promptlab.prompts import load_prompts
    from promptlab.sft import finetune, own_folder

    scale, start, records = config.preset(), stage_policy("language"), load_prompts("sft")
    settings = scale.sft_epochs, scale.sft_lr
    folder = own_folder(start, records, *settings, *([chosen.seed] if chosen.seed else []))  # seed 0 goes on where lesson 01 stopped
    held = [r for r in load_prompts("validation") if r["y"]]
    keep(finetune(start, records, folder, *settings, seed=chosen.seed, held_out=held), "sft", chosen.out)


def ppo(chosen) -> int:
    """Train the policy of the stage before on the preset's prompts and pictures, keep it, and say whether the run looks healthy."""
    from promptlab import ppo as training
    from promptlab.diagnosis import explain
    from promptlab.policy import run_folder, stage_policy
    from promptlab.prompts import load_prompts
    from promptlab.rewards import PictureReward, Scorer

    policy, settings, updates = stage_policy("sft"), training.Settings(seed=chosen.seed), chosen.updates or config.preset().ppo_updates
    pool, folder = list(dict.fromkeys(r["x"] for r in load_prompts("ppo"))), run_folder("ppo", policy, settings)  # where lesson 03 trains
    history = training.train(policy, pool, PictureReward(Scorer(config.preset())), folder, updates, settings)
    done = history[-1]["update"] + 1 if history else 0
    if done >= updates:
        keep(policy, "ppo", chosen.out)
    if history:
        explain(history)
    return 0 if done >= updates else 130  # an interrupt, after which `train` has said how to go on


def keep(policy, stage, folder=None):
    """Save a trained policy, by default where lessons and the other verbs look for the reader's own."""
    from promptlab.policy import own_policy

    folder = folder or own_policy(stage)
    policy.save(folder)
    print(f"{stage} policy kept in {folder}")


def evaluate(chosen):
    """Measure plain prompts and both policies on the same test prompts and image seeds; print intervals and write `results.json`."""
    from promptlab import evaluation
    from promptlab.policy import stage_policy
    from promptlab.prompts import load_prompts
    from promptlab.rewards import Scorer

    scale, test = config.preset(), load_prompts("test")
    records, seeds = test[:: max(1, len(test) // scale.test_prompts)], evaluation.SCORING[: scale.test_images]  # as in lesson 04
    texts = {"plain": [r["x"] for r in records]}
    texts |= {stage: stage_policy(stage).rewrite(texts["plain"], progress=True) for stage in ("sft", "ppo")}
    scorer = Scorer(config.for_evaluation())  # only now: beside a policy it may not fit
    measured = {method: [evaluation.measure(scorer, records, written, seeds, progress=True)] for method, written in texts.items()}
    found = evaluation.results(measured, records)
    path = (chosen.out or runtime.home() / scale.name / "evaluate") / "results.json"
    runtime.write_atomically(path, json.dumps(found, indent=1))
    print(f"{results_table(found)}\n\n{len(records)} prompts x {len(seeds)} image seeds; more in {path}")


def results_table(records) -> str:
    """The records of an evaluation as text: a block for each set, a row for each metric, means with their 95 % intervals."""
    columns, lines = {"plain": ("plain", None), "sft": ("sft", None), "ppo": ("ppo", None), "ppo minus sft": ("ppo", "sft")}, []
    cells = {(r["set"], r["metric"], r["method"], r["versus"]): f"{r['mean']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in records}
    for name in dict.fromkeys(r["set"] for r in records if r["set"] in ("in_domain", "out_of_domain")):
        lines += ["", f"{name:<14}" + "".join(f"{c:<26}" for c in columns).rstrip()]
        for metric in dict.fromkeys(r["metric"] for r in records):
            lines.append(f"{metric:<14}" + "".join(f"{cells[(name, metric, *c)]:<26}" for c in columns.values()).rstrip())
    return "\n".join(lines)


def rewrite(chosen):
    """Print rewrites and nothing else, so that another program can read them; which policy wrote them goes to stderr."""
    from promptlab.policy import stage_policy

    with contextlib.redirect_stdout(sys.stderr):
        policy = stage_policy(chosen.stage)
    found = policy.rewrite(chosen.prompts) if chosen.n == 1 else policy.rewrite(chosen.prompts, chosen.n, "sample", seed=chosen.seed)
    print("\n".join(line for texts in found for line in ([texts] if chosen.n == 1 else texts)))


def doctor() -> int:
    """Check everything the course needs and print OK or FAIL per line; 1 where anything fails."""
    checks = [
        ("python", lambda: sys.version.split()[0]),
        *dependencies(),
        ("hardware", lambda: str(runtime.hardware())),
        ("preset", lambda: f"{config.preset().name} ({config.preset_reason()}): {config.preset().purpose}"),
        *((f"weights {part}", lambda part=part: weights(part)) for part in ("generator", "clip", "aesthetic", "judge")),
        ("hub token", lambda: colab.find_token() or "none; the models of this course need none"),
        ("run folder", writable),
    ]
    return int(not all([check(name, what) for name, what in checks]))


def check(name, what) -> bool:
    """Print `OK name what()`, or `FAIL name why` where it raises."""
    try:
        text, ok = what(), True
    except Exception as error:  # a broken library may raise anything on import
        text, ok = str(error) if isinstance(error, PromptlabError) else f"{type(error).__name__}: {error}", False
    print(f"{'OK  ' if ok else 'FAIL'}  {name:<20}  {text}", flush=True)
    return ok


def dependencies() -> list:
    """One check per library that the installed package asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(r) for r in metadata.requires("promptlab") or []]
    except metadata.PackageNotFoundError:
        return [("promptlab", not_installed)]
    return [(r.name, lambda r=r: dependency(r)) for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]


def dependency(requirement) -> str:
    """The version of an installed library that imports and lies within the range we ask for."""
    from packaging.utils import canonicalize_name

    version = metadata.version(requirement.name)
    if not requirement.specifier.contains(version, prereleases=True):
        raise PromptlabError(f"{version} is outside {requirement.specifier}. To repair it: pip install '{requirement}'")
    importlib.import_module(IMPORT_NAME.get(canonicalize_name(requirement.name), requirement.name.replace("-", "_")))
    return version


def not_installed():
    raise PromptlabError("is not installed here, so nobody checked its libraries. To repair it: pip install -e . in the checkout")


def weights(part) -> str:
    """Where the weights of one part of the preset are, once they prove readable; for a hub id, what it is."""
    source = getattr(config.preset(), part)
    if not source:
        return f"the preset {config.preset().name} has none"
    if source in sources.HUB:
        model = sources.HUB[source]
        return f"{source} on the hub ({model.megabytes:,.0f} MB, {model.licence}), downloaded when first needed"
    folder = runtime.data_dir() / source
    size = sum(f.stat().st_size for f in check_weights(folder))
    return f"{folder} ({size / 1e6:.1f} MB)"


def writable() -> str:
    """The run folder, once a file could be written there."""
    probe = runtime.home() / f".doctor-{os.getpid()}"
    runtime.write_atomically(probe, "")
    probe.unlink()
    return str(runtime.home())


if __name__ == "__main__":
    sys.exit(main())
