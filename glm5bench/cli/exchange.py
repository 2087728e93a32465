"""The verbs of exchange with other tools: import, export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FileError, UsageError, printable
from .app import app, one_of, say, tell_bad

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..archive.measurement import Measurement


STATISTIC = re.compile(r"_(mean|median|std|min|max|p[\d.]+)_s$")


@app.command("import")
def import_(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help="vllm, sglang, inferencex, aiperf, guidellm or csv.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Result files as the tool wrote them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive; points that it already holds are kept.")],
    facts: Annotated[list[str] | None, typer.Option("--set", help="What the files do not say: --set hardware=b200 --set tp=8")] = None,
    source: Annotated[str | None, typer.Option(help="measured, simulated or published; else the file's word, or measured.")] = None,
) -> int:
    """Results of other tools into an archive. A bad line or entry is named and costs itself only (exit code 1). docs/exchange.md"""
    from ..archive.union import write_measurements
    from ..archive.writer import refuse_to_overwrite
    from ..exchange.foreign.formats import FORMATS, imported_together
    from ..exchange.foreign.imported import given

    one_of("FORMAT", format_, FORMATS)
    said = given(facts or [], source)
    output = output.resolve()
    refuse_to_overwrite(output)
    bad: list[FileError] = []
    points = imported_together(format_, files, said, bad)
    done = write_measurements(output, points, paths=[str(output)] if output.exists() else [])
    _tell_own_names(points)
    say(f"{output}: {len(points)} points of {format_} read, {done.n_points} points, digest {done.digest[:16]}.")
    tell_bad([*bad, *done.bad])
    return 1 if bad or done.bad else 0


def _tell_own_names(points: list[Measurement]) -> None:
    """Names the figures that no column of tables has, and the columns that are kept as words."""
    from ..exchange.foreign.imported import is_column

    own = sorted({STATISTIC.sub("", name) for m in points for name in m.stated if not is_column(name)})
    words = sorted({name for m in points for name in m.provenance.get("metadata", {})})
    if own:
        say(printable(f"kept under names of their own, and in no table, figures or further statistics of: {', '.join(own)}"))
    if words:
        say(printable(f"kept as words of the point's provenance: {', '.join(words)}"))


@app.command("export")
def export_(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help="vllm, sglang, inferencex, csv or parquet.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Point files, campaigns, archives, or `published`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new file; of several points in vLLM's form a directory.")],
    detailed: Annotated[bool, typer.Option(help="vllm: with the times of every request, where they are known.")] = False,
) -> int:
    """Points in the words of other tools. Bad files are named and left out (exit code 1). docs/exchange.md"""
    from ..archive.collection import no_point
    from ..archive.points import each_point
    from ..exchange.exports.formats import FORMATS, export

    one_of("FORMAT", format_, FORMATS)
    if detailed and format_ != "vllm":
        raise UsageError(f"--detailed: {format_} has no times of requests.", next_step="`glm5bench export vllm --detailed`")
    bad: list[FileError] = []
    points = each_point(paths, bad)
    tell_bad(bad)
    if not points:
        raise no_point(", ".join(paths))
    written = export(format_, points, output, detailed=detailed)
    say(f"{output}: {len(points)} points in {len(written)} file{'s' * (len(written) != 1)}.")
    return 1 if bad else 0
