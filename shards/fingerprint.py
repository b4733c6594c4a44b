"""What decided the bytes of a set of shards: every setting, every network's content, every step's version."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from pydantic import JsonValue

from common.canonical import sha256_of
from common.config import Config


class Fingerprint(Config):
    """Two builds of the same songs with equal fingerprints give equal bytes."""

    settings: dict[str, JsonValue]
    """The build's configuration, section by section, and the kind of device it ran on."""
    networks: dict[str, str]
    """SHA-256 of each network (or vocabulary) that touched the data."""
    steps: dict[str, int]
    """Version of each step's code, raised when a change alters what the step makes."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex over all of it."""
        return sha256_of(self.model_dump(mode="json"))

    @property
    def short(self) -> str:
        """The first 8 digits of the digest, for people."""
        return self.digest[:8]

    def differences(self, newer: "Fingerprint") -> list[str]:
        """Each thing that both have and that changed, as "loudness.target_lufs was -14.0, is -16.0".

        A network that only one of the two used is no difference: adding full songs to a folder of stems brings in a
        separator that the older songs never met.
        """
        changed = list(_changes(self.settings, newer.settings))
        changed += [f"{line} (code of this step)" for line in _changes(self.steps, newer.steps)]
        for name in sorted(self.networks.keys() & newer.networks.keys()):
            if self.networks[name] != newer.networks[name]:
                changed.append(f"network {name} was {self.networks[name][:8]}, is {newer.networks[name][:8]}")
        return changed

    def part(self, wanted: Callable[[str], bool]) -> "Fingerprint":
        """Only those sections, networks and steps whose names are wanted."""
        return Fingerprint(
            settings={name: value for name, value in self.settings.items() if wanted(name)},
            networks={name: value for name, value in self.networks.items() if wanted(name)},
            steps={name: value for name, value in self.steps.items() if wanted(name)},
        )

    def joined(self, newer: "Fingerprint") -> "Fingerprint":
        """`newer`, with the networks of both: the fingerprint of shards that `newer` appends to."""
        return newer.model_copy(update={"networks": {**self.networks, **newer.networks}})


def _changes(older: Mapping[str, JsonValue], newer: Mapping[str, JsonValue], prefix: str = "") -> Iterator[str]:
    for name in sorted(older.keys() | newer.keys()):
        was, now = older.get(name), newer.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _changes(was, now, f"{prefix}{name}.")
        elif was != now:
            yield f"{prefix}{name} was {was}, is {now}"
