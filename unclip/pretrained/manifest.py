"""The manifest of a folder of models: its version, and a digest of each file of weights.

`sampling.json` is not listed, because users may edit it.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from unclip.config import ConfigError, UnclipError

MANIFEST = "manifest.json"
VERSION = 1  # of the folder's layout
AGAIN = "copy, download or write the folder again"


class ManifestError(UnclipError):
    """A folder of models of another version, or with files that are not the ones it lists."""


def write_manifest(folder: Path, files: list[str]) -> None:
    """Write the digests of these files, which are paths relative to the folder."""
    digests = {name: digest_of(folder / name) for name in sorted(files)}
    content = {"version": VERSION, "files": digests}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


def read_manifest(content: str, *, where: str) -> dict[str, str]:
    """SHA-256 by file name. Raises `ManifestError` for another version or a name outside."""
    try:
        manifest: dict[str, Any] = dict(json.loads(content))
        version, files = manifest["version"], dict(manifest["files"])
    except (ValueError, TypeError, KeyError) as error:
        raise ManifestError(f"{where} is not a manifest of models ({error!r}); {AGAIN}") from error
    if version != VERSION:
        raise ManifestError(
            f"{where} has version {version!r}, and this version of unclip reads {VERSION}; install "
            "the version of unclip that wrote it, or write the models again with this one"
        )
    for name, digest in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not isinstance(digest, str):
            raise ManifestError(f"{where} lists {name!r}: {digest!r}, which is no file; {AGAIN}")
    return files


def check_digests(folder: Path) -> None:
    """Raise `ManifestError` if a file is missing or differs from the manifest."""
    where = folder / MANIFEST
    try:
        content = where.read_text()
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read: {error.strerror}; {AGAIN} with this version of unclip"
        ) from error
    for name, digest in read_manifest(content, where=str(where)).items():
        file = folder / name
        if not file.is_file():
            raise ManifestError(f"{file} is missing, and {where} lists it; {AGAIN}")
        if (found := digest_of(file)) != digest:
            raise ManifestError(
                f"{file} has the SHA-256 {found[:12]}…, and {where} says {digest[:12]}…: the file "
                f"was damaged or changed; {AGAIN}"
            )


def digest_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
