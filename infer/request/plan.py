"""A request, checked, with everything that it names found: what a generation is to do."""

from dataclasses import dataclass

from common.files import check_writable
from common.texts.lyrics import LyricsContent
from infer.request.again import EarlierTake, check_region, earlier_take, with_record
from infer.request.record import GenerationSettings
from infer.request.request import (
    AdapterSelection,
    GenerationRequest,
    Runtime,
    check_sources,
    find_runtime,
    resolve_settings,
    select_adapters,
)


@dataclass(frozen=True)
class GenerationPlan:
    """A request with all that stands behind its flags."""

    request: GenerationRequest
    selection: AdapterSelection
    settings: GenerationSettings
    runtime: Runtime
    earlier: EarlierTake | None = None  # of which a region is made anew

    @property
    def lyrics_language(self) -> str:
        """Language that lyrics are read in: as asked for, else as the adapter learned them."""
        return self.request.lyrics_language or self.selection.card.lyrics_language

    @property
    def lyrics_content(self) -> LyricsContent:
        """What of the lyrics counts: as asked for, else as the adapter learned them."""
        return self.request.lyrics_content or self.selection.card.lyrics_content

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.num_samples)


def plan_generation(request: GenerationRequest) -> GenerationPlan:
    """Check the flags and find what they name. Raises UserError where they cannot be followed."""
    earlier = earlier_take(request)
    if earlier is not None:
        request = with_record(request, earlier)
    check_sources(request)
    check_writable(request.output_dir)
    selection = select_adapters(request)
    sampler = None if earlier is None else earlier.record.settings.sampler
    settings = resolve_settings(request, selection, sampler=sampler)
    runtime = find_runtime(request, settings, selection)
    if earlier is not None:
        check_region(earlier, runtime.spec.latents)
    return GenerationPlan(request, selection, settings, runtime, earlier)
