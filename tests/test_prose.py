"""The prose linter finds what it should, with a reason and better words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import prose
from tools.prose import PHRASES, Phrase, find, find_long_subjects


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.words)
def test_each_phrase_is_found_with_its_reason_and_better_words(phrase: Phrase) -> None:
    (finding,) = find("docs/page.md", f"First line.\nThen {phrase.words.capitalize()} it.\n")

    assert (finding.path, finding.line, finding.words.lower()) == ("docs/page.md", 2, phrase.words)
    assert phrase.reason in finding.reason
    assert phrase.instead in finding.reason


@pytest.mark.parametrize(
    "text", ['"""What is\n    said of it."""', "# what is\n    # said of it", "/** what is\n * said of it */"]
)
def test_a_phrase_is_found_across_lines(text: str) -> None:
    assert [finding.words for finding in find("x.ts", text)]


def test_a_part_of_a_word_is_not_a_phrase() -> None:
    assert not list(find("x.py", "somebodys_id = whatever_id\n"))


@pytest.mark.parametrize("docstring", ["See `Storage.put`.", "See the base class.", "See Storage.put()"])
def test_a_docstring_that_only_points_elsewhere_is_found(docstring: str) -> None:
    (finding,) = find("x.py", f'def put() -> None:\n    """{docstring}"""\n')

    assert finding.line == 2


def test_a_docstring_that_says_something_may_point_elsewhere_too() -> None:
    assert not list(find("x.py", '"""Store a record. See `Storage.put`."""'))


def test_a_long_commit_subject_is_found() -> None:
    findings = list(find_long_subjects(["Short", "x" * 73]))

    assert [finding.path for finding in findings] == ["HEAD~1"]


@pytest.mark.parametrize(
    "text",
    [
        '"""Return whether packets can flow."""',
        "Tell the sender the outcome of its signal.",
        "not until 2030",
        "A handover to another node.",
    ],
)
def test_plain_words_that_resemble_a_phrase_are_fine(text: str) -> None:
    assert not list(find("x.py", text))


def test_a_finding_fails_the_check_and_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("Whoever comes.\n")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    monkeypatch.setattr(prose, "_files", lambda: ["page.md"])
    monkeypatch.setattr("sys.argv", ["prose"])

    assert prose.main() == 1

    assert capsys.readouterr().out.startswith("page.md:1: 'whoever': ")


def test_the_pages_of_the_second_port_are_read_too() -> None:
    read = prose._files()

    assert {"src/signal_manager/admin/static/dashboard.js", "src/signal_manager/admin/static/dashboard.html"} <= set(
        read
    )
    assert not [path for path in read if path.startswith("src/signal_manager/admin/demo/")], "generated"
