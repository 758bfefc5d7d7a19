"""What the unprivileged user can reach, and what nobody is shown."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from citywatch.embedded import Addresses, EmbeddedError, EmbeddedStack, postgres
from citywatch.embedded.process import Owner

STRANGER = Owner(54321, 54321)


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder that strangers can pass down to."""
    folder = Path("/var/tmp") / f"citywatch-test-{os.getpid()}"  # noqa: S108
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_password_is_not_shown() -> None:
    addresses = Addresses("127.0.0.1", 1, "127.0.0.1:2", "log", "postgresql://x:secret@127.0.0.1/x")
    assert "secret" not in repr(addresses)
    assert "127.0.0.1:2" in str(addresses)


def test_reach_is_decided_by_every_folder_on_the_way(home: Path) -> None:
    file = home / "a" / "b" / "program"
    file.parent.mkdir(parents=True)
    file.touch()
    file.chmod(0o755)
    for folder in (file.parent, file.parent.parent):
        folder.chmod(0o755)
    assert postgres.can_reach(file, STRANGER)
    file.parent.parent.chmod(0o700)
    assert not postgres.can_reach(file, STRANGER)
    assert postgres.can_reach(file, Owner(os.getuid(), 54321))
    file.parent.parent.chmod(0o701)
    assert postgres.can_reach(file, STRANGER)
    # The group's bits count for its members, even where others may more.
    assert not postgres.can_reach(file, Owner(54321, file.parent.parent.stat().st_gid))


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: only root trusts a folder by its owner")
def test_a_place_that_others_could_write_to_is_refused(home: Path) -> None:
    postgres._require_untouched(home)
    home.chmod(0o777)
    with pytest.raises(EmbeddedError, match="changed by somebody"):
        postgres._require_untouched(home)
    home.chmod(0o755)
    os.chown(home, *STRANGER)
    with pytest.raises(EmbeddedError, match="changed by somebody"):
        postgres._require_untouched(home)


def test_copied_binaries_run(home: Path) -> None:
    binaries = postgres._copy_binaries(postgres.find_binaries(), home)
    assert postgres.can_reach(binaries / "postgres", STRANGER)
    for program in ("postgres", "initdb"):
        done = subprocess.run([binaries / program, "--version"], capture_output=True, check=True)
        assert b"(PostgreSQL) 18" in done.stdout


def test_a_folder_that_everybody_can_write_to_is_refused(home: Path) -> None:
    home.chmod(0o777)
    with pytest.raises(EmbeddedError, match="written to by everybody"):
        EmbeddedStack(home).start()


def test_mosquitto_by_name_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citywatch.embedded.mqtt.find_mosquitto", lambda: None)
    assert EmbeddedStack(tmp_path).mqtt.name == "rumqttd"
    with pytest.raises(EmbeddedError, match="not installed"):
        EmbeddedStack(tmp_path, mqtt="mosquitto")
