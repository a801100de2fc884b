"""``hydra/sweeper=claims``: every claim of a paper becomes arms times seeds; what has finished is not run again.

Imported by Hydra at every start, so it imports nothing heavy at module level.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ClaimsSweeper(Sweeper):
    """Plans the runs of a paper's claims, launches the missing ones in one batch and prints the verdicts."""

    def __init__(self) -> None:
        super().__init__()
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run what the claims need on top of the command line ``arguments``.

        Raises:
            curvature.errors.CurvatureError: an unknown claim, a sweep in the arguments, or failed runs (after the
                verdicts were printed).
        """
        from curvature.claims import collect, papers, plan, schema, terminal, verdicts
        from curvature.errors import CurvatureError
        from curvature.validation import validate

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        wanted, overrides = self._split(arguments)
        loader = self.hydra_context.config_loader
        config = self.config

        def compose(line: list[str]) -> DictConfig:
            cfg = loader.load_sweep_config(config, line)
            cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            validate(cfg)
            return cfg

        cfg = compose(overrides)
        experiment = str(config.hydra.runtime.choices.get("experiment"))
        claims = schema.load(papers.find_claims(experiment, cfg, sys.argv[1:]))
        selected = claims.select(wanted)
        runs = plan.plan(claims, selected, compose, overrides)
        outputs = Path(cfg.outputs)
        finished = {} if cfg.force else collect.collect(runs, outputs, cfg.paper, cfg.tracking.uri)
        missing = {run.fingerprint: run for run in reversed(runs) if run.fingerprint not in finished}
        absent = plan.without_data(selected, cfg.data_root)
        able = {arm for claim in selected if claim not in absent for part in claim.decide for arm in part.arms}
        jobs = [run for run in runs if missing.get(run.fingerprint) is run and run.arm in able]
        distinct = len({run.fingerprint for run in runs})
        print(f"{cfg.paper}: {distinct} runs decide {len(selected)} claims, {len(jobs)} of them remain to be run")
        for claim in absent:
            print(f"{claim.id} is not run: it needs {claim.data}/ under data_root")
        returned: Sequence[JobReturn] = []
        if jobs:
            returned = self.launcher.launch([run.overrides for run in jobs], initial_job_idx=0)
        results = collect.collect(runs, outputs, cfg.paper, cfg.tracking.uri)
        found = verdicts.judge(claims, selected, runs, results, cfg.scale)
        terminal.print_verdicts(found, f"{cfg.paper}: {claims.paper.title}")
        failed = [
            f"{run.arm}-s{run.seed}: {_reason(job)}"
            for run, job in zip(jobs, returned, strict=False)
            if getattr(job, "status", JobStatus.COMPLETED) == JobStatus.FAILED
        ]
        if failed:
            raise CurvatureError(f"{len(failed)} of {len(jobs)} runs failed:\n  " + "\n  ".join(failed))
        return None

    @staticmethod
    def _split(arguments: list[str]) -> tuple[list[str] | None, list[str]]:
        """The claims asked for by ``claim=`` and the other overrides."""
        from curvature.errors import ConfigError

        wanted: list[str] | None = None
        rest: list[str] = []
        for text, override in zip(arguments, OverridesParser.create().parse_overrides(arguments), strict=True):
            if override.key_or_group == "claim":
                names = text.split("=", 1)[1].strip("[]'\" ").split(",")
                wanted = [name.strip() for name in names if name.strip() not in ("", "null")] or None
            elif override.is_sweep_override():
                value = override.get_value_string()
                raise ConfigError(str(override.key_or_group), value, "one value; for a sweep add hydra/sweeper=basic")
            else:
                rest.append(text)
        return wanted, rest


def _reason(job: JobReturn) -> str:
    error = job._return_value
    return str(error).splitlines()[0] if str(error) else type(error).__name__
