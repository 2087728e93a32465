"""Every how-to page is typed, as a user would, in an empty directory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from program import PATIENCE_S, ROOT, environment

PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))


def code(page):
    """The indented blocks of a page, in order, each without its indentation."""
    blocks = re.findall(r"(?:^|\n)\n((?: {4,}\S.*\n| *\n(?= {4,}\S))+)", page.read_text(encoding="utf-8"))
    return "\n".join(re.sub(rf"^ {{{len(block) - len(block.lstrip(' '))}}}", "", block, flags=re.M) for block in blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_commands_of_a_how_to_page_work(page, tmp_path):
    python = Path(sys.executable).parent
    variables = {**environment(tmp_path), "PATH": f"{python}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["sh", "-ec", code(page)], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_every_how_to_page_has_commands_and_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert len(PAGES) == 13
    for page in PAGES:
        assert "glm5bench " in code(page)
        assert f"docs/how-to/{page.name}" in readme
