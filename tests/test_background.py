"""Background work: its failures end nothing but itself, and a stop leaves none behind."""

from __future__ import annotations

import asyncio
from functools import partial

from structlog.testing import capture_logs

from signal_manager.background import BackgroundTasks
from signal_manager.errors import UnavailableError


async def fail(error: Exception) -> None:
    raise error


async def test_work_is_kept_until_it_is_done() -> None:
    work, gate = BackgroundTasks(), asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    work.start(wait, name="waiting")
    await asyncio.sleep(0)
    running = {task.get_name() for task in work.tasks}
    gate.set()
    await asyncio.wait(work.tasks)

    assert running == {"waiting"}
    assert work.tasks == set()


async def test_an_expected_failure_is_one_line_of_the_log_and_ends_no_other_work() -> None:
    work, done = BackgroundTasks(), asyncio.Event()

    async def succeed() -> None:
        done.set()

    with capture_logs() as logs:
        work.start(partial(fail, UnavailableError("the store is away")), name="depart")
        work.start(succeed, name="adopt")
        await asyncio.wait(work.tasks)

    assert done.is_set()
    assert [(line["log_level"], line["work"], line["reason"]) for line in logs] == [
        ("warning", "depart", "the store is away")
    ]


async def test_a_fault_is_logged_with_its_traceback() -> None:
    work = BackgroundTasks()

    with capture_logs() as logs:
        work.start(partial(fail, RuntimeError("a fault")), name="answer")
        await asyncio.wait(work.tasks)

    assert [(line["log_level"], line["work"], line["exc_info"]) for line in logs] == [("error", "answer", True)]


async def test_a_stop_cancels_what_runs_and_waits_for_its_end() -> None:
    work, ended = BackgroundTasks(), []

    async def clean_up_at_the_end(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    for name in ("one", "two"):
        work.start(partial(clean_up_at_the_end, name), name=name)
    await asyncio.sleep(0)
    await work.stop()
    await work.stop()  # a second stop has nothing to do

    assert sorted(ended) == ["one", "two"]
    assert work.tasks == set()


async def test_done_waits_for_what_tasks_start() -> None:
    tasks, order = BackgroundTasks(), list[str]()

    async def second() -> None:
        await asyncio.sleep(0)
        order.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(second, "second")
        order.append("first")

    tasks.start(first, "first")
    await tasks.done()

    assert order == ["first", "second"]
