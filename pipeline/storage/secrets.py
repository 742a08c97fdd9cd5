"""Hides credentials in texts, and refuses URLs that hold some."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

SECRET_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RAY_AUTH_TOKEN"),
)
OWN_VARIABLES = "TRIMLINE_SECRET_VARIABLES"  # variable with the names of more, separated by blanks
OWN_VALUES = "TRIMLINE_SECRET_VALUES"  # variable with a JSON list of further secrets
_LEAST = 4  # characters of a secret
FAIR = 8  # from which on a word of a file's data is hidden, too, and the value of any variable of the workers
_SURE = 16  # characters from which on no word or folder is called like a secret by chance
# Here what stands before an `@` is a container, an account or a revision.
_NO_USER = "(?!(?:file|abfss?|az|wasbs?|github|hf)://)"
_USER = re.compile(rf"\b{_NO_USER}([a-z][\w+.-]*://)[^/\s\"']*@", re.IGNORECASE)
_NAMES = (
    r"(?:X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|GoogleAccessId|Signature|Policy|Key-Pair-Id|sig|sas|key"
    r"|[\w-]*(?:token|secret|passw|pwd|api_?key|access_?key|auth|credential)[\w-]*)"
)
_QUERY = re.compile(rf"(?<=[?&]){_NAMES}=[^&\s\"']+", re.IGNORECASE)
_WAYS = {
    "s3": "storage.key and storage.secret, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
    "gs": "a gs:// path, with GOOGLE_APPLICATION_CREDENTIALS in the environment",
    "az": "an az:// path, with AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_SAS_TOKEN in the environment",
    "": "a store whose credentials come from the environment, or a local copy",
}


def hide_secrets(text: str, secrets: Iterable[str | None], *, words: bool = True) -> str:
    """Return `text` without `secrets`, those of the environment, and those within URLs.

    A short secret, as the `test` of a local store, is hidden only where it is a word of its own and no part
    of a path; so `/data/test` stays.

    Args:
        words: whether secrets of less than eight characters are hidden, too; not in data, where `test` may be
            any word.
    """
    named = [*SECRET_VARIABLES, *os.environ.get(OWN_VARIABLES, "").split()]
    known = {
        *secrets,
        *json.loads(os.environ.get(OWN_VALUES, "[]")),
        *(os.environ.get(name) for name in named),
    }
    for secret in sorted(filter(None, known), key=len, reverse=True):
        if len(secret) >= _SURE:
            for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
                text = text.replace(form, "***")
        elif len(secret) >= (_LEAST if words else FAIR):
            whole = re.escape(secret)
            text = re.sub(rf"(?<=Credential=){whole}|(?<![\w./-]){whole}(?![\w/-]|\.\w)", "***", text)
    return hide_in_urls(text)


def hide_everywhere(secrets: Iterable[str]) -> None:
    """Let `hide_secrets` hide these, too, from now on and in the workers of a run; replaces those before."""
    os.environ.pop(OWN_VALUES, None)
    found = sorted(set(secrets))
    if found:
        os.environ[OWN_VALUES] = json.dumps(found)


def changed_texts(tree: Any, change: Callable[[str], str]) -> Any:  # JSON
    """Apply a function to the texts of data; names, numbers and the form stay."""
    if isinstance(tree, Mapping):
        return {name: changed_texts(part, change) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [changed_texts(part, change) for part in tree]
    return change(tree) if isinstance(tree, str) else tree


def hide_in_urls(text: str) -> str:
    """Return `text` without the user information and the signatures of URLs."""
    return _QUERY.sub("***", _USER.sub(r"\1***", text))


def way_without_credentials(uri: str) -> str | None:
    """Return how else to give the credentials that a URL holds; None if it holds none."""
    protocol = uri.partition("://")[0].lower() if "://" in uri else "file"
    if protocol in ("file", "github", "hf", "memory"):
        return None
    query = _QUERY.search(uri)
    user = _USER.match(uri)
    if user is not None and ":" not in user[0].partition("://")[2] and not protocol.startswith("http"):
        user = None  # a name alone
    if query is None and user is None:
        return None
    return _WAYS[_store_of(protocol, query[0] if query else "", uri)]


def _store_of(protocol: str, query: str, uri: str) -> str:
    if protocol in ("s3", "s3a") or query.lower().startswith(("x-amz", "awsaccess")):
        return "s3"
    if protocol in ("gs", "gcs") or query.lower().startswith(("x-goog", "googleaccess")):
        return "gs"
    if protocol in ("az", "abfs", "abfss") or ".core.windows.net" in uri:
        return "az"
    return ""
