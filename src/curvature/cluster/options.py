"""What a job asks of SLURM: the ``slurm`` key of a config."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curvature.errors import ConfigError, near_matches


@dataclass
class SlurmOptions:
    """Resources and behaviour of the jobs of one launch; every field can be overridden as ``slurm.<field>=...``.

    Attributes:
        partition, account, qos, constraint, exclude: handed to sbatch if given.
        nodes: nodes per job.
        tasks_per_node: processes per node; with DDP one per device.
        gpus_per_node: None asks for none.
        cpus_per_task: CPU cores of each process.
        mem_gb: memory per node in GB; None takes the partition's default.
        timeout_min: time limit of one stretch in minutes; a longer run is requeued and goes on.
        signal_delay_s: seconds before the limit at which the job is told to save.
        max_num_timeout: how many times a run may use up its time limit and go on.
        max_crashes: how many times a run whose process was killed (out of memory, kill -9) starts again.
        array_parallelism: jobs of an array that may run at once.
        setup: shell commands run on the node first, e.g. ``[module load cuda]``.
        additional_parameters: further sbatch options, e.g. ``{mail-user: me@example.org}``.
        submit_only: return after submission instead of waiting.
        poll_seconds: the longest pause between two questions to SLURM while waiting.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int = 1
    mem_gb: float | None = None
    timeout_min: int = 60
    signal_delay_s: int = 120
    max_num_timeout: int = 20
    max_crashes: int = 3
    array_parallelism: int = 256
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    submit_only: bool = False
    poll_seconds: float = 15.0

    @property
    def tasks(self) -> int:
        """Processes of one job."""
        return self.nodes * self.tasks_per_node

    def sbatch_parameters(self) -> dict[str, Any]:
        """The part that goes into the submission script, under submitit's names."""
        plain = ("partition", "account", "qos", "constraint", "exclude", "nodes", "gpus_per_node", "cpus_per_task")
        chosen = {name: getattr(self, name) for name in (*plain, "signal_delay_s", "array_parallelism")}
        chosen |= {"time": self.timeout_min, "ntasks_per_node": self.tasks_per_node}
        if self.mem_gb is not None:
            chosen["mem"] = f"{round(self.mem_gb * 1024)}MB"
        # A cluster may not requeue by default; everything here is built on it.
        chosen["additional_parameters"] = {"requeue": True} | self.additional_parameters
        return {name: value for name, value in chosen.items() if value is not None}


def read_options(cfg: DictConfig) -> SlurmOptions:
    """The ``slurm`` key of ``cfg`` with types, ranges and its agreement with ``trainer`` checked.

    Raises:
        ConfigError: unknown key, wrong type, out of range, or a trainer that expects other processes than SLURM starts.
    """
    node = OmegaConf.select(cfg, "slurm")
    given = OmegaConf.to_container(node, resolve=True) if node is not None else {}
    if not isinstance(given, dict):
        raise ConfigError("slurm", given, "a profile of conf/slurm: cpu, single_gpu, multi_gpu, multi_node")
    known = [item.name for item in fields(SlurmOptions)]
    structured = OmegaConf.structured(SlurmOptions)
    for key, value in ((str(key), value) for key, value in given.items()):
        if key not in known:
            nearest = ", ".join(near_matches(key, known)) or ", ".join(known)
            raise ConfigError(f"slurm.{key}", value, f"there is no such key; nearest: {nearest}")
        try:
            structured[key] = value
        except OmegaConfBaseException as error:
            raise ConfigError(f"slurm.{key}", value, str(error).splitlines()[0]) from error
    options = OmegaConf.to_object(structured)
    assert isinstance(options, SlurmOptions)
    _check_ranges(options)
    _check_trainer(cfg, options)
    return options


def _check_ranges(options: SlurmOptions) -> None:
    at_least = dict.fromkeys(("nodes", "tasks_per_node", "cpus_per_task", "timeout_min", "array_parallelism"), 1)
    at_least |= dict.fromkeys(("signal_delay_s", "max_num_timeout", "max_crashes"), 0)
    values = asdict(options)
    for key, least in at_least.items():
        if values[key] < least:
            raise ConfigError(f"slurm.{key}", values[key], f"at least {least}")
    if options.mem_gb is not None and options.mem_gb <= 0:
        raise ConfigError("slurm.mem_gb", options.mem_gb, "more than 0")
    if options.poll_seconds <= 0:
        raise ConfigError("slurm.poll_seconds", options.poll_seconds, "more than 0")
    if options.signal_delay_s >= 60 * options.timeout_min:
        limit = f"less than the time limit of {60 * options.timeout_min} s (slurm.timeout_min={options.timeout_min})"
        raise ConfigError("slurm.signal_delay_s", options.signal_delay_s, limit)


def _check_trainer(cfg: DictConfig, options: SlurmOptions) -> None:
    for key, count, name in (
        ("trainer.num_nodes", options.nodes, "nodes"),
        ("trainer.devices", options.tasks_per_node, "tasks_per_node"),
    ):
        value = OmegaConf.select(cfg, key)
        if isinstance(value, int) and value > 0 and value != count:
            allowed = f"SLURM starts slurm.{name}={count}; set both to the same number or choose slurm=multi_node"
            raise ConfigError(key, value, allowed)
