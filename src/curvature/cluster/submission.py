"""Handing jobs to sbatch: one array for all, and one clear line when SLURM refuses."""

import contextlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvature.cluster import names
from curvature.cluster.options import SlurmOptions
from curvature.errors import ConfigError, CurvatureError, near_matches

if TYPE_CHECKING:
    from submitit.slurm.slurm import SlurmExecutor

log = logging.getLogger(__name__)

LARGEST_ARRAY = 1000
"""Jobs per array where SLURM does not say otherwise; its own default for MaxArraySize is 1001."""

KILLED_STATUSES = (134, 135, 137, 139, 140, 143)
"""Exit statuses of a killed process: abort, bus error, kill, segmentation fault, USR2 or TERM before Python was up."""

UNHEARD = ("Zero Bytes", "Unable to contact", "Socket timed out")
"""From srun's messages if the controller did not answer it."""

CONTROLLER_PATIENCE_S = 300
"""How long a job that must go back into the queue waits for a controller that is restarted or upgraded."""
CONTROLLER_PAUSE_S = 5


class SubmissionRefused(CurvatureError):
    """sbatch did not take the jobs; the message is its own, in one line."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job that SLURM has accepted.

    Attributes:
        job_id: ``"123"``, or ``"123_4"`` for a task of an array.
        label: arm and seed.
        folder: where its logs, its pickles and the submission script lie.
    """

    job_id: str
    label: str
    folder: Path

    @property
    def array(self) -> str:
        return self.job_id.partition("_")[0]

    @property
    def log(self) -> Path:
        """Standard error of the first process."""
        return self.folder / f"{self.job_id}_0_log.err"

    @property
    def output(self) -> Path:
        """Standard output of the first process."""
        return self.folder / f"{self.job_id}_0_log.out"

    @property
    def result(self) -> Path:
        """Pickled outcome of the first process, there once it has returned or failed."""
        return self.folder / f"{self.job_id}_0_result.pkl"


def submit(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    labels: Sequence[str],
    paper: str,
    options: SlurmOptions,
    parent: Path,
) -> list[SubmittedJob]:
    """Submit ``function(*arguments[i])`` for every i, as one job or as job arrays.

    Args:
        function: a picklable callable with submitit's ``checkpoint`` method.
        arguments: one tuple per job.
        labels: arm and seed of each job.
        paper: name of the array.
        options: resources.
        parent: a folder on a file system that the nodes share; a new one is made inside for logs and pickles.

    Raises:
        ConfigError: there is no SLURM here, or it refuses a partition, account, quality of service, feature or amount.
        SubmissionRefused: it refuses for another reason.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        remedy = "there is no sbatch on this machine; log in to a cluster, or try one here with `make cluster`"
        raise ConfigError("hydra/launcher", "slurm", remedy)
    folder = _new_folder(parent, paper)
    jobs: list[SubmittedJob] = []
    size = _largest_array() if len(arguments) > 1 else 1
    for start in range(0, len(arguments), size):
        chunk = slice(start, start + size)
        try:
            jobs += _submit_array(function, arguments[chunk], labels[chunk], paper, options, folder)
        except CurvatureError as error:
            if not jobs:
                shutil.rmtree(folder)
                raise
            arrays = " ".join(sorted({job.array for job in jobs}))
            raise SubmissionRefused(f"{error} ({len(jobs)} jobs were submitted before; scancel {arrays})") from error
    _write_index(folder, jobs, arguments)
    return jobs


def _submit_array(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    labels: Sequence[str],
    paper: str,
    options: SlurmOptions,
    folder: Path,
) -> list[SubmittedJob]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(labels, paper, options, folder)
    try:
        # submitit prints what sbatch said as well as raising it.
        with _outside_of_any_allocation(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            submitted = executor.map_array(function, *zip(*arguments, strict=True))
    except (FailedJobError, FailedSubmissionError) as error:
        raise explain_refusal(str(error), options) from error
    return [SubmittedJob(job.job_id, label, folder) for job, label in zip(submitted, labels, strict=True)]


def _executor(labels: Sequence[str], paper: str, options: SlurmOptions, folder: Path) -> "SlurmExecutor":
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(folder=folder, max_num_timeout=options.max_num_timeout)
    name = paper if len(labels) > 1 else f"{paper}-{labels[0]}"
    executor.update_parameters(
        **options.sbatch_parameters(),
        job_name=names.clean(name),
        comment=names.comment(paper, labels),
        setup=[f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{options.cpus_per_task}}}"', *options.setup],
        teardown=_restart_after_a_kill(folder, options.max_crashes),
        # srun does not take over --cpus-per-task since SLURM 22.05; a task whose peers died would wait for ever.
        srun_args=[f"--cpus-per-task={options.cpus_per_task}", "--kill-on-bad-exit=1"],
    )
    return executor


def _restart_after_a_kill(folder: Path, max_crashes: int) -> list[str]:
    """Shell lines at the end of a batch script: SLURM requeues after a lost node, but not after a killed process.

    Nor does it when its controller was away while srun wanted to start the task; hence also the second question.
    A job that was cancelled is not RUNNING any more; one that SLURM has restarted elsewhere, because it lost this
    node, has another count of restarts. The last task of an array has the array's id in ``SLURM_JOB_ID``.
    """
    place = shlex.quote(str(folder))
    counter = f"{place}/${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}_${{SLURM_ARRAY_TASK_ID:-0}}.crashes"
    killed = "|".join(f'"{status} "*' for status in KILLED_STATUSES)
    unlucky = "|".join(f'*"Unable to create step"*"{words}"*' for words in UNHEARD)
    tries = " ".join(map(str, range(CONTROLLER_PATIENCE_S // CONTROLLER_PAUSE_S)))
    return [
        "status=$?",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        f'patiently() {{ for try in {tries}; do "$@" && return; sleep {CONTROLLER_PAUSE_S}; done; return 1; }}',
        f'case "$status $(tail -n 1 {place}/"$job"_0_log.err)" in {killed}|{unlucky})',
        f"  crashes={counter}",
        '  echo "$(date +%FT%T) status $status on $SLURM_JOB_NODELIST" >> "$crashes"',
        '  case "$(patiently scontrol -o show job "$job")" in',
        '  *" JobState=RUNNING "*" Restarts=${SLURM_RESTART_COUNT:-0} "*)',
        f'    [ "$(wc -l < "$crashes")" -le {max_crashes} ] && patiently scontrol requeue "$job" && sleep 120;;',
        "  esac;;",
        "esac",
        "exit $status",
    ]


def _new_folder(parent: Path, paper: str) -> Path:
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        suffix = f"-{number}" if number > 1 else ""
        folder = parent.absolute() / f"{stamp}-{names.clean(paper)}{suffix}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def _write_index(folder: Path, jobs: Sequence[SubmittedJob], arguments: Sequence[tuple[Any, ...]]) -> None:
    rows = [
        {"job": job.job_id, "label": job.label, "overrides": list(argument[0])}
        for job, argument in zip(jobs, arguments, strict=True)
    ]
    (folder / "jobs.json").write_text(json.dumps(rows, indent=1))


def _largest_array() -> int:
    shown = _output("scontrol", "show", "config")
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    return max(1, min(LARGEST_ARRAY, int(match.group(1)) - 1)) if match else LARGEST_ARRAY


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


@contextlib.contextmanager
def _outside_of_any_allocation() -> Iterator[None]:
    """Hide the variables of an allocation this process runs in: sbatch would take them for the new job's options."""
    hidden: dict[str, str] = {}
    if "SLURM_JOB_ID" in os.environ:
        own = [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_")) and name != "SLURM_CONF"]
        hidden = {name: os.environ.pop(name) for name in own}
    try:
        yield
    finally:
        os.environ.update(hidden)


def explain_refusal(message: str, options: SlurmOptions) -> CurvatureError:
    """What sbatch said, attributed to the config key that it is about."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line).strip() for line in message.splitlines() if line.strip()]
    text = next((line for line in lines if "Batch job submission failed" in line), lines[-1] if lines else "no reason")
    text = text.replace("Batch job submission failed: ", "")
    lowered = text.lower()
    if "partition" in lowered and "account" not in lowered:
        return ConfigError("slurm.partition", options.partition, _alternatives(text, options.partition))
    for word, key in (
        ("account", "account"),
        ("qos", "qos"),
        ("feature", "constraint"),
        ("constraint", "constraint"),
        ("gres", "gpus_per_node"),
        ("time limit", "timeout_min"),
        ("memory", "mem_gb"),
        ("node count", "nodes"),
        ("cpu count", "cpus_per_task"),
    ):
        if word in lowered:
            return ConfigError(f"slurm.{key}", getattr(options, key), f"sbatch says: {text}")
    return SubmissionRefused(f"sbatch refused the jobs: {text}")


def _alternatives(text: str, partition: str | None) -> str:
    known = sorted(set(_output("sinfo", "-h", "-o", "%R").split()))
    if partition is None or partition in known or not known:
        return f"sbatch says: {text}"
    matches = near_matches(partition, known)
    return f"did you mean {', '.join(matches)}?" if matches else f"this cluster has {', '.join(known)}"
