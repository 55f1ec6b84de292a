"""The credentials that Kaggle's client would use here: they belong in no log and no package."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CREDENTIAL_FILES = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
"""The names of the files in which the client looks for credentials."""

_VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN_PATH")
_SHORTEST_SECRET = 8  # characters; anything shorter could be a word


def read_secrets() -> list[str]:
    """Return the secrets in the client's variables and files, the longest first."""
    values = [os.environ.get(name, "") for name in _VARIABLES]
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home fails without a home)
    folders = [home / ".kaggle", home / ".config" / "kaggle"]
    folders += [Path(os.environ.get("KAGGLE_CONFIG_DIR", home))]
    folders += [Path(os.environ.get("XDG_CONFIG_HOME", home)) / "kaggle"]
    paths = [folder / name for folder in folders for name in CREDENTIAL_FILES]
    paths += [Path(value) for value in values if value]  # a variable may name a file
    for path in paths:
        try:
            values += _parse_credentials(path.read_text().strip())
        except (OSError, ValueError):
            continue
    return sorted({value for value in values if len(value) >= _SHORTEST_SECRET}, key=len)[::-1]


def _parse_credentials(text: str) -> list[str]:
    """Return the secrets in a file of credentials, which is JSON or nothing but a token."""
    try:
        content: Mapping[str, Any] = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(content, dict):
        return [text]
    return [str(value) for name, value in content.items() if "key" in name or "token" in name]
