"""The nodes of one job: who is let in, how the end of one is noticed, and that its servers end with it. Two nodes as two threads."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import stat
import threading

import pytest
from conftest import compose, plan
from program import until

from glm5bench.directory import Campaign
from glm5bench.errors import ServerError
from glm5bench.node import crew as crews
from glm5bench.node import wire
from glm5bench.node.command import Stopped
from glm5bench.node.crew import NodeGone, address_file, gathered, say_over
from glm5bench.node.deployment import deployed
from glm5bench.node.heartbeat import Heartbeat
from glm5bench.node.member import follow
from glm5bench.node.observed import observing_all
from glm5bench.node.progress import Progress

WIDE = ("engine=simulated", "engine.time_scale=50", "hardware=gb200", "roles=wide", "tp=8", "speculative=off")


def served(answer):
    """A server for one connection, and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: answer(listening.accept()[0]), daemon=True)
    thread.start()
    return listening, thread


def test_only_who_knows_the_secret_is_let_in():
    found = []
    listening, thread = served(lambda connection: found.append(wire.accepted(connection, "secret")))
    with listening, pytest.raises(wire.Gone):
        wire.connected("127.0.0.1", listening.getsockname()[1], "another", {"rank": 1})
    thread.join(10)

    assert found == [None]


def test_a_member_trusts_only_a_leader_that_knows_the_secret():
    def impostor(connection):
        with connection:
            connection.sendall(b'{"challenge": "00"}\n')
            connection.recv(4096)
            connection.sendall(b'{"proof": "00"}\n')
            connection.recv(4096)

    listening, thread = served(impostor)
    with listening, pytest.raises(wire.Gone, match="does not know the secret"):
        wire.connected("127.0.0.1", listening.getsockname()[1], "secret", {"rank": 1})
    thread.join(10)


@pytest.mark.parametrize("sent", [b"not json\n", b"[1]\n", b"", b"[" * 4000 + b"\n", b"x" * 5000])
def test_what_is_no_message_ends_the_connection(sent):
    left, right = socket.socketpair(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        left.sendall(sent)
    left.close()
    end = object.__new__(wire.Wire)  # a Unix socket has no TCP options
    end._connection, end._read, end._heard, end._sending, end.longest = right, b"", 0.0, threading.Lock(), 2**12

    with pytest.raises(wire.Gone):
        end.receive(5)
    right.close()


def test_messages_arrive_whole_and_in_order():
    got = []

    def answer(connection):
        let_in, hello = wire.accepted(connection, "secret")
        got.append(hello["rank"])
        for n in range(3):
            let_in.send({"n": n, "text": "x" * 100_000})
        with pytest.raises(wire.Gone):
            let_in.receive(10)
        let_in.close()

    listening, thread = served(answer)
    with listening:
        mine = wire.connected("127.0.0.1", listening.getsockname()[1], "secret", {"rank": 7})
        assert [mine.receive(10)["n"] for _ in range(3)] == [0, 1, 2]
        assert mine.receive(0.01) is None
        mine.close()
    thread.join(10)

    assert got == [7]


@pytest.fixture
def job():
    (made,) = plan([compose(*WIDE, "concurrency=2")]).jobs
    return dataclasses.replace(made, interface="lo")


@contextlib.contextmanager
def two_nodes(tmp_path, job):
    """The leader's crew; the second node runs in a thread. `progress` of both."""
    campaign, mine, theirs = Campaign(tmp_path), Progress(), Progress()
    with Heartbeat(campaign.heartbeat("7"), []) as heart, Heartbeat(campaign.heartbeat("7.1"), []) as other:
        member = threading.Thread(target=follow, args=(campaign, job, "7", 1, other, theirs), daemon=True)
        member.start()
        with gathered(campaign, job, "7", ("n1", "n2"), heart, mine) as crew:
            yield crew, mine, theirs
        member.join(30)
        assert not member.is_alive()


def test_the_address_of_the_leader_is_readable_by_its_user_only_and_is_removed(tmp_path, job, monkeypatch):
    campaign, progress = Campaign(tmp_path), Progress()
    seen = []

    def look():
        path = address_file(campaign, "7", job)
        until(path.exists, "the leader's address")
        seen.append((stat.S_IMODE(path.stat().st_mode), json.loads(path.read_text())["address"]))
        progress.stopped("SIGTERM")

    looking = threading.Thread(target=look)
    looking.start()
    with Heartbeat(campaign.heartbeat("7"), []) as heart, pytest.raises(Stopped), gathered(campaign, job, "7", (), heart, progress):
        pass
    looking.join()

    assert seen == [(0o600, "127.0.0.1")]
    assert not address_file(campaign, "7", job).exists()


def test_a_node_that_does_not_come_is_named(tmp_path, job, monkeypatch):
    monkeypatch.setattr(crews, "GATHER_S", 0.3)
    campaign = Campaign(tmp_path)
    with (
        Heartbeat(campaign.heartbeat("7"), []) as heart,
        pytest.raises(NodeGone, match="n2") as raised,
        gathered(campaign, job, "7", ("n1", "n2"), heart, Progress()),
    ):
        pass

    assert (raised.value.node, raised.value.failure_class) == ("n2", "node_fault")


def test_one_server_on_two_nodes_is_ready_observed_and_ended(tmp_path, job):
    with two_nodes(tmp_path, job) as (crew, _, _):
        assert crew.prepare("model") == list(crew.prepare("model"))
        with deployed(crew, job, job.starts[0].recipe, 0) as server:
            assert server.listens_or_raise()
            assert server.info()["tp_size"] == 8
            with observing_all(crew, is_split=False, period_s=0.05) as observers:
                until(lambda: len(observers.account()["devices"]) == 8, "readings of all GPUs")
                start = crew.hands.do({"do": "clock", "with": {}})["ns"]
                server.ask("POST", "/generate", {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 400}}, within_s=60)
                told = observers.told(start, crew.hands.do({"do": "clock", "with": {}})["ns"])
                assert {t.device for t in told.tracks} >= {"server", "server-0.0 GPU-simulated-0", "observer server-0.0"}
            logs = server.logs(100_000)
        assert "==== server-0.1 on" in logs
        assert "rank 1 joined" in logs
        processes = [*crew.hands.servers.values()]
    assert processes == []


def test_a_rank_that_is_killed_is_a_fault_of_its_node_and_not_of_the_one_that_follows(tmp_path, job):
    with two_nodes(tmp_path, job) as (crew, _, _):
        crew.prepare("model")
        with deployed(crew, job, job.starts[0].recipe, 0) as server:
            far = server.process.pid  # the guard of rank 0; the other one is found by its folder
            guards = [int(p) for p in os.listdir("/proc") if p.isdigit() and f"{tmp_path}/jobs/7/{job.id}.0/server-0.1" in _command(p)]
            guard = next(g for g in guards if "guard.py" in _command(g) and g != far)
            with open(f"/proc/{guard}/task/{guard}/children", encoding="utf-8") as file:
                os.kill(int(file.read().split()[0]), signal.SIGKILL)
            with pytest.raises(ServerError, match="SIGKILL") as raised:
                until(lambda: server.alive_or_raise() or False, "the failure")

    assert raised.value.node == crew.far[1].name
    assert raised.value.failure_class == "server_crash"


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def test_a_node_whose_connection_ends_is_gone_and_ends_its_servers(tmp_path, job):
    with two_nodes(tmp_path, job) as (crew, _, _):
        crew.prepare("model")
        with deployed(crew, job, job.starts[0].recipe, 0) as server:
            crew.far[1].wire.close()
            with pytest.raises(NodeGone) as raised:
                until(lambda: server.alive_or_raise() or False, "the failure")
            until(
                lambda: (
                    not [p for p in os.listdir("/proc") if p.isdigit() and "server-0.1" in _command(p) and str(tmp_path) in _command(p)]
                ),
                "",
            )

    assert raised.value.failure_class == "node_fault"


def test_a_signal_on_another_node_stops_the_job_without_a_fault(tmp_path, job):
    with two_nodes(tmp_path, job) as (crew, mine, theirs):
        crew.prepare("model")
        with deployed(crew, job, job.starts[0].recipe, 0) as server:
            theirs.stopped("SIGUSR2")
            with pytest.raises(Stopped):
                until(lambda: server.alive_or_raise() or False, "the stop")

    assert mine.why == "SIGUSR2"


def test_a_restart_is_not_failed_by_a_report_on_the_server_before_it(tmp_path, job):
    with two_nodes(tmp_path, job) as (crew, _, _):
        crew.prepare("model")
        with deployed(crew, job, job.starts[0].recipe, 0):
            pass
        far = crew.far[1]
        crew.far[1] = dataclasses.replace(far)  # its reader does not change this copy
        error = {"message": "gone", "failure_class": "server_crash"}
        crew.far[1].report = {"failed": {"server-0.1": {"error": error, "is_killed": True}}, "generation": 0}

        assert crew.failures() == []
        crew.far[1].report["generation"] = 1
        assert crew.failures() == [(1, 1, error)]
        crew.far[1] = far


def test_the_error_of_one_node_is_raised_while_others_still_work(tmp_path, job, monkeypatch):
    with two_nodes(tmp_path, job) as (crew, _, _):
        begun, ended = threading.Event(), threading.Event()

        def slow(self):
            begun.set()
            ended.wait(60)
            return {"findings": [], "checkpoint": {}}

        def failing(self):
            begun.wait(60)
            raise ServerError("No weights here.", failure_class="checkpoint_missing")

        crew.hands._do_prepare = failing.__get__(crew.hands)
        monkeypatch.setattr("glm5bench.node.hands.Hands._do_prepare", slow)
        with pytest.raises(ServerError, match="No weights here"):
            crew.ask_all("prepare", 60, {0: [{}], 1: [{}]})
        assert not ended.is_set()
        ended.set()


def test_a_port_that_somebody_took_meanwhile_is_replaced(tmp_path, job, monkeypatch):
    with two_nodes(tmp_path, job) as (crew, _, _), socket.create_server(("127.0.0.1", 0)) as squatter:
        crew.prepare("model")
        asked, taken = crew.hands._do_ports, squatter.getsockname()[1]
        answers = iter([taken])
        monkeypatch.setattr(
            crew.hands, "_do_ports", lambda n: {"ports": [next(answers, None) or p for p in asked(n)["ports"]]}, raising=False
        )
        with deployed(crew, job, job.starts[0].recipe, 0) as server:
            assert server.listens_or_raise()
            assert not server.base_url.endswith(f":{taken}")


def test_nodes_start_the_recipe_that_the_leader_has_left_to_measure(tmp_path):
    """The leader's job is shorter if its first points are measured: its first start is not that of the other nodes."""
    (made,) = plan([compose(*WIDE, "concurrency=[2,5]", "server_scope=point")]).jobs
    whole = dataclasses.replace(made, interface="lo")
    short = dataclasses.replace(whole, starts=whole.starts[1:])
    with two_nodes(tmp_path, whole) as (crew, _, _):
        crew.prepare("model")
        with deployed(crew, short, short.starts[0].recipe, 0) as server:
            commands = [_command(p) for p in os.listdir("/proc") if p.isdigit() and f"{tmp_path}/jobs/7" in _command(p)]
            assert server.recipe.binding == 5
    ranks = [c for c in commands if "--max-running-requests" in c and "guard.py" in c]
    assert len(ranks) == 2
    assert all("--max-running-requests 5 " in c for c in ranks)


@pytest.mark.parametrize("proof", ["é", "\ud800", None, 7, [1]])
def test_a_proof_of_any_kind_is_refused_without_an_error(proof):
    found = []
    listening, thread = served(lambda connection: found.append(wire.accepted(connection, "secret")))
    with listening, socket.create_connection(listening.getsockname()) as stranger:
        stranger.recv(4096)
        stranger.sendall(json.dumps({"proof": proof, "challenge": "\ud800"}).encode() + b"\n")
        thread.join(10)

    assert found == [None]


def test_connections_that_say_nothing_do_not_keep_the_nodes_waiting(tmp_path, job, monkeypatch):
    monkeypatch.setattr(crews, "STRANGERS", 100)
    campaign, strangers = Campaign(tmp_path), []

    def crowd():
        until(address_file(campaign, "7", job).exists, "the leader's address")
        told = json.loads(address_file(campaign, "7", job).read_text())
        strangers.extend(socket.create_connection((told["address"], told["port"])) for _ in range(20))
        with Heartbeat(campaign.heartbeat("7.1"), []) as other:
            follow(campaign, job, "7", 1, other, Progress())

    monkeypatch.setattr(wire, "HANDSHAKE_S", 600.0)
    crowding = threading.Thread(target=crowd, daemon=True)
    crowding.start()
    with Heartbeat(campaign.heartbeat("7"), []) as heart, gathered(campaign, job, "7", ("n1", "n2"), heart, Progress()) as crew:
        assert [*crew.far] == [1]
    crowding.join(30)
    for stranger in strangers:
        stranger.close()


def test_a_wrong_interface_is_named_whichever_node_has_it(tmp_path, job):
    wrong = dataclasses.replace(job, interface="ib99")
    campaign, progress = Campaign(tmp_path), Progress()
    member = threading.Thread(
        target=lambda: follow(campaign, wrong, "7", 1, Heartbeat(campaign.heartbeat("7.1"), []), Progress()), daemon=True
    )
    member.start()
    with (
        Heartbeat(campaign.heartbeat("7"), []) as heart,
        pytest.raises(NodeGone, match="ib99 has no IPv4 address"),
        gathered(campaign, job, "7", ("n1", "n2"), heart, progress),
    ):
        pass
    with pytest.raises(NodeGone, match="ib99") as raised, gathered(campaign, wrong, "7", (), heart, progress):
        pass
    member.join(30)

    assert not member.is_alive()
    assert "this node has lo" in raised.value.next_step


def test_a_node_that_waits_for_a_leader_with_nothing_to_do_ends(tmp_path, job):
    campaign = Campaign(tmp_path)
    say_over(campaign, "7", job, "3")

    follow(campaign, job, "7", 1, Heartbeat(campaign.heartbeat("7.1"), []), Progress(), "3")  # returns at once


def test_the_end_of_an_earlier_run_is_not_the_end_of_this_one(tmp_path, job):
    campaign, progress = Campaign(tmp_path), Progress()
    say_over(campaign, "7", job, "3")
    member = threading.Thread(
        target=lambda: follow(campaign, job, "7", 1, Heartbeat(campaign.heartbeat("7.1"), []), progress, "4"), daemon=True
    )
    member.start()
    with Heartbeat(campaign.heartbeat("7"), []) as heart, gathered(campaign, job, "7", (), heart, Progress()) as crew:
        assert [*crew.far] == [1]
    member.join(30)

    assert not member.is_alive()


def test_a_defect_on_another_node_reaches_the_leader(tmp_path, job):
    with two_nodes(tmp_path, job) as (crew, _, _), pytest.raises(ServerError, match=r"defect of glm5bench.*KeyError") as raised:
        crew.ask(1, "look", 60, name="no such server")

    assert (raised.value.failure_class, raised.value.node) == ("client_error", crew.far[1].name)
