"""A local Ray listens on loopback only; a cluster is attached to, and may lose a node."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from running import task, until

from homodyne.optimization.cmc.backends import BACKENDS, BackendOptions

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def ray_backend():
    return BACKENDS["ray"](BackendOptions(num_workers=1, run="fake_shards:run"))


def test_a_local_instance_listens_on_loopback_only():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    results = {}
    with ray_backend() as backend:
        assert backend.run([task(0)], on_result=results.__setitem__) == []
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        open_ports = [
            (process.name(), link.laddr.ip)
            for process in family
            if process.pid not in before
            for link in process.net_connections("inet")
            if link.status == psutil.CONN_LISTEN
        ]
    assert {name for name, _ in open_ports} >= {"raylet", "gcs_server"}
    assert {ip.removeprefix("::ffff:") for _, ip in open_ports} == {"127.0.0.1"}
    assert results[0]["pid"] != os.getpid()


@contextmanager
def node(*options):
    """A node of a cluster; it is ended by its process ids."""
    command = [Path(sys.executable).with_name("ray"), "start", "--block", "--disable-usage-stats", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        kill_family(process.pid)
        process.wait()


def kill_family(pid):
    if psutil.pid_exists(pid):
        whole = psutil.Process(pid)
        for process in [whole, *whole.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_shard_whose_node_is_lost_runs_again_on_another(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    results = {}
    with node("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"):
        until(lambda: answers(port))
        with node(f"--address={address}", "--num-cpus=1") as first:
            begun = tmp_path / "1-0.pid"

            def lose():
                until(begun.exists)
                kill_family(first.pid)

            loser = threading.Thread(target=lose, daemon=True)
            loser.start()
            with ray_backend() as backend, spare_node(begun, f"--address={address}", "--num-cpus=1"):
                failures = backend.run([task(1, "first hang", tmp_path), task(2)], on_result=results.__setitem__)
            loser.join()
    assert failures == []
    assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {1: 1, 2: 0}


@contextmanager
def spare_node(begun, *options):
    """A node that joins when the first one has begun to work."""
    done = threading.Event()

    def join():
        until(lambda: begun.exists() or done.is_set())
        with node(*options):
            done.wait()

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
