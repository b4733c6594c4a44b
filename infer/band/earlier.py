"""The take of which a region is made anew, as a wave to splice into and as latents to sample between.

C latent channels, H latent rows, T latent frames, N samples at 48 kHz.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from common.audio.disk_wave import DiskWave
from common.errors import UserError
from infer.audio.decoded import decode_file
from infer.audio.mixdown import OUTPUT_RATE_HZ
from infer.audio.reference import read_reference
from infer.audio.splice import Region
from infer.band.session import Session
from infer.request.again import check_length
from infer.request.plan import GenerationPlan
from infer.request.vocal import VocalInput
from models.flow.kept import KeptLatents


@dataclass(frozen=True)
class EncodedTake:
    """An earlier take of the vocal's length."""

    wave: DiskWave  # [2, N], as it was written
    kept: KeptLatents  # [1, C, H, T]
    region: Region
    sha256: str  # of its file


@contextmanager
def read_earlier(plan: GenerationPlan, session: Session, vocal: VocalInput) -> Generator[EncodedTake | None]:
    """The take that a plan names, whose wave can be read within the block; None where it names none.

    Raises UserError for a take of another length than the vocal, and for one whose file cannot be read or is not as
    long as its record says.
    """
    take = plan.earlier
    if take is None:
        yield None
        return
    check_length(take, vocal.output_samples)
    latents = plan.runtime.spec.latents
    with decode_file(take.sound, OUTPUT_RATE_HZ) as decoded:
        if decoded.wave.samples != vocal.output_samples:
            raise UserError(
                f"{take.sound}: {decoded.wave.samples} samples at 48 kHz, where its record has {vocal.output_samples}. "
                "Put back the file that was written."
            )
        encoded = read_reference(
            take.sound,
            latents,
            samples=vocal.samples,
            encoder=partial(session.codec_encoder, plan.runtime),
            sha256=session.sha256,
        )
        kept = KeptLatents(encoded.latents[None], take.region.frames(latents))
        yield EncodedTake(decoded.wave, kept, take.region, encoded.record.sha256)
