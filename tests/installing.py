"""Virtual environments for tests of installed packages, and packages laid into a folder as if they were installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lay(package: Path, site: Path) -> None:
    """What `pip install` leaves of a package: its modules, and metadata with its entry points."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = project["entry-points"]["llama3.plugins"]
    lines = "".join(f"{name} = {target}\n" for name, target in entries.items())
    (info / "entry_points.txt").write_text(f"[llama3.plugins]\n{lines}")
    for target in entries.values():
        shutil.copytree(package / target, site / target)


class Env:
    """A virtual environment, used from a folder outside the source tree."""

    def __init__(self, path, python=sys.executable):
        self.path, self.work = path, path / "work"
        run([python, "-m", "venv", "--without-pip", path])
        self.work.mkdir()
        self.python = path / ("Scripts" if os.name == "nt" else "bin") / "python"

    def install(self, *arguments):
        """`pip install` into it, by the pip of the running environment; modules are compiled when they are imported."""
        return run([sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-compile", *arguments])

    def borrow_packages(self):
        """Let it see torch and everything else of the running environment, without copying gigabytes.

        A path line in a .pth file comes after the environment's own site-packages, so the wheel under test wins over
        an editable install in the borrowed folder; and .pth files of a folder added this way are not read, so the
        source tree of that editable install stays out of sight.
        """
        own = self.call("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        folders = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (Path(own) / "borrowed.pth").write_text("".join(f"{folder}\n" for folder in folders))

    def call(self, *arguments, check=True, **environ):
        """Run its Python with these arguments."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LLAMA3_PLUGINS", "LLAMA3_PLUGINS_STRICT")
        clean = {name: value for name, value in os.environ.items() if name not in hidden}
        environ = {**clean, "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1", **environ}
        return run([self.python, *arguments], check=check, cwd=self.work, env=environ)

    def llama3(self, *arguments, check=True, **environ):
        """Run the installed program."""
        program = "import sys; from importlib.metadata import entry_points as e; "
        program += "sys.exit(next(iter(e(group='console_scripts', name='llama3'))).load()())"
        return self.call("-c", program, *arguments, check=check, **environ)


def run(command, *, check=True, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
