"""Judging in other processes: Dask's workers on this machine, or of a cluster that is there.

Each worker has a warm sandbox and judges one submission at a time. It imports this module, and
nothing of nbgrader, which takes seconds. Whatever dies, a worker, the scheduler or this process, a
submission has either one verdict or none.
"""

import contextlib
import functools
import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from flowcourse.grading.judge import SEED_BITS, Cell, Verdict, close_judge, warm_judge
from flowcourse.grading.namespaces import Limits

__all__ = ["GradingError", "Options", "Submission", "verdicts"]

AHEAD = 3  # submissions given out for each worker: none waits, and few lie about
GOES_ON = "What was graded is kept: the same command goes on."


class GradingError(RuntimeError):
    """The class could not be graded; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """How submissions are judged.

    Attributes:
        seed: of the inputs of all checks; all submissions of one run meet the same.
        limits: what one submission may use; those of the settings (`c.Grade.limits`) if None.
        unsafe: no sandbox, see `flowcourse.grading.sandbox`.
        everything: for the course's own sample class, see there.
    """

    seed: int = field(default_factory=lambda: secrets.randbits(SEED_BITS))
    limits: Limits | None = None
    unsafe: bool = False
    everything: bool = False


@dataclass(frozen=True)
class Submission:
    """What a worker is given.

    Attributes:
        student: who handed it in.
        digest: of all that its grade depends on.
        contents: digest of what was handed in alone.
        cells: to run, and to check.
        files: beside the notebook.
        trouble: why it could not be read, if so.
        notebook: whether there is one, readable or not.
    """

    student: str
    digest: str
    contents: str
    cells: list[Cell]
    files: dict[str, bytes]
    trouble: str | None
    notebook: bool


def verdicts(
    work: Iterator[Submission],
    n: int,
    assignment: str,
    options: Options,
    modules: list[str],
    workers: int = 1,
    scheduler: str | None = None,
) -> Generator[tuple[Submission, Verdict], None, None]:
    """Judge submissions; yields each with its verdict as it comes.

    Args:
        work: the submissions, read when their turn is near.
        n: how many there are.
        assignment: the problem set.
        options: how to judge.
        modules: to import beforehand.
        workers: processes on this machine.
        scheduler: address of a Dask scheduler, whose workers are used instead.

    Raises:
        GradingError: workers or scheduler are lost.
    """
    if not n:
        return
    judge = functools.partial(_judge, assignment, options, modules)
    if n == 1 and scheduler is None:  # nothing goes on beside it, so this process does it
        for submission in work:
            yield submission, judge(submission)
        close_judge()
        return
    with _client(min(workers, n), scheduler) as client:
        yield from _collect(client, work, judge, scheduler or "of this machine")


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    # Whether a worker of this machine lives is seen from its process. Dask would also take one for
    # dead that says nothing for minutes, as when the clock is set.
    dask.config.set({"distributed.scheduler.worker-ttl": None})
    # It logs tracebacks of a scheduler that is lost, which is said better below.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # None would be the usual port, which may be taken
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,  # the sandbox has its own
            )
            stack.callback(_close, cluster)
        try:
            client = stack.enter_context(
                Client(cluster if scheduler is None else scheduler, set_as_default=False)
            )
        except OSError as error:
            raise GradingError(
                f"The scheduler {scheduler or 'of this machine'} cannot be reached: {error}. "
                + GOES_ON
            ) from error
        yield client
        if scheduler is None:
            client.run(close_judge, on_error="ignore")  # or its worker would end the slow way


def _close(cluster: Any) -> None:
    """End the workers of this machine.

    On a busy one they may take longer to end than Dask waits. It then says so, and kills them,
    which does no harm: what was graded is entered already.
    """
    logging.getLogger("distributed.nanny").setLevel(logging.ERROR)
    with contextlib.suppress(TimeoutError):
        cluster.close()


def _collect(
    client: Any, work: Iterator[Submission], judge: Callable[[Submission], Verdict], where: str
) -> Iterator[tuple[Submission, Verdict]]:
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.comm import CommClosedError

    ahead = AHEAD * max(1, len(client.scheduler_info()["workers"]))
    running: dict[Any, Submission] = {}
    results = as_completed(loop=client.loop)

    def give_out() -> None:
        for submission in work:
            future = client.submit(judge, submission, pure=False)
            running[future] = submission
            results.add(future)
            if len(running) >= ahead:
                return

    give_out()
    while running:
        future = next(results)
        submission = running.pop(future)
        try:
            verdict = future.result()
        except KilledWorker as error:
            raise GradingError(
                f"The workers that judged {submission.student} were killed again and again "
                f"({error}). {GOES_ON}"
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise GradingError(f"The scheduler {where} is lost ({error}). {GOES_ON}") from error
        except OSError as error:  # such as a full disk there
            raise GradingError(
                f"The worker that judged {submission.student} could not go on: {error}. {GOES_ON}"
            ) from error
        yield submission, verdict
        give_out()


def _judge(
    assignment: str, options: Options, modules: list[str], submission: Submission
) -> Verdict:
    """Judge in this process, a worker's."""
    judge = warm_judge(
        assignment, options.seed, modules, options.limits, options.unsafe, options.everything
    )
    return judge.judge(submission.cells, submission.files)
