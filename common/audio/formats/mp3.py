"""MPEG audio (MP3, MP2, MP1), frame by frame: how long it is, and where one file was joined to another.

Every frame tells its own length in bytes and samples. The number of frames that a Xing, Info or VBRI header gives can
be missing, zero, or that of the first of several joined files, so that it proves only that something is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from common.audio.formats.pieces import AudioPiece, FileBytes, after_tags, tag_bytes
from common.errors import UserError

_RATES_HZ = (44_100, 48_000, 32_000)
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[2, 3] = _KBITS[2, 2]
HEAD_BYTES = 52
"""Of a frame, as far as its Xing, Info or VBRI header gives frames and bytes."""
RUN_FRAMES = 3
"""So many frames on end are audio and no coincidence."""
SEARCHED_BYTES = 1 << 16
"""How far into a file its first frame is looked for."""


@dataclass(frozen=True)
class Frame:
    """What four bytes say of a frame."""

    size: int
    samples: int
    kind: tuple[int, int, int, int]
    """Version, layer, rate in Hz and channels, which one decoder cannot change."""


@lru_cache(4096)
def frame_of(header: bytes) -> Frame | None:
    """The frame that begins with these four bytes; None where they begin none, or one without a bitrate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, bitrate = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate == 3 or not 0 < bitrate < 15:
        return None
    rate_hz = _RATES_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * _KBITS[1 if version == 3 else 2, layer][bitrate - 1]
    samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
    slot = 4 if layer == 1 else 1
    size = (samples // 8 // slot * bits // rate_hz + (header[2] >> 1 & 1)) * slot
    return Frame(size, samples, (version, layer, rate_hz, 1 if header[3] >> 6 == 3 else 2))


@dataclass(frozen=True)
class _Info:
    """A frame that holds no audio: a Xing, Info or VBRI header."""

    frames: int | None
    size: int | None
    """Bytes from this frame to the end of the audio."""
    count_at: int | None
    """Where in the frame `frames` stands; None in a VBRI header, which libsndfile does not know."""


@dataclass
class _Part:
    """Frames of one kind, one after the other."""

    start: int
    end: int
    first: Frame
    info: _Info | None
    frames: int = 0
    gap: tuple[float, int] | None = None
    """The first bytes among its frames that are none: seconds before them, and how many."""

    @property
    def seconds(self) -> float:
        return self.seconds_of(self.frames)

    def seconds_of(self, frames: int) -> float:
        return frames * self.first.samples / self.first.kind[2]

    @property
    def is_counted(self) -> bool:
        return self.info is not None and self.info.frames == self.frames


def mp3_pieces(data: FileBytes, *, search: bool) -> tuple[AudioPiece, ...]:
    """The joined files of an MP3 file, () where it is none; `search` looks for its first frame behind other bytes.

    Raises UserError where frames are missing.
    """
    start = behind_tags = after_tags(data)
    if not _is_start(data, start):  # a tag's word on its own length is no proof either
        start = _next_run(data, 0, behind_tags + SEARCHED_BYTES) if search else data.size
    parts = list(_parts(data, start))
    for part in parts:
        _check(data, part, is_last=part is parts[-1])
    return tuple(_piece(data, part) for part in parts if part.frames)


def _parts(data: FileBytes, position: int) -> Iterator[_Part]:
    part, junk = None, 0
    while position < data.size:
        head = data.at(position, HEAD_BYTES)
        frame = _frame_here(data, position, head, part)
        if frame is None:
            size = tag_bytes(data, position)
            if size and _follows(data, position + size):
                if part is not None:
                    yield part
                part = None
            else:
                size = junk = _next_run(data, position + 1, data.size) - position
            position += size
            continue
        info = _info(head, frame)
        if part is None or info is not None or frame.kind != part.first.kind:
            if part is not None:
                yield part
            part = _Part(position, position, frame, info)
        elif junk and part.gap is None:
            part.gap = part.seconds, junk
        junk = 0
        part.frames += info is None
        position += frame.size
        part.end = position
    if part is not None:
        yield part


def _frame_here(data: FileBytes, position: int, head: bytes, part: _Part | None) -> Frame | None:
    """The whole frame at `position`; of another kind than those before it only where more of its kind follow."""
    frame = frame_of(head[:4])
    if frame is None or position + frame.size > data.size:
        return None
    as_before = part is not None and frame.kind == part.first.kind
    return frame if as_before or _is_start(data, position) else None


def _follows(data: FileBytes, position: int) -> bool:
    """Whether a tag can end here: before frames, another tag, or nothing."""
    return position == data.size or tag_bytes(data, position) > 0 or _is_start(data, position)


def _is_start(data: FileBytes, position: int) -> bool:
    """Whether a stream can begin here: with a Xing, Info or VBRI header, or with frames of one kind."""
    head = data.at(position, HEAD_BYTES)
    frame = frame_of(head[:4])
    return frame is not None and (_info(head, frame) is not None or _is_run(data, position))


def _is_run(data: FileBytes, position: int) -> bool:
    """Whether frames of one kind begin here: some, or one and no more up to a tag or the file's end."""
    kind = None
    for _ in range(RUN_FRAMES):
        if kind is not None and (position + 4 > data.size or tag_bytes(data, position)):
            return True
        frame = frame_of(data.at(position, 4))
        if frame is None or (kind is not None and frame.kind != kind):
            return False
        if position + frame.size > data.size:
            return kind is not None
        kind = frame.kind
        position += frame.size
    return True


def _next_run(data: FileBytes, position: int, end: int) -> int:
    """Where frames or a tag begin next; the file's size where none do before `end`."""
    while (position := data.find(b"\xff", position)) < min(end, data.size):
        if _is_start(data, position):
            return position
        position += 1
    return data.size


def _info(head: bytes, frame: Frame) -> _Info | None:
    version, layer, _, channels = frame.kind
    if layer != 3:
        return None
    if head[36:40] == b"VBRI":
        return _Info(int.from_bytes(head[50:54], "big"), None, None)
    side = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[version == 3, channels]
    for at in (4 + side, 6 + side):  # behind a checksum, or without
        if head[at : at + 4] in (b"Xing", b"Info") and not any(head[6:at]):
            return _xing(head, at)
    return None


def _xing(head: bytes, at: int) -> _Info:
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    fields = [int.from_bytes(head[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in (0, 1)]
    frames = fields.pop(0) if flags & 1 else None
    return _Info(frames, fields[0] if flags & 2 else None, at + 8 if flags & 1 else None)


def _check(data: FileBytes, part: _Part, *, is_last: bool) -> None:
    """Raises UserError where frames are missing at its end or among them."""
    said = part.info.frames or 0 if part.info else 0
    there = part.end - part.start
    if part.frames < said and not (part.info and part.info.size and there >= part.info.size):
        of = f"{part.seconds:.2f} s of {part.seconds_of(said):.2f} s"
        raise UserError(f"{data.name}: cut short, it ends after {of}. Export it again.")
    if part.is_counted:
        return
    if is_last and _ends_inside_frame(data, part):
        raise UserError(f"{data.name}: cut short, it ends after {part.seconds:.2f} s inside a frame. Export it again.")
    if part.gap:
        seconds, size = part.gap
        raise UserError(f"{data.name}: damaged ({size} bytes after {seconds:.2f} s are no audio). Export it again.")


def _ends_inside_frame(data: FileBytes, part: _Part) -> bool:
    rest = data.at(part.end, 4)
    if len(rest) < 4:
        return rest != b"" and rest[:2] == data.at(part.start, 2)[: len(rest)]
    frame = frame_of(rest)
    return frame is not None and frame.kind == part.first.kind


def _piece(data: FileBytes, part: _Part) -> AudioPiece:
    info, behind = part.info, part.start + part.first.size
    if info is None or info.count_at is None:  # libsndfile can only guess how long it is
        start = part.start if info is None else behind
        samples = part.frames * part.first.samples
        return AudioPiece(start, part.end, samples=samples, open_ended=True, all_there=True)
    prefix = bytearray(data.at(part.start, part.first.size))
    prefix[info.count_at : info.count_at + 4] = part.frames.to_bytes(4, "big")
    return AudioPiece(behind, part.end, prefix=bytes(prefix), all_there=True)
