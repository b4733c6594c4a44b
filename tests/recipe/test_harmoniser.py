"""The harmony network's training: what it is taught is true, a killed run goes on, and the shipped one is good."""

import numpy as np
import pytest
import torch

from common.music.chord import Chord, Key
from common.music.vocal_features import vocal_features
from models.harmony.chords import transposed
from models.harmony.half_beats import half_beats
from models.harmony.harmoniser import Harmoniser
from models.harmony.network import WEIGHTS_FILE, HarmonyNetwork, HarmonyShape, save_harmony_network
from models.harmony.trained import open_harmoniser
from models.loading.checkpoint import TINY
from prep.made_up.melody import compose
from prep.made_up.render import render_vocal
from prep.made_up.signal import SAMPLE_RATE_HZ
from prep.made_up.truth import tell_truth
from prep.made_up.world import draw_world
from recipe.harmoniser.examples import (
    HarmoniserSettings,
    draw_example,
    example_of,
    features_of_notes,
    true_beats,
)
from recipe.harmoniser.training import train_harmoniser
from train.fitting import TrainingSettings

SHORT = HarmoniserSettings(
    training=TrainingSettings(steps=30, batch=1, learning_rate=3e-3, warmup_steps=2), seconds=(5.0,)
)
SHAPE = HarmonyShape(width=8, dilations=(1, 2))
JUDGED = range(620_000, 620_004)


def test_labels_are_the_chords_and_the_key_of_the_song():
    world = draw_world(620_010, 10.0)
    truth = tell_truth(world, compose(world))
    beats, features = true_beats(world), features_of_notes(compose(world), 10.0)
    assert beats.seconds == pytest.approx(truth.beats, abs=1e-5)
    assert beats.downbeats == pytest.approx(truth.downbeats, abs=1e-5)
    made = example_of(world, beats, features)
    signature = half_beats(features, beats).signature
    key = Key.of_name(truth.full_key)
    assert int(transposed(np.array(made.key), signature)) == key.tonic + (12 if key.mode == "minor" else 0)
    edges = beats.edges(2)
    for number, middle in zip(transposed(made.chords, signature), (edges[:-1] + edges[1:]) / 2, strict=True):
        label = [one.label for one in truth.chords if one.start <= middle][-1]
        assert Chord.on(int(number) % 12, "m" if number >= 12 else "") == Chord.of_harte(label)


def test_notes_laid_out_are_what_is_measured_of_the_sound():
    world = draw_world(620_011, 8.0)
    laid_out = half_beats(features_of_notes(compose(world), 8.0), true_beats(world))
    measured = half_beats(vocal_features(render_vocal(620_011, 8.0), SAMPLE_RATE_HZ), true_beats(world))
    assert laid_out.signature == measured.signature
    assert np.abs(laid_out.values - measured.values).mean() < 0.05


def test_songs_are_drawn_by_their_generator_alone():
    first, again, other = (draw_example(np.random.default_rng(seed), SHORT) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.values, again.values)
    assert first.values.shape != other.values.shape or not np.array_equal(first.values, other.values)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    def trained(folder) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = HarmonyNetwork(SHAPE)
        train_harmoniser(folder, network, SHORT, seed=0)
        return network.state_dict()

    whole = trained(tmp_path / "whole")
    monkeypatch.setattr("train.fitting.SAVE_SECONDS", 0.0)
    drawn = []

    def stops(rng, settings):
        drawn.append(None)
        if len(drawn) > 28:
            raise KeyboardInterrupt
        return draw_example(rng, settings)

    with monkeypatch.context() as patched:
        patched.setattr("recipe.harmoniser.training.draw_example", stops)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed")
    for name, tensor in trained(tmp_path / "killed").items():
        assert torch.equal(tensor, whole[name]), name


def test_the_shipped_network_is_far_better_than_the_rules():
    shipped, rules = open_harmoniser(TINY / "harmoniser"), Harmoniser()
    right = {"shipped": 0.0, "rules": 0.0}
    for seed in JUDGED:
        world = draw_world(seed, 10.0)
        truth = tell_truth(world, compose(world))
        features = vocal_features(render_vocal(seed, 10.0), SAMPLE_RATE_HZ)
        sheet = shipped.lead_sheet_of(features)
        assert sheet.key is not None
        assert sheet.key.signature == Key.of_name(truth.full_key).signature
        spans = [(one.start, one.end, Chord.of_harte(one.label)) for one in truth.chords]
        for name, found in (("shipped", sheet), ("rules", rules.lead_sheet_of(features))):
            times = np.arange(0.25, 10.0, 0.5)
            played = [next((c.chord for c in found.chord_segments() if c.start <= t < c.end), None) for t in times]
            true = [next(chord for start, end, chord in spans if start <= t < end) for t in times]
            right[name] += float(np.mean([a == b for a, b in zip(played, true, strict=True)])) / len(JUDGED)
    assert right["shipped"] > 0.75
    assert right["shipped"] > right["rules"] + 0.2


def test_the_shipped_network_written_again_is_the_shipped_bytes(tmp_path):
    save_harmony_network(tmp_path, open_harmoniser(TINY / "harmoniser").network)
    for name in ("config.json", WEIGHTS_FILE):
        assert (tmp_path / name).read_bytes() == (TINY / "harmoniser" / name).read_bytes()
