"""Secrets are passed by name, and only the name is recorded."""

import json

import pytest
from program import SMALL, bench

from glm5bench.errors import ServerError, SettingsError
from glm5bench.exchange.exports.table import no_formula
from glm5bench.node.command import resolved
from glm5bench.settings.overrides import compose
from glm5bench.values.secrets import is_secret


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "--api-key", "--hf-token", "token"])
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "--max-prefill-tokens", "--tokenizer-worker-num", "KEYBOARD", "MONKEY"]
)
def test_names_that_only_resemble_them_are_not(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    "override",
    ["engine.env.HF_TOKEN=hf_abc", "engine.extra_args=[--api-key,sk-1]", "engine.extra_args=[--hf-token=hf_1]", "engine.env.MY_SECRET=x"],
)
def test_a_secret_as_a_value_is_refused_with_the_way_to_pass_it(override):
    with pytest.raises(SettingsError) as refused:
        compose(override)

    assert "its value would be stored" in str(refused.value)
    assert "=$NAME'" in str(refused.value)
    assert "hf_abc" not in str(refused.value)


def test_a_secret_by_name_reaches_the_server_and_no_record(tmp_path):
    overrides = (*SMALL, "name=c", "wait=true", "concurrency=2", "engine.env.HF_TOKEN=$MY_TOKEN")
    done = bench(tmp_path, "sweep", *overrides, MY_TOKEN="hf_never_stored")
    written = [p for p in (tmp_path / "outputs").rglob("*") if p.is_file()]

    assert done.returncode == 0, done.stderr
    assert [p for p in written if b"hf_never_stored" in p.read_bytes()] == []
    assert "$MY_TOKEN" in json.dumps(json.loads((tmp_path / "outputs/c/plan.json").read_text()))


def test_a_variable_that_the_job_does_not_have_is_named(monkeypatch):
    monkeypatch.setenv("THERE", "value")

    assert resolved("HF_TOKEN", "$THERE") == "value"
    assert resolved("NCCL_DEBUG", "WARN") == "WARN"
    with pytest.raises(ServerError, match="The variable NOT_THERE is not set in the job"):
        resolved("HF_TOKEN", "$NOT_THERE")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_a_spreadsheet_would_calculate_is_quoted(text):
    assert no_formula(text) == f"'{text}"
    assert no_formula("b200") == "b200"
