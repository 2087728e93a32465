"""The validated settings of a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import FiniteFloat

from ..errors import SettingsError
from .cluster import Cluster, Failure
from .groups import Accuracy, Checkpoint, Engine, Hardware, Speculative
from .plain import ABSENT, digest_of
from .point import Arm, ServerScope
from .roles import SINGLE, Roles
from .search import Search
from .workload import Natural, Positive, PositiveFloat, Workload

RepeatScope = Literal["start", "run"]


@dataclass(frozen=True)
class TokenPrices:
    """What a million tokens cost elsewhere, in $: prompt tokens that are computed or come from a cache, and output tokens."""

    computed: PositiveFloat
    cached: Annotated[FiniteFloat, Ge(0)]
    output: Annotated[FiniteFloat, Ge(0)]

    @property
    def weights(self) -> tuple[float, float]:
        """A cached and an output token, if a computed one counts as 1."""
        return self.cached / self.computed, self.output / self.computed


@dataclass(frozen=True)
class Price:
    """$ per GPU and hour, by hardware; None if the user has not set a price. `usd_per_mtok`: weighs the tokens of agent sessions."""

    id: str
    usd_per_gpu_h: dict[str, PositiveFloat | None]
    usd_per_mtok: TokenPrices | None = field(default=None, metadata=ABSENT)

    @property
    def weights(self) -> tuple[float, float] | None:
        """The weights of its token prices, if it has any."""
        return self.usd_per_mtok.weights if self.usd_per_mtok is not None else None


@dataclass(frozen=True)
class TensorParallel:
    """GPUs that share one copy of the experts, and of all weights without data parallelism."""

    size: Positive


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """One arm of a campaign, with the axes of its points."""

    hardware: Hardware
    checkpoint: Checkpoint
    engine: Engine
    tp: TensorParallel
    speculative: Speculative
    workload: Workload
    dp: Positive = 1
    ep: Positive = 1
    roles: Roles = SINGLE
    concurrency: Annotated[tuple[Positive, ...], MinLen(1)]
    repeat: Annotated[tuple[Natural, ...], MinLen(1)]
    seed: Annotated[tuple[Natural, ...], MinLen(1)]

    @property
    def arm(self) -> Arm:
        """The recipe and workload of this arm."""
        workload = self.workload if self.roles.router is None else behind_a_router(self.workload)
        of_groups = (self.hardware, self.checkpoint, self.engine, self.tp.size, self.speculative)
        return Arm(*of_groups, workload, dp=self.dp, ep=self.ep, roles=self.roles)


def behind_a_router(w: Workload) -> Workload:
    """The workload in a form that SGLang's router accepts: it refuses token ids in /v1/completions, and passes those of /generate on."""
    return dataclasses.replace(w, endpoint="generate") if w.endpoint == "completions" else w


NO_SEARCH = Search("none")


@dataclass(frozen=True, kw_only=True)
class CampaignSettings:
    """The settings of a whole campaign."""

    server_scope: ServerScope
    repeat_scope: RepeatScope
    bind_concurrency: Positive | None
    cluster: Cluster
    price: Price
    failure: Failure
    retries: Natural = 0
    pack: bool = False
    stage: Literal["none", "local"] = "none"
    stop_when: Literal["saturated"] | None = None
    telemetry_s: Annotated[FiniteFloat, Ge(0), Le(2.5)] = 1.0
    accuracy: Accuracy
    search: Search = NO_SEARCH
    name: str | None
    output_dir: str
    wait: bool


@dataclass(frozen=True, kw_only=True)
class Settings(ArmSettings, CampaignSettings):
    """One arm as Hydra composed it: conf/ holds the settings of the arm and of the campaign together."""


@dataclass(frozen=True)
class Asked:
    """The campaign and the arms that one command asked for."""

    campaign: CampaignSettings
    arms: tuple[ArmSettings, ...]

    @property
    def hardware(self) -> tuple[str, ...]:
        """The kinds of hardware of its arms, sorted."""
        return tuple(sorted({arm.hardware.id for arm in self.arms}))


def together(composed: Sequence[Settings]) -> Asked:
    """The arms of one command and the settings that they share. Raises SettingsError if a campaign setting differs between arms."""
    names = [field.name for field in dataclasses.fields(CampaignSettings)]
    for name in names:
        if len({digest_of(getattr(s, name)) for s in composed}) > 1:
            raise SettingsError(f"{name} differs between the arms, but a campaign has only one.", next_step=f"run one sweep per {name}")
    of_the_arm = [field.name for field in dataclasses.fields(ArmSettings)]
    campaign = CampaignSettings(**{name: getattr(composed[0], name) for name in names})
    return Asked(campaign, tuple(ArmSettings(**{name: getattr(s, name) for name in of_the_arm}) for s in composed))
