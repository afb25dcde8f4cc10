"""The one module that knows submitit: what a job is made of, how an array is submitted, and where its processes meet.

submitit pickles what a job does. That is a `MakeRuns` without content, by reference, and the paths of run folders:
nothing of the environment, of a spec or of live training.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....results.records.records import write_atomic
from ...errors import UserError
from ...host import imports
from ...host.redaction import discreet
from .job import MakeRuns
from .profile import Keys

RESTARTS = 1_000_000
"""submitit gives up after that many time-outs; a run ends when it is done."""
OF_A_JOB = ("SLURM_", "SLURMD_", "SUBMITIT_")
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Where SLURM is and who may use it: the same in a job and outside."""
OF_KEYS = {
    "account": ("ACCOUNT",),
    "constraint": ("CONSTRAINT",),
    "gpus_per_node": ("GPUS", "GPUS_PER_NODE"),
    "gres": ("GRES",),
    "mem": ("MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE"),
    "partition": ("PARTITION",),
    "qos": ("QOS",),
    "time": ("TIMELIMIT",),
    "reservation": ("RESERVATION",),
    "elsewhere": ("CLUSTERS", "WCKEY"),
}
"""Parameter -> the variables (SBATCH_ACCOUNT) in which a user may have a value for all jobs; the last are of none."""


REPLACED = ("%j", "%t", "%A", "%a")
"""What submitit puts numbers in place of, also in the name of a folder."""


class Refused(Exception):
    """sbatch did not take the jobs; the message is SLURM's."""


def parameters(profile: Keys, *, name: str, setup: list[str], signal_seconds: int, dependency: str | None) -> dict:
    """The profile in submitit's words; the jobs are held until they are released."""
    more = {"reservation": profile.reservation, "licenses": profile.licenses, **profile.extra}
    more = {key: value for key, value in more.items() if value is not None}
    given = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "comment": profile.comment,
        "nodes": profile.nodes,
        "ntasks_per_node": max(1, profile.gpus),
        "gpus_per_node": _gpus(profile),
        "gres": profile.gres or None,
        "cpus_per_task": None if profile.cpus == "site" else profile.cpus,
        "mem": profile.memory,
        "time": profile.minutes,
        "array_parallelism": profile.array_parallelism,
        "signal_delay_s": signal_seconds,
        "setup": setup,
        "dependency": dependency,
        "stderr_to_stdout": True,
        # One dead process of a run takes the others with it: they would wait for it forever. Since SLURM 22.05 srun
        # does not ask sbatch how many processors a process has, and would give it one.
        # And where a site has it that jobs inherit nothing, srun would not even hand on what `setup` exports.
        "srun_args": [
            "--kill-on-bad-exit=1",
            *([] if profile.cpus == "site" else [f"--cpus-per-task={profile.cpus}"]),
            "--export=ALL",
        ],
        "additional_parameters": {**more, "hold": True, "requeue": True, "export": "ALL"},
    }
    return {key: value for key, value in given.items() if value is not None}


def _gpus(profile: Keys) -> int | str | None:
    """What is asked by `--gpus-per-node`: nothing where the profile has them as generic resources."""
    if not profile.gpus or profile.gres is not None:
        return None
    return profile.gpus if profile.gpu_type is None else f"{profile.gpu_type}:{profile.gpus}"


def submit(folder: Path, python: str | None, given: dict, tasks: list[tuple[str, ...]]) -> list[str]:
    """Submit an array of held jobs, or one job; all that submitit writes is in `folder`.

    Args:
        tasks: the run folders of each job.

    Returns:
        The jobs, in the order of `tasks`. Their pickles are in place.

    Raises:
        Refused: sbatch took none of them.
    """
    _require()
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    class Executor(submitit.SlurmExecutor):
        """With our own command; the arrays that it makes are submitit's, and are given it."""

        _submitit_command_str = _command(folder, python, given, len(tasks))

    executor = Executor(folder, max_num_timeout=RESTARTS, python=python)
    executor.update_parameters(**_options(folder, given, len(tasks)))
    try:
        with _environment(given), executor.batch():
            jobs = [executor.submit(MakeRuns(), *folders) for folders in tasks]
    except (FailedJobError, FailedSubmissionError) as error:
        raise Refused(" ".join(str(error).split()) or "no reason was given") from None
    finally:
        for left in folder.glob("*.pkl"):
            if not left.name.endswith("_submitted.pkl"):
                left.unlink(missing_ok=True)
        # SLURM has its own copy, in which paths must be whole; what is kept here is for a person.
        for left in folder.glob(".submission_file_*.sh"):
            left.unlink(missing_ok=True)
        for kept in folder.glob("*_submission.sh"):
            write_atomic(kept, discreet(kept.read_text(encoding="utf-8")).encode())
    return [job.job_id for job in jobs]


@contextmanager
def _environment(given: dict) -> Iterator[None]:
    """Without the variables that would change what these jobs are.

    sbatch obeys its own (SBATCH_PARTITION) before the text that it is given; those of keys that a profile leaves out
    stay. And it hands its environment on: in an interactive job, srun would take what SLURM set there for wishes.
    """
    said = {*given, *given["additional_parameters"]}
    kept = [name for key, names in OF_KEYS.items() if key not in said for name in names]
    taken = {}
    for name in list(os.environ):
        of_a_job = "SLURM_JOB_ID" in os.environ and name.startswith(OF_A_JOB) and name not in OF_THE_CLUSTER
        of_sbatch = name.startswith("SBATCH_") and name.removeprefix("SBATCH_") not in kept
        if of_a_job or of_sbatch:
            taken[name] = os.environ[name]
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def text(folder: Path, python: str | None, given: dict, count: int) -> str:
    """The sbatch file of an array of `count` jobs."""
    _require()
    from submitit.slurm.slurm import _make_sbatch_string

    command = _command(folder, python, given, count)
    options = _options(folder, given, count) | ({"map_count": count} if count > 1 else {})
    return _make_sbatch_string(command, folder, **options)


def check_place(runs: Path, live: bool) -> None:
    """UserError where jobs could not find their files below a folder of this name."""
    path = str(runs)
    wrong = [sign for sign in ("\\", *REPLACED, *(() if live else (":",))) if sign in path]
    wrong += [] if path.isprintable() else ["a sign that cannot be printed"]  # a line break, or no UTF-8
    if wrong:
        raise UserError(
            f"--runs: must have none of \\ {' '.join(REPLACED)} : and line breaks in its path with --executor slurm, "
            f"which SLURM, submitit or PYTHONPATH read otherwise, got {path!r}; choose another folder."
        )


def _command(folder: Path, python: str | None, given: dict, count: int) -> str:
    """The line of the sbatch file that starts a job's processes.

    Ours, because submitit starts them with `-m`, which imports from the folder of the call, and takes a % in a path for
    one of SLURM's patterns.
    """
    output = _pattern(folder, count, "%t")
    srun = shlex.join(["srun", "--unbuffered", "--output", output, *given["srun_args"]])
    start = shlex.join(["-u", *imports.starting("submitit.core.submission", "submitit_main"), str(folder)])
    return f"{srun} {python or shlex.quote(sys.executable)} {start}"


def _options(folder: Path, given: dict, count: int) -> dict:
    """The parameters that submitit gets: `given` without those that `_command` writes itself."""
    more = {**given["additional_parameters"], "output": _pattern(folder, count, "0")}
    rest = {key: value for key, value in given.items() if key != "srun_args"}
    return {**rest, "use_srun": False, "additional_parameters": more}


def _pattern(folder: Path, count: int, task: str) -> str:
    """The file of a job's output, as sbatch and srun read it: where submitit looks for it, with its numbers."""
    job = "%A_%a" if count > 1 else "%j"
    return f"{str(folder).replace('%', '%%')}/{job}_{task}_log.out"


def _require() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            "--executor slurm: needs submitit, which is not installed; install it with pip install 'robustft[slurm]'."
        ) from None
