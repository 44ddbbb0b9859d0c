"""Download slices in a process of its own, and say how much memory each took at most.

    python -m tests.pipelines.hostile_worker FOLDER

FOLDER has `config.json` and slices; each becomes a shard, and `memory.json` has the peaks in MiB.
"""

import json
import resource
import sys
from pathlib import Path

from pydantic import TypeAdapter

from pipelines.artifacts.schema import pairs
from pipelines.core.folder import Folder
from pipelines.core.shards import make_shard
from pipelines.data.download import DownloadItem, DownloadWorker
from pipelines.data.download_config import DownloadConfig


def main(folder: Path) -> None:
    config = TypeAdapter(DownloadConfig).validate_json((folder / "config.json").read_bytes())
    worker = DownloadWorker(config)
    peaks = {}
    for path in sorted(folder.glob("*.slice.parquet")):
        name = path.name.removesuffix(".slice.parquet")
        item = DownloadItem(str(path))
        make_shard(worker, item, Folder(str(folder)), name, pairs({}, config.renditions))
        # The peak of the process, in KiB: of this slice, if it took more than those before.
        peaks[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    (folder / "memory.json").write_text(json.dumps(peaks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
