"""Find the site-editable launch scripts and sbatch templates."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mpiparallel.config import Config


def script(kind: str, name: str, config: Config) -> Path:
    """Return the file `name` of `kind` ("launchers" or "slurm"): the site's copy, else ours.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists where it was looked for.
    """
    # A wheel holds the folders inside the package; a checkout holds them beside it.
    roots = [config.site_dir, Path(str(files("mpiparallel"))), Path(__file__).parent.parent]
    for root in roots:
        found = root / kind / name
        if found.is_file():
            return found
    places = ", ".join(str(root / kind) for root in roots)
    raise FileNotFoundError(f"no {kind} file named {name!r} in {places}")
