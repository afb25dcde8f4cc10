"""The two places where a stranger has the program: a fresh clone, and a folder with the package installed from a wheel.

Both are made without network: their environments see the packages of the one that runs the tests, but not its robustft.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from repository import ROOT

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")

SERVER = """
import json, os, runpy, sys, traceback

# what others wrote once; ours anew, in a process a command, and the hub's library, which reads the environment then
sys.path.pop(0)
import ftfy, matplotlib.figure, pandas, PIL.Image, pydantic, rich.table, safetensors.torch, scipy.stats, torch, yaml
import sklearn.datasets
from robustft.backbones import torchvision_ops as held
held.declare_missing_operators()
import torchvision
assert "huggingface_hub" not in sys.modules
for name in [name for name in sys.modules if name.partition(".")[0] == "robustft"]:
    del sys.modules[name]
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(job[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
            sys.argv = job["arguments"]
            if job["module"]:
                sys.path.insert(0, os.getcwd())
                runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
            else:
                from robustft.benchmarks.cli import main
                main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    shown: str


class Place:
    """A folder that commands are called from, and the environment they are called in.

    Args:
        folder: the current folder of each command.
        environment: of Python, with robustft.
    """

    def __init__(self, folder: Path, environment: Path) -> None:
        self.folder, self.environment = folder, environment
        self._files = folder.parent / f"shown-{folder.name}"
        self._files.mkdir()
        ours = ("ROBUSTFT_", "HF_", "PYTHON", "WANDB_", "MAKE")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        self.variables = kept | {
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HF_HOME": str(self._files / "hub"),  # as on a machine where nothing was fetched
            "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody answers there: no network
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self._server = subprocess.Popen(
            [environment / "bin" / "python", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=self.variables,
        )

    def close(self) -> None:
        """End what serves the commands."""
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def program(self, words: list[str]) -> Ended:
        """Run `robustft ...` or `python -m MODULE ...`."""
        module = words[2] if words[0] == "python" else ""
        arguments = [module, *words[3:]] if module else words
        out, err = self._files / "out", self._files / "err"
        job = {"module": module, "arguments": arguments, "out": str(out), "err": str(err)}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Ended(code, out.read_text(encoding="utf-8") + err.read_text(encoding="utf-8"))

    def shell(self, command: str) -> Ended:
        """Run anything else, as typed."""
        ended = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=1800
        )
        return Ended(ended.returncode, ended.stdout + ended.stderr)


def copy_tree(to: Path) -> Path:
    """A clone of the repository as it is now, changes that are not yet committed included."""
    subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", str(ROOT), str(to)], check=True)
    subprocess.run(["git", "-C", str(to), "reset", "-q"], check=True)
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
            shutil.copymode(ROOT / name, to / name)
    return to


def make_environment(folder: Path) -> Path:
    """An environment with the packages of this one, but without its robustft, whose .pth is not followed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    places = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (site(folder) / "packages-of-the-tests.pth").write_text("\n".join(places) + "\n")
    return folder


def site(environment: Path) -> Path:
    """Where an environment has its packages."""
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def install(environment: Path, *what: str) -> None:
    """`pip install` without network; what the environment sees of robustft elsewhere stays as it is."""
    python = str(environment / "bin" / "python")
    subprocess.run([*PIP, "--python", python, "install", "--ignore-installed", *OFFLINE, *what], check=True)


def build_wheel(source: Path, to: Path) -> Path:
    """The wheel of a clone."""
    subprocess.run([*PIP, "wheel", *OFFLINE, "--wheel-dir", str(to), str(source)], check=True)
    (wheel,) = to.glob("*.whl")
    return wheel


def clone(root: Path) -> Place:
    """A clone after `make install`, which itself asks a package index."""
    folder = copy_tree(root / "clone")
    install(make_environment(folder / ".venv"), "--editable", str(folder))
    (folder / ".make").mkdir()
    extras = re.search(r"^EXTRAS = (.*)$", (folder / "Makefile").read_text(encoding="utf-8"), re.M)[1]
    (folder / ".make" / f"installed.venv-bin-python-{extras}").touch()
    return Place(folder, folder / ".venv")


def elsewhere(root: Path, wheel: Path) -> Place:
    """An empty folder, and an environment with the wheel."""
    install(make_environment(root / "environment"), str(wheel))
    (root / "elsewhere").mkdir()
    return Place(root / "elsewhere", root / "environment")
