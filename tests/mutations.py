"""Fuzzing of everything that the stages parse.

    python -m tests.mutations COUNT SEED

Makes valid files of every format, damages one at a time, and reads it. It has to be refused with one line, or read
correctly; everything else is a fault. Prints a JSON object: for each format the number of inputs, refusals and faults,
and the first faults. The test runs it in a separate process, because a fault may crash the process.
"""

import contextlib
import csv
import faulthandler
import gzip
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from dvc.utils.serialize import parse_yaml
from PIL import Image

from stages import cache, download, evaluate, normalize, train
from stages.lib.core import parameters
from stages.lib.core.errors import UserError
from stages.lib.core.sealed import seal, unseal
from stages.lib.datasets import label_table, raw
from stages.lib.datasets.archives import ArchiveError, unpack
from stages.lib.datasets.kind import Part
from stages.lib.datasets.packaged import Packaged
from stages.lib.datasets.table import DATASETS
from stages.lib.model import model_file, tensors
from stages.lib.preprocessing import decoding
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription
from stages.lib.training import checkpoint, pretrained
from stages.lib.validation.rules import check_all
from tests.conftest import ROOT, default_parameters

SECONDS = 20  # for one input; then the process ends with a traceback
BYTES = 64 << 20  # by which the memory of the process may grow, over all inputs of one format
DESCRIPTION = DataDescription(dataset="made up", classes=["a", "b", "c"], shape=(1, 4, 4), mean=[0.5], std=[0.25])
ARCHITECTURE = model_file.Architecture(model="mlp", hidden=[8], activation="tanh", dropout=0.5)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 1, 4, 4), np.uint8)
TARGETS = np.arange(12) % 3
RAW_FILES = download.RAW / raw.FILES
STAGES = (download, normalize, cache, train, evaluate)


@dataclass(frozen=True)
class Format:
    """A format of input. `read` returns what the program reads, `truth` what is correct for these bytes."""

    name: str
    path: str
    content: bytes
    read: Callable[[], Any]
    truth: Callable[[bytes], Any] | None  # None: unknown; any result is correct
    tokens: tuple[bytes, ...] = ()  # replacements for pieces of the text
    wrap: Callable[[bytes], bytes] = bytes  # applied to the damaged bytes: a compression, which adds a valid checksum


def unchanged(read: Callable[[], Any]) -> Callable[[bytes], Any]:
    """Return the truth for a file with a checksum: whatever is accepted has the content of the valid file."""
    valid = read()
    return lambda _content: valid


# --- The formats ---


def idx(array: np.ndarray) -> bytes:
    """Return an IDX file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def plain(part: Part) -> list[Any]:
    return [part.images[:].tolist(), part.targets.tolist()]


def parts(dataset: str) -> dict[str, Part]:
    """Read the files as they are now; in a run, files whose sha256 has changed are refused first."""
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in RAW_FILES.iterdir()}
    source = raw.Raw(dataset, RAW_FILES, sha256)
    with normalize.scratch_folder() as scratch:
        read_parts, _ = normalize.read_source(source, normalize.Parameters(image_size=4), scratch, map)
        return {name: replace(part, images=part.images[:]) for name, part in read_parts.items()}


def read_idx() -> Any:
    return {name: plain(part) for name, part in parts("mnist").items()}


def idx_truth(content: bytes) -> Any:
    """Parse the images independently; the labels and the other part are undamaged."""
    zero, kind, dimensions = struct.unpack(">HBB", content[:4])
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    body = np.frombuffer(content[4 + 4 * dimensions :], np.uint8)
    assert (zero, kind, dimensions) == (0, 8, 3), "not unsigned bytes in three dimensions"
    images = body.reshape(shape)[:, np.newaxis]
    return {"train": [images.tolist(), TARGETS.tolist()], "test": [IMAGES[:3].tolist(), TARGETS[:3].tolist()]}


def csv_truth(content: bytes) -> Any:
    rows = [[int(cell) for cell in row] for row in csv.reader(io.StringIO(content.decode("ascii")))]
    assert all(len(row) == 17 and min(row) >= 0 and max(row) <= 255 for row in rows)
    table = np.array(rows)
    return [table[:, :-1].reshape(-1, 1, 4, 4).tolist(), table[:, -1].tolist()]


def read_csv() -> Any:
    return plain(parts("made-up")["all"])


def read_image() -> Any:
    (path,) = Path("images").iterdir()
    try:
        return decoding.decode(path.read_bytes(), 4)[0].shape
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def images_of_all_kinds() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of images: of each format, and of 16 bits, several pages, and with a rotation."""
    image = Image.fromarray(np.tile(IMAGES[0, 0], (5, 5)))
    deep = Image.fromarray(np.tile(IMAGES[0, 0], (5, 5)).astype(np.uint16) * 257)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for ending in ("png", "jpg", "gif", "tif", "bmp", "webp", "avif", "jp2", "qoi", "tga"):
        content = io.BytesIO()
        image.convert("RGB" if ending == "qoi" else "L").save(content, Image.registered_extensions()[f".{ending}"])
        yield f"image.{ending}", content.getvalue()
    for name, kind, options in (
        ("deep.png", "PNG", {}),
        ("deep.tif", "TIFF", {"compression": "tiff_lzw"}),
        ("pages.tif", "TIFF", {"save_all": True, "append_images": [deep]}),
        ("rotated.png", "PNG", {"exif": rotated}),
    ):
        content = io.BytesIO()
        deep.save(content, kind, **options)
        yield name, content.getvalue()
    yield "deep.pgm", b"P5 20 20 1023\n" + np.asarray(deep).astype(">u2").tobytes()


def read_arrays() -> Any:
    """Read the user's arrays, whose sha256 are those of the files as they are."""
    folder = Path("arrays")
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    source = raw.Raw("arrays", folder, sha256)
    with normalize.scratch_folder() as scratch:
        read_parts, _ = normalize.read_source(source, normalize.Parameters(image_size=4), scratch, map)
        return plain(read_parts["all"])


def read_labels(path: Path) -> Any:
    """Read a table of numbers, and the images that it names."""
    images = dict.fromkeys((f"{row}.png" for row in range(12)), "")
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()} | images
    with contextlib.redirect_stdout(io.StringIO()):  # reports which files were left out
        labelled = label_table.read_labels(raw.Raw("csv", path.parent, sha256), "regression")
    return [labelled.names, labelled.targets.tolist(), labelled.parts]


def read_weights(path: Path) -> Any:
    """Load weights whose sha256 in params.yaml is that of the damaged file."""
    network = model_file.build(ARCHITECTURE, DESCRIPTION)
    with contextlib.redirect_stdout(io.StringIO()):
        pretrained.load(network, path, hashlib.sha256(path.read_bytes()).hexdigest())
    return [weight.shape for weight in network.parameters()]


def read_manifest() -> Any:
    return raw.read_manifest(download.RAW)


def read_normalized() -> Any:
    split = shards.read(cache.NORMALIZED / "train")
    rows = [split.images(0, len(split)).tolist(), split.labels("targets").tolist(), split.files()]
    return [*rows, split.description, split.sha256]


def read_resealed_shard() -> Any:
    """Read a damaged shard whose current hash is in split.json."""
    shard, path = (cache.NORMALIZED / "train" / name for name in ("00000.safetensors", shards.SPLIT))
    fields = unseal(path.read_bytes())
    fields["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    path.write_text(seal(fields))
    return read_normalized()


def read_tensors() -> Any:
    split = tensors.read(train.TRAIN, memory=1 << 20)
    assert isinstance(split.images, torch.Tensor)
    rows = [split.images.tolist(), split.targets.tolist(), split.index.tolist(), split.files]
    return [*rows, split.description, split.sha256]


def read_model() -> Any:
    network, description = model_file.load(model_file.MODEL)
    return [{name: weight.tolist() for name, weight in network.state_dict().items()}, description.model_dump()]


def read_state() -> Any:
    network = model_file.build(ARCHITECTURE, DESCRIPTION)
    optimizer = torch.optim.Adam(network.parameters())
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        progress = checkpoint.resume("state", {"network": network, "optimizer": optimizer})
    if "damaged" in printed.getvalue():
        raise UserError(printed.getvalue())
    return [progress.rows, progress.step, {name: value.tolist() for name, value in network.state_dict().items()}]


def read_parameters() -> Any:
    check_all(parameters.read(parameters.PARAMETERS))
    return {key: value for stage in STAGES for key, value in parameters.load(stage.Parameters).model_dump().items()}


def parameters_truth(content: bytes) -> Any:
    """Parse the file as DVC does: the stage has to train with the numbers that DVC records."""
    values = parse_yaml(content.decode(), "params.yaml")
    shares = ("val_fraction", "test_fraction", "dropout", "momentum", "warmup", "averaging")
    for key in (*shares, "lr", "weight_decay", "clip_norm"):
        values[key] = None if values[key] is None else float(values[key])  # integers are accepted as well
    for key, neutral in (("augmentation", 0), ("loss_args", None), ("optimizer_args", None)):
        values[key] = {option: value for option, value in values[key].items() if value != neutral}
    return values


def read_archive() -> Any:
    """Unpack an archive; whatever it holds, no file may lie outside of the folder."""
    (path,) = (path for path in Path("archives").iterdir() if path.suffix)
    out = Path("out/inner")
    shutil.rmtree("out", ignore_errors=True)
    out.mkdir(parents=True)
    try:
        unpack(path, out, most_bytes=10_000, most_files=10)
    finally:
        files = [file for file in Path("out").rglob("*") if not file.is_dir()]
        assert all(out in file.parents and not file.is_symlink() for file in files), "a file outside of the folder"
        assert sum(file.stat().st_size for file in files) <= 10_000
    return None


def reseal(content: bytes) -> bytes:
    """Replace the hash by the right one, if the content is still a JSON object."""
    try:
        fields = json.loads(content)
        fields.pop("sha256", None)
        return seal(fields).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return content


def archive(kind: str) -> bytes:
    content = io.BytesIO()
    names = ["a/one.txt", "a/two.txt", "three.txt"]
    if kind == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name in names:
                zipped.writestr(name, name * 20)
    else:
        with tarfile.open(fileobj=content, mode=f"w:{kind[4:]}") as tar:  # type: ignore[call-overload]
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(name) * 20
                tar.addfile(member, io.BytesIO(name.encode() * 20))
    return content.getvalue()


def make() -> Iterator[Format]:
    """Fill the working directory with valid files, and yield their formats."""
    Path("params.yaml").write_text(default_parameters())
    shutil.copy2(ROOT / "params.schema.json", "params.schema.json")
    RAW_FILES.mkdir(parents=True)
    files = {
        "train-images-idx3-ubyte.gz": IMAGES[:, 0],
        "train-labels-idx1-ubyte.gz": TARGETS.astype(np.uint8),
        "t10k-images-idx3-ubyte.gz": IMAGES[:3, 0],
        "t10k-labels-idx1-ubyte.gz": TARGETS[:3].astype(np.uint8),
    }
    for name, array in files.items():
        (RAW_FILES / name).write_bytes(gzip.compress(idx(array)))
    table = np.column_stack([IMAGES.reshape(12, -1), TARGETS])
    text = "".join(",".join(map(str, row)) + "\n" for row in table.tolist()).encode()
    (RAW_FILES / "made_up.csv.gz").write_bytes(gzip.compress(text))
    DATASETS["made-up"] = Packaged("none", "made_up.csv.gz", "", (1, 4, 4), ("0", "1", "2"))

    images = str(RAW_FILES / "train-images-idx3-ubyte.gz")
    table_path = str(RAW_FILES / "made_up.csv.gz")
    yield Format("IDX file", images, idx(IMAGES[:, 0]), read_idx, idx_truth, wrap=gzip.compress)
    yield Format("gzip of an IDX file", images, Path(images).read_bytes(), read_idx, unchanged(read_idx))
    yield Format("CSV of pixels", table_path, text, read_csv, csv_truth, (b"256", b"-1", b",", b"1.5"), gzip.compress)

    names = sorted(path.name for path in RAW_FILES.iterdir())
    raw.write_manifest(download.RAW, "mnist", raw.OriginalFiles(names, RAW_FILES, raw.FILES))
    path = download.RAW / raw.MANIFEST
    yield Format(raw.MANIFEST, str(path), path.read_bytes(), read_manifest, unchanged(read_manifest), JSON)
    Path("labels").mkdir()
    labels = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(12)],
            "target": np.arange(12) * 0.7,
            "split": ["train", "val", "test"] * 4,
            "group": np.arange(12),
        }
    )
    for name, write in (("labels.csv", labels.to_csv), ("labels.parquet", labels.to_parquet)):
        path = Path("labels") / name
        write(path, index=False)
        tokens = (b",", b'"', b"\n", b"nan", b"1e999", b"\xff")
        yield Format(name, str(path), path.read_bytes(), partial(read_labels, path), None, tokens)
    Path("images").mkdir()
    Image.MAX_IMAGE_PIXELS = 1 << 20  # a header may announce no more
    for name, content in images_of_all_kinds():
        for other in Path("images").iterdir():
            other.unlink()
        Path("images", name).write_bytes(content)
        yield Format(name, f"images/{name}", content, read_image, lambda _: (3, 4, 4))

    Path("arrays").mkdir()
    np.save("arrays/images.npy", IMAGES)
    np.save("arrays/targets.npy", TARGETS)
    for name in ("images.npy", "targets.npy"):
        header = (b"(12,)", b"'<i8'", b"'|u1'", b"'>f8'", b"'|O'", b"True", b"(-1,)", b"(12, 1, 4, 4)", b"(9" * 3000)
        yield Format(name, f"arrays/{name}", Path("arrays", name).read_bytes(), read_arrays, None, header)

    standardized = cache.standardize(IMAGES, [0.5], [0.25])
    for folder, stored in ((cache.NORMALIZED / "train", IMAGES), (train.TRAIN, standardized)):
        writer = shards.Writer(folder, DESCRIPTION.shape, stored.dtype)
        writer.append(stored, TARGETS, np.arange(12), [f"{row} é.png" for row in range(12)])
        writer.finish(DESCRIPTION, "cache")
    for folder, read in ((cache.NORMALIZED / "train", read_normalized), (train.TRAIN, read_tensors)):
        for path in sorted(folder.iterdir()):
            yield Format(f"{folder.parent.name} {path.name}", str(path), path.read_bytes(), read, unchanged(read), JSON)

    network = model_file.build(ARCHITECTURE, DESCRIPTION)
    rows = {"train": 12, "val": 12}
    model_file.save(
        model_file.MODEL, network.state_dict(), ARCHITECTURE, DESCRIPTION, rows, {"lr": 0.1, "arithmetic": "portable"}
    )
    for path in (model_file.MODEL, model_file.MODEL.with_suffix(".json")):
        yield Format(path.name, str(path), path.read_bytes(), read_model, unchanged(read_model), JSON)

    Path("weights").mkdir()
    for name, save in (("weights.pth", torch.save), ("weights.safetensors", safetensors.torch.save_file)):
        path = Path("weights") / name
        save(network.state_dict(), path)
        yield Format(name, str(path), path.read_bytes(), partial(read_weights, path), None, JSON)
    path = Path("weights/checkpoint.pth")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path
    )
    yield Format(path.name, str(path), path.read_bytes(), partial(read_weights, path), None, JSON)

    # Sealed with the right hash, as another program may write them:
    path = model_file.MODEL.with_suffix(".json")
    yield Format("model.json resealed", str(path), path.read_bytes(), read_model, None, JSON, reseal)
    path = cache.NORMALIZED / "train" / shards.SPLIT
    yield Format("split.json resealed", str(path), path.read_bytes(), read_normalized, None, JSON, reseal)
    path = cache.NORMALIZED / "train" / "00000.safetensors"
    types = (b"U8", b"I64", b"F64", b"F16", b"BF16", b"F8_E4M3", b"BOOL", b"files", b"file_ends", b"index")
    yield Format("shard resealed", str(path), path.read_bytes(), read_resealed_shard, None, types)

    progress = checkpoint.Progress(step=3)
    progress.finish_epoch({"epoch": 1, "val_loss": 0.5}, network)
    checkpoint.save("state", progress, {"network": network, "optimizer": torch.optim.Adam(network.parameters())})
    state = checkpoint.STATES / "state.pt"
    yield Format("checkpoint", str(state), state.read_bytes(), read_state, unchanged(read_state))

    text = Path("params.yaml").read_bytes()
    yield Format("params.yaml", "params.yaml", text, read_parameters, parameters_truth, YAML)
    schema = Path("params.schema.json").read_bytes()
    yield Format("params.schema.json", "params.schema.json", schema, read_parameters, unchanged(read_parameters), JSON)

    for ending in ("tar", "tar.gz", "tar.bz2", "tar.xz", "zip"):
        Path("archives").mkdir(exist_ok=True)
        for other in Path("archives").iterdir():
            other.unlink()
        Path(f"archives/some.{ending}").write_bytes(archive(ending))
        paths = (b"../", b"/tmp", b"..\\", b"\0")
        yield Format(ending, f"archives/some.{ending}", archive(ending), read_archive, None, paths)


JSON = (b"null", b"true", b"-1", b"1e999", b"NaN", b'"', b"{", b"[" * 2000, b"\xff", b'{"a": 1}', b"0", b"9" * 5000)
YAML = (
    *b"null ~ .nan .inf -.inf 1e999 1e-05 1E400 010 0x1F 0o17 1_000 yes no on True 1:30 2026-01-01 -0 +1 1. .5".split(),
    *b"[ { - : & * *a ' # | > % lr: --- ... !!str !!float %TAG [1,[2]] \t \0 \r \xff \xc3\xa9 \xe2\x80\xa8".split(b" "),
    *(
        b"&a 1",
        b"&a [*a]",
        b"<<: {lr: 1}",
        b"!!python/object/apply:os.system ['true']",
        b"!!timestamp abc",
        b"!!float '1:2'",
        b"\n",
        b"{betas: [0.9, 0.98]}",
    ),
    *(b"[" * 3000, b"9" * 400, b"9" * 5000),
)

# --- Damage ---

NUMBERS = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def damage(content: bytes, tokens: tuple[bytes, ...], draw: random.Random) -> bytes:
    """Make one to three changes at random places."""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        start = draw.randrange(len(content) + 1) if draw.random() < 0.6 else min(draw.randrange(64), len(content))
        end = min(len(content), start + draw.choice([1, 2, 4, 8, 100]))
        before, inside, after = content[:start], content[start:end], content[end:]
        number = draw.choice(NUMBERS)
        replacements = [
            bytes([inside[0] ^ 1 << draw.randrange(8)]) + inside[1:] if inside else b"",
            draw.randbytes(len(inside)),
            b"",
            inside * draw.choice([2, 3, 50]),
            number.to_bytes(8, draw.choice(["big", "little"])),
            (number % 2**32).to_bytes(4, draw.choice(["big", "little"])),
        ]
        values = [match.span() for match in re.finditer(rb"(?<=: )[^ \n,]+", content)]
        if tokens and values and draw.random() < 0.5:
            start, end = draw.choice(values)
            content = content[:start] + draw.choice(tokens) + content[end:]
        elif tokens and draw.random() < 0.5:
            content = before + draw.choice(tokens) + after
        elif draw.random() < 0.15:
            content = before  # truncated
        else:
            content = before + draw.choice(replacements) + after
    return content


def attempt(target: Format, damaged: bytes) -> str:
    """Return "refused", "correct", or a description of the fault."""
    Path(target.path).write_bytes(target.wrap(damaged))
    try:
        result = target.read()
    except (UserError, ArchiveError) as refusal:
        # `process.run` prints it as one line, which has to give a reason.
        return "a refusal without a reason" if "Errno None" in str(refusal) else "refused"
    except OSError as error:  # `process.run` prints these as one line as well
        return "refused" if error.strerror else traceback.format_exc()
    except BaseException:
        return traceback.format_exc()
    if target.truth is None:
        return "correct"
    try:
        truth = target.truth(damaged)
    except Exception as error:
        return f"accepted a file that is not of this format: {error}"
    return "correct" if result == truth else f"a wrong result: {str(result)[:300]} instead of {str(truth)[:300]}"


def main(count: int, seed: int) -> None:
    """Read `count` damaged inputs, spread over all formats, and print the outcomes."""
    results = {}
    os.chdir(tempfile.mkdtemp(prefix="mutations-"))
    formats = list(make())
    for number, target in enumerate(formats):
        draw = random.Random(f"{seed} {target.name}")
        figures = {"inputs": 0, "refused": 0, "faults": 0}
        faults = []
        Path(target.path).parent.mkdir(exist_ok=True)
        if target.path.startswith(("archives/", "images/")):  # their folders hold one file
            for other in Path(target.path).parent.iterdir():
                other.unlink()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(count // len(formats) + (number < count % len(formats))):
            damaged = damage(target.content, target.tokens, draw)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            outcome = attempt(target, damaged)
            faulthandler.cancel_dump_traceback_later()
            figures["inputs"] += 1
            figures["refused"] += outcome == "refused"
            if outcome not in ("refused", "correct"):
                figures["faults"] += 1
                faults.append({"fault": outcome, "input": repr(damaged[:2000])})
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > BYTES:
            figures["faults"] += 1
            faults.append({"fault": f"memory grew by {grown:,} bytes", "input": ""})
        Path(target.path).write_bytes(target.wrap(target.content))
        results[target.name] = {**figures, "first": faults[:3]}
    print(json.dumps(results))
    shutil.rmtree(os.getcwd())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
