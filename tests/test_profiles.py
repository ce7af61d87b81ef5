"""Settings: what is right, where they come from, what is said about a wrong one. Nothing is started."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpiparallel import Cluster, launchoptions, profiles
from mpiparallel.config import Config
from mpiparallel.launchoptions import KEYS, LaunchOptions
from mpiparallel.profiles import Layer, ProfileError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "profiles").mkdir()
    return Config(site_dir=tmp_path, state_dir=tmp_path / "state")


def write(config: Config, name: str, text: str) -> Path:
    path = profiles.path_of(name, config)
    path.write_text(text)
    return path


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("n", 0, 0),
        ("n", None, None),
        ("time", 60, "60"),
        ("account", 1234, "1234"),
        ("ssh_args", ("-p", 22), ["-p", "22"]),
        ("environment", {"A": 1}, {"A": "1"}),
        ("environment", {"A": "two\nlines"}, {"A": "two\nlines"}),
        ("engine_timeout", 5, 5.0),
        ("queue_timeout", math.inf, math.inf),
        *[("time", text, text) for text in ("", "5", "5:30", "1:00:00", "2-3", "2-03:00", "1-00:00:00")],
        ("host", "user@login.site.edu", "user@login.site.edu"),
    ],
)
def test_values(key: str, value: Any, found: Any) -> None:
    assert launchoptions.check_one(key, value) == found


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("partion", "x", "no setting is called 'partion'; did you mean 'partition'?"),
        ("mpi-args", [], "did you mean 'mpi_args'?"),
        ("colour", "x", "there are engines, controller, n,"),
        ("n", "4", "n='4': expected a whole number"),
        ("n", True, "n=true: expected a whole number"),
        ("n", -1, "n=-1: the number of engines cannot be negative"),
        ("nodes", 0, "nodes=0: expected a number above zero"),
        ("requeue", 1, "requeue=1: expected true or false"),
        ("partition", True, "partition=true: expected a text"),
        ("modules", "openmpi", 'modules=\'openmpi\': expected a list of texts, as in ["one", "two"]'),
        ("environment", ["A=1"], "expected texts by name"),
        ("environment", {"A=B": "1"}, "holds no ="),
        ("engines", "rsh", "engines='rsh': mpiparallel can start by mpi, srun, slurm, ssh, pbs, lsf"),
        ("controller", "", "mpiparallel can start by"),
        *[("time", text, "expected minutes") for text in ("1h", "1:2:3:4", "-5", "1-", "1:00:00 ")],
        ("partition", "debug\n#SBATCH --uid=0", "expected one line"),
        ("setup", ["a\nb"], "expected one line"),
        ("host", "-oProxyCommand=touch x", "expected a host's name"),
        ("host", "a b", "expected a host's name"),
        ("controller_port", 65536, "from 0 to 65535"),
        ("engine_timeout", 0, "more than zero"),
        ("engine_timeout", math.nan, "expected a number"),
        ("idle_timeout", -1, "not below zero"),
    ],
)
def test_wrong_values(key: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError) as failed:
        launchoptions.check_one(key, value)
    assert says in str(failed.value)
    with pytest.raises(ValueError) as failed:
        launchoptions.check({key: value}, "this file")
    assert str(failed.value).startswith("this file: ")


def test_an_unknown_keyword_is_a_type_error_too() -> None:
    with pytest.raises(TypeError):
        launchoptions.check({"partion": "x"}, "Cluster")


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("n", "4", 4),
        ("engine_timeout", "2.5", 2.5),
        *[("requeue", text, True) for text in ("1", "true", "Yes")],
        *[("requeue", text, False) for text in ("0", "false", "NO")],
        ("mpi_args", "--bind-to none 'a b'", ["--bind-to", "none", "a b"]),
        ("batch_args", "['--exclude=a,b', \"-x\"]", ["--exclude=a,b", "-x"]),
        ("setup", "source /opt/env.sh && x", ["source /opt/env.sh && x"]),
        ("time", "1:00:00", "1:00:00"),
    ],
)
def test_texts(key: str, text: str, found: Any) -> None:
    assert launchoptions.parse(key, text) == found


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("n", "four", "n='four': expected a whole number"),
        ("engine_timeout", "soon", "expected a number"),
        ("requeue", "perhaps", "expected true or false"),
        ("modules", "[a", "as a list of TOML"),
        ("modules", "'open", "no closing quotation; words are as in a shell"),
        ("environment", "A=1", "environment is a table: give environment.NAME=VALUE"),
        ("colour", "red", "no setting is called 'colour'"),
    ],
)
def test_wrong_texts(key: str, text: str, says: str) -> None:
    with pytest.raises(ValueError) as failed:
        launchoptions.parse(key, text)
    assert says in str(failed.value)


def test_every_setting_is_described() -> None:
    found = launchoptions.descriptions()
    assert set(found) == set(KEYS)
    assert all(text.endswith(".") for text in found.values())


def test_the_defaults_are_right() -> None:
    for key in KEYS:
        value = getattr(launchoptions.DEFAULTS, key)
        assert launchoptions.check_one(key, value) == value


# ---------------------------------------------------------------- files


def test_a_file(config: Config) -> None:
    path = write(
        config,
        "hpc",
        'engines = "slurm"\n# partition = "no"\npartition="debug"\ntime = 01:00:00\n'
        'modules = [\n  "a",\n  "b",\n]\n[environment]\nOMP_NUM_THREADS = 1\n',
    )
    layer = profiles.read("hpc", config)
    assert layer.values == {
        "engines": "slurm",
        "partition": "debug",
        "time": "01:00:00",
        "modules": ["a", "b"],
        "environment": {"OMP_NUM_THREADS": "1"},
    }
    lines = {"engines": 1, "partition": 3, "time": 4, "modules": 5, "environment": 9}
    assert layer.sources == {key: f"{path}, line {line}" for key, line in lines.items()}
    assert profiles.names(config) == ["hpc"]


def test_dotted_keys(config: Config) -> None:
    path = write(config, "hpc", 'environment.A = "1"\n"environment".B = "2"\n')
    layer = profiles.read("hpc", config)
    assert layer.values == {"environment": {"A": "1", "B": "2"}}
    assert layer.sources == {"environment": f"{path}, line 1"}


def test_no_file(config: Config) -> None:
    assert profiles.read("hpc", config) == Layer()


def test_all_that_is_wrong_is_said_at_once(config: Config) -> None:
    path = write(config, "hpc", 'engines = "slurm"\npartion = "debug"\n\nn = "4"\n')
    with pytest.raises(ProfileError) as failed:
        profiles.read("hpc", config)
    assert str(failed.value).splitlines() == [
        f"{path}, line 2: no setting is called 'partion'; did you mean 'partition'?",
        f"{path}, line 4: n='4': expected a whole number",
    ]
    assert profiles.load("hpc", config).values == {"engines": "slurm"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n = 4\npartition = debug\n", "line 2, column 13): partition = debug; a text is written in quotes"),
        ("n = 4\nn = 5\n", "it is not TOML: Cannot overwrite a value (at line 2"),
        ('partition = "debug\n', "at line 1"),
        ("[environment", "it is not TOML"),
    ],
)
def test_no_toml(config: Config, text: str, says: str) -> None:
    path = write(config, "hpc", text)
    with pytest.raises(ProfileError) as failed:
        profiles.read("hpc", config)
    assert str(failed.value).startswith(f"{path}: it is not TOML: ")
    assert says in str(failed.value)


def test_a_file_that_is_no_text(config: Config) -> None:
    profiles.path_of("hpc", config).write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match=r"hpc\.toml cannot be read: "):
        profiles.read("hpc", config)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_what_is_no_name(config: Config, name: str) -> None:
    with pytest.raises(ValueError, match="it names a file"):
        profiles.path_of(name, config)


def test_similar_names(config: Config) -> None:
    write(config, "hpc", "")
    assert profiles.similar("hcp", config) == "hpc"
    assert profiles.similar("hpc", config) == profiles.similar("laptop", config) == ""


# ---------------------------------------------------------------- writing

texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
settings = st.fixed_dictionaries(
    {},
    optional={
        "engines": st.sampled_from(launchoptions.LAUNCHERS),
        "n": st.integers(0, 99),
        "partition": texts,
        "requeue": st.booleans(),
        "modules": st.lists(texts, max_size=3),
        "mpi_args": st.lists(texts, max_size=3),
        "engine_timeout": st.floats(0.1, 1e6),
        "environment": st.dictionaries(
            texts.filter(lambda name: name and "=" not in name), texts, min_size=1, max_size=3
        ),
    },
)


@given(settings)
def test_what_is_written_is_read(values: dict[str, Any]) -> None:
    path = Path("/profiles/p.toml")
    profile = profiles.parse(profiles.template("p", values), path)
    assert profile.problems == []
    assert profile.values == values


def test_a_new_profile_explains_every_setting() -> None:
    text = profiles.template("hpc", {})
    for key in KEYS:
        assert f"\n#{key} = " in text or f"\n#[{key}]" in text
    uncommented = re.sub(r"(?m)^#(?=[\w[])", "", text)
    profile = profiles.parse(uncommented, Path("p"))
    assert (profile.problems, set(profile.values)) == ([], set(KEYS))


# ---------------------------------------------------------------- which of them


def test_environment_variables() -> None:
    environ = {
        "MPIPARALLEL_N": "4",
        "MPIPARALLEL_PARTITION": "debug",
        "MPIPARALLEL_QOS": "",
        "MPIPARALLEL_MPI_ARGS": "-x A",
        "MPIPARALLEL_STATE": "/elsewhere",
        "PARTITION": "no",
    }
    layer = profiles.from_environment(environ)
    assert layer.values == {"n": 4, "partition": "debug", "mpi_args": ["-x", "A"]}
    assert layer.sources["partition"] == "$MPIPARALLEL_PARTITION"


def test_the_number_of_ranks_that_engines_are_told_is_no_setting() -> None:
    environ = {"MPIPARALLEL_N": "4", "MPIPARALLEL_LOG": "/x/engines.log"}
    assert profiles.from_environment(environ) == Layer()


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("MPIPARALLEL_NODES", "two", "MPIPARALLEL_NODES='two': nodes='two': expected a whole number"),
        ("MPIPARALLEL_ENVIRONMENT", "A=1", "MPIPARALLEL_ENVIRONMENT='A=1': environment is a table"),
    ],
)
def test_wrong_environment_variables(variable: str, text: str, says: str) -> None:
    with pytest.raises(ValueError) as failed:
        profiles.from_environment({variable: text})
    assert says in str(failed.value)


def test_the_first_wins(config: Config) -> None:
    path = write(
        config,
        "hpc",
        'engines = "slurm"\npartition = "profile"\nqos = "profile"\nmem = "profile"\n'
        '[environment]\nA = "profile"\nB = "profile"\n',
    )
    environ = {"MPIPARALLEL_PARTITION": "environment", "MPIPARALLEL_QOS": "environment"}
    given = {"qos": "given", "environment": {"B": "given"}, "time": 5}
    options = profiles.settle(given, "hpc", config, environ)
    assert options == LaunchOptions(
        engines="slurm",
        partition="environment",
        qos="given",
        mem="profile",
        time="5",
        environment={"A": "profile", "B": "given"},
    )
    told = Layer(given, dict.fromkeys(given, "the command line"))
    assert profiles.sources([told, *profiles.layers("hpc", config, environ)]) == {
        "engines": f"{path}, line 1",
        "partition": "$MPIPARALLEL_PARTITION",
        "qos": "the command line",
        "mem": f"{path}, line 4",
        "time": "the command line",
        "environment.A": f"{path}, line 5",
        "environment.B": "the command line",
    }


def test_what_is_wrong_on_the_command_line(config: Config) -> None:
    with pytest.raises(ValueError, match="the command line: nodes=0"):
        profiles.settle({"nodes": 0}, "hpc", config, {})


# ---------------------------------------------------------------- Cluster


@pytest.fixture
def site(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The folders of programs that are started now."""
    monkeypatch.setenv("MPIPARALLEL_SITE", str(config.site_dir))
    monkeypatch.setenv("MPIPARALLEL_STATE", str(config.state_dir))
    return Config.from_environment()


def test_a_cluster_with_a_profile(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    write(site, "hpc", 'n = 3\nengine_timeout = 7\nmpi_args = ["-x"]\nengine_args = ["--raw-mpi"]\n')
    cluster = Cluster(profile="hpc")
    assert (cluster.n, cluster.engine_timeout, cluster.options.mpi_args) == (3, 7.0, ["-x"])
    assert Cluster(profile="hpc", n=0, mpi_args=["-y"]).options.mpi_args == ["-y"]
    assert Cluster(profile="hpc", n=0).n == 0
    assert Cluster(profile="hpc", load_profile=False).n is None
    assert Cluster(profile="other").n is None
    assert Cluster(profile="hpc", dedicated_bridge=True).options.engine_args == [
        "--raw-mpi", "--dedicated-bridge",
    ]  # fmt: skip
    monkeypatch.setenv("MPIPARALLEL_N", "5")
    assert Cluster(profile="hpc").n == 5
    monkeypatch.setenv("MPIPARALLEL_PROFILE", "hpc")
    assert Cluster().engine_timeout == 7.0


def test_the_default_profile(site: Config, tmp_path: Path) -> None:
    write(site, "default", "n = 2\n")
    assert Cluster().n == 2
    assert Cluster(profile="other").n is None
    assert Cluster(profile_dir=tmp_path / "default").n is None  # a folder is no name


def test_a_cluster_that_is_found_again_goes_on_as_it_was_started(site: Config) -> None:
    write(site, "hpc", "n = 3\nengine_timeout = 7\n")
    record = Cluster(profile="hpc", cluster_id="a", qos="high").to_dict()
    write(site, "hpc", 'n = 4\nengine_timeout = 8\npartition = "new"\n')
    cluster = Cluster.from_dict(record)
    assert (cluster.n, cluster.options) == (3, LaunchOptions(n=3, engine_timeout=7.0, qos="high"))


def test_a_cluster_with_a_wrong_profile(site: Config) -> None:
    path = write(site, "hpc", "nn = 3\n")
    with pytest.raises(ValueError) as failed:
        Cluster(profile="hpc")
    assert str(failed.value) == f"{path}, line 1: no setting is called 'nn'; did you mean 'n'?"


# ---------------------------------------------------------------- doubts


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"partition": "x"}, "partition: engines='mpi' submits no job, so that nobody looks at it"),
        ({"partition": "x", "time": "5"}, "time, partition: engines='mpi' submits no job"),
        ({"engines": "ssh"}, "ssh needs to know where to"),
        ({"host": "a"}, "host='a': nothing is started by ssh"),
        ({"engines": "mpi", "controller": "slurm"}, "it runs in the job of the engines"),
        ({"engines": "slurm", "n": 2, "nodes": 3}, "n=2 engines on nodes=3"),
        ({"engines": "slurm", "n": 9, "nodes": 2, "ntasks_per_node": 4}, "more than nodes=2 times"),
    ],
)
def test_doubts(values: dict[str, Any], says: str) -> None:
    assert any(says in doubt for doubt in profiles.doubts(values))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "engines": "slurm",
            "controller": "slurm",
            "partition": "x",
            "n": 8,
            "nodes": 2,
            "ntasks_per_node": 4,
        },
        {"engines": "slurm", "controller": "ssh", "host": "a"},
        {"engines": "srun", "time": "5"},
    ],
)
def test_no_doubts(values: dict[str, Any]) -> None:
    assert profiles.doubts(values) == []
