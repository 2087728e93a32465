"""Imports only go down, between rooms and inside them. Each third-party package, engine and scheduler is used in one room only."""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "glm5bench"

MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "trust": set(),
    "values": set(),
    "engines": set(),
    "sessions": {"files"},
    "settings": {"files", "engines", "sessions"},
    "memory": set(),
    "roofline": {"memory"},
    "recipe": {"engines", "memory"},
    "estimate": {"recipe", "roofline"},
    "prediction": {"engines", "roofline", "recipe", "simulator"},
    "image_version": {"recipe"},
    "recipe_differences": {"recipe"},
    "contradictions": {"engines", "recipe"},
    "search": {"recipe", "prediction"},
    "plan": {"contradictions", "estimate", "recipe", "recipe_differences", "image_version", "search"},
    "analysis": {"engines", "memory", "roofline"},
    "archive": {"files", "analysis"},
    "exchange": {"files", "analysis", "archive"},
    "directory": {"files", "archive"},
    "images": {"files"},
    "simulator": {"engines", "memory", "roofline"},
    "client": {"files", "engines", "analysis", "simulator"},
    "replay": {"analysis", "client", "sessions"},
    "machine": {"files", "images"},
    "checks": {"files", "engines", "archive", "images", "machine"},
    "node": {
        "files",
        "engines",
        "estimate",
        "recipe",
        "search",
        "archive",
        "directory",
        "analysis",
        "images",
        "simulator",
        "client",
        "replay",
        "machine",
        "checks",
    },
    "schedulers": {"files", "trust", "plan", "archive", "directory", "machine", "checks", "node"},
    "campaign": {"files", "trust", "search", "plan", "archive", "directory", "machine", "checks", "node", "schedulers"},
    "report": {"analysis", "checks", "prediction"},
    "api": {"archive"},
    "cli": {
        "files",
        "trust",
        "engines",
        "recipe",
        "contradictions",
        "prediction",
        "search",
        "plan",
        "sessions",
        "settings",
        "memory",
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
    "pydantic": {"values", "settings", "images", "sessions"},
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
PURE = ("values", "plan", "recipe", "estimate", "recipe_differences", "contradictions", "image_version", "memory", "roofline", "prediction",
        "analysis")  # fmt: skip
TOUCHES_THE_WORLD = {"os", "time", "datetime", "pathlib", "subprocess", "socket", "io", "tempfile", "shutil"}


def modules() -> list[tuple[str, Path]]:
    files = [f for f in PACKAGE.rglob("*.py") if f.name not in ("__init__.py", "__main__.py")]
    return [(f.relative_to(PACKAGE).parts[0].removesuffix(".py"), f) for f in sorted(files)]


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Rooms of the package, and top-level names of other packages, that a file imports anywhere."""
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


def named(path: Path) -> str:
    """A module's dotted name inside the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {named(path): path for _, path in modules()}


def imported_modules(path: Path) -> tuple[set[str], set[str]]:
    """The package's modules that a module imports: all of them, and those that it imports inside functions."""
    here = path.relative_to(PACKAGE).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [block for block in tree.body if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)]
    for_types = {id(node) for block in blocks for node in ast.walk(block)}
    every, lazy = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) + 1 - node.level], *(node.module.split(".") if node.module else ()))
            names = [".".join((*base, alias.name)) for alias in node.names]
            targets = {name if name in MODULES else ".".join(base) for name in names} & MODULES.keys()
            every |= targets
            lazy |= targets if node not in tree.body and id(node) not in for_types else set()
    return every, lazy


def test_no_module_imports_another_that_imports_it():
    TopologicalSorter({name: imported_modules(path)[0] for name, path in MODULES.items()}).prepare()  # raises an error for a cycle


def test_only_verbs_import_when_they_run():
    """The command line starts in 0.1 s, because each command imports what it needs itself."""
    assert {name: lazy for name, path in MODULES.items() if (lazy := imported_modules(path)[1]) and not name.startswith("cli.")} == {}


def code_texts(path: Path) -> list[str]:
    """The strings in a module's code, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs]


ENGINES = {"sglang", "vllm", "tensorrt_llm"}
FOREIGN_FORMATS = ("exchange", "cli.exchange", "report.console")  # the results of other tools use the same names


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith(("engines.", *FOREIGN_FORMATS))])
def test_no_other_room_asks_which_engine_it_is(name):
    assert ENGINES & set(code_texts(MODULES[name])) == set()


SLURM = re.compile(r"\b(sbatch|squeue|sacct|scontrol|scancel|sinfo|SLURM_\w+)\b")
TELLS_OF_SLURM = {"cli.plan", "trust", "campaign.opening", "directory"}  # the words of --help, and the directory `sbatch` of a campaign


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith(("schedulers.slurm.", "values.cluster"))])
def test_slurms_commands_are_known_in_one_room(name):
    assert name in TELLS_OF_SLURM or [text for text in code_texts(MODULES[name]) if SLURM.search(text)] == []


def test_no_room_and_no_file_is_too_large():
    rooms = Counter(path.parent for path in MODULES.values())
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}

    assert {str(room): n for room, n in rooms.items() if n > 25} == {}
    assert {name: n for name, n in lines.items() if n > 350} == {}


def test_the_launchers_only_know_the_overrides():
    for path in (ROOT / "launchers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glm5bench"):
                assert node.module == "glm5bench.settings.overrides"


def test_an_experiment_is_at_most_thirty_lines():
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
