"""The prose linter finds what it should, and its list only shrinks."""

from __future__ import annotations

import pytest

from tools.prose import PHRASES, Phrase, compare, find, find_long_subjects, shrink


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


def test_a_listed_file_may_have_as_many_findings_as_listed_and_no_more() -> None:
    findings = list(find("x.py", "whoever\nsomebody\n"))

    assert compare(findings, {"x.py": 2}) == []
    assert len(compare(findings, {"x.py": 1})) == 2
    assert len(compare(findings, {})) == 2


def test_a_number_that_is_too_high_is_a_complaint_so_that_it_is_lowered() -> None:
    (complaint,) = compare([], {"x.py": 1})

    assert "--shrink" in complaint


def test_shrinking_lowers_numbers_and_adds_nothing() -> None:
    findings = [*find("a.py", "whoever\n"), *find("b.py", "whoever\nsomebody\n"), *find("new.py", "whoever\n")]

    assert shrink(findings, {"a.py": 3, "b.py": 1, "gone.py": 2}) == {"a.py": 1, "b.py": 1}
