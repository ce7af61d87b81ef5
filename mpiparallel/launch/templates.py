"""Fill in the templates of batch jobs: ``slurm/*.sbatch``, ``pbs/*.pbs``, ``lsf/*.bsub``.

A template is a plain script with placeholders, ``{{name}}``. A site may have its own copy. There are no
conditions and no loops in it: what a user leaves open is empty, and a directive all of whose placeholders are
empty is left out. Values are quoted for the shell before they come here, so that a template quotes nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping

_DIRECTIVE = re.compile(r"#(?:SBATCH|PBS|BSUB)\s")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class TemplateError(ValueError):
    """A template that cannot be filled in; the message names file and line."""


def fill(text: str, values: Mapping[str, str], source: str = "template", needs: Collection[str] = ()) -> str:
    """Return `text` with its placeholders replaced.

    A directive (``#SBATCH``, ``#PBS``, ``#BSUB``) is left out when all of its placeholders are empty, and so
    is a line that is nothing but a placeholder.

    Parameters
    ----------
    text
        The template.
    values
        What to put in place of each placeholder, ready for the shell.
    source
        Its file, for messages.
    needs
        Placeholders without which the template would do nothing sensible.

    Raises
    ------
    TemplateError
        If a placeholder is unknown or malformed, or one that it needs is missing, or a directive would have
        more than one line.

    Examples
    --------
    >>> fill("#SBATCH --time={{time}}\\n#SBATCH --qos={{qos}}\\nexec {{engine}}", {
    ...     "time": "1:00:00", "qos": "", "engine": "sleep 1"})
    '#SBATCH --time=1:00:00\\nexec sleep 1'
    """
    filled, used = [], set()
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{source}:{number}"
        names = _placeholders(line, values, where)
        used.update(names)
        left_open = bool(names) and not any(values[name] for name in names)
        if left_open and (_DIRECTIVE.match(line) or _PLACEHOLDER.sub("", line).strip() == ""):
            continue
        new = _PLACEHOLDER.sub(lambda found: values[found.group(1)], line)
        if "\n" in new and line.startswith("#"):
            raise TemplateError(f"{where}: a value of {', '.join(names)} has more than one line: {new!r}")
        filled.append(new)
    missing = sorted(set(needs) - used)
    if missing:
        raise TemplateError(
            f"{source}: the placeholder {{{{{missing[0]}}}}} is missing; nothing would be started without it"
        )
    return "\n".join(filled)


def _placeholders(line: str, values: Mapping[str, str], where: str) -> list[str]:
    names = _PLACEHOLDER.findall(line)
    if "{{" in _PLACEHOLDER.sub("", line):
        raise TemplateError(f"{where}: '{{{{' begins no placeholder: {line.strip()!r}; one is {{{{name}}}}")
    for name in names:
        if name not in values:
            raise TemplateError(
                f"{where}: nothing is known by the name {{{{{name}}}}}; there are {', '.join(sorted(values))}"
            )
    return names


def quoted(words: Iterable[str]) -> str:
    """Return a command line that the shell takes apart into `words`."""
    return shlex.join(words)


def exports(environment: Mapping[str, str]) -> str:
    """Return the lines of shell that set these variables.

    Raises
    ------
    ValueError
        If one has a name that the shell cannot set.
    """
    for name in environment:
        if not _NAME.fullmatch(name):
            raise ValueError(f"environment: {name!r} is no name of a variable")
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())


# Where batch jobs have no `module`: its file is read by login shells only.
_INITIALISE = """\
if ! command -v module >/dev/null 2>&1; then
    for file in "${LMOD_PKG:-/}/init/bash" "${MODULESHOME:-/}/init/bash" /etc/profile.d/lmod.sh \\
        /etc/profile.d/modules.sh /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash; do
        if [ -r "$file" ]; then set +eu; . "$file"; set -eu; break; fi
    done
fi
if ! command -v module >/dev/null 2>&1; then
    echo "mpiparallel: modules=%(names)s: there is no command 'module' on $(hostname): leave modules out," \\
        "and use setup (source .../bin/activate) instead" >&2
    exit 78
fi
"""

# Old implementations say that something went wrong, and return 0 all the same: nothing has changed then.
_LOAD = """\
before=${LOADEDMODULES:-}; status=0
set +eu; module load %(name)s; status=$?; set -eu
if [ "$status" -eq 0 ] && [ "$before" = "${LOADEDMODULES:-}" ]; then
    (module -t list 2>&1 || true) | grep -qF -- %(name)s || status=1
fi
if [ "$status" -ne 0 ]; then
    echo "mpiparallel: the module" %(name)s "cannot be loaded on $(hostname): see module avail" >&2
    exit 78
fi"""


def loads(modules: Iterable[str]) -> str:
    """Return the lines of shell that load environment modules, and end the job when one cannot be."""
    names = list(modules)
    if not names:
        return ""
    lines = [_INITIALISE % {"names": re.sub(r"[^\w,./+-]", "?", ",".join(names))}]
    for name in names:
        lines.append(_LOAD % {"name": shlex.quote(name)})
    return "\n".join(lines)
