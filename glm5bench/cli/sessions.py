"""The verbs of agent sessions: describe, generate, convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError, counted
from .app import app, one_of, say

sessions = typer.Typer(no_args_is_help=True, help="Files of agent sessions (docs/sessions.md): `describe`, `generate` and `convert`.")
app.add_typer(sessions, name="sessions")
Output = Annotated[Path, typer.Option("-o", "--output", help="The new file.")]
DELAYS = ("after-answer", "after-request")
PROMPTS = ("whole", "incremental")


@sessions.command()
def describe(
    file: Annotated[str, typer.Argument(help="A file of sessions, or shipped:coding for the one that comes with glm5bench.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Check a file, and print what it contains: sessions, requests, tokens, and what an infinite prefix cache would save."""
    from ..sessions.file import read_sessions
    from ..sessions.ideal import facts
    from ..sessions.shipped import located

    found = facts(read_sessions(located(file)))
    if as_json:
        print(json.dumps(found))
        return 0
    print(f"sessions            {found['sessions']:,.0f}")
    print(f"requests            {found['requests']:,.0f}")
    print(f"prompt tokens       {found['prompt_tokens']:,.0f}, mean {found['mean_prompt_tokens']:,.0f}")
    print(f"output tokens       {found['output_tokens']:,.0f}, mean {found['mean_output_tokens']:,.0f}")
    print(f"longest request     {found['longest_tokens']:,.0f} tokens, prompt and answer")
    print(f"longest pause       {found['longest_delay_s']:g} s")
    print(f"shared blocks       {found['shared_blocks']:,.0f}")
    print(f"infinite cache      {found['ideal_hit_share']:.1%} of the prompt tokens, if each session is played once")
    return 0


@sessions.command()
def generate(
    output: Output,
    n_sessions: Annotated[int, typer.Option("--sessions", help="Number of sessions.", min=1)] = 50,
    requests: Annotated[int, typer.Option(help="Mean number of requests of the first agent.", min=1)] = 30,
    shared_tokens: Annotated[int, typer.Option(help="System prompt and tools, the same in all sessions.", min=0)] = 8192,
    first_tokens: Annotated[int, typer.Option(help="Mean length of the first message.", min=1)] = 4096,
    new_tokens: Annotated[int, typer.Option(help="Mean new tokens of each further request.", min=1)] = 1500,
    output_tokens: Annotated[int, typer.Option(help="Mean length of an answer.", min=1)] = 500,
    delay_s: Annotated[float, typer.Option(help="Mean pause from an answer to the next request, s.", min=0)] = 3.0,
    subagent_share: Annotated[float, typer.Option(help="Share of requests that start a sub-agent.", min=0, max=1)] = 0.05,
    subagent_requests: Annotated[int, typer.Option(help="Mean number of requests of a sub-agent.", min=1)] = 6,
    block_tokens: Annotated[int, typer.Option(help="Tokens of a block.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.", min=0)] = 0,
) -> int:
    """Draw sessions from statistics. Lengths, pauses and numbers of requests are lognormal with the given means."""
    from ..sessions.file import written
    from ..sessions.generate import Statistics, generated

    drawn = Statistics(
        sessions=n_sessions,
        requests=requests,
        shared_tokens=shared_tokens,
        first_tokens=first_tokens,
        new_tokens=new_tokens,
        output_tokens=output_tokens,
        delay_s=delay_s,
        subagent_share=subagent_share,
        subagent_requests=subagent_requests,
        block_tokens=block_tokens,
        seed=seed,
    )
    made = generated(drawn)
    written(made, output)
    say(f"{output}: {counted(len(made.sessions), 'session')}, {counted(made.n_calls, 'request')}.")
    return 0


@sessions.command()
def convert(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help="weka or mooncake.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Traces: JSON, or JSON Lines.")],
    output: Output,
    prompts: Annotated[str, typer.Option(help="mooncake: whether input_length is the `whole` prompt or `incremental`.")] = "",
    delays: Annotated[str, typer.Option(help="mooncake: whether pauses run `after-answer` or `after-request` before.")] = "",
    answered_in_s: Annotated[float | None, typer.Option(help="mooncake, after-request: seconds that an answer took.", min=0)] = None,
) -> int:
    """Convert traces of other tools. It prints how it understood pauses and prompts, and everything that it changed."""
    from ..sessions.convert import mooncake, weka
    from ..sessions.file import written

    one_of("FORMAT", format_, ("weka", "mooncake"))
    if format_ == "weka":
        given = [
            n for n, value in (("--prompts", prompts), ("--delays", delays), ("--answered-in-s", answered_in_s)) if value not in ("", None)
        ]
        if given:
            raise UsageError(f"{given[0]} is for mooncake: a Weka trace states its pauses and its whole prompts.")
        made = weka(files)
    else:
        for option, value, choices in (("--prompts", prompts, PROMPTS), ("--delays", delays, DELAYS)):
            if value not in choices:
                raise UsageError(f"mooncake files do not say what they mean: {option} must be {' or '.join(choices)}.")
        if (delays == "after-request") != (answered_in_s is not None):
            raise UsageError("--delays after-request needs --answered-in-s, and no other does.")
        made = mooncake(files, is_incremental=prompts == "incremental", answered_in_s=answered_in_s)
    written(made.sessions, output)
    say(f"{output}: {counted(len(made.sessions.sessions), 'session')}, {counted(made.sessions.n_calls, 'request')}.")
    for line in made.said:
        say(line)
    return 0
