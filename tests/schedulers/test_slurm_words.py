"""The output of Slurm's commands becomes plain values. A command that fails or is missing counts as no answer."""

import pytest

from glm5bench.schedulers.slurm import commands as slurm
from glm5bench.schedulers.slurm.states import LIVE, TERMINAL, WAITING, Told


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Replaces one Slurm command with a small shell script. All other commands are missing."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, says="", *, code=0, first=""):
        (tmp_path / f"{name}.txt").write_text(says)
        (tmp_path / name).write_text(
            f'#!/bin/sh\nD={tmp_path}\nfor a; do echo "$a" >> $D/asked; done\n{first}\n/bin/cat $D/{name}.txt\nexit {code}\n'
        )
        (tmp_path / name).chmod(0o755)
        return tmp_path / "asked"

    return put


def test_a_queue_is_read_by_job_with_its_state_node_time_and_reason(program):
    asked = program("squeue", "12_0|RUNNING|gpu1|a-1|None\n12_1|PENDING||a-1|ReqNodeNotAvail, UnavailableNodes:gpu[1-2]\n")

    assert slurm.queue({"me", "also"}) == {
        "12_0": Told("RUNNING", "gpu1", "None", "a-1"),
        "12_1": Told("PENDING", "", "ReqNodeNotAvail, UnavailableNodes:gpu[1-2]", "a-1"),
    }
    assert {"--user=also,me", "--all", "--states=all", "--array"} <= set(asked.read_text().splitlines())


def test_a_reason_may_hold_the_bar_that_separates_columns(program):
    program("squeue", "7|PENDING||a-1|why|not\n")

    assert slurm.queue({"me"})["7"].reason == "why|not"


def test_lines_that_are_no_rows_are_passed_over(program):
    program("squeue", "slurm_load_jobs: retrying\n\n7|RUNNING|gpu1|a-1|None\n")

    assert list(slurm.queue({"me"})) == ["7"]


def test_an_empty_queue_is_an_answer(program):
    program("squeue")

    assert slurm.queue({"me"}) == {}


def test_a_command_that_fails_is_no_answer_whatever_it_printed(program):
    program("squeue", "7|RUNNING|gpu1|a-1|None\n", code=1)
    program("sacct", "7|COMPLETED|gpu1\n", code=1)
    program("scontrol", "MaxArraySize = 1001\n", code=1)

    assert (slurm.queue({"me"}), slurm.accounting(["7"]), slurm.config(), slurm.partitions()) == (None, None, None, None)


def test_a_command_that_is_not_there_is_no_answer(program):
    assert (slurm.queue({"me"}), slurm.accounting(["7"]), slurm.config(), slurm.nodes(None)) == (None, None, None, None)
    assert (slurm.find("name", "me"), slurm.find_ended("name", "me", "now")) == (None, [])
    assert (slurm.is_there(), slurm.cancel(["7"], "a"), slurm.requeue("7")) == (False, "scancel did not answer", "scontrol did not answer")


def test_a_user_s_own_format_of_the_queue_does_not_reach_squeue(program, monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    program("squeue", "7|RUNNING|gpu1|a-1|None\n", first='[ -z "$SQUEUE_FORMAT$SACCT_FORMAT" ] || exit 1')

    assert list(slurm.queue({"me"})) == ["7"]


def test_a_job_inside_another_hands_nothing_of_that_one_on_and_what_names_the_cluster_stays():
    inside = dict.fromkeys(
        ["SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURMD_NODENAME", "SRUN_CPUS_PER_TASK", "SBATCH_PARTITION", "SQUEUE_FORMAT",
         "SUBMITIT_EXECUTOR", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"], "1",
    )  # fmt: skip
    kept = {"SLURM_CONF": "/etc/slurm/slurm.conf", "PATH": "/bin", "HOME": "/root", "MY_SLURM_NOTE": "1"}

    assert slurm.clean({**inside, **kept}) == kept


def test_slurms_commands_do_not_run_as_the_job_that_asks(program, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "mine")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/mine.conf")
    program(
        "squeue", "7|RUNNING|gpu1|a-1|None\n", first='[ "$SBATCH_PARTITION$SLURM_CLUSTERS$SLURM_CONF" = /etc/slurm/mine.conf ] || exit 1'
    )

    assert list(slurm.queue({"me"})) == ["7"]


def test_accounting_tells_the_first_word_of_a_state_and_no_node_where_there_was_none(program):
    program("sacct", "7|CANCELLED by 1000|None assigned|a-1\n8|NODE_FAIL|gpu2|a-1\n9|||\n")

    assert slurm.accounting(["7", "8", "9"]) == {
        "7": Told("CANCELLED", name="a-1"),
        "8": Told("NODE_FAIL", "gpu2", name="a-1"),
        "9": Told(""),
    }


def test_accounting_is_asked_once_for_all_tasks_of_an_array_and_tells_of_those_that_were_asked_for(program):
    asked = program("sacct", "12_0|COMPLETED|gpu1\n12_1|TIMEOUT|gpu2\n12_2|FAILED|gpu3\n")

    assert slurm.accounting(["12_1", "12_2", "12_9"]) == {"12_1": Told("TIMEOUT", "gpu2"), "12_2": Told("FAILED", "gpu3")}
    assert [line for line in asked.read_text().splitlines() if line.startswith("--jobs=")] == ["--jobs=12"]


def test_tasks_that_accounting_shows_as_one_line_are_told_apart(program):
    program("sacct", "12_[3-5,7%2]|PENDING|None assigned\n12_1|RUNNING|gpu1\n")

    assert sorted(slurm.accounting([f"12_{i}" for i in range(9)])) == ["12_1", "12_3", "12_4", "12_5", "12_7"]


def test_accounting_is_not_asked_about_nothing(program):
    assert slurm.accounting([]) == {}


def test_the_configuration_is_read_by_name(program):
    program(
        "scontrol", "Configuration data as of 2026-01-01T00:00:00\nMaxArraySize            = 1001\nMaxJobCount = 10000\nA = b = c\n\nUP\n"
    )

    assert slurm.config() == {"MaxArraySize": "1001", "MaxJobCount": "10000", "A": "b = c"}


def test_partitions_are_read_by_name_with_their_settings(program):
    program(
        "scontrol",
        "PartitionName=gpu AllowGroups=ALL Default=YES MaxTime=1-00:00:00 Nodes=gpu[1-4] State=UP TRES=cpu=64,mem=1T\n"
        "PartitionName=debug AllowGroups=ALL Default=NO MaxTime=UNLIMITED\n",
    )

    found = slurm.partitions()

    assert {name: p["Default"] for name, p in found.items()} == {"gpu": "YES", "debug": "NO"}
    assert found["gpu"]["TRES"] == "cpu=64,mem=1T"
    assert [slurm.max_time_min(p) for p in found.values()] == [1440, None]


@pytest.mark.parametrize(
    ("text", "minutes"), [("00:30:00", 30), ("12:00:00", 720), ("7-00:00:00", 10_080), ("1-02:03:30", 1563.5), ("UNLIMITED", None)]
)
def test_a_partition_s_time_is_read_in_minutes(text, minutes):
    assert slurm.max_time_min({"MaxTime": text}) == minutes


def test_every_name_has_the_time_of_its_partition_and_one_without_a_partition_that_of_the_default_one(program):
    program(
        "scontrol",
        "PartitionName=gpu Default=YES MaxTime=01:00:00\nPartitionName=long MaxTime=2:00:00\nPartitionName=any MaxTime=UNLIMITED\n",
    )

    limits = slurm.partition_limits_min({"a": None, "b": "long", "c": "any", "d": "nowhere"})

    assert limits == {"a": 60, "b": 120}


def test_without_an_answer_no_partition_has_a_limit(program):
    assert slurm.partition_limits_min({"a": None, "b": "long"}) == {}


def test_nodes_are_read_with_state_and_gres(program):
    asked = program("sinfo", "gpu1|idle|gpu:h200:8(S:0-1)\ngpu2|drained*|(null)\n")

    assert slurm.nodes("gpu") == {"gpu1": ("idle", "gpu:h200:8(S:0-1)"), "gpu2": ("drained*", "(null)")}
    assert asked.read_text().split()[-3:-1] == ["--partition", "gpu"]


def test_an_array_is_found_by_its_name_once_for_all_its_tasks(program):
    program("squeue", "12_0\n12_1\n9\n")

    assert slurm.find("night-1", "me") == ["12", "9"]


def test_arrays_that_are_over_are_found_in_accounting_and_none_where_there_is_no_accounting(program):
    program("sacct", "12_0\n12_1\n")
    assert slurm.find_ended("night-1", "me", "2026-01-01T00:00:00") == ["12"]

    program("sacct", "12_0\n", code=1)
    assert slurm.find_ended("night-1", "me", "2026-01-01T00:00:00") == []


def test_what_scancel_complains_of_is_told(program):
    program("scancel", first='[ "$1 $2 $3" = "--name=a -- 7" ] || { echo "scancel: error: Invalid job id $3" >&2; exit 1; }')

    assert (slurm.cancel(["7"], "a"), slurm.cancel(["8"], "a"), slurm.cancel([], "a")) == ("", "scancel: error: Invalid job id 8", "")


def test_no_word_of_slurm_is_both_live_and_terminal_and_what_waits_is_live():
    assert not LIVE & TERMINAL
    assert WAITING < LIVE
