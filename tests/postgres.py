"""A PostgreSQL server of the tests' own: a new cluster in a temporary folder, on a free port of this machine only."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

ACCOUNTS = ("postgres", "nobody")
"""Whose rights the server gets where the tests run as root, which PostgreSQL refuses."""
ROLE = "tester"
PATIENCE_S = 60.0
SCRATCH = "scratch"
_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # a server that is thrown away need not survive a power cut
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "32MB",
    "timezone": "Asia/Kathmandu",  # +05:45: whatever depends on the server's zone is off by an odd time
}


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, Debian's newest version first; None where there is no server."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = [Path(program).parent for program in [shutil.which("initdb")] if program is not None]
    both = ("initdb", "postgres")
    return next((folder for folder in [*debian, *on_path] if all((folder / name).exists() for name in both)), None)


@dataclass
class PostgresServer:
    """One private cluster. It keeps port and contents when it is stopped and started again."""

    binaries: Path
    folder: Path
    port: int
    password: str
    process: subprocess.Popen[bytes] | None = None
    has_scratch: bool = False

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def url(self, database: str) -> str:
        """What a user writes as `storage`."""
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        """Writes the cluster's files; a fresh folder belongs to the account that the server runs under."""
        identity = _server_identity()
        if identity:
            os.chown(self.folder, identity["user"], identity["group"])
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o444)  # the folder is closed to everyone else
        command = ["initdb", "--pgdata", "data", "--username", ROLE, "--pwfile", "password"]
        options = ["--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"]
        self._run([*command, *options]).check_returncode()

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        program = [str(self.binaries / command[0]), *command[1:]]
        with self.log.open("ab") as log:
            return subprocess.run(program, cwd=self.folder, stdout=log, stderr=log, **_server_identity())

    def start(self) -> None:
        """Starts the server and returns when it takes connections.

        Call it from the main thread: where the system watches over the server, it ends with the thread that started it.
        """
        settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": self.port}.items()]
        command = [*_ends_with_this_process(), str(self.binaries / "postgres"), "-D", "data", *settings]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_server_identity()
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=10)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends the server at once with all its connections; `SIGQUIT` instead is a crash."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE_S)
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """The URL of an empty database, emptied again after the block: a tenth of the time that a new one takes."""
        if not self.has_scratch:
            self.create_database(SCRATCH)
            self.has_scratch = True
        yield self.url(SCRATCH)
        with closing(self._connect(SCRATCH)) as connection:
            connection.execute(_END_OTHERS)
            connection.execute(
                "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC"
            )

    def create_database(self, name: str) -> str:
        """Makes an empty database and returns its URL."""
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def clear_tables(self, database: str, names: Iterable[str]) -> None:
        """Removes all rows of these tables and of those that refer to them; waits for nobody who still writes."""
        rows = sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, names)))
        self.execute(sql.SQL("SET lock_timeout = '10s'; {}").format(rows), database=database)

    def drop_database(self, name: str) -> None:
        """Removes a database and ends the connections to it."""
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def end_connection(self, backend_pid: int) -> None:
        """Ends somebody's connection, and returns when it is gone."""
        pid = sql.Literal(backend_pid)
        self.execute(sql.SQL("SELECT pg_terminate_backend({}, 10000)").format(pid))

    def execute(self, statement: sql.SQL | sql.Composed, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement as the owner of everything; returns its rows."""
        with closing(self._connect(database)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description is not None else []


def _server_identity() -> dict[str, Any]:
    """Keyword arguments of `subprocess` that drop root's rights; none where there are none to drop."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = next(known[name] for name in ACCOUNTS if name in known)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _ends_with_this_process() -> list[str]:
    """A prefix under which the system stops the server if the tests are killed, where there is such a program."""
    return ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_server(binaries: Path) -> Iterator[PostgresServer]:
    """A server that runs during the block; afterwards nothing of it is left, process or file."""
    folder = Path(tempfile.mkdtemp(prefix="attnsearch-postgres-"))
    server = PostgresServer(binaries, folder, _free_port(), secrets.token_hex(8))
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)  # nothing is kept, so nothing is written
        shutil.rmtree(folder)
