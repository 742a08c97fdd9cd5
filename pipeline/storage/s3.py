"""Provides an S3 file system that retries during an outage and times out on a silent server."""

import asyncio
from datetime import datetime
from typing import Any  # arguments and answers of botocore, which has no types

from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import HTTPClientError
from botocore.utils import parse_timestamp
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import _error_wrapper
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

_TEMPORARY = {"InternalError", "ServiceUnavailable", "SlowDown", "Throttling", "RequestTimeout", "503", "500"}
_REFUSED = {
    *("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"),
    *("RequestTimeTooSkewed", "TokenRefreshRequired", "InvalidSecurity"),
}
_SLOWEST_BYTES_PER_S = 1 << 20
_LONGEST_WAIT_S = 10.0


class NoAnswerError(OSError):
    """Says that the store accepted a connection and did not answer in time."""


class CredentialsRefusedError(OSError):
    """Says that the store refuses the credentials, perhaps since they expired; no object is at fault."""


class PatientS3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """Retries a call with random, growing waits for at most `outage_s` seconds (0: never).

    A call may take `answer_s` seconds, and one more for each MiB of its body. s3fs itself retries five times
    within two seconds, but not when a connection is refused, and waits for a PUT without end.
    """

    def __init__(self, *, outage_s: float, answer_s: float, **options: Any) -> None:
        super().__init__(**options)
        self.outage_s, self.answer_s = outage_s, answer_s

    async def set_session(self, *arguments: Any, **options: Any) -> Any:
        """See s3fs. Botocore's own way to read times takes two thirds of a listing's CPU time."""
        client = await super().set_session(*arguments, **options)
        parsers = self.session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_time)
        return client

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        body = options.get("Body")
        size = len(body) if isinstance(body, bytes | bytearray | memoryview) else 0
        limit_s = self.answer_s + size / _SLOWEST_BYTES_PER_S
        trying = AsyncRetrying(
            stop=stop_after_delay(self.outage_s),
            wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S),
            retry=retry_if_exception(is_outage),
            reraise=True,
        )
        async for attempt in trying:
            with attempt:
                try:
                    return await asyncio.wait_for(super()._call_s3(method, *arguments, **options), limit_s)
                except TimeoutError:
                    raise NoAnswerError(f"the store did not answer {method} in {limit_s:.0f} s") from None
                except OSError as error:
                    if code_of(error) in _REFUSED:
                        message = f"the store refuses the credentials: {code_of(error)}"
                        raise CredentialsRefusedError(message) from error
                    raise
        raise AssertionError("the last attempt raises")

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_same(self, path: str, etag: str) -> bytes | None:
        bucket, key, _ = self.split_path(path)

        async def call_and_read() -> bytes:
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, IfMatch=f'"{etag}"')
            async with answer["Body"] as body:
                return bytes(await body.read())

        try:
            # as cat_file does: a connection may be lost in the middle of a body
            return bytes(await _error_wrapper(call_and_read, retries=self.retries))
        except OSError as error:
            if code_of(error) in ("PreconditionFailed", "412"):
                return None
            raise

    cat_same = sync_wrapper(_cat_same)  # reads an object; None if it has another etag


def _time(value: Any) -> datetime:
    """Read a time of an answer: most are in ISO 8601."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)  # type: ignore[no-any-return]  # botocore has no types


def is_outage(error: BaseException) -> bool:
    """Tell whether the same call may succeed later."""
    connection = (NoAnswerError, HTTPClientError, NoConnectionError, ConnectionError)
    return isinstance(error, connection) or code_of(error) in _TEMPORARY


def code_of(error: BaseException) -> str:
    """Return S3's code of an error, "" if it has none."""
    response = getattr(error.__cause__ or error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
