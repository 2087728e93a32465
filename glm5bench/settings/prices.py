"""Prices and powers by hardware, from conf/ without a composition: for tables of files, which have no sweep."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from ..errors import BenchError, SettingsError
from ..values.settings import Price
from .validated import conf_dir, group_values, validate

DEFAULT = "hyperscaler"


def price_table(spec: str) -> Price:
    """Prices by name of conf/price, from a YAML file of the same shape, or only those in `b200=2.5,h200=1.4`."""
    if "=" in spec:
        own: Price = validate(Price, {"id": "own", "usd_per_gpu_h": _price_pairs(spec)}, "")
        return own
    shipped = conf_dir() / "price" / f"{spec}.yaml"
    path = shipped if shipped.is_file() else Path(spec)
    if not path.is_file():
        names = ", ".join(group_values("price"))
        what = (
            f"The price file {spec} does not exist." if "/" in spec or spec.endswith((".yaml", ".yml")) else f"Unknown price set {spec!r}."
        )
        raise SettingsError(what, where="--price", next_step=f"one of {names}, a YAML file, or b200=2.5")
    try:
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise SettingsError(
            f"The price file cannot be read: {why}.", where=str(path), next_step="compare it with conf/price/own.yaml"
        ) from error
    if path == shipped:
        asked = {"id": spec, **{name: _inherited("price", spec, name) for name in ("usd_per_gpu_h", "usd_per_mtok")}}
    price: Price = validate(Price, asked, "")
    return price


def _price_pairs(spec: str) -> dict[str, float | None]:
    pairs: dict[str, float | None] = {}
    for pair in spec.split(","):
        hardware, _, usd = pair.partition("=")
        if hardware.strip() not in group_values("hardware"):
            raise SettingsError(
                f"--price {pair}: unknown hardware {hardware!r}.", next_step=f"one of {', '.join(group_values('hardware'))}"
            )
        try:
            pairs[hardware.strip()] = float(usd)
        except ValueError as error:
            raise SettingsError(f"--price {pair}: {usd!r} is not a number of dollars.", next_step="--price b200=2.5,h200=1.4") from error
    return pairs


def refuse_gaps(price: Price, hardware: Collection[str]) -> None:
    """Raises SettingsError if this set has no price for some of these GPUs."""
    missing = sorted(h for h in {*hardware} & {*group_values("hardware")} if price.usd_per_gpu_h.get(h) is None)
    if missing:
        known = {h: usd for h, usd in price.usd_per_gpu_h.items() if usd is not None and h in hardware}
        usual = price_table(DEFAULT).usd_per_gpu_h
        known |= {h: usd for h in missing if (usd := usual.get(h)) is not None}
        pairs = ",".join([*(f"{h}={usd:g}" for h, usd in sorted(known.items())), *(f"{h}=1.00" for h in missing if h not in known)])
        raise SettingsError(
            f"The price set {price.id!r} has no price for {', '.join(missing)}.",
            where="--price",
            next_step=f"put your own figures: --price {pairs}",
        )


def price_option(price: Price, hardware: Collection[str]) -> str:
    """` --price ...` for a command that uses these prices; empty if they are the default."""
    if price.id in group_values("price") and price_table(price.id) == price:
        return "" if price.id == DEFAULT else f" --price {price.id}"
    pairs = (f"{h}={price.usd_per_gpu_h[h]:g}" for h in sorted(hardware) if price.usd_per_gpu_h.get(h) is not None)
    told = ",".join(pairs)
    return f" --price {told}" if told else ""


def power_table() -> dict[str, float]:
    """All-in kW per GPU by hardware id, from conf/hardware. A variant inherits the values that it does not set."""
    return {id_: float(value) for id_, value in fact_table("hardware", "power_kw").items()}


def fact_table(group: str, fact: str) -> dict[str, Any]:
    """One fact of every choice of a group of conf/, without a composition."""
    return {id_: _inherited(group, id_, fact) for id_ in group_values(group)}


def _inherited(group: str, name: str, key: str) -> Any:
    raw = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    if key in raw:
        return raw[key]
    parents = [d for d in raw.get("defaults", []) if isinstance(d, str) and d != "_self_"]
    if not parents:
        raise BenchError(f"{group}/{name} has no {key}.", where=str(conf_dir()))
    return _inherited(group, parents[0], key)
