"""Writes docs/recipes.md from conf/: `python tests/recipes_page.py > docs/recipes.md`."""

import shlex
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

HEAD = """\
# The published arms

This page shows every arm of the public recipes as conf/ composes it. docs/facts.md has the sources. `glm5bench plan --show recipe`
prints the same flags with their final values. `$C` is the concurrency for which the server is started. The node sets `$MODEL $HOST $PORT`.
After each flag, a comment names the conf/ group that sets it. `python tests/recipes_page.py > docs/recipes.md` writes this page, and a test
compares it with conf/.

Most pairs of arms with and without MTP also differ in other settings. The last section lists these differences, and `plan` notes them.
"""


def page(arms, compose):
    """The text of the page."""
    from glm5bench import recipe
    from glm5bench.recipe_differences import in_words

    made = {overrides: compose(*overrides.split()).arm for overrides in arms}
    parts = [HEAD]
    for (overrides, arm), golden in zip(made.items(), arms.values(), strict=True):
        env = [f"{name}={shlex.quote(value)}" for name, value in recipe.environment(arm).items()]
        lines = [" ".join([*env, *arm.engine.program])] + [_line(flag, s, in_words) for flag, s in recipe.flags(arm).items()]
        parts.append(
            f"## `{overrides}`\n\nSource: {golden.source}. Image: {recipe.image(arm) or 'none published'}.\n\n```\n"
            + "\n".join(lines)
            + "\n```\n"
        )
    parts.append("## MTP compared with off\n\n| arms | other differences |\n|---|---|\n" + "\n".join(_pairs(made, recipe)) + "\n")
    return "\n".join(parts)


def _line(flag, setting, in_words):
    return f"  {flag} {in_words(setting.value)}".rstrip() + f"    # {setting.group}"


def _pairs(made, recipe):
    from glm5bench import recipe_differences

    for overrides, arm in made.items():
        other = made.get(overrides.replace("speculative=off", "speculative=mtp"))
        if "speculative=off" in overrides and other is not None:
            found = recipe_differences.more_than_speculative(arm, other)
            more = "; ".join(f"`{d.name}` {_said(d.one)} with off, {_said(d.other)} with MTP" for d in found)
            yield f"| `{overrides.replace('speculative=off', '').strip()}` | {more or 'nothing'} |"


def _said(value):
    return "absent" if value is None else f"`{value}`" if value else "set"


if __name__ == "__main__":
    from conftest import compose
    from test_recipe import ARMS

    print(page(ARMS, compose), end="")
