"""The verb of the load client by itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import EnvironmentLacks, ServerError, SettingsError, UsageError
from .app import app, say

if TYPE_CHECKING:
    from ..archive.measurement import Measurement
    from ..client.endpoint import Endpoint


FOLDER = Path("outputs/load")
DEFAULT_KEY = "OPENAI_API_KEY"


class _Interrupted(Exception):
    """Ctrl-C, or SIGTERM: the run is ended, and what was measured is kept."""


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="Address of the server: http://127.0.0.1:30000")],
    concurrency: Annotated[
        int, typer.Option("-c", "--concurrency", min=1, help="Users. In an open loop: the most requests in flight.")
    ] = 8,
    input_tokens: Annotated[int, typer.Option(min=1, help="Nominal prompt length.")] = 1024,
    output_tokens: Annotated[int, typer.Option(min=1, help="Nominal output length.")] = 128,
    range_ratio: Annotated[float, typer.Option(help="Lengths are uniform in [ratio x nominal, nominal].")] = 1.0,
    endpoint: Annotated[str, typer.Option(help="completions, chat or generate (SGLang's own).")] = "completions",
    model: Annotated[str | None, typer.Option(help="Name of the served model. Default: the server's first.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Requests, or conversations. Default: 10 per user.")] = None,
    warmups: Annotated[int, typer.Option(min=0, help="Warm-up requests per user.")] = 2,
    arrivals: Annotated[str, typer.Option(help="closed, or an open loop: poisson, gamma, constant, trace.")] = "closed",
    rate: Annotated[float | None, typer.Option(help="Requests per second in an open loop.")] = None,
    burstiness: Annotated[float, typer.Option(help="Gamma shape. 1 is Poisson; below 1 is burstier.")] = 1.0,
    ramp: Annotated[float, typer.Option(help="Seconds until all users are active or the full rate is reached.")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds after which no new request is sent.")] = None,
    content: Annotated[str, typer.Option(help="random, or of --file: conversations (ShareGPT), trace (Mooncake).")] = "random",
    file: Annotated[Path | None, typer.Option(help="File with conversations or a trace.")] = None,
    prefix_tokens: Annotated[int, typer.Option(min=0, help="Length of the common prefix of all prompts.")] = 0,
    turns: Annotated[int, typer.Option(min=1, help="Turns of a conversation.")] = 1,
    think_time: Annotated[float, typer.Option(help="Mean seconds before each further turn.")] = 0.0,
    goodput: Annotated[str, typer.Option(help="Limits of a good request: ttft<=2s,tpot<=50ms")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed sends the same prompts. Default: random.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Client processes. Default: as many as needed.")] = None,
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a token after which a request ends.")] = 300.0,
    vocabulary: Annotated[int | None, typer.Option(min=64, help="Number of token ids. Default: as the server reports.")] = None,
    omit: Annotated[list[str] | None, typer.Option(help="Request field to leave out: ignore_eos, continuous_usage_stats.")] = None,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a server that does not answer yet.")] = 0.0,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the server's key.")] = DEFAULT_KEY,
    about: Annotated[list[str] | None, typer.Option(help="Facts for tables: hardware=h200 gpus=8 precision=fp8")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The point file. Default: a new one in outputs/load/.")] = None,
    save_json: Annotated[Path | None, typer.Option(help="Also write a result in vLLM's format.")] = None,
    save_detailed: Annotated[bool, typer.Option(help="With the times of every request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print that result instead of the text.")] = False,
) -> int:
    """Measure a server that is already running. Exit code 1 if the point is invalid."""
    from ..archive.layout import place_shift
    from ..node.standalone import Asked, answering
    from ..node.standalone import load as measure

    told = {
        "isl_tokens": input_tokens, "osl_tokens": output_tokens, "range_ratio": range_ratio, "endpoint": endpoint,
        "prompts_per_concurrency": 10, "prompts": prompts, "warmups_per_concurrency": warmups, "content": content,
        "file": str(file) if file else None, "prefix_tokens": prefix_tokens, "turns": turns, "think_time_s": think_time,
        "arrivals": arrivals, "rate_rps": rate, "burstiness": burstiness, "ramp_s": ramp, "duration_s": duration, "goodput": goodput,
        "omit": omit or [],
    }  # fmt: skip
    if api_key_env != DEFAULT_KEY and api_key_env not in os.environ:
        raise UsageError(f"--api-key-env {api_key_env}: this variable is not set.", next_step=f"export {api_key_env}=...")
    if content == "sessions":
        raise UsageError("Agent sessions are measured in campaigns.", next_step="glm5bench sweep workload=sessions workload.file=FILE")
    place_shift()  # raises where a point could not be written
    workload = _workload(told)
    path = _free_path(output)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection a user: often more than 1,024
    server, name = _awaited(lambda: answering(url, os.environ.get(api_key_env, ""), model), wait)
    drawn = secrets.randbelow(2**31) if seed is None else seed  # a cache may know an earlier run's prompts
    asked = Asked(server, name, workload, concurrency, drawn, _pairs(about or []), stall_timeout, processes, vocabulary)
    unread = Unread(path)
    with _interruptions() as check, _shown() as shown:
        done = measure(asked, check, shown, unread.keep, shown.phase)
    path = _kept(done.measurement, path)
    unread.remove()
    status = _told(done.measurement, path, save_json, as_json=as_json, detailed=save_detailed)
    _tell_of_too_few_prompts(done.measurement, duration)
    if isinstance(done.ended_by, _Interrupted):
        say("Interrupted: the point is marked incomplete.")
        return 130
    if done.ended_by is not None:
        raise done.ended_by
    return status


def _awaited(ask: Callable[[], tuple[Endpoint, str]], seconds: float) -> tuple[Endpoint, str]:
    """The server as soon as it answers. Raises its ServerError after this time."""
    deadline, told = time.monotonic() + seconds, ""
    while True:
        try:
            return ask()
        except ServerError as error:
            if time.monotonic() >= deadline:
                raise
            if error.message != told:
                say(f"Waiting up to {seconds:g} s for the server. {error.message}")
                told = error.message
        time.sleep(min(1.0, max(0.05, deadline - time.monotonic())))


class Unread:
    """The point on disk before the server is asked for its counters: all that is left of the run if that request never ends."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._path: Path | None = None

    def keep(self, m: Measurement) -> None:
        """Writes it beside the place of the point."""
        folder, name = (self._output.parent, self._output.stem) if self._output is not None else (FOLDER, m.key)
        self._path = _kept(m, folder / f"{name}.unread.h5")

    def remove(self) -> None:
        """The whole point has been written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _workload(told: dict[str, Any]) -> Any:
    from ..settings.validated import complete_workload, validate
    from ..values.workload import Workload

    try:
        return complete_workload(validate(Workload, {"id": "load", **told}, "workload"))
    except SettingsError as error:  # which speaks of settings, and this command has options
        text = re.sub(r"workload\.(\w+)", lambda found: OPTIONS.get(found[1], found[0]), error.message)
        raise UsageError(text, where="the options of load", next_step="`glm5bench help load`") from error


OPTIONS = {
    "isl_tokens": "--input-tokens", "osl_tokens": "--output-tokens", "range_ratio": "--range-ratio", "endpoint": "--endpoint",
    "prompts": "--prompts", "content": "--content", "file": "--file", "prefix_tokens": "--prefix-tokens", "turns": "--turns",
    "think_time_s": "--think-time", "arrivals": "--arrivals", "rate_rps": "--rate", "burstiness": "--burstiness", "ramp_s": "--ramp",
    "duration_s": "--duration", "goodput": "--goodput", "omit": "--omit",
}  # fmt: skip


def _pairs(about: list[str]) -> dict[str, str]:
    from ..node.standalone import NUMBERS, WORDS
    from ..settings.validated import group_values

    pairs = {}
    for word in (w for text in about for w in text.split()):
        name, has_value, value = word.partition("=")
        if name not in (*WORDS, *NUMBERS) or not has_value or not value:
            raise UsageError(f"--about {word}: tables have no such fact.", next_step=f"NAME=VALUE of {', '.join((*WORDS, *NUMBERS))}")
        if name in NUMBERS and not (value.isdigit() and int(value)):
            raise UsageError(f"--about {word}: this is not a number of GPUs.", next_step=f"--about {name}=8")
        if name == "hardware" and value not in group_values("hardware"):
            say(f"note: --about hardware={value} is not in conf/hardware, so tables need its price: --price {value}=USD")
        pairs[name] = value
    return pairs


def _free_path(output: Path | None) -> Path | None:
    """The file, if it can be written: that is known before anything is measured."""
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already, and a measurement is never overwritten.", next_step="choose another -o FILE")
    folder = output.parent if output is not None else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise EnvironmentLacks(f"{folder} cannot be written.", next_step="choose another -o FILE")
    return output


def _kept(m: Measurement, path: Path | None) -> Path:
    """Where the point now lies: in the file, or in one of its key and a number that no other run has taken."""
    from ..archive.pointfile import write_point
    from ..files import Taken

    for n in itertools.count(1):
        with contextlib.suppress(Taken):
            to = path if path is not None and n == 1 else FOLDER / f"{m.key}.{n}.h5"  # a file that appeared meanwhile is left alone
            to.parent.mkdir(parents=True, exist_ok=True)
            write_point(to, m)
            return to
    raise AssertionError("numbers do not end")


def _tell_of_too_few_prompts(m: Measurement, duration_s: float | None) -> None:
    figures = m.figures()
    if duration_s is not None and figures is not None and figures.duration_s < 0.9 * duration_s and m.provenance["is_complete"]:
        say(f"All prompts were sent after {figures.duration_s:.1f} of {duration_s:g} s. Use a larger --prompts.")


def _told(m: Measurement, path: Path, save_json: Path | None, *, as_json: bool, detailed: bool) -> int:
    """Tells the point, and says with the exit code whether it holds."""
    from ..analysis.windows import steady
    from ..exchange.vllm_json import vllm_result
    from ..report.console import more_lines, result_block

    result, verdict, figures, r = vllm_result(m, detailed=detailed), m.verdict(), m.figures(), m.requests
    assert figures is not None
    assert r is not None
    if save_json is not None:
        save_json.parent.mkdir(parents=True, exist_ok=True)
        save_json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps({**result, "source": m.source, "validity": verdict.validity, "reasons": verdict.codes, "file": str(path)}))
    else:
        window = steady(r, int(m.point["concurrency"]), time_scale=m.time_scale, ramp_s=m.ramp_s) if m.keeps_concurrency else None
        block, more = result_block(result), more_lines(r, figures, verdict, window, m.provenance["client"], m.acceptance_length())
        print("\n".join([*block[:-1], *more, block[-1]]))
    say(f"{path}: {m.source}, {verdict.validity}.")
    return 1 if verdict.validity == "invalid" else 0


@contextmanager
def _interruptions() -> Iterator[Any]:
    """What raises once Ctrl-C was pressed: the run then ends, and what it has is written. Pressed again, the program ends."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    def check() -> None:
        if heard:
            raise _Interrupted

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except _Interrupted:
        raise KeyboardInterrupt from None  # in the warm-up: there is nothing to keep
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown() -> Iterator[_Lines | _Bar]:
    """The progress of the run: a bar on a terminal, elsewhere a line for each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


class _Bar:
    """A bar that says which part of the run it shows."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._task = bar, bar.add_task("requests", total=None)

    def phase(self, name: str) -> None:
        """Begins a new part."""
        self._bar.reset(self._task, description=f"{name}: requests", total=None)

    def __call__(self, done: int, of: int) -> None:
        self._bar.update(self._task, completed=done, total=of)


class _Lines:
    """A line for each tenth of the requests."""

    def __init__(self) -> None:
        self._told, self._phase = (0, 0), ""

    def phase(self, name: str) -> None:
        """Begins a new part."""
        self._told, self._phase = (0, 0), f"{name}: "
        say(f"{name}: started")

    def __call__(self, done: int, of: int) -> None:
        tenth = (of, 10 * done // of if of else 0)
        if tenth != self._told:
            self._told = tenth
            say(f"{self._phase}{done} of {of} requests")
