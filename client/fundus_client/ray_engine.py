"""Many machines: Ray Data hands blocks of the inputs to actors, and their rows come back to the journal.

An actor has a machine to itself and scores one block after the other, as the local engine scores a run:
`Batch` over a `Pool`. What a machine had that is gone, Ray gives to another. A block is committed when it
comes back, so after the end of a driver the next run scores only what was under way. Files with the same
content share one request within a block; another block asks again, and the answer is the same.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from fundus_client.batch import Batch
from fundus_client.member import Endpoint
from fundus_client.pool import open_pool
from fundus_client.run import End, Job
from fundus_client.servers import Servers
from fundus_client.sources import Ref
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import BundleError, FundusError, MissingExtraError, ServerUnreachableError
from fundus_core.rows import ScoreRow

N_BLOCKS = 1024  # of a run, so that many machines end together, ...
SMALLEST, LARGEST = 16, 1024  # ... of so many images: what a dying machine has done in vain
_GRACE_S = 30.0  # so that a machine that waits in vain can say for what
_AGAIN = "What came back is kept; run the same command again to go on."


@dataclass(frozen=True)
class _Scored:
    """What became of one block: rows with their files' stamps, and why the other files have none."""

    host: str
    spec: EnsembleSpec | None
    lost: FundusError | None
    rows: list[tuple[bytes, ScoreRow]]
    vanished: list[Ref]


@dataclass(frozen=True)
class _Notes:
    """The `Memory` of one block."""

    rows: list[tuple[bytes, ScoreRow]] = field(default_factory=list)
    answers: dict[str, ScoreRow] = field(default_factory=dict)

    def knows(self, image_id: str, stamp: bytes) -> bool:
        return False

    def answer(self, sha256: str) -> ScoreRow | None:
        return self.answers.get(sha256)

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        self.rows.append((stamp, row))
        if row.sha256:
            self.answers[row.sha256] = row


class _Actor:
    """What runs on each machine; its servers stay from block to block."""

    def __init__(self, servers: Servers) -> None:
        self._servers, self._endpoints = servers, list[Endpoint]()
        self._stack = ExitStack()

    def __call__(self, block: Any) -> dict[str, list[_Scored]]:
        """Score a pandas DataFrame of refs."""
        return {"scored": [self.score(list(block["ref"]))]}

    def score(self, refs: list[Ref]) -> _Scored:
        """Score one block; never raises what a person can mend."""
        notes, spec = _Notes(), None
        try:
            spec, lost = asyncio.run(self._score(refs, notes))
        except FundusError as error:
            lost = error
        gone = {row.image_id for _, row in notes.rows if row.reason.startswith("vanished:")}
        vanished = [ref for ref in refs if ref.image_id in gone]
        return _Scored(socket.gethostname(), spec, _portable(lost), notes.rows, vanished)

    def close(self) -> None:
        """End the embedded server."""
        self._stack.close()

    async def _score(self, refs: list[Ref], notes: _Notes) -> tuple[EnsembleSpec, Exception | None]:
        given = self._servers
        if not self._endpoints:
            self._endpoints = self._stack.enter_context(given.running())
        opened = open_pool(self._endpoints, given.patience, given.model, adaptive=given.adaptive)
        async with opened as pool:
            await Batch(pool, notes).run(refs)
            return pool.spec, pool.lost


def score_on_ray(job: Job, servers: Servers, address: str | None) -> End:
    """Do a job on the cluster at `address` ("auto": the one of this machine), or on one that is started here.

    Everything in `servers` is looked up on each machine: a path must lead to the same file everywhere, and
    "localhost:8001" is the server beside each actor. A machine without a server ends the job early.

    Raises:
        MissingExtraError: Ray is not installed.
        BundleError: a machine serves another bundle than the first one that was asked.
        FundusError: there is no such cluster, it failed, no server got ready, a machine does not see the
            images, `job.begin` refused the bundle, or the journal cannot be written.
    """
    _start(address)
    import ray

    try:
        cores = _cores_of_smallest_machine()
        spec = _bundle(servers, cores)
        job.begin(spec)
        return End(spec, _score_missing(job, servers, spec, cores))
    except ray.exceptions.RayError as error:
        raise FundusError(f"Ray ended the run: {_innermost(error)} {_AGAIN}") from error
    finally:
        ray.shutdown()


def _start(address: str | None) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "Ray Data") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError) as error:
        hint = "Start one with `ray start --head`, or leave --address and RAY_ADDRESS away."
        raise FundusError(f"There is no Ray cluster at '{address}'. {hint} ({error})") from None
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in its place


def _cores_of_smallest_machine() -> int:
    """Return what an actor takes: an embedded server uses all cores of its machine."""
    import ray

    given = (node["Resources"].get("CPU") for node in ray.nodes() if node["Alive"])
    return int(min(filter(None, given), default=1))


def _bundle(servers: Servers, cores: int) -> EnsembleSpec:
    """Ask one machine which bundle answers there."""
    import ray

    asking, wait_s = ray.remote(num_cpus=cores)(_ask).remote(servers), servers.patience.ready_s
    try:
        asked: _Scored = ray.get(asking, timeout=wait_s + _GRACE_S)
    except ray.exceptions.GetTimeoutError:
        hint = "Wait for the other work of the cluster, add a machine, or raise --wait."
        raise ServerUnreachableError(
            f"No machine had {cores} free cores within {wait_s:g} s. {hint}"
        ) from None
    if asked.spec is None:
        raise asked.lost or FundusError("A machine does not say what it serves. Please report this.")
    return asked.spec


def _ask(servers: Servers) -> _Scored:
    actor = _Actor(servers)
    try:
        return actor.score([])
    finally:
        actor.close()


def _score_missing(job: Job, servers: Servers, spec: EnsembleSpec, cores: int) -> Exception | None:
    """Take the blocks into the journal as they come back; return why no more came, if there was a reason."""
    for scored in _scored(job, servers, cores):
        _check(scored, spec)
        for stamp, row in scored.rows:
            job.journal.record(row.image_id, stamp, row)
            job.tick(row)
        job.journal.commit()
        if scored.lost:
            return scored.lost
    return None


def _scored(job: Job, servers: Servers, cores: int) -> Iterator[_Scored]:
    import ray

    if (blocks := _blocks(job)) is None:
        return
    scored = blocks.map_batches(
        _Actor,
        fn_constructor_args=(servers,),
        batch_size=None,
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(min_size=1),
        num_cpus=cores,
    )
    for batch in scored.iter_batches(batch_size=None, batch_format="pandas"):
        yield from batch["scored"]


def _blocks(job: Job) -> Any:
    """Return a `ray.data.Dataset` of what has no row yet, a block at a time out of this process's memory."""
    import pandas
    import ray

    size = block_size(job.journal.n_missing)
    missing = (ref for ref in job.source if not job.journal.knows(ref.image_id, ref.stamp()))
    chunks = iter(lambda: list(islice(missing, size)), [])
    blocks = [ray.put(pandas.DataFrame({"ref": chunk})) for chunk in chunks]
    return ray.data.from_pandas_refs(blocks) if blocks else None


def block_size(n_images: int) -> int:
    """Return how many images of a run go into one block."""
    return min(max(n_images // N_BLOCKS, SMALLEST), LARGEST)


def _check(scored: _Scored, spec: EnsembleSpec) -> None:
    """Take nothing from a machine that serves something else, or sees less than this one."""
    if scored.spec and scored.spec.digest != spec.digest:
        theirs, ours = (f"{each.name} {each.version} ({each.digest[:12]})" for each in (scored.spec, spec))
        raise BundleError(f"{scored.host} serves {theirs}, and this run is of {ours}. {_AGAIN}")
    if unseen := next((ref for ref in scored.vanished if ref.stamp()), None):
        hint = "Mount the images under the same path on every machine."
        raise FundusError(f"{scored.host} does not see '{unseen.image_id}', which is there. {hint}")


def _innermost(error: BaseException) -> str:
    """Return the first line of what Ray wrapped in errors of its own."""
    while inner := getattr(error, "cause", None) or error.__cause__:
        error = inner
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}."


def _portable(error: Exception | None) -> FundusError | None:
    """Return an error that survives the journey: some take other arguments than their message."""
    if error is None:
        return None
    said = FundusError(f"{socket.gethostname()}: {error}")
    said.exit_code = getattr(error, "exit_code", said.exit_code)
    return said
