"""Checks docstrings, comments, texts and docs for phrases that hide who does what.

`python -m tools.prose` prints every finding with a reason and better words.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = (".md", ".py", ".toml", ".ts", ".js", ".mjs", ".html", ".css")
# Generated files, and the two that quote forbidden phrases.
SKIPPED = (
    "src/signal_manager/protocol/codec/signal_manager_pb2",
    "sdk/js/dist/",
    "src/signal_manager/admin/demo/",
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
    Phrase("not unless", "it negates twice", "only if"),
    Phrase("nothing that is not", "it negates twice", "only members"),
    Phrase("none that is not", "it negates twice", "only members"),
    Phrase("has the words for", "a function does not speak", "The slow path builds the error."),
    Phrase("say whether", "a function does not speak", "Return whether packets can flow."),
    Phrase("says whether", "a function does not speak", "`is_rtx` is true for a retransmission"),
    Phrase("what became of", "it hides the content", "the outcome of a signal"),
    Phrase("what becomes of", "it hides the content", "the outcome of a signal"),
    Phrase("what is asked of", "it hides the content", "the requests to storage"),
    Phrase("what was asked of", "it hides the content", "the calls of its methods"),
    Phrase("what there is", "it hides the content", "the remaining capacity"),
    Phrase("nobody waits", "it hides the subject", "No call waits for this reply."),
    Phrase("take note of", "it is longer than its verb", "Note a packet."),
    Phrase("let go of", "it is a figure of speech", "Close every track."),
    Phrase("hands over", "it is a figure of speech", "`routing` passes in packets."),
    Phrase("is the cure", "it is a figure of speech", "A new token solves this error."),
    Phrase("is no fault", "it is a negation where a noun would do", "A closed track is not an error."),
    Phrase("is of no use", "it hides what to do", "The session must be replaced."),
    Phrase("wanted no longer", "it is in an unusual order", "tracks that are no longer wanted"),
    Phrase("one too many", "it hides the bound", "more than 50 requests in a second"),
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


def main() -> int:
    """Print the findings and return the exit status: 1 if there are any."""
    argparse.ArgumentParser(prog="python -m tools.prose", description=__doc__).parse_args()
    findings = [
        finding
        for path in _files()
        for finding in find(path, (ROOT / path).read_text(encoding="utf-8", errors="replace"))
    ]
    findings += find_long_subjects(_subjects())
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


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


if __name__ == "__main__":
    sys.exit(main())
