"""The command line: `python -m promptlab doctor`, `run`, `measure`, `prompts` and `links`."""

import argparse
import importlib
import os
import sys
from importlib import metadata

from promptlab import config, runtime
from promptlab.course import colab, notebooks
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
    commands.add_parser("measure", help="how long Stable Diffusion, CLIP and PPO of GPT-2 take on this machine; downloads nothing")
    commands.add_parser("links", help="write the setup cell, badges and links of pyproject.toml's repository into every notebook")
    chosen = parser.parse_args(arguments)
    verbs = {
        "doctor": doctor,
        "run": lambda: run(chosen.notebooks),
        "measure": measure,
        "prompts": lambda: prompts(chosen),
        "links": write_links,
    }
    return runtime.exit_code(verbs[chosen.command], "\nStopped. What was made so far is kept.")


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


def write_links():
    """Bring the notebooks in line with pyproject.toml and say which changed."""
    from promptlab.course import links

    changed = links.write()
    print("\n".join(f"written: {path}" for path in changed) or "The notebooks already agree with pyproject.toml.")


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
