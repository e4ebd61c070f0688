"""Build what is published, look through it, install it in fresh environments and use it: `make release-check`.

Needs the network, for what the packages depend on. Leaves wheels, sdists and the tarball in `dist/`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
SDK = ROOT / "sdk" / "js"

# Checkers of npm packages, run where npm gets them.
PUBLINT = "publint@0.3"
ATTW = "@arethetypeswrong/cli@0.18"

# The folder of each distribution, the one that needs nobody else first.
DISTRIBUTIONS = {
    "signal_manager_client": ROOT / "packages" / "client",
    "signal_manager": ROOT,
    "signal_manager_sfu": ROOT / "packages" / "sfu",
}
IN_WHEELS = {
    "signal_manager_client": (
        "signal_manager/__init__.py",
        "signal_manager/client/client.py",
        "signal_manager/protocol/codec/signal_manager.proto",
        "signal_manager/py.typed",
    ),
    "signal_manager": (
        "signal_manager/admin/static/dashboard.html",
        "signal_manager/admin/demo/index.html",
        "signal_manager/admin/demo/demo.js",
        r"signal_manager-[^/]+\.dist-info/entry_points\.txt",
    ),
    "signal_manager_sfu": ("signal_manager/sfu/workers.py",),
}
IN_SDISTS = {
    "signal_manager_client": ("src/signal_manager/client/client.py",),
    "signal_manager": (
        "CHANGELOG.md",
        "Makefile",
        "config.example.toml",
        "docs/vectors.json",
        "hatch_build.py",
        "packages/client/pyproject.toml",
        "src/signal_manager/gateway/connection.pxd",
        "tests/conftest.py",
    ),
    "signal_manager_sfu": ("src/signal_manager/sfu/workers.py",),
}
IN_TARBALL = (
    "LICENSE",
    "README.md",
    "package.json",
    "dist/signal-manager.js",
    "dist/signal-manager.js.map",
    "dist/index.d.ts",
    "dist/index.d.ts.map",
    "dist/devices.js",
    "dist/direct.js",
    "dist/speakers.js",
    "dist/stats.js",
    "direct/package.json",
    "src/index.ts",
)
IN_NONE = (r"(^|/)node_modules/", r"\.db$", r"(^|/)\.env", r"\.pem$", r"__pycache__", r"(^|/)config\.toml$")

USE_OF_CLIENT = """
import asyncio, sys
from signal_manager.client import SignalClient, SignalReceived

async def main():
    url = sys.argv[1]
    async with (
        SignalClient(url, "test_client_1", "test_token_1") as one,
        SignalClient(url, "test_client_2", "test_token_2") as two,
    ):
        await one.send_offer("test_client_2", {"type": "offer", "sdp": "v=0"})
        async for event in two:
            if isinstance(event, SignalReceived):
                print(event.sender)
                break

asyncio.run(main())
"""
USE_OF_SDK = """
import { SignalClient, NotFoundError } from "signal-manager";
import { DirectCalls } from "signal-manager/direct";
import { releaseDevice } from "signal-manager/devices";
import { activeSpeakers } from "signal-manager/speakers";
import { roomStats } from "signal-manager/stats";

const client: SignalClient = new SignalClient("ws://127.0.0.1:1", "alice", "token");
export const calls = new DirectCalls(client);
export const known: [typeof NotFoundError, typeof releaseDevice, typeof roomStats, typeof activeSpeakers] = [
  NotFoundError, releaseDevice, roomStats, activeSpeakers,
];
"""
# As TypeScript and bundlers look for packages: the old way, by `exports`, and as Node does.
RESOLUTIONS = (
    ("classic", ["--module", "es2022", "--moduleResolution", "node10"]),
    ("bundler", ["--module", "es2022", "--moduleResolution", "bundler"]),
    ("node", ["--module", "nodenext", "--moduleResolution", "nodenext"]),
)


def main() -> int:
    """Check everything; the first fault ends it with a sentence and exit status 1."""
    try:
        version = check_versions()
        shutil.rmtree(DIST, ignore_errors=True)
        wheels = build_python()
        check_apart(wheels)
        use_wheels(wheels, version)
        if shutil.which("npm") is None:
            print("without npm the tarball is not built")
        else:
            use_tarball(build_tarball())
    except (ReleaseError, subprocess.CalledProcessError) as fault:
        print(f"release-check: {fault}", file=sys.stderr)
        return 1
    print(f"release-check: {version} is ready")
    return 0


class ReleaseError(Exception):
    """Something that must not be published."""


def check_versions() -> str:
    """Return the version, which is written in `signal_manager/__init__.py`, and which all else must repeat."""
    text = (ROOT / "src/signal_manager/__init__.py").read_text()
    version = re.findall(r'__version__ = "(.+)"', text)[0]
    package = json.loads((SDK / "package.json").read_text())
    if package["version"] != version:
        raise ReleaseError(f"sdk/js/package.json has version {package['version']}, expected {version}")
    for folder in DISTRIBUTIONS.values():
        pins = re.findall(r'"signal-manager[a-z-]*==([^"]+)"', (folder / "pyproject.toml").read_text())
        if any(pin != version for pin in pins):
            raise ReleaseError(f"{folder / 'pyproject.toml'} asks for {', '.join(pins)}, expected {version}")
    if f"\n## {version}" not in (ROOT / "CHANGELOG.md").read_text():
        raise ReleaseError(f"CHANGELOG.md has no section for {version}")
    tag = os.environ.get("GITHUB_REF_NAME", "") if os.environ.get("GITHUB_REF_TYPE") == "tag" else ""
    if tag and tag != f"v{version}":
        raise ReleaseError(f"the tag is {tag}, expected v{version}")
    return str(version)


def build_python() -> list[Path]:
    """Build each sdist, and its wheel from it, so that the sdist is known to be whole; return the wheels.

    They are pure Python. Wheels of the compiled form come from cibuildwheel, one for each platform.
    """
    for folder in DISTRIBUTIONS.values():
        run([sys.executable, "-m", "build", "--outdir", str(DIST), str(folder)], SIGNAL_MANAGER_COMPILE="0")
    run([sys.executable, "-m", "twine", "check", "--strict", *map(str, DIST.glob("signal_manager*"))])
    wheels = []
    for name in DISTRIBUTIONS:
        wheel, sdist = next(DIST.glob(f"{name}-*.whl")), next(DIST.glob(f"{name}-*.tar.gz"))
        check_contents(name, wheel, sdist)
        wheels.append(wheel)
    return wheels


def check_contents(name: str, wheel: Path, sdist: Path) -> None:
    """Look for what must and must not be in a distribution."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
        metadata = archive.read(next(each for each in in_wheel if each.endswith("/METADATA"))).decode()
    with tarfile.open(sdist) as packed:
        in_sdist = [each.partition("/")[2] for each in packed.getnames()]
    require(wheel, in_wheel, [*IN_WHEELS[name], rf"{name}-[^/]+\.dist-info/licenses/LICENSE"])
    require(sdist, in_sdist, [re.escape(each) for each in ("LICENSE", "README.md", *IN_SDISTS[name])])
    if any(each.startswith("tests/") for each in in_wheel):
        raise ReleaseError(f"{wheel.name} has tests in it")
    relative = re.findall(r"\]\((?!https?://|#)([^)]+)\)", metadata)
    if relative:
        raise ReleaseError(f"the README of {name} has links that lead nowhere on a registry: {', '.join(relative)}")


def check_apart(wheels: Sequence[Path]) -> None:
    """Refuse wheels that overwrite each other's files, or leave one of the source tree out."""
    owners: dict[str, list[str]] = {}
    for wheel in wheels:
        for name in zipfile.ZipFile(wheel).namelist():
            owners.setdefault(name, []).append(wheel.name)
    for name, several in owners.items():
        if len(several) > 1:
            raise ReleaseError(f"{name} is in {' and '.join(several)}")
    source = ROOT / "src"
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix not in {".pyc", ".so"} and str(path.relative_to(source)) not in owners:
            raise ReleaseError(f"{path.relative_to(ROOT)} is in no wheel")


def require(package: Path, names: Sequence[str], patterns: Sequence[str]) -> None:
    """Refuse a package that lacks a required file or has a file that no package may have."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ReleaseError(f"{package.name} lacks {pattern}")
    for pattern in IN_NONE:
        found = [name for name in names if re.search(pattern, name)]
        if found:
            raise ReleaseError(f"{package.name} has {found[0]} in it")


def use_wheels(wheels: Sequence[Path], version: str) -> None:
    """Install the service with its SFU from the wheels, and use its commands, its service and its client."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        python, command = folder / "env/bin/python", str(folder / "env/bin/signal-manager")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        # The service first: the SFU asks for it without its extra, and pip then takes the wheel for that too.
        service, *others = sorted(wheels, key=lambda wheel: not wheel.name.startswith("signal_manager-"))
        run([*install, *constraints, f"{service}[sfu]", *map(str, others)])
        if version not in output([command, "--version"], folder):
            raise ReleaseError(f"the installed command is not of version {version}")
        run([command, "init"], folder)
        run([command, "check-config", "--json"], folder, quiet=True)
        run([command, "token", "--client-id", "alice"], folder, quiet=True)
        environ = {**os.environ, "SIGNAL_MANAGER_METRICS_PORT": "0"}
        serving = subprocess.Popen(
            [command, "serve", "--port", "0"], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True
        )
        try:
            assert serving.stderr is not None
            started = next((line for line in serving.stderr if "service started" in line), None)
            if started is None:
                raise ReleaseError("the installed service does not start")
            url = f"ws://127.0.0.1:{json.loads(started)['port']}"
            if output([str(python), "-c", USE_OF_CLIENT, url], folder).strip() != "test_client_1":
                raise ReleaseError("the installed client does not get its signal")
            serving.send_signal(signal.SIGTERM)
            serving.communicate(timeout=60)
            if serving.returncode != 0:
                raise ReleaseError(f"the installed service ended with {serving.returncode}")
        finally:
            serving.kill()
            serving.wait()
    print("the wheels install and work")


def build_tarball() -> Path:
    """Build the npm package, and let its checkers look through it."""
    if not (SDK / "node_modules").exists():
        run(["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], SDK)
    # `prepack` builds; without it a published package would be empty.
    shutil.rmtree(SDK / "dist", ignore_errors=True)
    run(["npm", "pack", "--silent", "--pack-destination", str(DIST)], SDK, quiet=True)
    tarball = next(DIST.glob("*.tgz"))
    with tarfile.open(tarball) as packed:
        names = [name.partition("/")[2] for name in packed.getnames()]
    require(tarball, names, [re.escape(name) for name in IN_TARBALL])
    run(["npx", "--yes", PUBLINT, "--strict", str(tarball)], DIST)
    # The package is ESM alone, so the results of `require` are ignored.
    run(["npx", "--yes", ATTW, str(tarball), "--profile", "esm-only"], DIST)
    return tarball


def use_tarball(tarball: Path) -> None:
    """Install the npm package alone; import it with Node, TypeScript and a bundler."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        (folder / "use.ts").write_text(USE_OF_SDK)
        run(["npm", "install", "--no-audit", "--no-fund", "--silent", str(tarball)], folder)
        names = (
            'for (const part of ["", "/direct", "/devices", "/speakers", "/stats"])'
            ' console.log(Object.keys(await import("signal-manager" + part)).length > 0)'
        )
        if output(["node", "--input-type=module", "-e", names], folder).split() != ["true"] * 5:
            raise ReleaseError("an entry point of the npm package exports nothing")
        tools = SDK / "node_modules/.bin"
        for resolution, options in RESOLUTIONS:
            settings = ["--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--noEmit"]
            run([str(tools / "tsc"), *settings, *options, "use.ts"], folder)
            print(f"the npm package's types are found: {resolution}")
        run(
            [str(tools / "esbuild"), "use.ts", "--bundle", "--format=esm", "--outfile=out.js", "--log-level=error"],
            folder,
        )
    print("the npm package installs and works")


def run(command: Sequence[str], folder: Path = ROOT, *, quiet: bool = False, **environment: str) -> None:
    """Run a command that must succeed, with these variables in its environment."""
    stdout = subprocess.DEVNULL if quiet else None
    subprocess.run(command, cwd=folder, check=True, stdout=stdout, env={**os.environ, **environment})


def output(command: Sequence[str], folder: Path) -> str:
    """Return what a command that must succeed prints."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
