"""Profiles: named settings in files, and which of several places a setting comes from.

A profile is ``profiles/NAME.toml`` in the site folder (``~/.config/mpiparallel``), with the keys of
`LaunchOptions`. The first of these that has a setting wins: the command line or a keyword, an environment
variable ``MPIPARALLEL_<KEY>``, the profile, the default. A cluster that names no profile has that of
``default.toml``.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpiparallel import launchoptions
from mpiparallel.config import Config
from mpiparallel.launchoptions import LaunchOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "MPIPARALLEL_"


class ProfileError(ValueError):
    """A profile that cannot be used; the message has a line for each thing that is wrong with it."""


@dataclass(frozen=True)
class Layer:
    """Settings of one place.

    Attributes
    ----------
    values : mapping
        The settings, checked.
    sources : mapping of str
        Where each comes from, for people.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """What a profile's file says.

    Attributes
    ----------
    values : dict
        The settings that are right.
    lines : dict of int
        The line of each setting, where it could be found.
    problems : list of str
        What is wrong, each with file and line.
    """

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def folder(config: Config) -> Path:
    """Return the folder of the profiles."""
    return config.site_dir / "profiles"


def path_of(name: str, config: Config) -> Path:
    """Return where the profile `name` is, or would be.

    Raises
    ------
    ValueError
        If it is no name.
    """
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"profile {name!r}: it names a file, so it may not hold a slash or begin with a dot")
    return folder(config) / f"{name}.toml"


def names(config: Config) -> list[str]:
    """Return the names of the profiles that have a file."""
    return sorted(path.stem for path in folder(config).glob("*.toml"))


def parse(text: str, path: Path) -> Profile:
    """Return what `text`, the content of `path`, says."""
    profile = Profile(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        profile.problems.append(f"{path}: {_toml_error(str(error), text)}")
        return profile
    profile.lines.update(_lines(text, table))
    for key, value in table.items():
        try:
            profile.values[key] = launchoptions.check_one(key, value)
        except ValueError as error:
            line = f", line {profile.lines[key]}" if key in profile.lines else ""
            profile.problems.append(f"{path}{line}: {error}")
    return profile


def load(name: str, config: Config) -> Profile:
    """Return the profile `name`, with its problems; without values when it has no file.

    Raises
    ------
    ProfileError
        If its file cannot be read.
    """
    path = path_of(name, config)
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return Profile(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} cannot be read: {error}") from None


def read(name: str, config: Config) -> Layer:
    """Return the settings of the profile `name`: none when it has no file.

    Raises
    ------
    ProfileError
        If something is wrong with them.
    """
    profile = load(name, config)
    if profile.problems:
        raise ProfileError("\n".join(profile.problems))
    sources = {
        key: f"{profile.path}" + (f", line {profile.lines[key]}" if key in profile.lines else "")
        for key in profile.values
    }
    return Layer(profile.values, sources)


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Return the settings that ``MPIPARALLEL_<KEY>`` variables say; an empty one says nothing.

    Raises
    ------
    ValueError
        If one is wrong; the message names the variable.
    """
    values, sources = {}, {}
    for key in launchoptions.KEYS:
        variable = PREFIX + key.upper()
        text = environ.get(variable)
        # Launchers tell ranks how many they are to be, and where their log is.
        if not text or (key == "n" and environ.get("MPIPARALLEL_LOG")):
            continue
        try:
            values[key] = launchoptions.parse(key, text)
        except ValueError as error:
            raise ValueError(f"{variable}={text!r}: {error}") from None
        sources[key] = f"${variable}"
    return Layer(values, sources)


def layers(name: str, config: Config, environ: Mapping[str, str]) -> list[Layer]:
    """Return what goes before the defaults, in order: the environment, the profile.

    Raises
    ------
    ValueError
        If something in them is wrong.
    """
    return [from_environment(environ), read(name, config)]


def settle(given: Mapping[str, Any], name: str, config: Config, environ: Mapping[str, str]) -> LaunchOptions:
    """Return all settings, for what is started by the profile `name`; `given` was said on the command line.

    Raises
    ------
    ValueError
        If something is wrong; the message says in which place.
    """
    launchoptions.check(given, "the command line")
    rest = [layer.values for layer in layers(name, config, environ)]
    return launchoptions.check(launchoptions.joined(given, *rest), "the command line")


def sources(given: Sequence[Layer]) -> dict[str, str]:
    """Return where each setting that one of the layers has comes from; those of `environment` one by one."""
    found: dict[str, str] = {}
    for layer in given:
        for key, value in layer.values.items():
            for full in [f"{key}.{name}" for name in value] if key == "environment" else [key]:
                found.setdefault(full, layer.sources[key])
    return found


def similar(name: str, config: Config) -> str:
    """Return the name of a profile that may be meant by one which has no file; empty if there is none."""
    known = names(config)
    return "" if name in known else next(iter(difflib.get_close_matches(name, known, 1)), "")


# ---------------------------------------------------------------- doubts


# What a launcher makes nothing of.
_OF_JOBS = (
    "time", "partition", "account", "qos", "reservation", "constraint", "gres", "mem", "job_name", "requeue",
    "batch_args", "queue_timeout", "nodes", "ntasks_per_node",
)  # fmt: skip


def doubts(values: Mapping[str, Any]) -> list[str]:
    """Return what is right in itself, but makes no sense together."""
    options = LaunchOptions(**launchoptions.joined(values))
    found = []
    used = {options.engines, options.controller}
    if not used & {*launchoptions.BATCH, "srun"}:
        idle = [key for key in _OF_JOBS if key in values]
        if idle:
            found.append(
                f"{', '.join(idle)}: engines={options.engines!r} submits no job, so that nobody looks at "
                f"{'it' if len(idle) == 1 else 'them'}; for Slurm: engines = 'slurm'"
            )
    if "ssh" in used and not options.host:
        found.append("ssh needs to know where to: host = 'user@host'")
    if options.host and "ssh" not in used:
        found.append(f"host={options.host!r}: nothing is started by ssh")
    if options.controller in launchoptions.BATCH and options.controller != options.engines:
        found.append(
            f"controller={options.controller!r}: it runs in the job of the engines, so that engines is to be "
            f"{options.controller!r}, too"
        )
    if options.n and options.nodes and options.n < options.nodes:
        found.append(f"n={options.n} engines on nodes={options.nodes}: some would have nothing to do")
    places = (options.nodes or 0) * (options.ntasks_per_node or 0)
    if options.n and places and options.n > places:
        found.append(
            f"n={options.n} engines are more than nodes={options.nodes} times "
            f"ntasks_per_node={options.ntasks_per_node}"
        )
    return found


# ---------------------------------------------------------------- writing


_HEAD = """\
# The profile {name!r} of mpiparallel:
#
#     mpiparallel start --profile {name} -n 64
#     ipp.Client(profile={name!r})     ipp.Cluster(profile={name!r}, n=64)
#
# What a command line or an environment variable MPIPARALLEL_<KEY> says goes before what is here.
# See `mpiparallel profile check {name}` and `mpiparallel profile show {name}`.
"""


def template(name: str, values: Mapping[str, Any]) -> str:
    """Return the text of a new profile: all settings explained, and `values` set."""
    parts = [_HEAD.format(name=name)]
    said = ""
    for key, meaning in launchoptions.descriptions().items():
        if key == "environment":
            continue
        if meaning != said:
            parts.append(f"\n{textwrap.fill(meaning, 100, initial_indent='# ', subsequent_indent='# ')}\n")
        said = meaning
        mark = "" if key in values else "#"
        value = values.get(key, getattr(launchoptions.DEFAULTS, key))
        parts.append(f"{mark}{key} = {_toml(1 if value is None else value)}\n")
    meaning = launchoptions.descriptions()["environment"]
    environment = values.get("environment", {})
    mark = "" if environment else "#"
    parts.append(f"\n# {meaning} Last, as all that follows belongs to it.\n{mark}[environment]\n")
    parts += [f"{_toml(key)} = {_toml(value)}\n" for key, value in environment.items()] or [
        '#OMP_NUM_THREADS = "1"\n'
    ]
    return "".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML writes texts, numbers and truth as JSON does.
    return json.dumps(value, ensure_ascii=False)


def _lines(text: str, table: Mapping[str, Any]) -> dict[str, int]:
    """Return the line of each key of the table, or of the table of that name."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        start = re.match(r"""\s*(?:\[\s*)?["']?([\w-]+)["']?\s*[=.\]]""", line)
        if start and start[1] in table:
            found.setdefault(start[1], number)
    return found


def _toml_error(message: str, text: str) -> str:
    """Return a parser's complaint with the line that it is about, and what is wrong with most such lines."""
    place = re.search(r"\(at line (\d+), column \d+\)", message)
    if place is None:
        return f"it is not TOML: {message}"
    line = text.splitlines()[int(place[1]) - 1].strip()
    hint = ""
    if re.fullmatch(r"[\w-]+\s*=\s*[^\"'\[{\d].*", line) and "Invalid value" in message:
        hint = "; a text is written in quotes"
    return f"it is not TOML: {message}: {line}{hint}"
