"""The command line: `python -m promptlab doctor` and `python -m promptlab run`."""

import argparse
import importlib
import os
import sys
from importlib import metadata

from promptlab import config, notebooks, runtime, sources
from promptlab.runtime import PromptlabError

# Distributions whose import name is another.
IMPORT_NAME = {"open-clip-torch": "open_clip", "pillow": "PIL"}


def main(arguments=None) -> int:
    """Run one command and return the exit code; errors a user can repair are printed without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m promptlab", description="Teach a small language model to write better image prompts.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what is installed, which hardware and preset are used, and what is broken")
    command = commands.add_parser("run", help="execute the notebooks without a browser")
    command.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="for example 00_tour, or a path to an .ipynb file; default: all")
    chosen = parser.parse_args(arguments)
    command = doctor if chosen.command == "doctor" else lambda: run(chosen.notebooks)
    return runtime.exit_code(command, "\nStopped. What was made so far is kept.")


def run(names) -> int:
    """Execute notebooks, print the table and where everything is; 1 where one failed."""
    records = notebooks.run(names)
    folder = notebooks.run_folder()
    print(f"\n{notebooks.table(records)}\nexecuted notebooks and table.md: {folder}\npictures: {folder / 'pictures'}")
    return int(any(r["result"] != "ok" for r in records))


def doctor() -> int:
    """Check everything the course needs and print OK or FAIL per line; 1 where anything fails."""
    checks = [
        ("python", lambda: sys.version.split()[0]),
        *dependencies(),
        ("hardware", lambda: str(runtime.hardware())),
        ("preset", lambda: f"{config.preset().name} ({config.preset_reason()}): {config.preset().purpose}"),
        *((f"weights {part}", lambda part=part: weights(part)) for part in ("generator", "clip", "aesthetic", "judge")),
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
    importlib.import_module(IMPORT_NAME.get(canonicalize_name(requirement.name), requirement.name))
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
    size = sum(f.stat().st_size for f in runtime.check_weights(folder))
    return f"{folder} ({size / 1e6:.1f} MB)"


def writable() -> str:
    """The run folder, once a file could be written there."""
    probe = runtime.home() / f".doctor-{os.getpid()}"
    runtime.write_atomically(probe, "")
    probe.unlink()
    return str(runtime.home())


if __name__ == "__main__":
    sys.exit(main())
