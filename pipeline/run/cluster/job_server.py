"""Submits a command to a running Ray cluster's job server and follows its log."""

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_POLL_S = 1.0
_DETACHED = 130  # the usual exit status after Ctrl-C
_PACKAGES = "ray.dashboard.modules"
_NOISY_LOGGERS = (  # report each sent package and closed connection
    f"{_PACKAGES}.dashboard_sdk",
    f"{_PACKAGES}.job.sdk",
    "ray._private.runtime_env.packaging",
)


def run_job(dashboard: str, entrypoint: str, runtime_env: dict[str, Any]) -> int:  # JSON of Ray's
    """Submit a command as a job, and print its log until it ends or Ctrl-C; returns its exit status.

    Args:
        dashboard: http://HOST:PORT of the cluster's dashboard.
        entrypoint: the command line.
        runtime_env: what the job needs, in the form of Ray's runtime environments.

    Raises:
        RunError: the job server cannot be reached, or could not start the job.
    """
    client = _client(dashboard)
    try:
        job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    except RuntimeError as error:
        raise RunError(f"cluster.dashboard={dashboard}: {_last_line(error)}") from None
    print(f"submitted {job}; Ctrl-C stops following it, `ray job stop {job}` stops it", file=sys.stderr)
    return _follow(client, job)


def _follow(client: "JobSubmissionClient", job: str) -> int:
    """Print a job's log until it ends; returns its exit status."""
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        print(f"\n{job} runs on; `ray job logs --follow {job}` follows it again", file=sys.stderr)
        return _DETACHED
    details = client.get_job_info(job)
    if details.driver_exit_code is None:
        raise RunError(f"job {job} {details.status.lower()}: {_last_line(details.message)}")
    return int(details.driver_exit_code)


async def _print_log(client: "JobSubmissionClient", job: str) -> None:
    """Print the whole log once, reconnecting as often as the connection breaks."""
    printed = 0
    while True:
        seen = 0
        try:
            async for text in client.tail_job_logs(job):
                new = text[max(0, printed - seen) :]
                seen += len(text)
                print(new, end="", flush=True)
                printed = max(printed, seen)
        except RuntimeError:
            pass  # the connection broke
        if client.get_job_status(job).is_terminal():
            return
        await asyncio.sleep(_POLL_S)


def _client(dashboard: str) -> "JobSubmissionClient":
    try:
        from ray.job_submission import JobSubmissionClient

        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(dashboard)
    except (ConnectionError, RuntimeError) as error:
        raise RunError(f"cluster.dashboard={dashboard}: {_last_line(error)}") from None


def _last_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1]
