"""Fuzz one target, or all of them: with atheris where that is installed, else with random changes of the seeds.

python -m fuzz frame --seconds 60
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
if HAS_ATHERIS:
    import atheris

    with atheris.instrument_imports(include=["signal_manager"]):
        from fuzz.targets import TARGETS, seeds
else:
    from fuzz.targets import TARGETS, seeds

_LONGEST = 65_536


def main() -> None:
    """Run until the time is over; a fault ends the run with a traceback and the input that caused it."""
    arguments = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    arguments.add_argument("target", choices=[*TARGETS, "all"])
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--corpus", type=Path, help="a folder of inputs that is read and added to")
    chosen = arguments.parse_args()
    names = list(TARGETS) if chosen.target == "all" else [chosen.target]

    def one_input(data: bytes) -> None:
        if len(names) == 1:
            TARGETS[names[0]](data)
        elif data:
            TARGETS[names[data[0] % len(names)]](data[1:])

    inputs = [
        seed if len(names) == 1 else bytes([number]) + seed for number, name in enumerate(names) for seed in seeds(name)
    ]
    (_with_atheris if HAS_ATHERIS else _at_random)(one_input, inputs, chosen.seconds, chosen.corpus)


def _with_atheris(target: Callable[[bytes], None], inputs: list[bytes], seconds: int, corpus: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(inputs):
            (Path(folder) / f"seed-{number}").write_bytes(data)
        # libFuzzer writes what it finds into the first folder.
        folders = [folder] if corpus is None else [str(corpus), folder]
        settings = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=30"]
        atheris.Setup([sys.argv[0], *settings, *folders], target)
        atheris.Fuzz()


def _at_random(target: Callable[[bytes], None], inputs: list[bytes], seconds: int, corpus: Path | None) -> None:
    inputs = inputs + [file.read_bytes() for file in sorted(corpus.iterdir())] if corpus is not None else inputs
    chance, runs, until = random.Random(), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        data = changed(chance.choice(inputs), chance)
        runs += 1
        try:
            target(data)
        except BaseException:
            print(f"the input, after {runs} runs: {data.hex()}", file=sys.stderr)
            raise
    print(f"{runs} runs, no fault; atheris, which looks where the code goes, is not installed", file=sys.stderr)


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few changes: some flipped, cut out, doubled, or put in."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(out))
        match chance.randrange(5):
            case 0 if out:
                out[at % len(out)] ^= 1 << chance.randrange(8)
            case 1:
                del out[at : at + chance.randint(1, 16)]
            case 2:
                out[at:at] = out[at : at + chance.randint(1, 64)]
            case 3:
                out[at:at] = chance.randbytes(chance.randint(1, 8))
            case _:
                out[at : at + 1] = chance.choice((b"\x00", b"\xff", b"{", b'"', b"\\u", b"\r\n", b"\x80"))
    return bytes(out[:_LONGEST])


if __name__ == "__main__":
    main()
