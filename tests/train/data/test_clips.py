from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.bases import ACE_STEP_1
from common.latents import LatentStatistics
from common.music.chord import Chord, Key
from common.music.features import lead_sheet_features
from common.music.lead_sheet import BeatChord, LeadSheet, SheetBar
from train.data.clips import Batch, Choice, ClipMaker, Cut
from train.data.plan import seeded
from train.loop.module import conditioning_of

STATISTICS = LatentStatistics(silence=((0.25,) * 16,) * 8, mean=(0.0,) * 8, std=(2.0,) * 8)


@pytest.fixture
def maker(tiny_config, tmp_path):
    """maker(text_dropout=1.0, accompaniment={...}) cuts clips of 22 frames (2 s)."""

    def make(**settings):
        config = tiny_config(tmp_path, **settings)
        return ClipMaker(config, conditioning_of(config), STATISTICS, ACE_STEP_1)

    return make


def tensors(batch):
    found = {f.name: getattr(batch, f.name) for f in fields(Batch) if isinstance(getattr(batch, f.name), Tensor)}
    source = {f.name: getattr(batch.source, f.name) for f in fields(batch.source)}
    return found | {f"source.{name}": value for name, value in source.items() if value is not None}


def test_a_clip_is_the_same_in_any_batch_and_epochs_differ(maker, make_sample):
    samples = [make_sample(f"song{n}", 0, 24 + n) for n in range(3)]
    batch = maker().batch(samples, epoch=4)
    for row, sample in enumerate(samples):
        for name, tensor in tensors(maker().batch([sample], epoch=4)).items():
            together = tensors(batch)[name][row : row + 1]
            unpadded = together[:, : tensor.shape[1]] if tensor.ndim > 1 else together
            assert torch.equal(unpadded, tensor), name
    assert batch.keys == ("song0_000", "song1_000", "song2_000")
    assert not torch.equal(maker().batch(samples, epoch=5).noise, batch.noise)
    assert not torch.equal(maker(seed=1).batch(samples, epoch=4).noise, batch.noise)


def test_all_parts_are_cut_from_the_same_frames(maker, make_sample):
    sample = make_sample("song", 0, 40)
    starts = set()
    for epoch in range(30):
        clip = maker(accompaniment={"latent_noise": 0.0, "activity_gate": False}).batch([sample], epoch=epoch)
        inst = torch.tensor(sample.targets["inst"], dtype=torch.float32)
        (start,) = [s for s in range(19) if torch.equal(clip.target[0], inst[:, :, s : s + 22])]
        vocal = (torch.tensor(sample.vocal, dtype=torch.float32) - 0.25) / 2
        assert torch.equal(clip.source.vocal[0], vocal[:, :, start : start + 22])
        assert torch.equal(clip.source.conditioner_input, clip.source.vocal)
        starts.add(start)
    assert {0, 18} & starts
    assert len(starts) > 8


def test_activity_is_smoothed_where_gating_is_on(maker, make_sample):
    sample = make_sample("song", 0, 22)
    gate = maker().batch([sample], epoch=0).source.activity[0]
    activity = torch.tensor(sample.activity, dtype=torch.float32)
    torch.testing.assert_close(gate[1:-1], (activity[:-2] + 2 * activity[1:-1] + activity[2:]) / 4)
    ungated = maker(accompaniment={"activity_gate": False}).batch([sample], epoch=0)
    assert torch.equal(ungated.source.activity, torch.ones(1, 22))


def test_the_target_follows_the_output_type(maker, make_sample):
    sample = make_sample("song", 0, 22)
    mix = maker(accompaniment={"output_type": "mix"}).batch([sample], epoch=0)
    assert torch.equal(mix.target[0], torch.tensor(sample.targets["mix"], dtype=torch.float32))


def test_both_tag_orders_are_drawn_without_their_padding(maker, make_sample):
    sample = make_sample("song", 0, 22)
    clips = [maker(text_dropout=0.0).batch([sample], epoch=epoch) for epoch in range(12)]
    for clip in clips:
        order = 0 if clip.text.shape[1] == 5 else 1
        expected = torch.tensor(sample.text[order][sample.text_mask[order]], dtype=torch.float32)
        assert torch.equal(clip.text[0], expected)
        assert clip.text_mask.all()
    assert {clip.text.shape[1] for clip in clips} == {3, 5}


def test_dropped_conditions_are_the_null_of_training(maker, make_sample):
    clip = maker(text_dropout=1.0, lyric_dropout=1.0).batch([make_sample("song", 0, 22)], epoch=0)
    assert not clip.text.any()
    assert clip.text_mask.all()
    assert not clip.lyric_ids.any()
    assert not clip.lyric_mask.any()
    kept = maker(text_dropout=0.0, lyric_dropout=0.0).batch([make_sample("song", 0, 22)], epoch=0)
    assert kept.lyric_ids.tolist() == [[261, 259, 1, 718, 1951, 763, 56, 1, 2]], "[instrumental]"
    assert kept.lyric_mask.all()


def test_of_the_lyrics_as_much_is_trained_with_as_the_target_asks_for(maker, make_sample):
    sample = make_sample("song", 0, 22)
    sung = replace(sample, meta=sample.meta.model_copy(update={"lyrics": "[Verse 1]\nLa la\n\n[chorus]\nLa"}))

    def ids(**accompaniment):
        clip = maker(lyric_dropout=0.0, accompaniment=accompaniment).batch([sung], epoch=0)
        assert clip.lyric_mask.all()
        return clip.lyric_ids[0].tolist()

    words, instrumental = sample.lyrics.tolist(), [261, 259, 1, 718, 1951, 763, 56, 1, 2]
    assert ids() == ids(output_type="mix", lyrics_content="instrumental") == instrumental
    assert ids(output_type="mix") == ids(lyrics_content="words") == words
    assert ids(lyrics_content="structure") == [261, 259, 6683, 2, 2, 259, 6684, 2]


def test_strengths_and_dropouts_have_their_rates(maker, make_sample):
    cut, sample = maker(accompaniment={"strength_range": (0.4, 0.8)}), make_sample("song", 0, 4)
    clips = [cut.batch([sample], epoch=epoch) for epoch in range(600)]
    strengths = torch.cat([clip.source.strength for clip in clips])
    drawn = strengths[strengths > 0]
    assert 0.1 < 1 - len(drawn) / 600 < 0.2
    assert 0.4 <= drawn.min() < 0.42
    assert 0.78 < drawn.max() <= 0.8
    no_text = sum(not clip.text.any() for clip in clips) / 600
    no_lyrics = sum(not clip.lyric_mask.any() for clip in clips) / 600
    both = sum(not clip.text.any() and not clip.lyric_mask.any() for clip in clips) / 600
    assert 0.1 < no_text < 0.2
    assert 0.1 < no_lyrics < 0.2
    assert both < 0.06
    assert 600 < torch.cat([clip.timestep for clip in clips]).median() < 850


def test_the_noise_is_what_text2music_draws_and_comes_first(maker, make_sample):
    sample = make_sample("song", 0, 22)
    plain = torch.randn(1, 8, 16, 22, generator=seeded(0, 3, "song_000", "noise"))
    for latent_noise in (0.0, 0.3):
        clip = maker(accompaniment={"latent_noise": latent_noise}).batch([sample], epoch=3)
        assert torch.equal(clip.noise, plain)
        spread = (clip.source.conditioner_input - clip.source.vocal).std()
        torch.testing.assert_close(spread, torch.tensor(latent_noise), atol=0.02, rtol=0)


def test_features_are_cut_with_the_clip(maker, make_sample):
    sample = make_sample("song", 0, 40)
    mert = np.arange(279, dtype=np.float16)[:, None] * np.ones((1, 1024), np.float16)
    mhubert = np.arange(186, dtype=np.float16)[:, None] * np.ones((1, 768), np.float16)
    sample = replace(sample, features={("inst", "mert"): mert, ("inst", "mhubert"): mhubert})
    choice = Choice(Cut(start=10, frames=20, tag_order=0), strength=0.5)
    clip = maker().without_noise(maker().assemble([sample], [choice]))
    (first,), (second,) = clip.features
    assert (first[0, 0], first[-1, 0], len(first)) == (round(10 * 279 / 40), round(30 * 279 / 40) - 1, 139)
    assert (second[0, 0], len(second)) == (round(10 * 186 / 40), 94)
    assert [len(network) for network in maker().assemble([sample] * 3, [choice] * 3).features] == [3, 3]
    assert maker(ssl_coeff=0.0).batch([sample], epoch=0).features == ()


def test_a_batch_moves_whole(maker, make_sample):
    clip = maker().batch([make_sample("song", 0, 22)], epoch=0)
    moved = clip.to(torch.device("meta"))
    assert {tensor.device.type for tensor in tensors(moved).values()} == {"meta"}
    assert moved.keys == clip.keys
    clips = maker().cut([make_sample("song", 0, 22)], epoch=0).to(torch.device("meta"))
    assert {value.device.type for value in vars(clips).values() if isinstance(value, Tensor)} == {"meta"}


def test_clips_are_small_until_they_are_used(maker, make_sample):
    clips = maker().cut([make_sample("a", 0, 22), make_sample("b", 0, 30)], epoch=0)
    assert {tensor.dtype for tensor in (clips.target, clips.vocal, clips.activity, clips.text)} == {torch.float16}
    batch = maker().with_noise(clips)
    assert batch.noise.dtype == batch.target.dtype == torch.float32
    assert torch.equal(maker().with_noise(clips).source.conditioner_input, batch.source.conditioner_input)


def test_all_conditions_are_left_out_together_at_their_own_rate(maker, make_sample):
    sample = make_sample("song", 0, 4)
    alone = {"text_dropout": 0.0, "lyric_dropout": 0.0, "accompaniment": {"strength_dropout": 0.0}}
    cut = maker(joint_dropout=0.3, **alone)
    clips = [cut.batch([sample], epoch=epoch) for epoch in range(400)]
    left = [(bool(clip.text.any()), bool(clip.lyric_mask.any()), bool(clip.source.strength > 0)) for clip in clips]
    assert set(left) == {(True, True, True), (False, False, False)}
    assert 0.24 < left.count((False, False, False)) / 400 < 0.36


def test_a_share_of_clips_is_trained_near_pure_noise_and_the_rest_is_untouched(maker, make_sample):
    sample = make_sample("song", 0, 4)
    usual, more, only = (maker(high_noise_share=share) for share in (0.0, 0.4, 1.0))
    before, after = ([cut.batch([sample], epoch=epoch) for epoch in range(400)] for cut in (usual, more))
    same = [torch.equal(one.timestep, other.timestep) for one, other in zip(before, after, strict=True)]
    assert 0.52 < sum(same) / 400 < 0.68
    moved = torch.cat([clip.timestep for clip, kept in zip(after, same, strict=True) if not kept])
    assert moved.min() >= 850
    for name, tensor in tensors(before[0]).items():
        assert name == "timestep" or torch.equal(tensor, tensors(after[0])[name]), name
    near_noise = torch.cat([only.batch([sample], epoch=epoch).timestep for epoch in range(400)])
    assert near_noise.min() >= 850
    assert near_noise.max() > 995
    assert 920 < near_noise.mean() < 945


def sheet_of(*chords, bpm=120.0):
    bars = tuple(
        SheetBar(bpm=bpm, beats=4, chords=(BeatChord(beat=0, chord=Chord.of_name(name), confidence=0.8),))
        for name in chords
    )
    return LeadSheet(offset=-0.3, key=Key.of_name("A minor"), bars=bars)


def test_a_lead_sheet_is_cut_with_the_clip(maker, make_sample):
    sheet = sheet_of("Am", "F", "C", "G")
    sample, cut = replace(make_sample("song", 0, 60), lead_sheet=sheet), maker(accompaniment={"lead_sheet": True})
    rate = cut.latents.frames_per_second
    choice = Choice(Cut(start=13, frames=22, tag_order=0), strength=0.5)
    source = cut.without_noise(cut.assemble([sample], [choice])).source
    whole = lead_sheet_features(sheet, 60, rate)
    np.testing.assert_array_equal(source.lead_sheet[0].numpy(), whole[13:35])
    of_cut = lead_sheet_features(sheet.cut(13 / rate, 35 / rate), 22, rate)
    np.testing.assert_allclose(source.lead_sheet[0].numpy(), of_cut, atol=0.05)  # a sheet holds milliseconds
    assert source.lead_sheet_strength.tolist() == [1.0]
    parts = source.cut(slice(4, 9)).lead_sheet
    np.testing.assert_array_equal(parts[0].numpy(), whole[17:22])
    assert maker().without_noise(maker().assemble([sample], [choice])).source.lead_sheet is None


def test_a_song_without_a_lead_sheet_counts_as_one_whose_sheet_is_dropped(maker, make_sample):
    cut = maker(accompaniment={"lead_sheet": {"dropout": 0.0}})
    samples = [make_sample("a", 0, 22), replace(make_sample("b", 0, 22), lead_sheet=sheet_of("Am"))]
    source = cut.batch(samples, epoch=0).source
    assert source.lead_sheet_strength.tolist() == [0.0, 1.0]
    assert not source.lead_sheet[0].any()
    assert source.lead_sheet[1].any()


def test_lead_sheets_are_dropped_at_their_own_rate_and_the_rest_is_as_without(maker, make_sample):
    sample = replace(make_sample("song", 0, 4), lead_sheet=sheet_of("Am", "F"))
    usual = maker(joint_dropout=0.1)
    cut = maker(joint_dropout=0.1, accompaniment={"lead_sheet": {"dropout": 0.25}})
    before, after = ([one.batch([sample], epoch=epoch) for epoch in range(600)] for one in (usual, cut))
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(one).items())
    kept = torch.cat([clip.source.lead_sheet_strength for clip in after]) > 0
    sung = torch.cat([clip.source.strength for clip in after]) > 0
    told = torch.tensor([bool(clip.text.any() or clip.lyric_mask.any()) for clip in after])
    assert 0.27 < (~kept).float().mean() < 0.38  # 1 - 0.9 * 0.75
    assert not (kept & ~sung & ~told).sum() > 12  # joint dropout leaves none of them
    assert (kept & ~sung).any()
    assert (~kept & sung).any()
    again = [cut.batch([sample], epoch=epoch).source.lead_sheet_strength for epoch in range(40)]
    assert torch.equal(torch.cat(again) > 0, kept[:40])


def test_strength_range_one_to_one_trains_with_the_whole_vocal_or_none(maker, make_sample):
    whole = {"strength_range": (1.0, 1.0), "reference_strength": 1.0}
    cut, sample = maker(accompaniment=whole), make_sample("song", 0, 4)
    drawn = [cut.batch([sample], epoch=epoch).source.strength.item() for epoch in range(200)]
    assert set(drawn) == {0.0, 1.0}
