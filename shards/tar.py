"""One sample as members of a tar, and back: plain .npy and .json, so that any WebDataset reader understands them.

Same sample, same bytes: members in a fixed order, no times, no owners.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from common.bases import BaseSpec
from common.canonical import canonical_json
from common.config import check_config
from common.errors import UserError
from common.music.notation import read_lead_sheet, write_lead_sheet
from shards.schema import ARRAYS, OPTIONAL, Sample, SegmentMeta, check_sample

JSON, LEAD_SHEET = "json", "lead_sheet.txt"
END = bytes(tarfile.BLOCKSIZE)
"""What follows the last member."""
NAME, LENGTH, CHECKSUM, TYPE = slice(100), slice(124, 136), slice(148, 156), slice(156, 157)
"""Where a header (POSIX ustar) holds them; both numbers are octal."""
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..{'descr': '(?P<dtype><f2|<i4|\|b1)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,12}, ?)*(?:\d{1,12})?)\), } *\n",
    re.DOTALL,
)
"""Magic, version, length (two bytes), then what numpy writes for a plain array."""


def open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """A tar to append samples to; names are UTF-8 and at most 100 bytes long."""
    return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")


def append_sample(tar: tarfile.TarFile, sample: Sample, spec: BaseSpec) -> str:
    """Add one sample, which must be a good one; its `sample_sha256` comes back."""
    wrong = check_sample(sample, spec)
    assert not wrong, f"{sample.meta.key}: {wrong}"
    digest = hashlib.sha256()
    for field, content in _fields(sample):
        _append(tar, f"{sample.meta.key}.{field}", content)
        digest.update(content)
    return digest.hexdigest()


def sample_sha256(sample: Sample) -> str:
    """SHA-256, in hex, over the contents of the members that a sample is in a tar."""
    digest = hashlib.sha256()
    for _, content in _fields(sample):
        digest.update(content)
    return digest.hexdigest()


def _fields(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield JSON, canonical_json(sample.meta.model_dump(mode="json")).encode()
    for name, array in sample.arrays().items():
        yield f"{name}.npy", npy_bytes(array)
    if sample.lead_sheet is not None:
        yield LEAD_SHEET, write_lead_sheet(sample.lead_sheet).encode()


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


def read_samples(path: Path, *, without: AbstractSet[str] = frozenset()) -> Iterator[Sample]:
    """The samples of a tar, in order; only fields of the schema are looked at, `without` some that may be absent.

    Raises UserError that names the shard, and the sample where it can, for what cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from samples_in(file, str(path), without=without)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, though the manifest names it. Build again, or restore the file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check with prep verify.") from None


def samples_in(file: IO[bytes], where: str, *, without: AbstractSet[str] = frozenset()) -> Iterator[Sample]:
    """The samples of an open tar, grouped by webdataset and decoded by us (its decoders would unpickle).

    Raises UserError that names the shard, `where`, for what cannot be read.
    """
    from webdataset.tariterators import group_by_keys

    fields = {JSON, LEAD_SHEET} | {f"{name}.npy" for name in ARRAYS if name not in without}
    try:
        for raw in group_by_keys(_members(file, where, fields), lcase=False):
            members = {field.removesuffix(".npy"): raw[field] for field in fields & raw.keys()}
            yield decode_sample(where, raw["__key__"], members)
    except (tarfile.TarError, ValueError) as error:
        raise UserError(f"{where}: damaged ({error.args[0]}). Check with prep verify.") from None


def _members(file: IO[bytes], where: str, fields: AbstractSet[str]) -> Iterator[dict[str, Any]]:
    """Files of a tar whose names end in `fields`, as webdataset passes them on.

    webdataset's own reader takes a broken header for the end of a tar, and takes twice as long.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (header := file.read(tarfile.BLOCKSIZE)) != END:
        name, length = name_and_length(header)
        blocks = -(-length // tarfile.BLOCKSIZE)
        wanted = header[TYPE] in (tarfile.REGTYPE, tarfile.AREGTYPE) and name.partition(".")[2] in fields
        content = file.read(length) if wanted and length <= size else b""
        if wanted and len(content) < length:
            raise tarfile.ReadError("unexpected end of data")
        file.seek(blocks * tarfile.BLOCKSIZE - len(content), os.SEEK_CUR)
        if wanted:
            yield {"fname": name, "data": content, "__url__": where}


def name_and_length(header: bytes) -> tuple[str, int]:
    """What a tar's header says of the member after it (tarfile's own parser takes five times as long).

    Raises tarfile.ReadError for a header that is cut short or broken.
    """
    if len(header) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")
    try:
        length, checksum = (int(header[number].strip(b" \0"), 8) for number in (LENGTH, CHECKSUM))
        name = header[NAME].partition(b"\0")[0].decode("utf-8")
    except ValueError:
        raise tarfile.ReadError("bad header") from None
    if length < 0 or checksum != sum(header) - sum(header[CHECKSUM]) + sum(b" " * 8):
        raise tarfile.ReadError("bad header")
    return name, length


def decode_sample(shard: str, key: str, members: dict[str, bytes]) -> Sample:
    """A sample from its members by name (json, vocal, lead_sheet.txt, ...).

    Raises UserError for one that is absent or cannot be read.
    """
    where = f"{shard}, sample {key}"
    absent = [name for name in (JSON, *ARRAYS) if name not in members and name not in OPTIONAL]
    if absent:
        raise UserError(f"{where}: has no {absent[0]}. Check with prep verify.")
    try:
        meta = check_config(SegmentMeta, json.loads(members.pop(JSON)), where)
        text = members.pop(LEAD_SHEET, None)
        sheet = None if text is None else read_lead_sheet(text.decode(), f"{where}, {LEAD_SHEET}")
        arrays = {name: npy_array(content) for name, content in members.items()}
    except ValueError as error:
        raise UserError(f"{where}: cannot be decoded ({error}). Check with prep verify.") from None
    return Sample.of(meta, arrays, sheet)
