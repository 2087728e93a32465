"""Imports go down only, and each third-party package has one home. The two tables are docs/design.md's."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "glm5bench"

MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "values": set(),
    "engines": set(),
    "settings": {"files", "engines"},
    "roofline": set(),
    "recipe": {"engines", "roofline"},
    "image_version": {"recipe"},
    "plan": {"recipe", "image_version"},
    "analysis": {"engines", "roofline"},
    "archive": {"files", "analysis"},
    "exchange": {"files", "analysis", "archive"},
    "directory": {"files", "archive"},
    "images": {"files"},
    "simulator": {"engines", "roofline"},
    "client": {"files", "engines", "analysis", "simulator"},
    "machine": {"files", "images"},
    "checks": {"files", "engines", "archive", "images", "machine"},
    "node": {"files", "engines", "recipe", "archive", "directory", "analysis", "simulator", "client", "machine", "checks"},
    "schedulers": {"files", "plan", "archive", "directory", "machine", "checks", "node"},
    "campaign": {"files", "plan", "archive", "directory", "machine", "checks", "node", "schedulers"},
    "report": {"analysis"},
    "api": {"archive"},
    "cli": {
        "files",
        "recipe",
        "plan",
        "settings",
        "roofline",
        "analysis",
        "archive",
        "exchange",
        "directory",
        "images",
        "simulator",
        "client",
        "machine",
        "checks",
        "node",
        "schedulers",
        "campaign",
        "report",
    },
}
EVERYONE = {"errors", "values"}
HOMES = {
    "hydra": {"settings"},
    "omegaconf": {"settings"},
    "submitit": {"schedulers"},
    "h5py": {"archive"},
    "httpx": {"client", "node", "machine", "images"},
    "httptools": {"client", "simulator"},
    "msgspec": {"client", "report"},
    "matplotlib": {"report"},
    "plotille": {"report"},
    "plotly": {"report"},
    "pandas": {"exchange", "report", "api"},
    "pyarrow": {"exchange"},
    "xxhash": {"archive"},
    "pydantic": {"values", "settings", "images"},
    "yaml": {"settings"},
    "typer": {"cli"},
    "starlette": {"simulator"},
    "uvicorn": {"simulator"},
    "tabulate": {"report"},
    "scipy": {"analysis"},
    "packaging": {"image_version"},
    "rich": {"campaign", "cli"},
    "uvloop": {"client", "simulator"},
    "pynvml": {"node"},
    "amdsmi": {"node"},
    "prometheus_client": {"client"},
}
PURE = ("values", "plan", "recipe", "image_version", "roofline", "analysis")
TOUCHES_THE_WORLD = {"os", "time", "datetime", "pathlib", "subprocess", "socket", "io", "tempfile", "shutil"}


def modules() -> list[tuple[str, Path]]:
    files = [f for f in PACKAGE.rglob("*.py") if f.name not in ("__init__.py", "__main__.py")]
    return [(f.relative_to(PACKAGE).parts[0].removesuffix(".py"), f) for f in sorted(files)]


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Rooms of the package and top-level names of other packages that a file imports, wherever in the file it does."""
    depth = len(path.relative_to(PACKAGE).parts)
    rooms, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("glm5bench."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            others.add("io")
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            rooms |= {(node.module or alias.name).split(".")[0] for alias in node.names}
    return rooms - {"__version__"}, others


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda v: str(getattr(v, "name", v)))
def test_a_module_imports_only_what_stands_below_it(room, path):
    assert imports(path)[0] - EVERYONE - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda v: str(getattr(v, "name", v)))
def test_a_third_party_package_is_imported_in_its_home_only(room, path):
    strangers = {name for name in imports(path)[1] if name in HOMES and room not in HOMES[name]}
    assert strangers == set()


@pytest.mark.parametrize(("room", "path"), [m for m in modules() if m[0] in PURE], ids=lambda v: str(getattr(v, "name", v)))
def test_a_pure_module_touches_no_file_and_no_clock(room, path):
    assert imports(path)[1] & TOUCHES_THE_WORLD == set()


@pytest.mark.parametrize("path", [f for _, f in modules()], ids=lambda p: p.name)
def test_a_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_launchers_only_know_the_overrides():
    for path in (ROOT / "launchers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glm5bench"):
                assert node.module == "glm5bench.settings.overrides"


def test_an_experiment_is_at_most_thirty_lines():
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
