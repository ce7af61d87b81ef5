"""``mpiparallel completion``: print what makes a shell complete the command, made from its parsers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mpiparallel.commandline import arguments, exits
from mpiparallel.config import Config

EXAMPLES = """\
  source <(mpiparallel completion bash)          for this shell; in ~/.bashrc for all
  mpiparallel completion bash > ~/.local/share/bash-completion/completions/mpiparallel
                                                 ... loaded when it is needed
  mpiparallel completion zsh > ~/.zfunc/_mpiparallel
                                                 a folder of $fpath, before compinit in ~/.zshrc
"""

# What stands for a thing of which the shell finds out which there are.
_DYNAMIC = {"profile": "profile", "cluster_id": "cluster"}
_FILES = ("script", "output")


@dataclass(frozen=True)
class Argument:
    """What the shell has to know of an argument.

    Attributes
    ----------
    names : list of str
        Its options; empty for a positional one.
    kind : str
        What it takes: ``""`` (nothing), ``"words"``, ``"file"``, ``"folder"``, ``"profile"``, ``"cluster"``,
        ``"any"``.
    words : list of str
        The only ones that it takes.
    many : bool
        Whether it may be given several times.
    """

    names: list[str]
    kind: str
    meaning: str
    what: str = ""
    words: list[str] = field(default_factory=list)
    many: bool = False


@dataclass(frozen=True)
class Command:
    """A command or subcommand: its words, its arguments, its subcommands with their meaning."""

    path: tuple[str, ...]
    arguments: list[Argument]
    subcommands: dict[str, str]

    @property
    def options(self) -> list[str]:
        return [name for one in self.arguments for name in one.names]

    @property
    def positionals(self) -> list[Argument]:
        return [one for one in self.arguments if not one.names]


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(subcommands, "completion", examples=EXAMPLES)
    parser.add_argument("shell", choices=["bash", "zsh"], help="for which shell")


def run(options: argparse.Namespace, config: Config) -> int:
    """Print it."""
    from mpiparallel.cli import make_argument_parser

    commands = list(read(make_argument_parser()))
    print({"bash": bash, "zsh": zsh}[options.shell](commands), end="")
    return exits.DONE


# ---------------------------------------------------------------- what there is


def read(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """Yield the command of a parser, and its subcommands."""
    subcommands: dict[str, str] = {}
    parsers: dict[str, argparse.ArgumentParser] = {}
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers = action.choices
            subcommands = {one.dest: str(one.help or "") for one in action._choices_actions}
        elif action.help is not argparse.SUPPRESS:
            found.append(_argument(action, path))
    yield Command(path, found, subcommands)
    for name, one in parsers.items():
        yield from read(one, (*path, name))


def _argument(action: argparse.Action, path: tuple[str, ...]) -> Argument:
    kind = "any"
    if action.nargs == 0:
        kind = ""
    elif action.choices:
        kind = "words"
    elif path[:1] == ("profile",) and action.dest in ("name", "names"):
        kind = "profile"
    elif action.dest in _DYNAMIC:
        kind = _DYNAMIC[action.dest]
    elif action.dest in _FILES:
        kind = "file"
    elif action.dest.endswith("_dir"):
        kind = "folder"
    repeated = action.nargs in ("*", "+", argparse.REMAINDER) or isinstance(
        action, (argparse._AppendAction, argparse._AppendConstAction)
    )
    meaning = (action.help or "") % {**vars(action), "choices": ", ".join(map(str, action.choices or ()))}
    what = action.metavar if isinstance(action.metavar, str) else action.dest
    words = [str(word) for word in action.choices or ()]
    return Argument(list(action.option_strings), kind, meaning, what.lower(), words, repeated)


# ---------------------------------------------------------------- bash

# The same in both shells. The folders are those of `config.Config`.
_NAMES = """\
_mpiparallel_names() { # profile|cluster
    local state=${MPIPARALLEL_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/mpiparallel}
    if [ "$1" = profile ]; then
        find "${MPIPARALLEL_SITE:-$HOME/.config/mpiparallel}/profiles" -name '*.toml' 2>/dev/null |
            sed 's|.*/||; s|\\.toml$||'
        find "$state" -mindepth 2 -maxdepth 2 -type d -name 'cluster*' 2>/dev/null |
            sed 's|/[^/]*$||; s|.*/||'
    else
        find "$state" -mindepth 2 -maxdepth 2 -type d -name 'cluster-*' 2>/dev/null | sed 's|.*/cluster-||'
    fi | sort -u
}
"""

_BASH = """\
# Completion of mpiparallel for bash: source <(mpiparallel completion bash)

{names}
_mpiparallel() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
    local path="" kind="" words="" i
    COMPREPLY=()
    if [ "$current" = "=" ]; then
        current=""
    elif [ "$previous" = "=" ]; then
        previous=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path ${{COMP_WORDS[i]}}" in
            {paths}) path="$path ${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$path:$previous" in
{values}
        *)
            case "$path:$current" in
{options}
{positionals}
            esac
            ;;
    esac
    case "$kind" in
        words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
        file) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        folder) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
        profile | cluster)
            mapfile -t COMPREPLY < <(compgen -W "$(_mpiparallel_names "$kind")" -- "$current")
            ;;
    esac
}}
complete -o filenames -F _mpiparallel mpiparallel
"""


def bash(commands: Sequence[Command]) -> str:
    """Return the completion for bash."""
    values, options, positionals, paths = [], [], [], []
    for command in commands:
        path = "".join(f" {word}" for word in command.path)
        paths += [f'"{path} {name}"' for name in command.subcommands]
        for one in command.arguments:
            if one.kind and one.names:
                pattern = " | ".join(f'"{path}:{name}"' for name in one.names)
                values.append(f"        {pattern}) {_bash_kind(one.kind, one.words)} ;;")
        options.append(f'                "{path}:"-*) {_bash_kind("words", command.options)} ;;')
        if command.subcommands:
            positionals.append(
                f'                "{path}:"*) {_bash_kind("words", list(command.subcommands))} ;;'
            )
        elif command.positionals:
            one = command.positionals[0]
            positionals.append(f'                "{path}:"*) {_bash_kind(one.kind, one.words)} ;;')
    return _BASH.format(
        names=_NAMES,
        paths=" | ".join(paths),
        values="\n".join(values),
        options="\n".join(options),
        positionals="\n".join(positionals),
    )


def _bash_kind(kind: str, words: Sequence[str]) -> str:
    return f'kind=words words="{" ".join(words)}"' if kind == "words" else f'kind="{kind}"'


# ---------------------------------------------------------------- zsh

_ZSH = """\
#compdef mpiparallel
# Completion of mpiparallel for zsh: a file _mpiparallel in a folder of $fpath,
# or, after compinit: source <(mpiparallel completion zsh)

{names}
_mpiparallel_profiles() {{
    local -a found=(${{(f)"$(_mpiparallel_names profile)"}})
    compadd -a found
}}
_mpiparallel_clusters() {{
    local -a found=(${{(f)"$(_mpiparallel_names cluster)"}})
    compadd -a found
}}
{functions}
if [[ $funcstack[1] == _mpiparallel ]]; then
    _mpiparallel "$@"
else
    compdef _mpiparallel mpiparallel
fi
"""

_ZSH_ACTIONS = {"file": "_files", "folder": "_files -/", "profile": "_mpiparallel_profiles",
                "cluster": "_mpiparallel_clusters", "any": " "}  # fmt: skip


def zsh(commands: Sequence[Command]) -> str:
    """Return the completion for zsh."""
    return _ZSH.format(names=_NAMES, functions="\n".join(map(_zsh_function, commands)))


def _zsh_function(command: Command) -> str:
    name = "_".join(("_mpiparallel", *command.path))
    specs = [spec for one in command.arguments for spec in _zsh_specs(one)]
    if not command.subcommands:
        return f"{name}() {{\n    _arguments -s {_lines(specs)}\n}}"
    specs += ["1:command:->command", "*::argument:->argument"]
    described = [f"{word}:{meaning}" for word, meaning in command.subcommands.items()]
    cases = "\n".join(f"        {word}) {name}_{word} ;;" for word in command.subcommands)
    return (
        f"{name}() {{\n    local context state state_descr line\n    typeset -A opt_args\n"
        f"    local -a commands=({_lines(described)})\n"
        f"    _arguments -C {_lines(specs)}\n"
        f"    case $state in\n    command) _describe command commands ;;\n"
        f"    argument)\n        case $line[1] in\n{cases}\n        esac ;;\n    esac\n}}"
    )


def _lines(words: Sequence[str]) -> str:
    return " \\\n        ".join(map(shlex.quote, words)) if words else ""


def _zsh_specs(one: Argument) -> Iterator[str]:
    """Yield what ``_arguments`` is told of one argument."""
    action = f"({' '.join(one.words)})" if one.kind == "words" else _ZSH_ACTIONS.get(one.kind, "")
    what = _escaped(one.what)
    if not one.names:
        yield f"{'*' if one.many else ''}:{what}:{action}"
    for name in one.names:
        # Several names of one option exclude each other, and itself, unless it may be repeated.
        others = "" if one.many else f"({' '.join(one.names)})"
        equals = "=" if one.kind and name.startswith("--") else ""
        taken = f":{what}:{action}" if one.kind else ""
        yield f"{'*' if one.many else others}{name}{equals}[{_escaped(one.meaning)}]{taken}"


def _escaped(text: str) -> str:
    for letter in "\\[]:":
        text = text.replace(letter, f"\\{letter}")
    return text
