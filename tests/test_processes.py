"""Names of processes, here, in other PID namespaces, and of processes whose id is used again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from attnsearch import processes
from attnsearch.processes import ProcessName
from tests.documents import ROOT

OWN = ProcessName.of_this_process()
PRINT_NAME = "from attnsearch.processes import ProcessName; print(ProcessName.of_this_process())"


def name_of_child(*command: str) -> ProcessName:
    """The name of a process that has printed it and ended."""
    printed = subprocess.run([*command, sys.executable, "-c", PRINT_NAME], cwd=ROOT, capture_output=True, text=True)
    if command and printed.returncode:
        pytest.skip(f"no right to {command[0]}: {printed.stderr.strip()}")
    name = ProcessName.parse(printed.stdout.strip())
    assert name is not None
    return name


def test_a_name_is_read_back() -> None:
    assert ProcessName.parse(str(OWN)) == OWN
    assert OWN.pid == os.getpid()


@pytest.mark.parametrize("text", ["", "123", "xyz-1-2-3", "0123abcd-1-2", "0123abcd-1-2-3-4", "0123abcd-1-2-x"])
def test_other_texts_are_no_names(text: str) -> None:
    assert ProcessName.parse(text) is None


def test_this_process_is_not_gone_and_one_that_ended_is() -> None:
    ended = name_of_child()
    assert not OWN.is_gone
    assert ended.is_gone
    assert (ended.boot, ended.namespace) == (OWN.boot, OWN.namespace)


def test_a_process_id_that_is_used_again_is_of_another_process() -> None:
    assert OWN.start > 0
    assert replace(OWN, start=OWN.start + 1).is_gone


@pytest.mark.parametrize("change", [{"boot": "00000000"}, {"namespace": 1}])
def test_of_other_machines_and_containers_nothing_is_known(change: dict[str, object]) -> None:
    assert not replace(name_of_child(), **change).is_gone


def test_a_container_with_the_same_host_name_is_another_place() -> None:
    """`unshare` makes a PID namespace without a container; its process ids begin with 1."""
    inner = name_of_child("unshare", "--pid", "--fork", "--mount-proc")
    assert inner.boot == OWN.boot
    assert inner.namespace != OWN.namespace
    assert not inner.is_gone


def test_without_a_proc_file_system_process_ids_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = replace(name_of_child(), start=0)
    monkeypatch.setattr(processes, "_start_of", lambda _pid: 0)
    assert ended.is_gone
    assert not replace(OWN, start=0).is_gone


def test_the_process_of_a_worker_is_found_in_its_name() -> None:
    assert ProcessName.of_worker(f"node:with:colons:{OWN}:01ab") == OWN
    assert ProcessName.of_worker(f"node:{OWN}:01ab@GPU-1") == OWN
    assert ProcessName.of_worker("node:4711:01ab") is None
