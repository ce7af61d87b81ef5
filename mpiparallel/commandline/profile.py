"""``mpiparallel profile``: show, write and check named settings."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel import connection_file, launchoptions, profiles
from mpiparallel.commandline import arguments, exits
from mpiparallel.commandline.printing import fail, print_json, print_table, say
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel profile new hpc --engines slurm -p debug -t 1:00:00 --set modules=openmpi
                                                 a file with all settings explained, and these set
  mpiparallel profile check                      whether all files are right
  mpiparallel profile show hpc                   what holds for it now, and where each setting is from
  mpiparallel profile show hpc -p long           ... with this on the command line
  mpiparallel profile show --all                 all settings of the default profile, explained
  mpiparallel profile list                       names, and how many clusters of each run

A setting on the command line goes before MPIPARALLEL_<SETTING> in the environment, that before the
profile, and that before the default.
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "profile",
        description="Profiles are named settings: how controller and engines are started. They are the files "
        "NAME.toml in ~/.config/mpiparallel/profiles; default.toml is for clusters that name none.",
        examples=EXAMPLES,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = _action(actions, "show", "show the settings that hold for a profile, and where each is from")
    show.add_argument("name", nargs="?", metavar="NAME", help="which ($MPIPARALLEL_PROFILE, or default)")
    show.add_argument("--all", action="store_true", help="all settings, explained, and not only what is set")
    arguments.add_json(show)
    arguments.add_number(show)
    arguments.add_engine_options(show, controller=True)
    new = _action(actions, "new", "write a profile with all settings explained, and those set that are given")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--force", action="store_true", help="write it anew if there is one")
    arguments.add_number(new)
    arguments.add_engine_options(new, controller=True)
    check = _action(actions, "check", "say what is wrong with profiles; exit code 1 if something is")
    check.add_argument("names", nargs="*", metavar="NAME", help="which (all)")
    arguments.add_json(check)
    listing = _action(actions, "list", "list the profiles, and how many clusters of each run")
    arguments.add_json(listing)


def _action(actions: arguments.Subcommands, name: str, meaning: str) -> argparse.ArgumentParser:
    return actions.add_parser(name, help=meaning, description=meaning[0].upper() + meaning[1:] + ".")


def run(options: argparse.Namespace, config: Config) -> int:
    """Do what the action says."""
    return {"show": show, "new": new, "check": check, "list": list_profiles}[options.action](options, config)


# ---------------------------------------------------------------- show


def show(options: argparse.Namespace, config: Config) -> int:
    """Show the settings that hold for a profile."""
    name = options.name or config.profile
    given = arguments.given(options)
    told = profiles.Layer(given, dict.fromkeys(given, "the command line"))
    path = profiles.path_of(name, config)
    if options.name and not path.exists() and not _clusters(config).get(name):
        return _unknown(name, config)
    layers = [told, *profiles.layers(name, config, os.environ)]
    rows = settings(layers, everything=options.all)
    if options.json:
        print_json({"profile": name, "file": str(path) if path.exists() else None, "settings": rows})
        return exits.DONE
    if not path.exists():
        say(f"The profile {name!r} has no file; write one by: mpiparallel profile new {name}")
    if options.all:
        print_table(["setting", "value", "from", "meaning"], [_shown(row) for row in rows])
    elif rows:
        print_table(["setting", "value", "from"], [_shown(row) for row in rows])
    else:
        say("Nothing is set: all are defaults (--all shows them).")
    return exits.DONE


def settings(layers: list[profiles.Layer], everything: bool) -> list[dict[str, Any]]:
    """Return name, value, source and meaning of the settings that some layer has, or of all."""
    values = launchoptions.merged(*(layer.values for layer in layers))
    sources = profiles.sources(layers)
    rows = []
    for key, meaning in launchoptions.descriptions().items():
        default = getattr(launchoptions.DEFAULTS, key)
        here = {key: values.get(key, default)}
        if key == "environment":
            here = {f"{key}.{name}": text for name, text in values.get(key, {}).items()} or {key: {}}
        for full, value in here.items():
            if full in sources or everything:
                source = sources.get(full, "default")
                rows.append({"setting": full, "value": value, "from": source, "meaning": meaning})
    return rows


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    value = row["value"]
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, list):
        value = " ".join(map(repr, value))
    elif value == {}:
        value = ""
    return {**row, "value": value}


def _unknown(name: str, config: Config) -> int:
    near = profiles.similar(name, config)
    hint = f"did you mean {near!r}?" if near else f"write it by: mpiparallel profile new {name}"
    return fail(f"there is no {profiles.path_of(name, config)}; {hint}", exits.FAILED)


# ---------------------------------------------------------------- new


def new(options: argparse.Namespace, config: Config) -> int:
    """Write a profile."""
    path = profiles.path_of(options.name, config)
    if path.exists() and not options.force:
        return fail(f"{path} is there already: edit it, or write it anew by --force", exits.FAILED)
    given = arguments.given(options)
    if options.dedicated_bridge:
        given["engine_args"] = [*given.get("engine_args", []), "--dedicated-bridge"]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Aside and renamed: who starts a cluster at this moment reads the old one or the new one.
    connection_file.write_private(path, profiles.template(options.name, given).encode())
    say(f"{path} is written. Edit it, then: mpiparallel profile check {options.name}")
    return exits.DONE


# ---------------------------------------------------------------- check


def check(options: argparse.Namespace, config: Config) -> int:
    """Say what is wrong with profiles."""
    names = options.names or profiles.names(config)
    missing = [name for name in names if not profiles.path_of(name, config).exists()]
    for name in missing:
        _unknown(name, config)
    rows = [_checked(name, config) for name in names if name not in missing]
    wrong = bool(missing) or any(row["problems"] for row in rows)
    if options.json:
        print_json(rows)
        return exits.FAILED if wrong else exits.DONE
    if not names:
        say(f"There are no profiles in {profiles.folder(config)}; write one by: mpiparallel profile new NAME")
    for row in rows:
        for problem in row["problems"]:
            say(problem)
        for doubt in row["doubts"]:
            say(f"{row['file']}: {doubt}")
        if not row["problems"]:
            say(f"{row['file']}: {'right, but see above' if row['doubts'] else 'right'}")
    return exits.FAILED if wrong else exits.DONE


def _checked(name: str, config: Config) -> dict[str, Any]:
    profile = profiles.load(name, config)
    found = [*profiles.doubts(profile.values), *_missing(profile.values)]
    return {"profile": name, "file": str(profile.path), "problems": profile.problems, "doubts": found}


# The program that each launcher cannot do without.
_PROGRAMS = {"slurm": "sbatch", "srun": "srun", "pbs": "qsub", "lsf": "bsub", "ssh": "ssh"}


def _missing(values: Mapping[str, Any]) -> list[str]:
    """Return what a profile names that is not on this machine; it may be on the one where it is used."""
    found = []
    for launcher in dict.fromkeys(str(values.get(key, "mpi")) for key in ("engines", "controller")):
        program = _PROGRAMS.get(launcher)
        if program and shutil.which(program) is None:
            found.append(f"{launcher!r} needs {program}, which is not on the PATH here")
    if values.get("engines", "mpi") == "mpi" and not values.get("modules") and not values.get("setup"):
        for key in ("python", "mpiexec"):
            if values.get(key) and shutil.which(values[key]) is None:
                found.append(f"{key} = {values[key]!r}: there is no such program here")
    return found


# ---------------------------------------------------------------- list


def list_profiles(options: argparse.Namespace, config: Config) -> int:
    """List the profiles."""
    running = _clusters(config)
    rows = []
    for name in sorted({*profiles.names(config), *(name for name, n in running.items() if n)}):
        path = profiles.path_of(name, config)
        profile = profiles.load(name, config)
        engines = profile.values.get("engines", launchoptions.DEFAULTS.engines)
        state = "wrong: see mpiparallel profile check" if profile.problems else "right"
        rows.append(
            {
                "profile": name,
                "engines": engines,
                "clusters": running.get(name, 0),
                "state": state if path.exists() else "",
                "file": str(path) if path.exists() else None,
            }
        )
    if options.json:
        print_json(rows)
    elif rows:
        print_table(["profile", "engines", "clusters", "state", "file"], rows)
    else:
        say(f"There are no profiles in {profiles.folder(config)}; write one by: mpiparallel profile new NAME")
    return exits.DONE


def _clusters(config: Config) -> dict[str, int]:
    """Return how many clusters of each profile run."""
    found: dict[str, int] = {}
    for folder in files.find(config):
        if files.judge(folder) != "stale":
            name, _ = files.names(folder)
            found[name] = found.get(name, 0) + 1
    return found
