"""``hydra/sweeper=domainbed``: algorithms, test domains, hyper-parameter seeds and trials as DomainBed draws them.

Imported by Hydra at every start, so it imports nothing heavy at module level.
"""

from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class DomainBedSweeper(Sweeper):
    """Plans a sweep, launches what has not finished, and writes the tables of all rules of selection, also to MLflow.

    Args:
        dataset: DomainBed's name of the data, which decides ranges and run seeds.
        domains: number of domains.
        algorithms: names in DomainBed.
        hparams_seeds: hyper-parameter seeds 0 (the defaults) to this minus one.
        trial_seeds: trials; each has its own held-out parts, noise and draws.
        leave_one_out: also the runs that leave out two domains, which selection by leaving one out needs.
        hparams: ranges, see :func:`curvature.domainbed.hparams.registry`.
        baseline: algorithm that paired differences are taken to.
    """

    def __init__(
        self,
        dataset: str,
        domains: int,
        algorithms: Sequence[str],
        hparams_seeds: int,
        trial_seeds: int,
        leave_one_out: bool,
        hparams: str,
        baseline: str,
    ) -> None:
        super().__init__()
        self.dataset, self.domains, self.algorithms = dataset, domains, list(algorithms)
        self.hparams_seeds, self.trial_seeds = hparams_seeds, trial_seeds
        self.leave_one_out, self.hparams, self.baseline = leave_one_out, hparams, baseline
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep on top of the command line ``arguments``.

        Raises:
            curvature.errors.CurvatureError: an unknown algorithm or ranges, a sweep in the arguments, or failed runs
                (after the tables were written).
        """
        from curvature.claims.report import log_report
        from curvature.domainbed import runs, tables
        from curvature.errors import ConfigError, CurvatureError
        from curvature.fingerprint import fingerprint
        from curvature.rundir import FINISHED, RunDirectory
        from curvature.tracking import default_uri
        from curvature.validation import validate

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        for override in OverridesParser.create().parse_overrides(arguments):
            if override.is_sweep_override():
                value = override.get_value_string()
                raise ConfigError(str(override.key_or_group), value, "one value; for a sweep add hydra/sweeper=basic")
        for key in ("domains", "hparams_seeds", "trial_seeds"):
            if getattr(self, key) < (least := 2 if key == "domains" else 1):
                raise ConfigError(f"hydra.sweeper.{key}", getattr(self, key), f"at least {least}")
        loader, config = self.hydra_context.config_loader, self.config

        def compose(line: list[str]) -> DictConfig:
            cfg = loader.load_sweep_config(config, line)
            return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])

        cfg = compose(arguments)
        validate(cfg)
        jobs = [[*arguments, *line] for line in self.lines(dropout="dropout" in cfg.model)]
        remaining, addresses = [], []
        for line in jobs:
            composed = compose(line)
            validate(composed)
            addresses.append(fingerprint(composed))
            done = RunDirectory(cfg.outputs, cfg.paper, addresses[-1]).read().get("status") == FINISHED
            if cfg.force or not done:
                remaining.append(line)
        print(f"{self.dataset}: {len(jobs)} runs, {len(remaining)} of them remain to be run")
        returned: Sequence[JobReturn] = []
        if remaining:
            returned = self.launcher.launch(remaining, initial_job_idx=0)
        found = runs.import_runs(cfg.outputs, cfg.paper)
        own = found.records[found.records["run"].isin([address[:12] for address in addresses])]
        folder = Path(cfg.outputs) / "domainbed" / self.dataset
        tables.write(own, folder, self.baseline)
        log_report(cfg.paper, folder, cfg.tracking.uri or default_uri(cfg.outputs), "domainbed")
        print((folder / "tables.md").read_text())
        print(f"records and tables: {folder}")
        failed = [str(job._return_value) for job in returned if job.status == JobStatus.FAILED]
        if failed:
            raise CurvatureError(f"{len(failed)} of {len(remaining)} runs failed:\n  " + "\n  ".join(failed))
        return None

    def lines(self, dropout: bool = True) -> list[list[str]]:
        """Overrides of every run of the sweep.

        Args:
            dropout: whether the network has ``model.dropout``.
        """
        from curvature.data.seeds import seed_hash
        from curvature.domainbed.hparams import overrides

        sets: list[list[int]] = [[env] for env in range(self.domains)]
        if self.leave_one_out:
            sets += [list(pair) for pair in combinations(range(self.domains), 2)]
        found = []
        seeds = range(self.trial_seeds), range(self.hparams_seeds)
        for algorithm, trial, hparams_seed, envs in product(self.algorithms, *seeds, sets):
            chosen = overrides(algorithm, self.dataset, hparams_seed, trial, self.hparams, dropout)
            seed = seed_hash(self.dataset, algorithm, envs, hparams_seed, trial)
            data = f"data.test_envs={envs}".replace(" ", ""), f"data.trial_seed={trial}", f"data.seed={trial}"
            names = {"dataset": self.dataset, "algorithm": algorithm, "hparams_seed": hparams_seed}
            identity = [f"+domainbed.{key}={value}" for key, value in names.items()]
            found.append([*chosen, *data, f"seed={seed}", *identity])
        return found
