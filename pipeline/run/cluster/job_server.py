"""A running Ray cluster's job server: start a command there, follow its log here."""

import asyncio
import logging
import sys
from typing import Any

from pipeline.support.errors import RunError

_POLL_S = 1.0
_DETACHED = 130  # as after Ctrl-C
_PACKAGES = "ray.dashboard.modules"
_TALKATIVE = (  # of packages sent and connections closed
    f"{_PACKAGES}.dashboard_sdk",
    f"{_PACKAGES}.job.sdk",
    "ray._private.runtime_env.packaging",
)


def run_job(dashboard: str, entrypoint: str, runtime_env: dict[str, Any]) -> int:
    """Start a command as a job, print its log until it ends or Ctrl-C; returns its exit status.

    Args:
        dashboard: http://HOST:PORT of the cluster's dashboard.

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


def _follow(client: Any, job: str) -> int:
    """Print a job's log until it ends; its exit status."""
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        print(f"\n{job} runs on; `ray job logs --follow {job}` follows it again", file=sys.stderr)
        return _DETACHED
    told = client.get_job_info(job)
    if told.driver_exit_code is None:
        raise RunError(f"job {job} {told.status.lower()}: {_last_line(told.message)}")
    return int(told.driver_exit_code)


async def _print_log(client: Any, job: str) -> None:
    """All of the log once, over as many connections as it takes."""
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
            pass  # the connection broke off
        if client.get_job_status(job).is_terminal():
            return
        await asyncio.sleep(_POLL_S)


def _client(dashboard: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient

        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(dashboard)
    except (ConnectionError, RuntimeError) as error:
        raise RunError(f"cluster.dashboard={dashboard}: {_last_line(error)}") from None


def _last_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1]
