"""Downloads a folder of models over HTTP into a cache, checked against its manifest."""

import hashlib
import http.client
import logging
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from unclip.config import ConfigError
from unclip.pretrained.manifest import MANIFEST, check_digests, read_manifest

log = logging.getLogger(__name__)

SAMPLING = "sampling.json"
TIMEOUT_S = 30.0  # without a byte
MAX_TEXT_BYTES = 1_000_000  # of a manifest or of settings


def is_url(name: str) -> bool:
    """Whether a name is a URL that `download` can fetch."""
    return name.startswith(("http://", "https://"))


def download(url: str) -> Path:
    """The folder at this URL, in the cache; only its manifest and settings are fetched anew.

    The cache is `$XDG_CACHE_HOME/unclip`, by default `~/.cache/unclip`. Raises `ConfigError` if a
    file cannot be fetched, and `ManifestError` if one is not what the manifest says.
    """
    url = url.rstrip("/")
    manifest, sampling = _text(f"{url}/{MANIFEST}"), _text(f"{url}/{SAMPLING}")
    files = read_manifest(manifest.decode(errors="replace"), where=f"{url}/{MANIFEST}")
    folder = _cache() / hashlib.sha256(manifest + b"\0" + sampling).hexdigest()[:16]
    if folder.is_dir():
        log.info("%s is in the cache, in %s", url, folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unclip-", dir=folder.parent))
    try:
        (scratch / MANIFEST).write_bytes(manifest)
        (scratch / SAMPLING).write_bytes(sampling)
        for name in files:
            _fetch(f"{url}/{name}", scratch / name)
        check_digests(scratch)
        if not folder.is_dir():  # another process may have been faster
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unclip"


def _text(url: str) -> bytes:
    """A small file; raises `ConfigError` for a large one."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read(MAX_TEXT_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(url, error) from error
    if len(content) > MAX_TEXT_BYTES:
        raise ConfigError(f"{url} has more than {MAX_TEXT_BYTES} bytes; give a folder of models")
    return content


def _fetch(url: str, file: Path) -> None:
    log.info("downloading %s", url)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, file.open("wb") as out:
            shutil.copyfileobj(response, out)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{url} cannot be fetched: {error}; give the URL of a folder that `UnclipPipeline.save` "
        "wrote, with all its files"
    )
