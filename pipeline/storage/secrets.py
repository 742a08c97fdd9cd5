"""Hides credentials in texts."""

import os
import re
from collections.abc import Iterable

SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN")
_URL_SECRETS = re.compile(
    r"(?<=://)[^/\s@]+@|(?<=[?&])(?:X-Amz-[\w-]+|Signature|sig|token)=[^&\s]+", re.IGNORECASE
)


def hide_secrets(text: str, secrets: Iterable[str | None]) -> str:
    """Return `text` without `secrets`, those of the environment, and those within URLs."""
    for secret in (*secrets, *(os.environ.get(name) for name in SECRET_VARIABLES)):
        if secret and len(secret) >= 4:
            text = text.replace(secret, "***")
    return _URL_SECRETS.sub("***", text)
