"""Instruments and genre, heard by a CLAP checkpoint that lies on this machine: zero-shot over the tags below.

docs/captions.md. B clips of a song, G sentences of a group, D width of an embedding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from common.canonical import sha256_of_file
from common.config import read_json
from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ClapFeatureExtractor, ClapModel, ClapTextConfig

# fmt: off
GENRES = (
    "pop", "rock", "metal", "punk", "folk", "country", "blues", "jazz", "soul", "funk", "disco", "gospel", "reggae",
    "hip hop", "house", "techno", "drum and bass", "ambient", "latin", "bossa nova", "classical",
)
INSTRUMENTS = (
    "acoustic guitar", "electric guitar", "distorted guitar", "piano", "electric piano", "organ", "accordion",
    "synthesizer", "strings", "violin", "cello", "harp", "brass", "trumpet", "saxophone", "flute", "harmonica",
    "percussion", "drum machine", "choir",
)
# fmt: on
SENTENCES: Mapping[str, str] = {"genre": "This is a {tag} song.", "instrument": "This is music with {tag}."}
"""What a tag is compared as."""
GROUPS: Mapping[str, tuple[str, ...]] = {"genre": GENRES, "instrument": INSTRUMENTS}
SURE: Mapping[str, float] = {"genre": 0.5, "instrument": 0.2}
"""Least share of its group that a tag has of a sure song: of one genre more than of all others together, of
instruments four times an even share."""
STEADY = 0.75
"""A tag is sure where it has that share in so many of a song's clips."""
CLIPS_AT_ONCE = 8
WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "preprocessor_config.json", "tokenizer.json")


@dataclass(frozen=True)
class TaggerFinding:
    """What a checkpoint heard in a song."""

    checkpoint: str
    """Its folder's name."""
    sha256: str
    """Of its weights."""
    tags: tuple[str, ...]
    """Those that are sure: genre, then instruments from the surest."""
    shares: dict[str, float]
    """Mean over clips of each tag's share of its group."""


class Tagger:
    """A CLAP checkpoint in a folder, as transformers saves it. Nothing is downloaded.

    Raises UserError for a folder that holds none.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

        from models.pretrained import network_options, open_tokenizer, open_whole

        self._folder = folder
        for name in FILES:
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: no such file. --tagger takes the folder of a CLAP checkpoint.")
        config = network_options(read_json(folder / "config.json"), folder / "config.json")
        if config.get("model_type") != "clap":
            raise UserError(f"{folder}/config.json: a {config.get('model_type')}; --tagger takes a CLAP checkpoint.")
        known = ClapConfig.from_dict(config)
        self._network = cast("ClapModel", open_whole(ClapModel, folder, known))
        clips = ClapFeatureExtractor.from_dict(read_json(folder / "preprocessor_config.json"))
        self._clips = cast("ClapFeatureExtractor", clips)
        self._tokenizer = open_tokenizer(folder / "tokenizer.json")
        self._tokenizer.enable_padding(pad_id=cast("ClapTextConfig", known.text_config).pad_token_id)

    @property
    def rate_hz(self) -> int:
        """Of the waves that it hears."""
        return self._clips.sampling_rate

    def hear(self, wave: np.ndarray) -> TaggerFinding:
        """What is in a wave [N] at `rate_hz`, clip by clip; nothing in silence."""
        shares = self._shares(wave) if wave.any() else {group: np.zeros((1, len(GROUPS[group]))) for group in GROUPS}
        means = {
            tag: float(share)
            for group, tags in GROUPS.items()
            for tag, share in zip(tags, shares[group].mean(0), strict=True)
        }
        sure = [
            tag
            for group, tags in GROUPS.items()
            for tag in sorted(_sure(tags, shares[group], SURE[group]), key=lambda tag: -means[tag])
        ]
        return TaggerFinding(self._folder.resolve().name, self._sha256, tuple(sure), means)

    @cached_property
    def _sha256(self) -> str:
        return sha256_of_file(self._folder / WEIGHTS)

    def _shares(self, wave: np.ndarray) -> dict[str, np.ndarray]:
        """Softmax over each group's tags, [B, G]."""
        import torch

        with torch.inference_mode():
            heard = torch.cat([self._embedded(clips) for clips in self._batches(wave)])
            scale = self._network.logit_scale_a.exp()
            return {
                group: (scale * heard @ sentences.T).softmax(-1).numpy() for group, sentences in self._sentences.items()
            }

    def _batches(self, wave: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Clips as long as the network hears; what is left at the end counts where it is half as long, or alone."""
        length = self._clips.nb_max_samples
        clips = [wave[start : start + length] for start in range(0, wave.size, length)]
        clips = [clip for place, clip in enumerate(clips) if place == 0 or 2 * clip.size >= length]
        return (clips[start : start + CLIPS_AT_ONCE] for start in range(0, len(clips), CLIPS_AT_ONCE))

    def _embedded(self, clips: list[np.ndarray]) -> "Tensor":
        """Embeddings of length 1, [B, D]. No clip is longer than the network hears, so none is cropped at random."""
        import torch

        features = self._clips(clips, sampling_rate=self.rate_hz, return_tensors="pt")["input_features"].float()
        longer = torch.zeros(len(clips), 1, dtype=torch.bool)
        return self._network.get_audio_features(input_features=features, is_longer=longer).pooler_output

    @cached_property
    def _sentences(self) -> "dict[str, Tensor]":
        """Embeddings of each group's sentences, [G, D]."""
        import torch

        found = {}
        for group, tags in GROUPS.items():
            rows = self._tokenizer.encode_batch([SENTENCES[group].format(tag=tag) for tag in tags])
            ids, mask = (torch.tensor([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask"))
            found[group] = self._network.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return found


def _sure(tags: tuple[str, ...], shares: np.ndarray, least: float) -> list[str]:
    """Tags whose mean share, and whose share in most clips [B, G], is at least `least`."""
    sure = (shares.mean(0) >= least) & ((shares >= least).mean(0) >= STEADY)
    return [tag for tag, is_sure in zip(tags, sure, strict=True) if is_sure]
