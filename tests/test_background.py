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


async def test_what_waits_for_nothing_is_done_at_once_and_takes_no_task() -> None:
    work, done = BackgroundTasks(), []

    async def hurry() -> None:
        done.append(True)

    work.run(hurry, name="quick")

    assert done == [True]
    assert work.tasks == set()


async def test_what_waits_nevertheless_goes_on_as_a_task() -> None:
    work, gate, done = BackgroundTasks(), asyncio.get_running_loop().create_future(), []

    async def wait() -> None:
        done.append(await gate)
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        try:
            await fail(ValueError())
        except ValueError:
            done.append("caught")

    work.run(wait, name="waiting")
    running = {task.get_name() for task in work.tasks}
    gate.set_result("came")
    await asyncio.wait(work.tasks)

    assert running == {"waiting"}
    assert done == ["came", "caught"]


async def test_what_waits_nevertheless_hears_of_failures_and_can_be_stopped() -> None:
    work, failing, heard = BackgroundTasks(), asyncio.get_running_loop().create_future(), []

    async def wait() -> None:
        try:
            await failing
        except OSError as error:
            heard.append(str(error))
        try:
            await asyncio.Event().wait()
        finally:
            heard.append("stopped")

    work.run(wait, name="waiting")
    failing.set_exception(OSError("lost"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await work.stop()

    assert heard == ["lost", "stopped"]
    assert work.tasks == set()


async def test_failures_of_work_that_is_done_at_once_are_logged_too() -> None:
    work = BackgroundTasks()

    with capture_logs() as logs:
        work.run(partial(fail, UnavailableError("the store is away")), name="sign in")
        work.run(partial(fail, RuntimeError("a fault")), name="sign in")

    assert [(line["log_level"], line["work"]) for line in logs] == [("warning", "sign in"), ("error", "sign in")]
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
