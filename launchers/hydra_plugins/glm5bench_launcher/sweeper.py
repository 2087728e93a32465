"""The sweeper: makes one list of overrides per arm from an experiment and the command line, and launches all arms together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from glm5bench.settings.overrides import arm_overrides

_NODE = {"_target_": "hydra_plugins.glm5bench_launcher.sweeper.ArmsSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="arms", node=_NODE, provider="glm5bench")


class ArmsSweeper(Sweeper):
    """Reads `experiment.arms`, a union of products."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores the context and creates the launcher that the configuration names."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """The result of one launch with the override lists of all arms."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        chosen = self.config.get("experiment")
        experiment = OmegaConf.to_container(chosen, resolve=True) if chosen is not None else None
        jobs: Sequence[Sequence[str]] = arm_overrides(experiment, parser.parse_overrides(arguments), parser.parse_overrides)  # type: ignore[arg-type]
        return self.launcher.launch(jobs, initial_job_idx=0)
