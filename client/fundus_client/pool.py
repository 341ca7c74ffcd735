"""Servers of one bundle, used as one: the least busy is asked, a broken one stays out until it is well.

Each server has a keeper: it connects, waits until the connection breaks, and connects again after a pause
that doubles (with jitter, so that many clients do not come back at once). A server that broke must answer a
phantom before it gets images again: one that says "ready" may have lost the process behind a model.

An image whose request broke is sent again. Two breaks may be bad luck; after these it is sent alone, to a
server that carries nothing else, and when that breaks `ALONE` times, the image is what breaks it. (To bisect
the images in flight would crash the server six times to find one of 64; to send the suspects one by one
crashes it as often as it takes to be sure.)
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from fundus_client.member import Endpoint, Patience, Server, SickError, pauses, probe
from fundus_client.scorer import Prediction, Scorer, connect
from fundus_client.window import Window
from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec
from fundus_core.errors import (
    BreaksServerError,
    BundleError,
    ImageError,
    ServerBusyError,
    ServerError,
    ServerRefusedError,
    ServerUnreachableError,
)

LOG = logging.getLogger(__name__)
TOGETHER, ALONE = 2, 3
_ATTEMPT_S = 5.0


@dataclass
class Pool:
    """The servers of one run; `spec` is that of the one bundle that they serve."""

    servers: Sequence[Server]
    patience: Patience
    model: str
    adaptive: bool = False  # whether an image is answered by no more folds than its decision takes
    bundle: EnsembleSpec | None = None
    lost: Exception | None = None  # why nobody answers any more
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _alive_at_s: float = field(default_factory=time.monotonic)

    @property
    def spec(self) -> EnsembleSpec:
        """The bundle of this run."""
        if self.bundle is None:
            raise RuntimeError("no server has been ready yet")
        return self.bundle

    @property
    def capacity(self) -> int:
        """How many images may be in flight at all servers together."""
        return self.patience.in_flight * len(self.servers)

    async def score(self, data: bytes, request_id: str) -> Prediction:
        """Return the answer of any server to one encoded image file.

        Raises:
            ImageError: the server refused this image.
            BreaksServerError: servers break when they get this image.
            ServerUnreachableError: no server has been ready for `Patience.ready_s`.
            BundleError: no server serves the bundle of this run any more.
            ServerError: any other trouble of the server.
        """
        n_breaks, waits, asked_at_s = 0, pauses(), time.monotonic()
        while n_breaks < TOGETHER + ALONE:
            async with self._leased(alone=n_breaks >= TOGETHER) as (server, scorer):
                try:
                    return await self._timed(server, scorer.score(data, request_id))
                except ServerBusyError as error:
                    server.window.cut()
                    self._check_progress(error, asked_at_s)
                except ServerUnreachableError as error:
                    n_breaks += 1
                    server.lose(error)
                    continue
                except BundleError as error:
                    self._give_up(server, error)
                    continue
            await asyncio.sleep(next(waits))
        raise BreaksServerError(f"A server broke or fell silent {n_breaks} times when it had this file.")

    async def keep(self, server: Server) -> None:
        """Keep a connection to one server, for as long as it serves the bundle of this run."""
        waits, broke = pauses(), False
        while not server.given_up:
            try:
                await self._serve(server, broke)
                waits, broke = pauses(), True
            except ServerRefusedError as error:
                self._give_up(server, error)
            except ServerError as error:
                server.trouble = error
            except Exception as error:  # another bundle, or a fault that must not end as a wait for ever
                self._give_up(server, error)
            self._check_hope()
            await asyncio.sleep(min(next(waits), self.patience.ready_s))

    async def until_ready(self) -> None:
        """Wait for the first server.

        Raises:
            FundusError: none came, and why.
        """
        while self.bundle is None:
            self._raise_if_lost()
            await self._change()

    def close(self) -> None:
        """Send nothing more; what is in flight may still be answered."""
        self._lose(ServerUnreachableError("The run was ended."))

    async def _serve(self, server: Server, broke: bool) -> None:
        """Connect, lend the connection out until it breaks, and wait for what it still carries."""
        anew = isinstance(server.trouble, SickError)
        address = await asyncio.to_thread(server.endpoint.address, anew=anew)
        wait_s, tls = min(_ATTEMPT_S, self.patience.ready_s), server.endpoint.tls
        async with connect(
            address,
            ready_timeout_s=wait_s,
            timeout_s=self.patience.answer_s,
            tls=tls,
            model=self.model,
            adaptive=self.adaptive,
        ) as scorer:
            self._check_bundle(scorer, address)
            if broke:
                await probe(scorer)
                LOG.warning("%s answers again.", address)
            server.broken.clear()
            server.scorer, server.window = scorer, self._window()
            self._notify()
            await server.broken.wait()
            LOG.warning("%s is left out until it answers: %s", address, server.trouble)
            self._alive_at_s = time.monotonic()
            while server.carries:
                await self._change()

    def _check_bundle(self, scorer: Scorer, address: str) -> None:
        if self.bundle is None:
            self.bundle = scorer.spec
        elif scorer.digest != self.bundle.digest:
            raise BundleError(
                f"{address} serves {scorer.spec.title}, and this run is of {self.bundle.title}."
            )

    def _check_hope(self) -> None:
        """Give the run up where no server has been ready for too long."""
        if not any(server.scorer for server in self.servers):
            troubles = dict.fromkeys(str(server.trouble) for server in self.servers)
            self._check_progress(ServerUnreachableError(" ".join(troubles)), self._alive_at_s)

    def _check_progress(self, trouble: ServerError, waiting_since_s: float) -> None:
        """Give the run up where somebody has waited too long, and nobody was answered meanwhile."""
        if time.monotonic() > max(self._alive_at_s, waiting_since_s) + self.patience.ready_s:
            self._lose(ServerUnreachableError(str(trouble)))

    def _give_up(self, server: Server, error: Exception) -> None:
        """Leave one server out for the rest of the run."""
        server.given_up = True
        server.lose(error)
        if all(each.given_up for each in self.servers):
            self._lose(error)
        else:
            LOG.warning("Left out for the rest of the run: %s", error)

    def _lose(self, error: Exception) -> None:
        self.lost = self.lost or error
        self._notify()

    def _window(self) -> Window:
        return Window(self.patience.in_flight, self.patience.answer_s)

    async def _timed(self, server: Server, answer: Awaitable[Prediction]) -> Prediction:
        started_s = time.monotonic()
        try:
            prediction = await answer
        except ImageError:
            self._alive_at_s = time.monotonic()
            raise
        self._alive_at_s = time.monotonic()
        server.window.answered(self._alive_at_s - started_s)
        return prediction

    @asynccontextmanager
    async def _leased(self, *, alone: bool) -> AsyncIterator[tuple[Server, Scorer]]:
        server, scorer = await (self._acquire_alone() if alone else self._acquire())
        server.carries += 1
        try:
            yield server, scorer
        finally:
            server.carries -= 1
            server.reserved = server.reserved and not alone
            self._notify()

    async def _acquire(self) -> tuple[Server, Scorer]:
        """Return the server that carries least of those that have room, when there is one."""
        while True:
            self._raise_if_lost()
            with_room = [server for server in self.servers if server.has_room]
            if with_room:
                server = min(with_room, key=lambda server: server.carries)
                return server, cast(Scorer, server.scorer)
            await self._change()

    async def _acquire_alone(self) -> tuple[Server, Scorer]:
        """Return a server that carries nothing and gets nothing else, when there is one."""
        while True:
            self._raise_if_lost()
            free = [server for server in self.servers if server.scorer and not server.reserved]
            if free:
                server = min(free, key=lambda server: server.carries)
                server.reserved = True
                while server.scorer and server.carries:
                    await self._change()
                if server.scorer:
                    return server, server.scorer
                server.reserved = False
            await self._change()

    def _raise_if_lost(self) -> None:
        if self.lost:
            raise self.lost

    async def _change(self) -> None:
        """Wait until something about the servers changes."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


@asynccontextmanager
async def open_pool(
    endpoints: Sequence[Endpoint],
    patience: Patience,
    model: str = ENSEMBLE_MODEL,
    *,
    adaptive: bool = False,
) -> AsyncIterator[Pool]:
    """Connect to all servers, wait for the first, and keep the connections while the block runs.

    Raises:
        FundusError: no server got ready in time, or none of them serves a fundus ensemble.
    """
    servers = [Server(endpoint, Window(patience.in_flight, patience.answer_s)) for endpoint in endpoints]
    pool = Pool(servers, patience, model, adaptive)
    keepers = [asyncio.create_task(pool.keep(server)) for server in servers]
    try:
        await pool.until_ready()
        yield pool
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
