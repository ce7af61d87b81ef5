"""Sphinx's settings: ``make docs``."""

import argparse
import importlib.metadata
import textwrap

project = "mpiparallel"
author = copyright = "the authors of mpiparallel"
release = version = importlib.metadata.version("mpiparallel")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "IPython Parallel's interface on MPI ranks",
    "page_width": "1200px",
    "sidebar_width": "200px",
}
html_title = "mpiparallel"
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the sections of the docstrings say it in words
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def setup(app):
    """Have the help of every subcommand in the page on the command, and every setting in that on settings."""
    app.connect("source-read", add_help)
    app.connect("source-read", add_settings)


def add_help(app, page, source):
    if page != "command":
        return
    from mpiparallel.cli import make_argument_parser

    parser = make_argument_parser()
    parts = [source[0], *help_of(parser, "mpiparallel")]
    source[0] = "\n\n".join(parts)


def add_settings(app, page, source):
    if page != "settings":
        return
    import msgspec

    from mpiparallel.launchoptions import LaunchOptions, descriptions

    default = msgspec.to_builtins(msgspec.structs.asdict(LaunchOptions()))
    meanings = {}  # settings that are explained together
    for key, meaning in descriptions().items():
        meanings.setdefault(meaning, []).append(key)
    rows = []
    for meaning, keys in meanings.items():
        names = ", ".join(f"``{key}``" for key in keys)
        said = f" (``{default[keys[0]]}``)" if default[keys[0]] not in (None, "", [], {}) else ""
        rows.append(f"{names}\n    {meaning}{said}")
    source[0] = source[0].replace("THE SETTINGS", "\n\n".join(rows))


def help_of(parser, name):
    parser.formatter_class = lambda prog, kind=parser.formatter_class: kind(prog, width=100)
    text = textwrap.indent(parser.format_help(), "    ")
    yield f"{name}\n{'-' * len(name)}\n\n.. code-block:: text\n\n{text}"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, subparser in action.choices.items():
                if subparser.add_help:
                    yield from help_of(subparser, f"{name} {word}")
