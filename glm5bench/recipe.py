"""Turns settings into a server's command line, environment and image, and warns of limits. Pure.

A flag is written once, in the conf/ group that causes it. Groups are read in the order of `rules`: engine, model, hardware, checkpoint,
speculative, exceptions of the hardware. Each rule that matches the arm adds flags, replaces earlier ones or removes them. Flags that depend
on the concurrency contain `$C` until `bound` replaces it. The node replaces GIVEN_BY_THE_NODE, so that no path or address enters a key.
"""

from __future__ import annotations

import ast
import dataclasses
import operator
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .engines.known import adapter
from .errors import SettingsError
from .memory import MemoryFit, memory_fit
from .values.groups import Rule
from .values.plain import number_of_version
from .values.point import Arm, Recipe, RoleRecipe
from .values.workload import Workload

OF_THE_MODEL = ("$TOOL_CALL_PARSER", "$REASONING_PARSER")  # values that a model's rules set; a flag whose value is not set is left out
HARDWARE = frozenset({"hardware", "architecture", "vendor", "cuda", "rocm", "fp4"})  # properties of GPUs that a rule may use
GIVEN_BY_THE_NODE = ("$MODEL", "$HOST", "$PORT", "$FACTS", "$HEAD", "$NNODES", "$RANK", "$BOOTSTRAP")


@dataclass(frozen=True)
class Setting:
    """One flag's value as written in its group."""

    value: Any
    group: str


def rules(arm: Arm) -> Iterable[tuple[str, Rule]]:
    """Every matching rule of the arm's groups with the group's name, in the order in which they apply."""
    groups: tuple[tuple[str, Sequence[Rule]], ...] = (
        (f"engine/{arm.engine.id}", arm.engine.recipe),
        (f"model/{arm.checkpoint.model}", arm.checkpoint.model_recipe),
        (f"hardware/{arm.hardware.id}", arm.hardware.recipe),
        (f"checkpoint/{arm.checkpoint.id}", arm.checkpoint.recipe),
        (f"speculative/{arm.speculative.id}", arm.speculative.recipe),
        (f"speculative/{arm.speculative.id}", arm.speculative.of_pinned if arm.speculative.pinned is not None else ()),
        (f"roles/{arm.roles.id}", arm.roles.recipe),
        (f"hardware/{arm.hardware.id}", arm.hardware.recipe_exceptions),
        (f"engine/{arm.engine.id}", arm.engine.of_sessions if arm.workload.has_sessions else ()),
    )
    facts = _facts(arm)
    for group, group_rules in groups:
        yield from ((group, rule) for rule in group_rules if _applies(rule, facts))


def _applies(rule: Rule, facts: Mapping[str, Any]) -> bool:
    return all(facts.get(key) in (wanted if isinstance(wanted, list) else [wanted]) for key, wanted in rule.when.items())


def set_by_itself(arm: Arm) -> dict[str, Any]:
    """Flags that the arm does not set and the engine sets by itself, with their values."""
    facts, asked = _facts(arm), flags(arm)
    chosen = {flag: value for rule in arm.engine.sets if _applies(rule, facts) for flag, value in rule.flags.items()}
    return {flag: value for flag, value in chosen.items() if flag not in asked and flag not in arm.engine.extra_args}


def _facts(arm: Arm) -> dict[str, Any]:
    return {
        "engine": arm.engine.flavor,
        "hardware": arm.hardware.id,
        "architecture": arm.hardware.architecture,
        "vendor": arm.hardware.vendor,
        "cuda": arm.hardware.vendor == "nvidia",
        "rocm": arm.hardware.vendor == "amd",
        "fp4": any(name.endswith("fp4") for name in arm.hardware.formats),
        "sparse_mla": arm.checkpoint.architecture.index_heads > 0,
        "checkpoint": arm.checkpoint.id,
        "model": arm.checkpoint.model,
        "precision": arm.checkpoint.precision,
        "speculative": arm.speculative.id,
        "speculates": arm.speculative.steps > 0,
        "tp": arm.tp,
        "data_parallel": arm.dp > 1,
        "expert_parallel": arm.ep > 1,
        "role": arm.role,
        "workers": next((part.workers for name, part in arm.roles.parts if name == arm.role), 1),
        "rack_scale": arm.hardware.scale_up_world > arm.hardware.gpus_per_node,
        "spans_nodes": arm.tp > arm.hardware.gpus_per_node,
    }


def flags(arm: Arm) -> dict[str, Setting]:
    """The arm's flags before substitution, with the group that each comes from."""
    chosen: dict[str, Setting] = {}
    for group, rule in rules(arm):
        for flag, value in rule.flags.items():
            if value is None:
                chosen.pop(flag, None)
            else:
                chosen[flag] = Setting(value, group)
    names = {name: setting for name, setting in chosen.items() if name.startswith("$")}
    told = {flag: names.get(s.value, s) if isinstance(s.value, str) else s for flag, s in chosen.items() if flag not in names}
    return _ofnumber_of_version({flag: s for flag, s in told.items() if s.value not in OF_THE_MODEL}, arm)


def _ofnumber_of_version(chosen: Mapping[str, Setting], arm: Arm) -> dict[str, Setting]:
    """The flags with the names of the engine's version. A recipe is written once, with the names of its published version."""
    named = dict(chosen)
    for rename in arm.engine.renames:
        if number_of_version(arm.engine.version) >= number_of_version(rename.since):
            named = {rename.flags.get(flag, flag): setting for flag, setting in named.items()}
            named = {
                flag: Setting(rename.values.get(flag, {}).get(s.value, s.value), s.group) if isinstance(s.value, str) else s
                for flag, s in named.items()
            }
    return named


def bound(arm: Arm, binding: int, served: Sequence[int] = ()) -> Recipe:
    """The recipe with `$C` replaced by `binding`. `served`: all concurrencies of this server start; tables use their safest value."""
    if arm.has_parts:
        return _of_parts(arm, binding, served)
    settings = flags(arm)
    argv = [_substituted(word, arm, binding) for word in arm.engine.program]
    origin = {}
    for flag, setting in settings.items():
        value = _at(setting.value, (binding, *served))
        argv.append(flag)
        if value is not True:
            argv.append(_substituted(value, arm, binding))
        origin[flag] = setting.group
    argv.extend(arm.engine.extra_args)
    return Recipe(tuple(argv), environment(arm), image(arm), origin, _notes(arm, settings, binding, served), binding)


def _of_parts(arm: Arm, binding: int, served: Sequence[int]) -> Recipe:
    """The recipes of all roles, and the command of the router, which runs in the image of the first role."""
    assert arm.roles.router is not None
    parts = tuple(RoleRecipe(s.role, bound(s.arm, binding, served)) for s in arm.servers)
    notes = tuple(f"{part.role}: {note}" for part in parts for note in part.recipe.notes)
    return Recipe(arm.roles.router.program, {}, parts[0].recipe.image, {}, notes, binding, parts)


def _answering(arm: Arm, recipe: Recipe) -> tuple[Arm, Recipe, int]:
    """The arm and recipe of the servers that generate the answers, and their number."""
    servers = arm.servers[-1]
    return (servers.arm, recipe.roles[-1].recipe, servers.workers) if recipe.roles else (arm, recipe, 1)


def environment(arm: Arm) -> dict[str, str]:
    """Environment variables of the server; the user's own replace those of the rules."""
    env: dict[str, str] = {}
    for _, rule in rules(arm):
        for name, value in rule.env.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value.replace("$PINNED", _pinned(arm))
    return {**env, **arm.engine.env}


def _pinned(arm: Arm) -> str:
    return "" if arm.speculative.pinned is None else f"{arm.speculative.pinned:g}"


def image(arm: Arm) -> str:
    """The container image with its pinned digest: the user's own, else the image of the last rule that names one.

    Empty for the simulated server, which needs none, and for `engine.image=none`, which runs the engine from the node's PATH.
    """
    if arm.engine.image == "none":
        return ""
    named = [rule.image for _, rule in rules(arm) if rule.image]
    reference = arm.engine.image or ("" if adapter(arm.engine).is_simulated or not named else named[-1])
    pins = {name.removeprefix("docker://"): digest for name, digest in arm.engine.digests.items()}
    digest = pins.get(reference.removeprefix("docker://"))
    return f"{reference}@{digest}" if digest else reference


def _at(value: Any, concurrencies: Sequence[int]) -> Any:
    """The value at these concurrencies: of a table, the safest (smallest) value."""
    if not isinstance(value, Mapping):
        return value
    return min(_in_table(value["by_concurrency"], c) for c in concurrencies)


def _in_table(table: Sequence[Sequence[Any]], concurrency: int) -> Any:
    return next(value for up_to, value in table if up_to is None or concurrency <= up_to)


def _substituted(value: Any, arm: Arm, binding: int) -> str:
    text = str(value)
    if text in GIVEN_BY_THE_NODE:
        return text
    w, s = arm.workload, arm.speculative
    isl = w.longest_tokens - w.osl_tokens  # of the last turn, with all turns before it
    sizes = {"$TP": arm.tp, "$DP": arm.dp, "$EP": arm.ep}
    names = {"$ISL": isl, "$OSL": w.osl_tokens, **sizes, "$STEPS": s.steps, "$DRAFTS": s.draft_tokens, "$C": binding}
    text = text.replace("$PINNED", _pinned(arm))
    for name, number in names.items():
        text = text.replace(name, str(number))
    return str(_arithmetic(ast.parse(text[1:], mode="eval").body)) if text.startswith("=") else text


def _arithmetic(node: ast.expr) -> int:
    operators = {ast.Add: operator.add, ast.Mult: operator.mul, ast.Sub: operator.sub, ast.FloorDiv: operator.floordiv}
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in operators:
        result: int = operators[type(node.op)](_arithmetic(node.left), _arithmetic(node.right))
        return result
    raise ValueError(f"not a sum, product or quotient of integers: {ast.unparse(node)}")


def _notes(arm: Arm, settings: Mapping[str, Setting], binding: int, served: Sequence[int]) -> tuple[str, ...]:
    notes = [rule.note for _, rule in rules(arm) if rule.note]
    if not arm.checkpoint.model_recipe:
        notes.append(
            f"{arm.checkpoint.id} includes no rules of {arm.checkpoint.model} (conf/checkpoint/models): it gets none of that model's flags"
        )
    if _has_no_rule(arm):
        notes.append(f"no rule of {arm.checkpoint.model} is for {arm.hardware.architecture}: the engine's own defaults hold")
    others = sorted({c for c in served if c != binding})
    if not others:
        return tuple(notes)
    carried = [flag for flag, s in settings.items() if isinstance(s.value, str) and "$C" in s.value]
    if carried:
        notes.append(f"{', '.join(carried)}: bound to {binding} for all concurrencies; the published recipe starts one server for each")
    for flag, setting in settings.items():
        if isinstance(setting.value, Mapping):
            taken = _at(setting.value, (binding, *served))
            differ = [c for c in sorted({binding, *served}) if _in_table(setting.value["by_concurrency"], c) != taken]
            if differ:
                own = _in_table(setting.value["by_concurrency"], differ[0])
                at = ", ".join(map(str, differ))
                notes.append(f"{flag} {taken}, the safest value, also at concurrency {at}, where the published recipe has {own}")
    return tuple(notes)


def _has_no_rule(arm: Arm) -> bool:
    """Whether the model has flags for other GPUs with this engine, but none for these GPUs."""
    facts = _facts(arm)
    groups = (arm.checkpoint.model_recipe, arm.hardware.recipe, arm.checkpoint.recipe)
    asking = [rule for group in groups for rule in group if rule.flags and rule.when.keys() & HARDWARE]
    meant = [rule for rule in asking if _applies(Rule({k: v for k, v in rule.when.items() if k not in HARDWARE}), facts)]
    return bool(meant) and not any(_applies(rule, facts) for rule in meant)


def flag_value(argv: Sequence[str], names: Sequence[str]) -> str | None:
    """The value of the last of these flags in a command line, `--flag value` or `--flag=value`; None if it is missing."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    found = [word.partition("=")[2] if "=" in word else following for word, following in pairs if word.partition("=")[0] in names]
    return found[-1] if found else None


def number_of(argv: Sequence[str], names: Sequence[str]) -> float | None:
    """The value as a number. Raises SettingsError if it is not one, because a user's own flags are free text."""
    text = flag_value(argv, names)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise SettingsError(
            f"{names[0]} {text}: not a number.", where="engine.extra_args or conf/", next_step="set a number there"
        ) from None


def kv_dtype(arm: Arm, argv: Sequence[str]) -> str:
    """The KV cache's type with this command line."""
    is_sparse = arm.checkpoint.architecture.index_topk > 0
    return adapter(arm.engine).kv_dtype(arm.hardware, flag_value(argv, ("--kv-cache-dtype",)) or "auto", is_sparse=is_sparse)


def memory(arm: Arm, recipe: Recipe) -> MemoryFit:
    """The memory fit of a bound recipe. With several roles: of a decode worker, with the capacity of all of them."""
    arm, recipe, workers = _answering(arm, recipe)
    fraction = number_of(recipe.argv, adapter(arm.engine).fraction_flags) or 0.9
    running = admitted(arm, recipe) or recipe.binding or 1
    shares = adapter(arm.engine).shares_index(arm.engine.version)
    fit = memory_fit(arm, fraction=fraction, kv_dtype=kv_dtype(arm, recipe.argv), running=running, shares_index=shares)
    return dataclasses.replace(fit, capacity_tokens=workers * fit.capacity_tokens)


def admitted(arm: Arm, recipe: Recipe) -> int | None:
    """The number of requests that the server's settings let it run at once; None if only memory limits it."""
    arm, recipe, workers = _answering(arm, recipe)
    engine = adapter(arm.engine)
    given = number_of(recipe.argv, engine.running_flags)
    own = (value for flag, value in set_by_itself(arm).items() if flag in engine.running_flags)
    limit = next(own, None) if given is None else given
    return None if limit is None else int(limit) * workers * (arm.dp if engine.limits_each_rank else 1)


def warnings(arm: Arm, recipe: Recipe, concurrencies: Sequence[int]) -> list[str]:
    """Warnings, before the measurement, about limits that will flatten the curve at these concurrencies."""
    fit, limit = memory(arm, recipe), admitted(arm, recipe)
    return [text for concurrency in concurrencies for text in _warnings(arm.workload, fit, limit, concurrency)]


def _warnings(w: Workload, fit: MemoryFit, limit: int | None, concurrency: int) -> list[str]:
    told = []
    need = concurrency * w.longest_tokens
    if need > fit.capacity_tokens:
        told.append(f"concurrency {concurrency} needs up to {need:,} tokens of KV cache, and {fit.capacity_tokens:,} fit")
    if w.has_sessions and w.duration_s is not None and w.most_pause_s >= w.duration_s:
        told.append(f"sessions pause for up to {w.most_pause_s:g} s, the window has {w.duration_s:g} s: some users may send nothing in it")
    if w.n_prompts(concurrency) < concurrency:
        told.append(f"{w.n_prompts(concurrency)} prompts never reach concurrency {concurrency}: the point will be invalid")
    if limit is not None and limit < concurrency:
        told.append(f"concurrency {concurrency} is more than the {limit} requests that the server admits")
    return told


def shell(recipe: Recipe, model_path: str = "$MODEL", host: str = "$HOST", port: str = "$PORT") -> str:
    """The command as a shell line, environment first, with these values for what a node job fills in."""

    def filled(word: str) -> str:
        for name, value in (("$MODEL", model_path), ("$HOST", host), ("$PORT", port)):
            word = word.replace(name, value)
        return shlex.quote(word)

    return " ".join([*(f"{k}={filled(v)}" for k, v in recipe.env.items()), *map(filled, recipe.argv)])
