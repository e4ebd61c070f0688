"""Checks docstrings, comments, texts and docs for phrases that hide who does what.

`python -m tools.prose` prints every finding with a reason and better words. `tools/prose_remaining.toml` lists the
files that are still to be rewritten and how many findings each has. A number there only ever goes down:
`python -m tools.prose --shrink` writes the lower ones.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REMAINING = "tools/prose_remaining.toml"
SUFFIXES = (".md", ".py", ".toml", ".ts")
# Generated files, and the two that quote forbidden phrases.
SKIPPED = (
    "src/signal_manager/protocol/codec/signal_manager_pb2",
    "sdk/js/dist/",
    "tools/prose.py",
    "tests/test_prose.py",
)
LONGEST_SUBJECT = 72
# Older commits have longer subjects. Published history is not rewritten.
COMMITS = 100


@dataclass(frozen=True)
class Phrase:
    """A phrase that the project does not use.

    Attributes:
        words: the phrase. A space matches line breaks and comment marks too.
        reason: why it is hard to read.
        instead: an example of better words.
    """

    words: str
    reason: str
    instead: str

    @property
    def pattern(self) -> str:
        """Return the regular expression that finds the phrase in text of lower case."""
        words = re.escape(self.words).replace(r"\ ", r"(?:\s|#|\*|//)+")
        return rf"\b{words}(?!\w)"


PHRASES = (
    Phrase("whoever", "it hides the subject", "Substitute your own numbers."),
    Phrase("whomever", "it hides the subject", "the client that sent it"),
    Phrase("whosever", "it hides the subject", "the client that holds it"),
    Phrase("whatever", "it hides what is meant", "The caller loses the client even if None is returned."),
    Phrase("whatsoever", "it adds nothing", "no input"),
    Phrase("somebody", "it hides the subject", "another client joins"),
    Phrase("nobody's", "it names an owner by its absence", "Detach from the client."),
    Phrase("is said of", "it hides the subject and the content", "Log configuration warnings."),
    Phrase("is said on", "it hides the subject and the content", "the decoded messages of one connection"),
    Phrase("is known of", "it hides the content", "Return the client's location."),
    Phrase("was known of", "it hides the content", "the room's earlier record"),
    Phrase("is to be said", "it hides the content", "Log configuration warnings."),
    Phrase("shall be said", "it hides the content", "the description of a room"),
    Phrase("it is said", "it hides the subject", "the service reports"),
    Phrase("not without", "it negates twice", "only with"),
    Phrase("has the words for", "a function does not speak", "The slow path builds the error."),
)  # fmt: skip

POINTER = re.compile(r'"""See (?:the )?`?[\w.]+(?:\(\))?`?(?: [\w.]+)?\.?"""')
POINTER_REASON = "a docstring that only points elsewhere; write: Return the room's record, or None."
# Looking for a phrase's longest word first makes a run ten times faster than its pattern alone.
FORBIDDEN = [(max(phrase.words.split(), key=len), re.compile(phrase.pattern), phrase) for phrase in PHRASES]


@dataclass(frozen=True)
class Finding:
    """One place that is hard to read."""

    path: str
    line: int
    words: str
    reason: str

    def __str__(self) -> str:
        """Return the finding as compilers print theirs."""
        return f"{self.path}:{self.line}: {self.words!r}: {self.reason}"


def find(path: str, text: str) -> Iterator[Finding]:
    """Yield what a file's text has of forbidden phrases and docstrings that only point elsewhere."""
    lowered = text.lower()
    for word, pattern, phrase in FORBIDDEN:
        if word in lowered:
            for match in pattern.finditer(lowered):
                yield Finding(path, _line(lowered, match), phrase.words, f"{phrase.reason}; write: {phrase.instead}")
    if path.endswith(".py") and '"""See ' in text:
        for match in POINTER.finditer(text):
            yield Finding(path, _line(text, match), match[0], POINTER_REASON)


def find_long_subjects(subjects: Iterable[str]) -> Iterator[Finding]:
    """Yield the commit subjects that tools cut off: those of more than 72 characters."""
    for number, subject in enumerate(subjects):
        if len(subject) > LONGEST_SUBJECT:
            reason = f"{len(subject)} characters, expected at most {LONGEST_SUBJECT}; put the rest into the body"
            yield Finding(f"HEAD~{number}", 1, subject, reason)


def compare(findings: Iterable[Finding], remaining: Mapping[str, int]) -> list[str]:
    """Return the complaints that are left once the listed files are excused.

    Args:
        findings: all findings.
        remaining: how many findings each listed file may have.

    Returns:
        Every finding of a file that has more than it may have, and a line for each number that is too high.
    """
    by_path: dict[str, list[Finding]] = {path: [] for path in remaining}
    for finding in findings:
        by_path.setdefault(finding.path, []).append(finding)
    complaints: list[str] = []
    for path, found in sorted(by_path.items()):
        allowed = remaining.get(path, 0)
        if len(found) > allowed:
            complaints += map(str, found)
        elif len(found) < allowed:
            complaints.append(
                f"{REMAINING}: {path}: {allowed} listed, {len(found)} found; run: python -m tools.prose --shrink"
            )
    return complaints


def shrink(findings: Iterable[Finding], remaining: Mapping[str, int]) -> dict[str, int]:
    """Return the list with lower numbers where files were rewritten; no number rises and no file is added."""
    counts = dict.fromkeys(remaining, 0)
    for finding in findings:
        if finding.path in counts:
            counts[finding.path] += 1
    return {path: min(count, remaining[path]) for path, count in sorted(counts.items()) if count}


def main() -> int:
    """Print the complaints and return the exit status: 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tools.prose", description=__doc__)
    parser.add_argument("--shrink", action="store_true", help="lower the numbers of files that were rewritten")
    shrinks = parser.parse_args().shrink

    remaining: dict[str, int] = tomllib.loads((ROOT / REMAINING).read_text())["remaining"]
    findings = [
        finding
        for path in _files()
        for finding in find(path, (ROOT / path).read_text(encoding="utf-8", errors="replace"))
    ]
    if shrinks:
        remaining = shrink(findings, remaining)
        _write(remaining)
    complaints = compare(findings, remaining) + list(map(str, find_long_subjects(_subjects())))
    for complaint in complaints:
        print(complaint)
    places = sum(remaining.values())
    print(f"{len(complaints)} complaints; {places} places in {len(remaining)} files are still to be rewritten")
    return 1 if complaints else 0


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def _git(*arguments: str) -> list[str]:
    """Return the lines that git prints, or none outside a repository: an sdist has no history."""
    try:
        ran = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return ran.stdout.splitlines()


def _files() -> list[str]:
    listed = _git("ls-files", "--cached", "--others", "--exclude-standard")
    return [
        path
        for path in sorted(set(listed))
        if path.endswith(SUFFIXES) and not path.startswith(SKIPPED) and (ROOT / path).is_file()
    ]


def _subjects() -> list[str]:
    return _git("log", "--no-merges", "--format=%s", f"-{COMMITS}")


def _write(remaining: Mapping[str, int]) -> None:
    head = "# Files that are still to be rewritten. `python -m tools.prose --shrink` lowers the numbers of findings.\n"
    rows = "".join(f'"{path}" = {count}\n' for path, count in sorted(remaining.items()))
    (ROOT / REMAINING).write_text(f"{head}[remaining]\n{rows}")


if __name__ == "__main__":
    sys.exit(main())
