import json
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest
import torch

import train.data.loader
from common.bases import ACE_STEP_1
from common.errors import UserError
from shards.reader import read_manifest
from train.data.clips import ClipMaker
from train.data.loader import BatchLoader, ShardSamples, check_manifest, room_in_memory, split
from train.loop.module import conditioning_of


@pytest.fixture
def loaders(song_shards, tiny_config):
    """loaders(length, memory=False, rank=0, ranks=1, **settings): a fresh loader over the songs to train on."""

    def make(length=100, *, memory=True, rank=0, ranks=1, folder=song_shards, **settings):
        config = tiny_config(folder, **settings)
        manifest = read_manifest(folder)
        assert manifest.statistics is not None
        segments = split(manifest, config.val_fraction).training
        samples = ShardSamples(folder, manifest, "inst")
        if memory:
            assert samples.remember({segment.key for segment in segments}, room=room_in_memory())
        maker = ClipMaker(config, conditioning_of(config), manifest.statistics, ACE_STEP_1)
        return BatchLoader(samples, segments, maker, length=length, rank=rank, ranks=ranks)

    return make


def same(one, other):
    return (
        one.keys == other.keys
        and one.noise_seeds == other.noise_seeds
        and torch.equal(one.target, other.target)
        and torch.equal(one.vocal, other.vocal)
        and torch.equal(one.timestep, other.timestep)
        and torch.equal(one.weight, other.weight)
    )


def test_songs_validate_or_train_never_both(song_shards):
    divided = split(read_manifest(song_shards), 0.3)
    training = {segment.song for segment in divided.training}
    validation = [segment.song for segment in divided.validation]
    assert len(validation) == len(set(validation)) >= 2
    assert not training & set(validation)
    assert len(training | set(validation)) == 9
    assert {segment.key[-4:] for segment in divided.validation} == {"_000"}


def test_what_was_made_of_a_song_is_on_its_side(song_shards):
    """Every second song is called another pitch of the one before it."""
    manifest = read_manifest(song_shards)
    keys = sorted(manifest.songs())
    parents = dict(zip(keys[1::2], keys[::2], strict=False))
    shards = tuple(
        shard.model_copy(
            update={"songs": tuple(song.model_copy(update={"parent": parents.get(song.key)}) for song in shard.songs)}
        )
        for shard in manifest.shards
    )
    divided = split(manifest.model_copy(update={"shards": shards}), 0.5)
    copies = {parent: child for child, parent in parents.items()}
    for one in divided.validation:
        made = [segment.key for segment in divided.transposed[one.key]]
        assert made == ([f"{copies[one.song]}_000"] if one.song in copies else [])
    training, validation = ({one.song for one in side} for side in (divided.training, divided.validation))
    assert validation.isdisjoint(parents)
    assert validation
    for child, parent in parents.items():
        assert (child in training) == (parent in training)


def test_an_epoch_uses_every_segment_once_in_a_new_order(loaders):
    loader = loaders()
    batches = iter(loader)
    epochs = [[next(batches) for _ in range(loader.per_epoch)] for _ in range(3)]
    for epoch in epochs:
        used = Counter(key for batch in epoch for key in batch.keys)
        assert set(used.values()) == {1}
        assert len(used) == len({key for batch in epochs[0] for key in batch.keys})
        assert {batch.target.shape[-1] for batch in epoch} == {16, 22}
    assert len({tuple(batch.keys for batch in epoch) for epoch in epochs}) == 3
    assert loader.epoch == 2
    assert len(loader) == 100


def test_memory_and_stream_give_the_same_batches(loaders):
    for one, other in zip(loaders(13), loaders(13, memory=False), strict=True):
        assert same(one, other)


def test_what_does_not_fit_is_streamed(song_shards, monkeypatch):
    samples = ShardSamples(song_shards, read_manifest(song_shards), "mix")
    monkeypatch.setattr(train.data.loader, "MEMORY_SHARE", 0.0)
    assert not samples.remember({"song0_000"}, room=room_in_memory())
    assert samples.load([0], {"song0_000"})["song0_000"].targets.keys() == {"mix"}


@pytest.mark.parametrize("memory", [True, False])
def test_going_on_from_any_batch_is_as_if_never_stopped(loaders, memory):
    whole = list(loaders(11, memory=memory))
    for handed in range(12):
        stopped = loaders(11, memory=memory)
        batches = iter(stopped)
        for _ in range(handed):
            next(batches)
        resumed = loaders(11, memory=memory)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        rest = list(resumed)
        assert len(rest) == 11 - handed
        assert all(same(one, other) for one, other in zip(rest, whole[handed:], strict=True))


@pytest.mark.parametrize("changed", [{"batch_size": 3}, {"seed": 1}, {"crop_seconds": 1.0}, {"val_fraction": 0.0}])
def test_a_place_in_other_data_means_nothing(loaders, changed):
    with pytest.raises(UserError) as caught:
        loaders(**changed).load_state_dict(loaders().state_dict())
    assert str(caught.value) == (
        "the songs, batch_size or crop changed since the checkpoint, so its place in the data means nothing here. "
        "Resume with what it was made with, or start anew without --resume."
    )


def test_ranks_share_an_epoch_and_stay_even(loaders):
    alone = loaders(batch_size=1, val_fraction=0.0)
    per_epoch = alone.per_epoch
    assert per_epoch == 11
    shares = [list(loaders(6, batch_size=1, val_fraction=0.0, rank=rank, ranks=2, memory=False)) for rank in range(2)]
    counted = Counter(key for share in shares for batch in share for key in batch.keys if batch.weight.all())
    assert counted == Counter(key for batch in list(loaders(11, batch_size=1, val_fraction=0.0)) for key in batch.keys)
    assert [batch.weight.item() for batch in shares[1]] == [1.0] * 5 + [0.0]


def test_shards_that_cannot_train_are_refused(make_shards, song_shards, tiny_config):
    def complaint(folder, **accompaniment):
        with pytest.raises(UserError) as caught:
            check_manifest(read_manifest(folder), tiny_config(folder, accompaniment=accompaniment))
        return str(caught.value)

    inst = make_shards({"a": [9]}, targets=("inst",), folder="inst")
    assert complaint(inst, output_type="mix") == (
        f"{inst}: output_type mix needs the target mix, these shards hold inst. Build them with --targets mix, or "
        "choose another output_type."
    )
    vocal = make_shards({"a": [9]}, targets=(), folder="vocal")
    assert complaint(vocal) == (
        f"{vocal}: output_type accompaniment needs the target inst, these shards hold no target. Build them with "
        "--targets inst, or choose another output_type."
    )


def test_a_sample_that_is_not_where_the_manifest_says_is_named(make_shards):
    folder = make_shards({"a": [9]})
    listed = read_manifest(folder)
    make_shards({"b": [9]}, folder="other")
    (folder.parent / "other" / "shard-000000.tar").replace(folder / "shard-000000.tar")
    with pytest.raises(UserError) as caught:
        ShardSamples(folder, listed, "inst").load([0], {"a_000"})
    assert str(caught.value) == f"{folder}: a_000 is not in its shard, though the manifest lists it. Run prep verify."


def test_workers_only_read_ahead(loaders):
    whole = list(loaders(11, memory=False, num_workers=0))
    for workers in (1, 4):
        assert all(
            same(one, other) for one, other in zip(loaders(11, memory=False, num_workers=workers), whole, strict=True)
        )


def test_what_was_read_ahead_is_not_counted(loaders):
    loader = loaders(11, memory=False, num_workers=4)
    next(iter(loader))
    assert (loader.state_dict()["handed"], loader.state_dict()["done"]) == (1, 1)


def test_a_server_gives_the_batches_of_the_folder(loaders, song_shards, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(SimpleHTTPRequestHandler, directory=str(song_shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        served = list(loaders(9, folder=url, memory=False))
        server.shutdown()
    assert all(same(one, other) for one, other in zip(served, loaders(9), strict=True))


def test_other_devices_go_on_from_the_start_of_an_epoch_only(loaders):
    two = [loaders(8, rank=rank, ranks=2, batch_size=1, val_fraction=0.0) for rank in range(2)]
    passed = [list(islice(loader, 6)) for loader in two]
    assert two[0].per_epoch == 6
    alone = loaders(13, batch_size=1, val_fraction=0.0)
    alone.load_state_dict(two[0].state_dict())
    later = list(alone)
    assert len(later) == 13 - 6
    assert all(
        same(one, other)
        for one, other in zip(later, list(loaders(18, batch_size=1, val_fraction=0.0))[11:], strict=True)
    )
    assert passed[0]
    amid = loaders(8, ranks=2, batch_size=1, val_fraction=0.0)
    next(iter(amid))
    with pytest.raises(UserError) as caught:
        loaders(8, batch_size=1, val_fraction=0.0).load_state_dict(amid.state_dict())
    assert str(caught.value) == (
        "the checkpoint stands amid an epoch, after 1 batches on each of 2 devices; now there are 1, which can only go "
        "on from the start of an epoch. Resume with --devices 2."
    )
