"""Help, suggestions and completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT, bench

PROGRAM = Path(sys.executable).parent / "glm5bench"


def test_without_arguments_and_with_help_the_commands_and_exit_codes_are_listed(tmp_path):
    bare, asked = bench(tmp_path), bench(tmp_path, "help")

    assert (bare.returncode, asked.returncode) == (0, 0)
    assert bare.stdout == asked.stdout
    assert "sweep" in bare.stdout
    assert "70 a defect of" in bare.stdout
    assert "130 interrupted" in bare.stdout


def test_help_of_a_command_is_its_help(tmp_path):
    assert bench(tmp_path, "help", "plan").stdout == bench(tmp_path, "plan", "--help").stdout


@pytest.mark.parametrize("words", [("swep",), ("help", "swep")])
def test_an_unknown_command_gets_a_suggestion(tmp_path, words):
    done = bench(tmp_path, *words)

    assert done.returncode == 2
    assert "Unknown command 'swep'. Did you mean 'sweep'?" in done.stderr


def test_an_unknown_choice_of_an_option_gets_a_suggestion(tmp_path):
    assert "Did you mean 'frontier'?" in bench(tmp_path, "tables", "published", "--table", "frontiers").stderr


def test_help_shows_defaults_the_launcher_and_the_groups_of_the_users_directory(tmp_path):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mysite.yaml").write_text("id: mysite\n")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "fast.yaml").write_text("id: fast\n")
    told = " ".join(bench(tmp_path, "plan", "--config-dir", ".", "--help").stdout.split())

    assert "hardware= b200* b300" in told
    assert "hydra/launcher= local* slurm plan" in told
    assert "cluster= example local* mysite template" in told
    assert "search= fast" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sw"], ["sweep"]),
        (["plan", "--sh"], ["--show"]),
        (["plan", "hard"], ["hardware=b200", "hardware=h200"]),
        (["plan", "hardware", "=", "b"], ["b200", "b300"]),
        (["plan", "hardware", "="], ["b200", "h200"]),
        (["sweep", "experiment", "=", "quick"], ["quickstart"]),
        (["plan", "hardware", "=", "b200,h2"], ["b200,h200"]),
        (["plan", "engine.vers"], ["engine.version="]),
        (["plan", "hydra/la"], ["hydra/launcher=slurm"]),
    ],
    ids=" ".join,
)
def test_bash_completes_commands_groups_and_choices(words, expected):
    script = f"""
        eval "$(_GLM5BENCH_COMPLETE=source_bash {PROGRAM})"
        COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _glm5bench_completion {PROGRAM}; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "glm5bench", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert set(expected) <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"_GLM5BENCH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "glm5bench plan hardware=b"}, "hardware=b200"),
        ({"_GLM5BENCH_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "glm5bench plan hardware=b",
          "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "hardware=b200"),
        ({"_GLM5BENCH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "glm5bench swee"}, "sweep"),
    ],
)  # fmt: skip
def test_zsh_and_fish_ask_the_program_in_their_way(variables, expected):
    done = subprocess.run([PROGRAM], env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, check=False)

    assert expected in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_installs_itself_for_each_shell(tmp_path, shell):
    variables = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([PROGRAM, "--install-completion", shell], env=variables, capture_output=True, text=True, check=False)
    written = [f for f in tmp_path.rglob("*") if f.is_file() and "glm5bench" in f.read_text(encoding="utf-8", errors="replace")]

    assert done.returncode == 0, done.stderr
    assert written
