"""One sample as members of a tar, and back: plain .npy and .json, so that any WebDataset reader understands them.

Same sample, same bytes: members in a fixed order, no times, no owners.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from common.canonical import canonical_json
from common.config import check_config
from common.errors import UserError
from shards.schema import ARRAYS, OPTIONAL, Sample, SegmentMeta, check_sample

JSON = "json"
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..{'descr': '(?P<dtype><f2|<i4|\|b1)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,12}, ?)*(?:\d{1,12})?)\), } *\n",
    re.DOTALL,
)
"""Magic, version, length (two bytes), then what numpy writes for a plain array."""


def open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """A tar to append samples to; names are UTF-8 and at most 100 bytes long."""
    return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")


def append_sample(tar: tarfile.TarFile, sample: Sample) -> None:
    """Add one sample, which must be a good one."""
    wrong = check_sample(sample)
    assert not wrong, f"{sample.meta.key}: {wrong}"
    _append(tar, f"{sample.meta.key}.{JSON}", canonical_json(sample.meta.model_dump(mode="json")).encode())
    for name, array in sample.arrays().items():
        _append(tar, f"{sample.meta.key}.{name}.npy", npy_bytes(array))


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))


def npy_bytes(array: np.ndarray) -> bytes:
    """A .npy file, version 1.0, little-endian, in C order."""
    buffer = io.BytesIO()
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    npy.write_array(buffer, plain, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npy_array(content: bytes) -> np.ndarray:
    """The array of a .npy file as `npy_bytes` writes it: a view of `content`, so that no header makes us allocate.

    Raises ValueError for anything else, arrays of Python objects among it.
    """
    header = NPY_HEADER.match(content)
    if header is None:
        raise ValueError("not a .npy of version 1.0, in C order, of f2, i4 or b1")
    shape = [int(size) for size in header["shape"].replace(b",", b" ").split()]
    return np.frombuffer(content, header["dtype"].decode(), offset=header.end()).reshape(shape)


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a tar, in order; only fields of the schema are looked at.

    Raises UserError that names the shard, and the sample where it can, for what cannot be read.
    """
    try:
        with tarfile.open(path, mode="r:", encoding="utf-8", errors="strict") as tar:
            yield from _samples(path, tar)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, though the manifest names it. Build again, or restore the file.") from None
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}). Check with prep verify.") from None


def _samples(path: Path, tar: tarfile.TarFile) -> Iterator[Sample]:
    key, members = "", dict[str, bytes]()
    for member in tar:
        sample, _, field = member.name.partition(".")
        if sample != key and members:
            yield _sample(path, key, members)
            members = {}
        key = sample
        name = field.removesuffix(".npy")
        if member.isfile() and not member.issparse() and (field == JSON or (name in ARRAYS and name != field)):
            content = tar.extractfile(member)
            assert content is not None
            members[name] = content.read()
    if members:
        yield _sample(path, key, members)


def _sample(path: Path, key: str, members: dict[str, bytes]) -> Sample:
    where = f"{path.name}, sample {key}"
    absent = [name for name in (JSON, *ARRAYS) if name not in members and name not in OPTIONAL]
    if absent:
        raise UserError(f"{where}: has no {absent[0]}. Check with prep verify.")
    try:
        meta = check_config(SegmentMeta, json.loads(members.pop(JSON)), where)
        arrays = {name: npy_array(content) for name, content in members.items()}
    except ValueError as error:
        raise UserError(f"{where}: cannot be decoded ({error}). Check with prep verify.") from None
    return Sample(meta, **arrays)
