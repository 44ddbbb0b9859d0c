"""Trained models as folders: those of this package, on this machine, or at a URL.

`unclip/pretrained/<name>/` is a folder that `UnclipPipeline.save` wrote, with a model card. This
module and `manifest` import neither torch nor models, so a wrong name is refused at once.
"""

from pathlib import Path

from unclip.config import ConfigError
from unclip.extension import did_you_mean
from unclip.pretrained.download import download, is_url
from unclip.pretrained.manifest import MANIFEST

HERE = Path(__file__).parent


def packaged() -> tuple[str, ...]:
    """The names of the models that come with this package."""
    return tuple(sorted(file.parent.name for file in HERE.glob(f"*/{MANIFEST}")))


def find_folder(name: str | Path) -> Path:
    """The folder of models with this name, path or URL; one at a URL is downloaded first.

    Raises `ConfigError` if there is none. What is in the folder is not checked.
    """
    if is_url(str(name)):
        return download(str(name))
    if str(name) in packaged():
        return HERE / name
    if Path(name).is_dir():
        return Path(name)
    raise ConfigError(
        f"there are no models {str(name)!r}{did_you_mean(str(name), packaged())}; this package "
        f"brings {', '.join(packaged()) or 'none'}. Give one of those names, the path of a folder "
        "of models that `unclip import`, `unclip export` or `UnclipPipeline.save` wrote, or its URL"
    )
