"""clip-retrieval's inference: its reader, mapper and writer, over a tar of the same pairs."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
from all_clip import load_clip
from clip_retrieval.clip_inference.mapper import ClipMapper
from clip_retrieval.clip_inference.reader import WebdatasetReader
from clip_retrieval.clip_inference.runner import Runner, Sampler
from clip_retrieval.clip_inference.writer import NumpyWriter

from benchmarks.timing import Run


def inference(pairs: pa.Table, weights: Path, folder: Path, *, batch_size: int) -> Run:
    """Its runner without the loading of the model and without its logger process.

    The reader works in this process: with workers it would also pay for sending the tensors.
    """
    tar = folder / "pairs.tar"
    _write_tar(pairs, tar)
    model = f"open_clip:ViT-B-32/{weights}"
    _, preprocess, tokenizer = load_clip(model, use_jit=False, warmup_batch_size=1)
    mapper = ClipMapper(
        enable_image=True,
        enable_text=True,
        enable_metadata=False,
        use_mclip=False,
        clip_model=model,
        use_jit=False,
        mclip_model="",
    )

    def reader(sampler: Sampler) -> WebdatasetReader:
        return WebdatasetReader(sampler, preprocess, tokenizer, [str(tar)], batch_size, 0)

    def writer(partition: int) -> NumpyWriter:
        return NumpyWriter(partition, str(folder / "theirs"), True, True, False, 1)

    runner = Runner(reader, lambda: mapper, writer, lambda _: _Silent(), 1)
    return lambda: runner(0)


class _Silent:
    """A logger that logs nothing."""

    def start(self) -> None:
        pass

    def __call__(self, stats: object) -> None:
        pass

    def end(self) -> None:
        pass


def _write_tar(pairs: pa.Table, path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number, pair in enumerate(pairs.select(["image", "caption"]).to_pylist()):
            _add(tar, f"{number:06}.jpg", pair["image"])
            _add(tar, f"{number:06}.txt", pair["caption"].encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
