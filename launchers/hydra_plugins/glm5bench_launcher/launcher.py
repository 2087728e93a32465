"""The launchers: compose every arm, validate it, and pass all arms to the command's task at once.

The launchers differ only in their names. Hydra's part ends here; glm5bench decides which jobs run where.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from glm5bench.settings.overrides import Arms, Multirun

_TARGET = "hydra_plugins.glm5bench_launcher.launcher.CampaignLauncher"
for _kind in ("slurm", "local", "plan"):  # dicts: Hydra loads plugins outside sys.modules, where dataclasses cannot read annotations
    _node = {"_target_": _TARGET, "kind": _kind}
    ConfigStore.instance().store(group="hydra/launcher", name=_kind, node=_node, provider="glm5bench")


class CampaignLauncher(Launcher):
    """Receives all jobs of a multirun in one call."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores the arguments that `launch` needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Calls the task once with all arms, and returns one completed result per arm."""
        loader = self.hydra_context.config_loader
        parse = OverridesParser.create(config_loader=loader).parse_overrides
        options = set(loader.get_group_options("", ObjectType.GROUP))
        made = Arms(lambda overrides: loader.load_sweep_config(self.config, overrides), parse, lambda key: key.split("/")[0] in options)
        arms = [made.settings(overrides) for overrides in job_overrides]
        experiment = self.config.hydra.runtime.choices.get("experiment")
        self.task_function(Multirun.of(self.kind, experiment, tuple(self.config.hydra.overrides.task), arms))
        return [JobReturn(status=JobStatus.COMPLETED, overrides=list(o), _return_value=None) for o in job_overrides]
