"""Which process listens on a port: the server that was started, or another process on this host."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from glm5bench.machine.listener import listeners
from glm5bench.node.server import free_port

SOCKET = """
import socket, sys
s = socket.socket(socket.{family})
s.bind(({address!r}, 0))
{does}
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


def program(address="127.0.0.1", family="AF_INET", does="s.listen()"):
    """A program that runs `does` with a socket and prints the socket's port."""
    return SOCKET.format(address=address, family=family, does=does)


def starting(child, how=""):
    """A program that starts another program and waits for it."""
    return f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {child!r}]{how}))"


LISTENS = program()
ORPHANED = f"""
import os, sys
told, tell = os.pipe()
child = os.fork()
if not child:
    if os.fork():
        os._exit(0)
    os.read(told, 1)  # until its parent is gone
    exec({LISTENS!r})
    os._exit(0)
os.waitpid(child, 0)
os.write(tell, b"x")
sys.stdin.read()
"""
IDLE = "import sys; print('up', flush=True); sys.stdin.read()"
CONNECTED = "s.listen(); client = socket.create_connection(s.getsockname()); s, _ = s.accept()"
has_ipv6 = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this kernel has no IPv6")


@contextlib.contextmanager
def running(text):
    """A process in its own session, like the guard: its id, and the first line that it printed."""
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process.pid, process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture
def guard():
    """A guard without child processes."""
    with running(IDLE) as (pid, _):
        yield pid


@pytest.mark.parametrize(
    "text",
    [LISTENS, starting(LISTENS), starting(starting(LISTENS)), starting(LISTENS, ", start_new_session=True")],
    ids=["itself", "its child", "its grandchild", "its child in another session"],
)
def test_a_listener_that_the_guard_started_is_no_stranger(text):
    with running(text) as (guard, port):
        assert not listeners(int(port), guard).foreign


def test_a_listener_of_the_guard_s_session_is_no_stranger_although_its_parent_is_gone():
    with running(ORPHANED) as (guard, port):
        assert not listeners(int(port), guard).foreign


def test_a_listener_that_somebody_else_started_is_a_stranger_and_named(guard):
    with running(LISTENS) as (stranger, port):
        assert listeners(int(port), guard).foreign == f"process {stranger}"


def test_a_listener_that_another_guard_started_is_a_stranger(guard):
    with running(starting(LISTENS)) as (other, port):
        found = int(listeners(int(port), guard).foreign.removeprefix("process "))

        assert found not in (guard, other)
        assert os.getsid(found) == other


def test_a_stranger_on_every_address_of_the_host_is_found_too(guard):
    with running(program("0.0.0.0")) as (stranger, port):
        assert listeners(int(port), guard).foreign == f"process {stranger}"


@has_ipv6
@pytest.mark.parametrize("address", ["::1", "::"])
def test_a_stranger_who_listens_on_ipv6_is_found_too(guard, address):
    with running(program(address, "AF_INET6")) as (stranger, port):
        assert listeners(int(port), guard).foreign == f"process {stranger}"


def test_where_nobody_listens_is_no_stranger(guard):
    with running(LISTENS):
        assert not listeners(free_port(), guard).foreign


@pytest.mark.parametrize("does", ["pass", CONNECTED], ids=["bound", "connected"])
def test_a_port_that_is_taken_and_not_listened_on_is_nobody_s(guard, does):
    with running(program(does=does)) as (_, port):
        assert not listeners(int(port), guard).foreign


def test_a_stranger_whose_descriptors_come_and_go_is_seen(monkeypatch):
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (["9999"] if path.endswith("/fd") else []) + listed(path))  # closed meanwhile
    with running(IDLE) as (guard, _), socket.create_server(("127.0.0.1", 0)) as listening:
        assert listeners(listening.getsockname()[1], guard).foreign == f"process {os.getpid()}"


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="only root can run a process as another user")
def test_a_listener_of_another_user_is_foreign_although_its_descriptors_are_hidden(guard):
    command = ["/usr/bin/python3", "-c", LISTENS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=65534) as process:
        port = int(process.stdout.readline())
        found = listeners(port, guard)
        process.stdin.close()

    assert found.n == 1
    assert found.foreign.startswith("a process of user ")


def test_a_listener_on_another_address_of_this_host_is_not_asked():
    with running(program("127.0.0.2")) as (guard, port):
        assert listeners(int(port), guard).n == 0
