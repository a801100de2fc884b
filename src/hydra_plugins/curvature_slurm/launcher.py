"""The launcher behind ``hydra/launcher=slurm``."""

from collections.abc import Sequence

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import open_dict


class SlurmLauncher(BaseSubmititLauncher):
    """hydra-submitit-launcher with resources from the ``slurm`` key of the config, waiting, and requeue after saving.

    The instance itself is what submitit pickles and calls on the node.
    """

    _EXECUTOR = "slurm"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from curvature.cluster.launch import launch

        return launch(self, job_overrides, initial_job_idx)

    def __call__(
        self,
        sweep_overrides: list[str],
        job_dir_key: str,
        job_num: int,
        job_id: str,
        singleton_state: dict[type, Singleton],
        label: str = "",
    ) -> JobReturn:
        """On the node: compose and run one job.

        Raises:
            Exception: whatever the run raised, so that SLURM too counts the job as failed.
            SystemExit: the run was saved and the job requeued.
        """
        from submitit.core.utils import UncompletedJobError

        from curvature.callbacks.interrupt import Interrupted
        from curvature.cluster import names, requeue
        from curvature.cluster.options import read_options

        submitit_handler = requeue.listen()
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        Singleton.set_state(singleton_state)
        setup_globals()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, sweep_overrides)
        with open_dict(config):
            config.hydra.job.id = submitit_handler.env.job_id
            config.hydra.job.num = job_num
        if label and submitit_handler.env.global_rank == 0:
            paper = names.paper_name(config)
            job = submitit_handler.env.job_id
            requeue.rename(job, names.clean(f"{paper}-{label}"), names.comment(paper, [label]))
        result = requeue.patiently(
            lambda: run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key=job_dir_key,
                job_subdir_key="hydra.sweep.subdir",
            )
        )
        if result.status == JobStatus.FAILED:
            if isinstance(result._return_value, Interrupted):
                options = read_options(self.config)
                try:
                    requeue.go_back(submitit_handler, options.signal_delay_s)
                except UncompletedJobError:
                    requeue.give_up(config, options.max_num_timeout)
                    raise
            raise result._return_value
        return result
