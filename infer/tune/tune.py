"""`infer tune`: tries sampler settings on songs of shards and writes the best into adapter.json."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.canonical import sha256_of
from common.config import leaves
from common.errors import UserError
from common.progress import say
from infer.band.session import Session
from infer.compare.ratings import Interval, bootstrap_mean
from infer.request.plan import plan_generation
from infer.request.request import GenerationRequest, Precision
from infer.tune.songs import SongSet
from infer.tune.space import Recommended, TuningSpace
from infer.tune.study import TUNING_FILE, TunedTrial, Tuning, TuningSetup, TuningStudy, read_tuning
from models.adapters.adapter import CARD_FILE, AdapterCard, read_card, rewrite_card
from shards.held_out import validation_songs
from shards.manifest import Manifest
from shards.reader import read_manifest

FEWEST_SONGS = 6
"""Below, even songs that all agree are no more than chance (two-sided sign test at 5 %)."""


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """The flags of `infer tune`."""

    adapter: Path
    shards: Path
    trials: int = 40
    max_minutes: float | None = None
    songs: int = 16
    all_songs: bool = False
    seed: int = 0
    checkpoint_dir: str | None = None
    device: str = "auto"
    precision: Precision | None = None


@dataclass(frozen=True)
class TuneOutcome:
    """What a study found so far."""

    tuning: Tuning
    trials: int  # that were asked for
    changed: tuple[str, ...]  # settings that adapter.json has now, and what they were
    gain: Interval  # in fit, of the best trial over the first, a mean over songs, with its 95 % interval

    @property
    def is_sure(self) -> bool:
        """Whether the songs are enough, and agree enough, to tell that the best fits better."""
        return len(self.tuning.setup.songs) >= FEWEST_SONGS and self.gain.low > 0


def tune(request: TuneRequest, session: Session | None = None) -> TuneOutcome:
    """Run trials until there are as many as asked for or the time is up, then write the best into adapter.json.

    Trials of an earlier call are in tuning.json beside it, and are not run again.
    Raises UserError for shards that do not go with the adapter or hold no song to judge by, an adapter that was changed
    since its study began, and where the disk refuses.
    """
    started = time.monotonic()
    card, manifest = read_card(request.adapter), read_manifest(request.shards)
    keys = choose_songs(request, card, manifest)
    session = session or Session()
    setup = TuningSetup(
        adapter=_identity(request.adapter, card, session),
        shards=manifest.fingerprint.digest,
        songs=keys,
        seed=request.seed,
    )
    path = request.adapter / TUNING_FILE
    tuning = read_tuning(path, setup)
    now = Recommended.of(card)
    if tuning.trials and now not in [trial.settings for trial in tuning.trials]:
        raise UserError(f"{request.adapter / CARD_FILE}: its settings were changed since {path} began. Delete the one.")
    space = TuningSpace(tuning.before.settings if tuning.trials else now, card)
    study = TuningStudy(path, tuning, space)
    if len(tuning.trials) < request.trials:
        _run(study, request, SongSet.read(plan_generation(_band_request(request, keys[0])), session, keys), started)
    return _conclude(study.tuning, request, card)


def choose_songs(request: TuneRequest, card: AdapterCard, manifest: Manifest) -> tuple[str, ...]:
    """The songs that settings are tried on: not trained on, as far as the adapter says, and at most request.songs.

    What was made of a song, at another pitch, is on its side as in training, and not tried on beside it.

    Raises UserError where there are none, or the shards lack what the adapter makes.
    """
    target = "inst" if card.output_type == "accompaniment" else "mix"
    if target not in manifest.targets:
        held = ", ".join(manifest.targets) or "no target"
        raise UserError(
            f"{request.shards}: holds {held}, bands are measured against {target}. Build it with --targets."
        )
    songs = dict[str, str]()  # of each family one: the song as it was given, where that is there
    for song in sorted(manifest.songs().values(), key=lambda song: (song.key != song.family, song.key)):
        songs.setdefault(song.family, song.key)
    kept = songs if request.all_songs else validation_songs(list(songs), card.val_fraction or 0.0)
    if not kept:
        why = "does not say that it kept songs" if card.val_fraction is None else "kept no song of these shards"
        raise UserError(
            f"{request.adapter}: {why} for validation. Give shards of songs that it was not trained on, and "
            "--all-songs."
        )
    return _spread(sorted(songs[family] for family in kept), request.songs)


def _spread(keys: Sequence[str], most: int) -> tuple[str, ...]:
    """At most so many, evenly chosen."""
    count = min(len(keys), most)
    return tuple(keys[number * len(keys) // count] for number in range(count))


def _identity(folder: Path, card: AdapterCard, session: Session) -> str:
    """Hash of an adapter without the settings that are tuned."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name not in (CARD_FILE, TUNING_FILE))
    rest = card.model_dump(mode="json", exclude={"reference_strength", "sampler"})
    return sha256_of({"card": rest, "files": {file.name: session.sha256(file) for file in files}})


def _band_request(request: TuneRequest, key: str) -> GenerationRequest:
    """What `infer generate` would be asked for a song."""
    return GenerationRequest(
        adapters=(request.adapter,),
        shards=request.shards,
        key=key,
        seed=request.seed,
        output_dir=request.adapter,
        checkpoint_dir=request.checkpoint_dir,
        device=request.device,
        precision=request.precision,
    )


def _run(study: TuningStudy, request: TuneRequest, songs: SongSet, started: float) -> None:
    limit = None if request.max_minutes is None else 60 * request.max_minutes
    while (number := len(study.tuning.trials)) < request.trials:
        if number and limit is not None and time.monotonic() - started >= limit:
            say(f"time is up after {number} of {request.trials} trials; the same command goes on")
            return
        try:
            trial = study.run_next(songs.bands, songs.distance)
        except KeyboardInterrupt:
            say(f"stopped; {number} of {request.trials} trials are kept, and the same command goes on")
            raise
        say(f"trial {number}: {_figures(trial)}; {_settings(trial, study.tuning)}")


def _figures(trial: TunedTrial) -> str:
    if trial.distance is None:
        return f"given up after {len(trial.songs)} songs at {trial.fit:.3f}"
    return f"fit {trial.fit:.3f}, leak {trial.leak:.3f}, distance {trial.distance:.2f}"


def _settings(trial: TunedTrial, tuning: Tuning) -> str:
    return ", ".join(_changes(tuning.before.settings, trial.settings, "{name} {now}")) or "as the adapter had them"


def _changes(before: Recommended, after: Recommended, form: str) -> list[str]:
    """Settings that differ, each in this form of name, was and now."""
    was, now = (_flat(settings) for settings in (before, after))
    return [form.format(name=name, was=was[name], now=now[name]) for name in now if was[name] != now[name]]


def _flat(settings: Recommended) -> dict[str, Any]:
    return leaves(settings.model_dump(mode="json"))


def _conclude(tuning: Tuning, request: TuneRequest, card: AdapterCard) -> TuneOutcome:
    """Write the best settings, if the card has others."""
    best, pairs = tuning.best, zip(tuning.best.songs, tuning.before.songs, strict=True)
    gain = bootstrap_mean([after.fit - before.fit for after, before in pairs])
    if best.settings != Recommended.of(card):
        rewrite_card(request.adapter, best.settings.onto(card))
    changed = _changes(tuning.before.settings, best.settings, "{name} was {was}, is {now}")
    return TuneOutcome(tuning, request.trials, tuple(changed), gain)


def told(outcome: TuneOutcome) -> str:
    """What was found, in a few lines."""
    tuning, best = outcome.tuning, outcome.tuning.best
    count = f"{len(best.songs)} song{'s' * (len(best.songs) != 1)}"
    tried = f"{len(tuning.trials)} of {outcome.trials} trials"
    if not outcome.changed:
        return f"{tried} on {count}: none is better than the settings that the adapter has; {CARD_FILE} stays as it was"
    gain = f"{outcome.gain.value:+.3f} [{outcome.gain.low:+.3f}, {outcome.gain.high:+.3f}]"
    means = ", ".join(
        f"{name} {was:.2f} -> {now:.2f}"
        for (name, was), now in zip(_means(tuning.before).items(), _means(best).values(), strict=True)
    )
    verdict = "fits better:" if outcome.is_sure else "cannot tell whether it fits better:"
    return "\n".join(
        [
            f"{tried}, best is trial {tuning.trials.index(best)}: {means}",
            f"{verdict} {gain} over trial 0 on {count} (mean of chords, beats and key, 95 % interval over songs)",
            "The songs that chose prove nothing, and the best of many looks better than it is: infer evaluate judges "
            "it on others.",
            f"{CARD_FILE}: {'; '.join(outcome.changed)}",
        ]
    )


def _means(trial: TunedTrial) -> dict[str, float]:
    shares = {
        name: sum(getattr(song, name) for song in trial.songs) / len(trial.songs) for name in ("chords", "beats", "key")
    }
    return shares | {"leak": trial.leak, "distance": trial.distance or 0.0}
