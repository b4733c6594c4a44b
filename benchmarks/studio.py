"""What a take of the studio costs beside the bare sampling and decoding of the same band, networks open.

    uv run python -m benchmarks.studio [--seconds 10] [--steps 60]

Time is of the CPU, on one thread, with the tiny bundle. A take is an order of one as the studio does it: the vocal
read, levelled and encoded, the prompt encoded, band and mix written, the take measured for its loudness; bare is the
sampler and the decoder alone, for the latents and the length of that take. The second take's target is MOST times that.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch

from benchmarks.prep import music
from common.bases import ACE_STEP_1
from infer.band.inputs import read_inputs
from infer.band.session import Session
from infer.request.plan import plan_generation
from infer.studio.folders import SessionFolders, StudioSession
from infer.studio.measuring import measure_loudness
from infer.studio.takes import BandSource, TakeOrder, make_takes

LATENTS = ACE_STEP_1.latents
MOST = 1.1
SOURCE = BandSource(device="cpu")


def seconds_of(act: Callable[[], object]) -> float:
    """CPU seconds that something takes."""
    started = time.process_time()
    act()
    return time.process_time() - started


def take(folders: SessionFolders, session: StudioSession, networks: Session, order: TakeOrder) -> None:
    for name in make_takes(SOURCE, order, session, folders, networks):
        session.keep_measures(name, measure_loudness(session.take(name)))


def bare(session: StudioSession, networks: Session, order: TakeOrder, folder: Path) -> float:
    """CPU seconds of sampling and decoding, with all that they need at hand."""
    plan = plan_generation(SOURCE.request(order, session.vocal, folder))
    with read_inputs(plan, networks) as inputs:
        decoder = networks.decoder(plan.runtime)

        def work() -> None:
            (latents,) = networks.draw(plan, inputs.vocal, inputs.text, shown=False)
            for _ in decoder.blocks(latents, inputs.vocal.samples):
                pass

        return seconds_of(work)


def main() -> None:
    """Print what the first and the second take cost, and the bare work."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the vocal")
    parser.add_argument("--steps", type=int, default=60, help="sampling steps")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        folders = SessionFolders(Path(place) / "sessions")
        recording = folders.making() / "recorded.wav"
        vocal = np.concatenate([voice for _, voice in music(flags.seconds)])
        soundfile.write(recording, vocal, LATENTS.sample_rate_hz)
        session, networks = folders.create(recording, name="vocal"), Session()
        order = TakeOrder(takes=1, steps=flags.steps, prompt="piano")
        first = seconds_of(lambda: take(folders, session, networks, order))
        second = seconds_of(lambda: take(folders, session, networks, order))
        alone = bare(session, networks, order, Path(place) / "bare")
        folders.close()
    print(f"first take {first:.2f} s, second {second:.2f} s, bare {alone:.2f} s of CPU for {flags.seconds:g} s")
    print(f"ratio of the second to bare: {second / alone:.3f} (target {MOST})")


if __name__ == "__main__":
    main()
