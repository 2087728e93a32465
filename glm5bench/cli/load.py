"""The verb of the load client by itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import EnvironmentLacks, UsageError
from .app import app, say

if TYPE_CHECKING:
    from ..archive.measurement import Measurement
    from ..client.load import Progress


FOLDER = Path("outputs/load")


class _Interrupted(Exception):
    """Ctrl-C, or SIGTERM: the run is ended, and what was measured is kept."""


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="Where the server runs: http://127.0.0.1:30000")],
    concurrency: Annotated[int, typer.Option("-c", "--concurrency", min=1, help="Users; in an open loop the most in flight.")] = 8,
    input_tokens: Annotated[int, typer.Option(min=1, help="Nominal prompt length.")] = 1024,
    output_tokens: Annotated[int, typer.Option(min=1, help="Nominal output length.")] = 128,
    range_ratio: Annotated[float, typer.Option(help="Lengths are uniform in [ratio x nominal, nominal].")] = 1.0,
    endpoint: Annotated[str, typer.Option(help="completions, chat or generate (SGLang's own).")] = "completions",
    model: Annotated[str | None, typer.Option(help="The served model's name; else the server is asked.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Requests, or conversations; else 10 for each user.")] = None,
    warmups: Annotated[int, typer.Option(min=0, help="Requests for each user before the clock starts.")] = 2,
    arrivals: Annotated[str, typer.Option(help="closed; open: poisson, gamma, constant, trace.")] = "closed",
    rate: Annotated[float | None, typer.Option(help="Requests due a second, in an open loop.")] = None,
    burstiness: Annotated[float, typer.Option(help="Of gamma: 1 is Poisson, less comes in bursts.")] = 1.0,
    ramp: Annotated[float, typer.Option(help="Seconds until all users, or the whole rate, are there.")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds after which nothing new is sent.")] = None,
    content: Annotated[str, typer.Option(help="random; from --file: conversations (ShareGPT), trace (Mooncake).")] = "random",
    file: Annotated[Path | None, typer.Option(help="JSON lines of conversations or of a trace.")] = None,
    prefix_tokens: Annotated[int, typer.Option(min=0, help="With which every prompt begins.")] = 0,
    turns: Annotated[int, typer.Option(min=1, help="Of a conversation.")] = 1,
    think_time: Annotated[float, typer.Option(help="Mean seconds before each further turn.")] = 0.0,
    goodput: Annotated[str, typer.Option(help="What a good request keeps: ttft<=2s,tpot<=50ms")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed sends the same prompts; else it is drawn.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Of the client; else as many as it needs.")] = None,
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a token after which a request ends.")] = 300.0,
    vocabulary: Annotated[int | None, typer.Option(min=64, help="Token ids of the model; else the server is asked.")] = None,
    omit: Annotated[list[str] | None, typer.Option(help="A field that the server rejects: ignore_eos, continuous_usage_stats.")] = None,
    api_key_env: Annotated[str, typer.Option(help="The variable that holds the server's key.")] = "OPENAI_API_KEY",
    about: Annotated[list[str] | None, typer.Option(help="What tables should know of it: hardware=h200 gpus=8 precision=fp8")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The point file; else one in outputs/load/.")] = None,
    save_json: Annotated[Path | None, typer.Option(help="Also a result in vLLM's format.")] = None,
    save_detailed: Annotated[bool, typer.Option(help="With the times of every request in it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="That result on standard output, in place of the block.")] = False,
) -> int:
    """The load client alone, against a server that is already running. Exit code 1 for a point that is not valid or flagged."""
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
    place_shift()  # raises where a point could not be written
    workload = _workload(told)
    path = _free_path(output)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection a user: often more than 1,024
    server, name = answering(url, os.environ.get(api_key_env, ""), model)
    drawn = secrets.randbelow(2**31) if seed is None else seed  # a cache may know an earlier run's prompts
    asked = Asked(server, name, workload, concurrency, drawn, _pairs(about or []), stall_timeout, processes, vocabulary)
    unread = Unread(path)
    with _interruptions() as check, _shown() as progress:
        done = measure(asked, check, progress, unread.keep)
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


class Unread:
    """The point on disk before the server is asked what became of it: what is left of the run if that never ends."""

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

    return complete_workload(validate(Workload, {"id": "load", **told}, "workload"))


def _pairs(about: list[str]) -> dict[str, str]:
    from ..node.standalone import NUMBERS, WORDS

    pairs = {}
    for word in (w for text in about for w in text.split()):
        name, has_value, value = word.partition("=")
        if name not in (*WORDS, *NUMBERS) or not has_value or not value:
            raise UsageError(
                f"--about {word}: this is nothing that a table shows.", next_step=f"NAME=VALUE of {', '.join((*WORDS, *NUMBERS))}"
            )
        pairs[name] = value
    return pairs


def _free_path(output: Path | None) -> Path | None:
    """The file, if it can be written: that is known before anything is measured."""
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already: a measurement is never overwritten.", next_step="another -o FILE")
    folder = output.parent if output is not None else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise EnvironmentLacks(f"{folder} cannot be written.", next_step="another -o FILE")
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
        say(f"The prompts were sent within {figures.duration_s:.1f} s of the {duration_s:g}: --prompts N gives more.")


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
        block, more = result_block(result), more_lines(r, figures, verdict, window, m.provenance["client"])
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
def _shown() -> Iterator[Progress]:
    """How far the run is: a bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("requests", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


class _Lines:
    """A line for each tenth of the requests."""

    def __init__(self) -> None:
        self._told = (0, 0)

    def __call__(self, done: int, of: int) -> None:
        tenth = (of, 10 * done // of if of else 0)
        if tenth != self._told:
            self._told = tenth
            say(f"{done} of {of} requests")
