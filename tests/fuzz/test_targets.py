"""Every decoder and parser refuses any bytes in the way that it promises."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.__main__ import changed
from fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_and_what_is_nearly_right_is_taken_or_refused(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)

    @given(st.sampled_from(seeds(name)), st.integers(0, 2**32))
    def try_changes(seed: bytes, number: int) -> None:
        TARGETS[name](changed(seed, random.Random(number)))

    try_changes()


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=512))
def test_any_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_seeds_are_understood() -> None:
    """Else the fuzzer would begin with nothing but refusals."""
    from signal_manager.bus.nats.protocol import Parser
    from signal_manager.sfu.sdp import parse

    assert parse(seeds("description")[0].decode(), max_size=65_536).sections[0].mid == "0"
    assert len(Parser().feed(seeds("nats")[0][1:].partition(b"-----")[0])) == 8
    assert len(seeds("frame")) > 100
    assert len(seeds("payload")) > 50


@pytest.mark.long
def test_the_fuzzer_runs() -> None:
    seconds = "4" if importlib.util.find_spec("atheris") is not None else "1"
    ended = subprocess.run(
        [sys.executable, "-m", "fuzz", "all", "--seconds", seconds],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "runs" in ended.stderr
