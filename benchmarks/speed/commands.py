"""Commands that compute nothing against `import torch`, which all that computes must wait for.

Each is a process of its own, start and imports included, in an empty folder; CPU seconds of the process, so that other
programs do not stretch them. Goals: `list`, `status` and `--help` load no torch; planning costs half as much again.
"""

import os
import resource
import subprocess
import sys
import tempfile

from .runner import Settings, take_turns, tell

TORCH = "import torch"
COMMANDS = {
    "--help": 0.5,
    "list": 0.5,
    "status": 0.5,
    "list tracer": 1.2,
    "list digits": 1.2,
    "sweep digits --method all --dry-run": 1.5,
}
"""Arguments of robustft -> at most so many times as long as importing torch."""


def measure(settings: Settings) -> None:
    """Prints the CPU seconds of each command over those of importing torch."""
    with tempfile.TemporaryDirectory() as folder:
        calls = {TORCH: ["-c", TORCH]}
        calls |= {command: ["-m", "robustft.benchmarks", *command.split()] for command in COMMANDS}
        alternatives = {name: lambda call=call: _run(call, folder) for name, call in calls.items()}
        timings = take_turns(alternatives, settings, clock=_seconds_of_children)
    for command, goal in COMMANDS.items():
        seconds = f"{timings.median(command):.2f} s of CPU, torch {timings.median(TORCH):.2f}"
        tell(f"{command} / {TORCH}", timings.ratio(command, TORCH), f"goal <= {goal}", seconds)


def _run(arguments: list[str], folder: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROBUSTFT_")}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
