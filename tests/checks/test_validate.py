"""Server commands are checked with the engine's own parser before any job waits in the queue."""

import argparse
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import compose, plan
from program import ROOT, bench

from glm5bench.checks.flags import validations
from glm5bench.engines.parsing import refused, units
from glm5bench.report.campaign import validations_text
from glm5bench.values.plain import plain

OVERRIDES = ("engine=sglang", "hardware=h200", "speculative=off", "concurrency=4")
VALUED = ("--host", "--tool-call-parser", "--reasoning-parser", "--served-model-name")
SERVER_ARGS = """
import argparse
print("an engine that says something while it is imported")
{at_import}


class ServerArgs:
    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser):
        parser.add_argument("--model-path", required=True)
        parser.add_argument("--port", type=int)
        parser.add_argument("--tp-size", "--tensor-parallel-size", type=int)
        parser.add_argument("--mem-fraction-static", type=float)
        parser.add_argument("--enable-flashinfer-allreduce-fusion", action="store_true")
        parser.add_argument("--trust-remote-code", action="store_true")
        for flag in {valued!r}:
            parser.add_argument(flag)
        {more}
"""
VLLM = {
    "platforms.py": """
import enum


class PlatformEnum(enum.Enum):
    CUDA = 1


class Platform:
    _enum = None

    def is_unspecified(self):
        return self._enum is None


current_platform = Platform()
""",
    "utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser\n",
}
CLI_ARGS = """
from vllm import platforms


def make_arg_parser(parser):
    if platforms.current_platform.is_unspecified():
        raise RuntimeError("Failed to infer device type")
    parser.add_argument("model_tag")
    for flag in ("--host", "--port", "--tensor-parallel-size", "--max-model-len", "--gpu-memory-utilization"):
        parser.add_argument(flag)
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def sglang(tmp_path, version="0.5.12", *, lacks="", at_import="", more="pass"):
    """A directory with a package that parses flags as SGLang does, without the flag in `lacks`."""
    valued = [flag for flag in VALUED if flag != lacks]
    write(tmp_path / "engine/sglang/srt/server_args.py", SERVER_ARGS.format(valued=valued, at_import=at_import, more=more))
    write(tmp_path / f"engine/sglang-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")
    return tmp_path / "engine"


def vllm(tmp_path, cli_args):
    """A directory with a package that parses flags as vLLM does in this module, and its program."""
    for name, text in {**VLLM, cli_args: CLI_ARGS}.items():
        write(tmp_path / "engine/vllm" / name, text)
    write(tmp_path / "engine/vllm-0.16.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 0.16.0\n")
    write(tmp_path / "bin/vllm", f"#!{sys.executable}\n").chmod(0o755)
    return tmp_path / "engine"


def around(*engine):
    """The environment of a machine with these directories on its Python path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {"PATH": path, "PYTHONPATH": os.pathsep.join(map(str, (*engine, ROOT)))}


@pytest.fixture
def here(monkeypatch):
    """Puts an engine on the Python path of this process."""

    def put(engine):
        for name, value in around(engine).items():
            monkeypatch.setenv(name, value)

    return put


@functools.cache
def planned(*overrides):
    return plan([compose(*overrides)]).jobs


def shown(tmp_path, *engine, options=(), overrides=OVERRIDES, **variables):
    return bench(tmp_path, "plan", *overrides, "--validate", *options, **{**around(*engine), **variables})


def test_a_command_that_the_engine_takes_is_said_to_be_taken(tmp_path):
    done = shown(tmp_path, sglang(tmp_path))

    assert done.returncode == 0
    assert "taken by the parser of 0.5.12" in done.stdout


def test_a_flag_that_the_engine_refuses_is_exit_code_1_and_names_its_group(tmp_path):
    done = shown(tmp_path, sglang(tmp_path, lacks="--served-model-name"))

    assert done.returncode == 1
    assert "REFUSED by the parser of 0.5.12" in done.stdout
    assert "--served-model-name glm-5-fp8, from model/GLM-5: unrecognized arguments: --served-model-name glm-5-fp8" in done.stdout


def test_an_engine_that_is_not_here_is_exit_code_3_and_nobody_looked(tmp_path):
    (tmp_path / "empty").mkdir()

    done = shown(tmp_path, PATH=str(tmp_path / "empty"))

    assert done.returncode == 3
    assert "NOT checked: the cluster sets no image_dir, and python3 on this machine's PATH has no sglang" in done.stdout


def test_a_parser_that_cannot_be_loaded_is_exit_code_3_with_its_last_word(tmp_path):
    done = shown(tmp_path, sglang(tmp_path, at_import="raise ImportError('libcuda.so.1: cannot open shared object file')"))

    assert done.returncode == 3
    assert "NOT checked: the engine's parser could not be loaded: ImportError: libcuda.so.1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_json_of_a_plan_holds_what_the_parser_said(tmp_path):
    done = shown(tmp_path, sglang(tmp_path), options=["--json"], overrides=(*OVERRIDES, "engine.extra_args=[--no-such-flag,7]"))
    (looked,) = json.loads(done.stdout)["validations"]

    assert done.returncode == 1
    assert (looked["version"], looked["written_for"], looked["lacks"]) == ("0.5.12", "0.5.12", "")
    (wrong,) = looked["refused"]
    assert (wrong["words"], wrong["group"]) == (["--no-such-flag", "7"], "engine.extra_args")


def test_a_plan_that_is_not_validated_starts_no_parser(tmp_path):
    engine = sglang(tmp_path, at_import="raise SystemExit('imported')")

    done = bench(tmp_path, "plan", *OVERRIDES, "--json", **around(engine))

    assert (done.returncode, json.loads(done.stdout)["validations"]) == (0, [])


def test_every_refused_flag_is_told_and_none_that_is_taken(tmp_path, here):
    here(sglang(tmp_path, lacks="--tool-call-parser"))

    (looked,) = validations(planned(*OVERRIDES, "engine.extra_args=[--mem,much,'--tp-size=all']"))

    assert [(r.words[0], r.group) for r in looked.refused] == [
        ("--tool-call-parser", "model/GLM-5"),
        ("--mem", "engine.extra_args"),
        ("--tp-size=all", "engine.extra_args"),
    ]


def test_the_text_of_a_configuration_file_is_not_parsed_as_its_path(tmp_path, here):
    here(sglang(tmp_path))

    (looked,) = validations(planned(*OVERRIDES, """engine.extra_args=[--config,'{"a": 1}',--port,'1']"""))

    assert (looked.version, looked.refused) == ("0.5.12", ())


def test_a_value_that_a_flag_does_not_take_is_refused_with_the_parser_s_reason(tmp_path, here):
    here(sglang(tmp_path, more="parser.add_argument('--x', choices=['a', 'b'])"))

    (looked,) = validations(planned(*OVERRIDES, "engine.extra_args=[--x,c]"))

    assert looked.refused[0].words == ("--x", "c")
    assert "invalid choice: 'c'" in looked.refused[0].said


def test_flags_that_are_taken_one_by_one_and_refused_together_are_told_as_the_whole_command(tmp_path, here):
    one_of_two = "group = parser.add_mutually_exclusive_group(); [group.add_argument(f) for f in ('--a', '--b')]"
    here(sglang(tmp_path, more=one_of_two))

    (looked,) = validations(planned(*OVERRIDES, "engine.extra_args=[--a,1,--b,2]"))

    (wrong,) = looked.refused
    assert {"--model-path", "--a", "--b"} <= set(wrong.words)
    assert wrong.said == "argument --b: not allowed with argument --a"


def test_an_engine_of_another_version_is_named_with_the_setting_that_names_its_flags(tmp_path, here):
    here(sglang(tmp_path, "0.5.23", lacks="--tool-call-parser"))

    (looked,) = validations(planned(*OVERRIDES))

    assert (looked.version, looked.written_for) == ("0.5.23", "0.5.12")
    assert "engine.version=0.5.23 names them for this one" in "\n".join(validations_text([plain(looked)]))


def test_an_engine_is_imported_once_for_all_its_commands(tmp_path, here):
    imported = tmp_path / "imported"
    here(sglang(tmp_path, at_import=f"open({str(imported)!r}, 'a').write('x')"))
    jobs = [*planned(*OVERRIDES, "server_scope=point", "concurrency=[4,8]"), *planned(*OVERRIDES, "engine.extra_args=[--nonsense]")]

    looked = validations(jobs)

    assert [len(v.refused) for v in looked] == [0, 1]
    assert imported.read_text() == "x"


def test_the_user_s_environment_cannot_put_variables_into_the_image(tmp_path, here, monkeypatch):
    here(sglang(tmp_path, at_import="import os; assert not [k for k in os.environ if k.startswith('APPTAINERENV_SGLANG')]"))
    monkeypatch.setenv("APPTAINERENV_SGLANG_ATTENTION", "1")

    assert validations(planned(*OVERRIDES))[0].lacks == ""


def test_a_simulated_server_needs_no_parser(monkeypatch):
    monkeypatch.setenv("PATH", "")

    (looked,) = validations(planned("engine=simulated", "speculative=off"))

    assert (looked.refused, looked.lacks) == ((), "")
    assert "the simulated server takes every flag" in validations_text([plain(looked)])[-1]


def test_an_image_that_is_not_there_is_not_replaced_by_an_engine_that_is(tmp_path, here):
    here(sglang(tmp_path))
    jobs = [dataclasses.replace(job, image_dir=str(tmp_path)) for job in planned(*OVERRIDES)]

    (looked,) = validations(jobs)

    assert looked.version == ""
    assert "does not exist" in looked.lacks or "apptainer is not on PATH" in looked.lacks


@pytest.mark.parametrize("place", ["openai", "launchers", "common"], ids=["0.16", "0.30", "0.33"])
def test_vllm_s_parser_is_found_where_each_version_has_it_and_needs_no_gpu(tmp_path, monkeypatch, here, place):
    here(vllm(tmp_path, f"entrypoints/{place}/cli_args.py"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    taken, wrong = validations(
        [*planned("engine=vllm", "speculative=off"), *planned("engine=vllm", "speculative=off", "engine.extra_args=[--no-such-flag]")]
    )

    assert (taken.parser, taken.version, taken.refused, taken.lacks) == (sys.executable, "0.16.0", (), "")
    assert [r.words for r in wrong.refused] == [("--no-such-flag",)]


def parser_of(*flags, **how):
    parser = argparse.ArgumentParser()
    for flag in flags:
        parser.add_argument(flag, **how)
    return parser


def test_words_are_told_apart_into_flags_with_their_values():
    assert units(["model", "--a", "1", "--b", "--c=3", "--d", "x", "y"]) == (
        ["model"],
        [["--a", "1"], ["--b"], ["--c=3"], ["--d", "x", "y"]],
    )


def test_a_value_that_the_parser_itself_falls_over_is_refused_in_its_words():
    def falls(text):
        raise KeyError(text)

    (wrong,) = refused(parser_of("--x", type=falls), ["--x", "3"])

    assert wrong == {"words": ["--x", "3"], "said": "KeyError: '3'"}


def test_a_command_that_is_taken_leaves_nothing_refused():
    assert refused(parser_of("--x", "--y"), ["--x", "3", "--y=4"]) == []


@pytest.mark.parametrize(("extra", "words"), [("--tp-size,all", ("--tp-size", "all")), ("-x,3", ("-x", "3"))])
def test_a_user_s_own_flag_is_named_as_such_although_a_group_sets_it_too(tmp_path, monkeypatch, extra, words):
    for name, value in around(sglang(tmp_path)).items():
        monkeypatch.setenv(name, value)
    (looked,) = validations(planned(*OVERRIDES, f"engine.extra_args=[{extra}]"))

    assert [(r.words, r.group) for r in looked.refused] == [(words, "engine.extra_args")]


@pytest.mark.parametrize(
    ("first", "is_found"), [("#!/usr/bin/env python3", True), (f"#!{sys.executable}", True), ("#!/gone/python", False)]
)
def test_a_program_s_python_is_that_of_its_first_line(tmp_path, monkeypatch, first, is_found):
    engine = vllm(tmp_path, "entrypoints/openai/cli_args.py")
    (tmp_path / "bin/vllm").write_text(f"{first}\n")
    env = around(engine)
    for name, value in {**env, "PATH": f"{tmp_path}/bin{os.pathsep}{env['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    (looked,) = validations(planned("engine=vllm", "speculative=off"))

    assert (looked.lacks == "") == is_found


def test_a_wrapper_around_python_is_a_python(tmp_path, monkeypatch):
    engine = sglang(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin/python3").chmod(0o755)
    env = around(engine)
    for name, value in {**env, "PATH": f"{tmp_path}/bin{os.pathsep}{env['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    (looked,) = validations(planned(*OVERRIDES))

    assert looked.lacks == ""


def test_a_memory_fraction_that_is_no_number_is_refused_before_anything_is_computed_with_it(tmp_path):
    done = bench(tmp_path, "plan", "speculative=off", "engine.extra_args=[--mem-fraction-static,lots]")

    assert done.returncode == 2
    assert "--mem-fraction-static lots" in done.stderr
