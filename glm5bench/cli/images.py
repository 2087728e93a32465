"""The verbs of container images: pull, verify, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError, UsageError
from .app import HYDRA, OverridesCommand, app, asked, say

if TYPE_CHECKING:
    from ..images.reference import Reference

images = typer.Typer(
    no_args_is_help=True, help="Container images of a campaign, pinned by digest: `list`, `pull` and `verify` take what `sweep` takes."
)
app.add_typer(images, name="images")
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@images.command("list", cls=OverridesCommand, context_settings=HYDRA)
def list_(ctx: typer.Context, as_json: Json = False) -> int:
    """Which images a campaign of OVERRIDES needs, and what of them is in the cluster's image directory. Exit code 1 if one is missing."""
    from ..images.record import lacking, read_record
    from ..report.campaign import images_text

    rows = []
    wanted, pins = _wanted(asked(ctx))
    for directory, ref, arms in wanted:
        sif = directory / ref.sif
        why = lacking(directory, ref, pins)
        record = read_record(sif) if sif.is_file() and not why else None
        size = sif.stat().st_size if sif.is_file() else None
        oci = record.oci_digest if record else ""
        rows.append(
            {
                "image": ref.text,
                "file": str(sif),
                "is_well": not why,
                "said": why,
                "size_bytes": size,
                "pin": ref.digest,
                "sif_pin": pins.get(ref.sif, ""),
                "oci_digest": oci,
                "arms": list(arms),
            }
        )
    print(json.dumps({"images": rows}, indent=1) if as_json else images_text(rows))
    return int(any(not row["is_well"] for row in rows))


@images.command("pull", cls=OverridesCommand, context_settings=HYDRA)
def pull_(
    ctx: typer.Context,
    source: Annotated[
        Path | None, typer.Option("--from", help="A SIF file or OCI archive that was carried here, in place of the registry.")
    ] = None,
    only: Annotated[str | None, typer.Option("--image", help="Only this one of them.")] = None,
    arch: Annotated[str, typer.Option("--arch", help="Of the nodes, where it is not this machine's: arm64 for GB200 and GB300.")] = "",
) -> int:
    """Put the images of a campaign of OVERRIDES into cluster.image_dir, each once, with a record of their digests and hashes."""
    from ..images.pull import pull

    wanted, pins = _wanted(asked(ctx), only)
    if source is not None and len(wanted) != 1:
        names = ", ".join(ref.text for _, ref, _ in wanted)
        raise UsageError(f"--from {source} is one image, and {len(wanted)} are needed: {names}.", next_step="--image NAME")
    for directory, ref, _ in wanted:
        record = pull(directory, ref, say, source=source, arch=arch)
        if record.oci_digest and ref.repository and not ref.digest:
            say(f"pin it, in conf/engine or the engine's file of your --config-dir: digests: {{'{ref.unpinned}': '{record.oci_digest}'}}")
        if pins.get(ref.sif) != record.sif_sha256:
            say(f"pin the file itself, in your conf/cluster: sif_sha256: {{{ref.sif}: {record.sif_sha256}}}")
    return 0


@images.command("verify", cls=OverridesCommand, context_settings=HYDRA)
def verify_(ctx: typer.Context) -> int:
    """Hash every image of a campaign of OVERRIDES and compare it with its record, and that with its pin. Exit code 1 where one differs."""
    from ..images.pull import verified

    wrong = 0
    wanted, pins = _wanted(asked(ctx))
    for directory, ref, _ in wanted:
        why = verified(directory, ref, pins)
        wrong += bool(why)
        print(f"{ref.text}: {why or 'well'}")
    return int(wrong > 0)


def _wanted(overrides: list[str], only: str | None = None) -> tuple[list[tuple[Path, Reference, tuple[str, ...]]], dict[str, str]]:
    """(image directory, image, arms) of what the overrides ask for, and the cluster's pins of files."""
    from ..checks.needs import images_of
    from ..images.reference import reference
    from ..plan import plan
    from ..settings.overrides import Multirun, run_hydra

    found: list[tuple[Path, Reference, tuple[str, ...]]] = []
    pins: dict[str, str] = {}

    def collect(multirun: Multirun) -> int:
        pins.update(multirun.asked.campaign.cluster.sif_sha256)
        for (directory, name), arms in images_of(plan(multirun.asked).jobs).items():
            if not directory:
                cluster = multirun.asked.campaign.cluster.id
                raise SettingsError(
                    f"Cluster {cluster} sets no image_dir.", next_step="set image_dir in its file, or add cluster.image_dir=DIR"
                )
            found.append((Path(directory).absolute(), reference(name), arms))
        return 0

    run_hydra(overrides, collect, program="glm5bench images")
    kept = [one for one in found if only in (None, one[1].text, one[1].unpinned)]
    if not kept:
        names = ", ".join(ref.text for _, ref, _ in found) or "none: the simulated server runs on the host's Python"
        raise UsageError(
            f"{only or 'This campaign'} needs no image here." if only is None else f"No arm needs {only}.",
            next_step=f"images needed: {names}",
        )
    return kept, pins
