"""The names of subjects."""

from __future__ import annotations

from signal_manager.bus.nats.subjects import Subjects

SUBJECTS = Subjects("p", "node.1")


def test_every_kind_of_subject_has_its_own_names() -> None:
    names = [
        SUBJECTS.all_nodes,
        SUBJECTS.client("x"),
        SUBJECTS.batches("x"),
        SUBJECTS.identity("x"),
        SUBJECTS.reply_to("x"),
    ]

    assert len(set(names)) == len(names)
    assert all(name.startswith("p.") for name in names)


def test_a_dot_in_a_name_makes_no_further_token() -> None:
    assert SUBJECTS.client("a.b").count(".") == SUBJECTS.client("ab").count(".")
    assert SUBJECTS.reply_to("t") == "p.r.node:1.t"
