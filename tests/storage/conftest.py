"""One Firestore emulator for the whole run, and a last line that says when there was none."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

INSTALL = "sudo apt-get install google-cloud-cli-firestore-emulator default-jre-headless"
JAR_ON_DEBIAN = Path("/usr/lib/google-cloud-sdk/platform/cloud-firestore-emulator/cloud-firestore-emulator.jar")
START_LIMIT = 60.0

NOT_TESTED = pytest.StashKey[str]()


class Emulator:
    """Google's Firestore emulator as a process of the tests."""

    def __init__(self, jar: Path) -> None:
        self._jar = jar
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """What FIRESTORE_EMULATOR_HOST is set to."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, always on the same port, and wait until it answers."""
        command = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-Duser.language=en", "-cp", str(self._jar)]
        command += ["com.google.cloud.datastore.emulator.firestore.CloudFirestore", "start"]
        self._process = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={self._port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit = time.monotonic() + START_LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > limit:
                self.stop()
                pytest.fail(f"the Firestore emulator did not start on port {self._port}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it and wait until it has gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}/", timeout=1) as response:
                return bool(response.read().strip() == b"Ok")
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="session")
def emulator_jar(pytestconfig: pytest.Config) -> Path:
    """Return the emulator's jar, or skip with the command that installs it."""
    jar = Path(os.environ.get("FIRESTORE_EMULATOR_JAR", JAR_ON_DEBIAN))
    if jar.exists() and shutil.which("java"):
        return jar
    pytestconfig.stash[NOT_TESTED] = f"Firestore was not tested; to test it: {INSTALL}"
    pytest.skip(f"no Firestore emulator; {INSTALL}")


@pytest.fixture(scope="session")
def emulator_host(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a running emulator: the one in the environment, or one started for this run."""
    if host := os.environ.get("FIRESTORE_EMULATOR_HOST"):
        yield host
        return
    emulator = Emulator(request.getfixturevalue("emulator_jar"))
    emulator.start()
    try:
        yield emulator.host
    finally:
        emulator.stop()


@pytest.fixture
def emulator_to_stop(emulator_jar: Path) -> Iterator[Emulator]:
    """Return an emulator of the test's own, running."""
    emulator = Emulator(emulator_jar)
    emulator.start()
    try:
        yield emulator
    finally:
        emulator.stop()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say what was not tested after everything else, where nobody overlooks it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and NOT_TESTED in config.stash:
        reporter.write_line(config.stash[NOT_TESTED], yellow=True)
