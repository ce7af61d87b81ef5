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
    """Have the help of every subcommand in the page on the command."""
    app.connect("source-read", add_help)


def add_help(app, page, source):
    if page != "command":
        return
    from mpiparallel.cli import make_argument_parser

    parser = make_argument_parser()
    parts = [source[0], *help_of(parser, "mpiparallel")]
    source[0] = "\n\n".join(parts)


def help_of(parser, name):
    parser.formatter_class = lambda prog, kind=parser.formatter_class: kind(prog, width=100)
    text = textwrap.indent(parser.format_help(), "    ")
    yield f"{name}\n{'-' * len(name)}\n\n.. code-block:: text\n\n{text}"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, subparser in action.choices.items():
                if subparser.add_help:
                    yield from help_of(subparser, f"{name} {word}")
