"""Several servers used as one: who is asked, what happens when one breaks, and what is never mixed."""

import asyncio
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from tests.client.fakes import SPEC, At, Behaviour, Service

from fundus_client.member import Patience
from fundus_client.pool import ALONE, TOGETHER, Pool, open_pool
from fundus_client.scorer import Prediction
from fundus_client.window import Window
from fundus_core.errors import (
    BreaksServerError,
    BundleError,
    ServerError,
    ServerUnreachableError,
)

PATIENCE = Patience(answer_s=10, ready_s=10, in_flight=8)
OTHER = dataclasses.replace(SPEC, version="2")


def use(
    services: Sequence[Service], body: Callable[[Pool], Awaitable[Any]], patience: Patience = PATIENCE
) -> Any:
    async def run() -> Any:
        async with open_pool([At(service.address) for service in services], patience) as pool:
            return await body(pool)

    return asyncio.run(run())


def image(number: int) -> bytes:
    return b"%d an image" % number


async def ask(pool: Pool, numbers: Sequence[int]) -> list[Prediction | BaseException]:
    answers = (pool.score(image(number), str(number)) for number in numbers)
    return await asyncio.gather(*answers, return_exceptions=True)


def probabilities(answers: Sequence[Prediction | BaseException]) -> list[float]:
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    return [pytest.approx(answer.probability[0], abs=1e-6) for answer in answers]


def slowly(service: Service, number: int, context: grpc.ServicerContext) -> None:
    time.sleep(0.02)


def test_all_servers_share_the_work() -> None:
    with Service(slowly) as first, Service(slowly) as second:
        answers = use([first, second], lambda pool: ask(pool, range(200)))
    assert probabilities(answers) == [number / 1000 for number in range(200)]
    assert sorted(first.asked + second.asked) == list(range(200))
    assert min(len(first.asked), len(second.asked)) > 60


def test_a_slow_server_gets_less() -> None:
    def very_slowly(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep(0.2)

    with Service(slowly) as quick, Service(very_slowly) as slow:
        use([quick, slow], lambda pool: ask(pool, range(150)))
    assert len(quick.asked) > 3 * len(slow.asked) > 0


def test_no_server_gets_more_than_its_window() -> None:
    with Service(slowly) as service:
        use([service], lambda pool: ask(pool, range(100)), Patience(10, 10, in_flight=5))
    assert service.most_in_flight == 5


def test_what_a_dying_server_had_is_answered_by_another() -> None:
    killed = threading.Event()

    def dies(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep(0.02)
        if number == 40 and not killed.is_set():
            killed.set()
            threading.Thread(target=service.stop).start()
            time.sleep(1)

    with Service(dies) as first, Service(dies) as second:
        started_s = time.monotonic()
        answers = use([first, second], lambda pool: ask(pool, range(100)))
    assert probabilities(answers) == [number / 1000 for number in range(100)]
    assert time.monotonic() - started_s < PATIENCE.answer_s


def test_a_server_that_comes_back_answers_a_phantom_before_it_gets_images() -> None:
    with Service() as service:

        async def body(pool: Pool) -> None:
            assert (await pool.score(image(1), "1")).probability[0] == pytest.approx(0.001)
            await asyncio.to_thread(service.stop)
            waiting = asyncio.create_task(pool.score(image(2), "2"))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            service.start()
            assert (await waiting).probability[0] == pytest.approx(0.002)

        use([service], body)
    assert service.n_probes == 1
    assert service.served == [1, 500, 2]


def test_a_server_that_is_ready_but_does_not_answer_the_phantom_gets_nothing() -> None:
    sick = threading.Event()

    class Sick(Service):
        def ModelInfer(self, request, context):  # noqa: N802
            if sick.is_set():
                context.abort(grpc.StatusCode.INTERNAL, "Stub process 'fold_0' is not healthy.")
            return super().ModelInfer(request, context)

    with Sick(slowly) as first, Service(slowly) as second:

        async def body(pool: Pool) -> None:
            await ask(pool, range(20))
            sick.set()
            n_before = len(first.asked)
            answers = await ask(pool, range(20, 80))
            assert probabilities(answers) == [number / 1000 for number in range(20, 80)]
            assert len(first.asked) == n_before

        use([first, second], body)


def break_on(*poison: int) -> Behaviour:
    def behave(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep(0.01)
        if number in poison:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    return behave


def test_an_image_that_breaks_every_server_is_found_and_the_others_are_answered() -> None:
    with Service(break_on(7)) as first, Service(break_on(7)) as second:
        answers = use([first, second], lambda pool: ask(pool, range(30)))
    others = [number for number in range(30) if number != 7]
    assert probabilities([answers[number] for number in others]) == [number / 1000 for number in others]
    assert isinstance(answers[7], BreaksServerError)
    assert Counter(first.asked + second.asked)[7] == TOGETHER + ALONE


def test_a_suspect_is_sent_alone() -> None:
    beside: list[int] = []

    def behave(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep(0.02)
        if number == 3:
            deadline_s = time.monotonic() + 5
            while len(beside) < TOGETHER and service.in_flight < 2 and time.monotonic() < deadline_s:
                time.sleep(0.001)
            beside.append(service.in_flight - 1)
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    with Service(behave) as service:
        use([service], lambda pool: ask(pool, range(40)))
    assert beside[0] > 0
    assert beside[TOGETHER:] == [0] * ALONE


def test_another_bundle_is_left_out_and_the_rest_goes_on() -> None:
    with Service(slowly) as first, Service(slowly, OTHER) as second:

        async def body(pool: Pool) -> tuple[str, list[Prediction | BaseException]]:
            await asyncio.sleep(0.3)
            return pool.spec.version, await ask(pool, range(30))

        version, answers = use([first, second], body)
    assert probabilities(answers) == [number / 1000 for number in range(30)]
    assert not (second if version == "1" else first).asked


def test_a_server_that_serves_something_else_in_the_middle_is_noticed_at_its_first_answer() -> None:
    with Service(slowly) as service:

        async def body(pool: Pool) -> list[Prediction | BaseException]:
            await ask(pool, range(5))
            service.spec = OTHER
            return await ask(pool, range(5, 20))

        answers = use([service], body)
    assert {type(answer) for answer in answers} == {BundleError}
    assert f"answers with the bundle {OTHER.digest[:12]}, not {SPEC.digest[:12]}" in str(answers[0])


def test_a_bundle_that_was_taken_away_ends_the_run_instead_of_failing_every_image() -> None:
    def unknown(service: Service, number: int, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'fundus_ensemble_1a2b3c4d'")

    with Service(unknown) as service:
        answers = use([service], lambda pool: ask(pool, range(5)))
    assert {type(answer) for answer in answers} == {BundleError}


def test_a_full_queue_is_waited_for_and_narrows_the_window() -> None:
    refused: set[int] = set()

    def full_once(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number not in refused:
            refused.add(number)
            context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")

    with Service(full_once) as service:

        async def body(pool: Pool) -> float:
            answers = await ask(pool, range(8))
            assert probabilities(answers) == [number / 1000 for number in range(8)]
            return pool.servers[0].window.size

        assert use([service], body) < PATIENCE.in_flight


def full(service: Service, number: int, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")


def test_a_queue_that_stays_full_ends_the_run() -> None:
    with Service(full) as service:
        answers = use([service], lambda pool: ask(pool, range(3)), Patience(10, 1, 8))
    assert {type(answer) for answer in answers} == {ServerUnreachableError}
    assert "queue stayed full" in str(answers[0])


def test_a_server_that_stays_away_ends_the_run() -> None:
    with Service() as service:

        async def body(pool: Pool) -> list[Prediction | BaseException]:
            await asyncio.to_thread(service.stop)
            return await ask(pool, range(3))

        started_s = time.monotonic()
        answers = use([service], body, Patience(10, 1, 8))
        assert time.monotonic() - started_s < 8
    assert {type(answer) for answer in answers} == {ServerUnreachableError}


def test_silence_counts_as_a_break() -> None:
    def silent(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number == 2:
            service.ended.wait(30)

    with Service(silent) as service:
        answers = use([service], lambda pool: ask(pool, range(5)), Patience(0.5, 10, 8))
    assert isinstance(answers[2], BreaksServerError)
    assert probabilities(answers[:2] + answers[3:]) == [0, 0.001, 0.003, 0.004]


def test_an_error_of_the_model_concerns_one_image() -> None:
    def fails(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number == 1:
            context.abort(grpc.StatusCode.INTERNAL, "division by zero")

    with Service(fails) as service:
        answers = use([service], lambda pool: ask(pool, range(3)))
    assert type(answers[1]) is ServerError
    assert service.asked.count(1) == 1


def test_nobody_there() -> None:
    with ExitStack() as stack:
        service = stack.enter_context(Service())
        service.stop()
        with pytest.raises(ServerUnreachableError, match="Check that it runs"):
            use([service], lambda pool: ask(pool, [1]), Patience(1, 1, 8))


def test_the_window_grows_while_answers_are_prompt_and_halves_when_they_are_late() -> None:
    window = Window(most=64, deadline_s=10)
    for _ in range(100):
        window.answered(0.1)
    assert window.size == 64
    window.answered(3)
    assert window.size == 32
    window.answered(3)  # of the same moment
    assert window.size == 32
