"""Placeholders in the templates of jobs."""

from __future__ import annotations

import subprocess

import pytest

from mpiparallel.launch import templates
from mpiparallel.launch.templates import TemplateError, fill


def test_placeholders_are_filled_in() -> None:
    text = "#!/bin/sh\n#SBATCH --time={{time}}\nexec {{launch}} {{engine}}\n"
    values = {"time": "1:00", "launch": "srun -n 2", "engine": "python -m x"}
    assert fill(text, values) == "#!/bin/sh\n#SBATCH --time=1:00\nexec srun -n 2 python -m x\n"


@pytest.mark.parametrize("word", ["SBATCH", "PBS", "BSUB"])
def test_a_directive_without_values_is_left_out(word: str) -> None:
    text = f"#{word} -a {{{{a}}}}\n#{word} -b\n#{word} {{{{a}}}}:{{{{b}}}}\n"
    assert fill(text, {"a": "", "b": "2"}) == f"#{word} -b\n#{word} :2\n"
    assert fill(text, {"a": "", "b": ""}) == f"#{word} -b\n"


def test_a_line_of_nothing_but_an_empty_value_is_left_out() -> None:
    assert fill("a\n{{x}}\nb {{x}}\n  {{x}}  \nc", {"x": ""}) == "a\nb \nc"


def test_what_looks_like_a_placeholder_in_a_value_stays() -> None:
    assert fill("{{x}}", {"x": "{{y}} \\1 \\g<0>"}) == "{{y}} \\1 \\g<0>"


def test_braces_of_the_shell_are_not_ours() -> None:
    text = 'a="${A:-${B}}"; f() { echo {a,b}; }'
    assert fill(text, {}) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{{nosuch}}", r"engines.sbatch:2: nothing is known by the name \{\{nosuch\}\}; there are time"),
        ("a\nb\n{{ time }}", r"engines.sbatch:3: '\{\{' begins no placeholder"),
        ("{{time}", r"engines.sbatch:1: '\{\{' begins no placeholder"),
        ("{{}}", r"engines.sbatch:1: '\{\{' begins no placeholder"),
        ("{{ti-me}}", r"engines.sbatch:1: '\{\{' begins no placeholder"),
    ],
)
def test_wrong_placeholders_are_errors_with_a_place(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        fill(text, {"time": "1"}, "engines.sbatch")


def test_a_template_that_starts_nothing_is_an_error() -> None:
    with pytest.raises(TemplateError, match=r"site.sbatch: the placeholder \{\{engine\}\} is missing"):
        fill("#SBATCH -n 4\nsrun hostname\n", {"engine": "x"}, "site.sbatch", ["engine"])


def test_a_value_cannot_smuggle_in_another_directive() -> None:
    with pytest.raises(TemplateError, match=r"a:1: a value of account has more than one line"):
        fill("#SBATCH --account={{account}}", {"account": "x\n#SBATCH --nodes=99"}, "a")


def test_values_survive_the_shell() -> None:
    words = ["a b", "it's", "$HOME", "`id`", "", "x\ny", "*"]
    variables = templates.exports({"A": "1 2", "B": "$A'\""})
    script = f'{variables}\nprintf "%s|" {templates.quoted(words)} "$A" "$B"'
    run = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "|".join([*words, "1 2", "$A'\"", ""])


@pytest.mark.parametrize("name", ["a b", "1A", "A-B", "", "A=1"])
def test_names_that_are_no_variables_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no name of a variable"):
        templates.exports({name: "1"})


_MODULE = """
module() {
    case "$1 $2" in
        "load good/1") ;;
        "load alias") LOADEDMODULES=good/2 ;;
        "load liar/1") echo "cannot find liar/1" >&2 ;;
        "load bad/1") echo "unknown: bad/1" >&2; return 1 ;;
        "-t list") echo "good/1" >&2 ;;
    esac
}
"""


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("good/1", 0, ""),
        ("alias", 0, ""),
        ("bad/1", 78, "mpiparallel: the module bad/1 cannot be loaded on "),
        ("liar/1", 78, "mpiparallel: the module liar/1 cannot be loaded on "),
    ],
)
def test_modules_are_loaded_or_the_job_ends(module: str, code: int, said: str) -> None:
    script = f"set -eu\n{_MODULE}\n{templates.loads([module])}\necho loaded"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == code
    assert said in run.stderr
    assert run.stdout == ("loaded\n" if code == 0 else "")


def test_a_node_without_modules_says_so() -> None:
    script = f"set -eu\nunset -f module 2>/dev/null || :\n{templates.loads(['gcc/12', 'openmpi'])}"
    environ = {"PATH": "/usr/bin:/bin"}
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, check=False)
    assert run.returncode == 78
    assert "modules=gcc/12,openmpi: there is no command 'module' on" in run.stderr


def test_no_modules_no_lines() -> None:
    assert templates.loads([]) == ""
