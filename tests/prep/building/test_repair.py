"""Damage of every kind is found, named and mended: to the bytes that were, or without what is lost."""

import json
import shutil

import pytest

from common.errors import UserError
from prep.building.repair import drop_damaged, rebuild_damaged
from shards.reader import read_manifest
from shards.verify import verify


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, song, build_in, config):
    """Three songs in two shards: a and b, then c; read only."""
    folder = tmp_path_factory.mktemp("pristine")
    for seed, key in enumerate("abc"):
        song(folder / "raw", key, seed=seed, parts=("vocal", "inst") if key == "b" else ("vocal", "mix"))
    (folder / "raw" / "lone_vocal.wav").write_bytes(b"")
    build_in(folder, config=config.model_copy(update={"shard_samples": 2}))
    return folder


@pytest.fixture
def built(pristine, tmp_path):
    """A copy of those shards, and of their songs beside them."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path / "shards"


def flip(path, member):
    """Spoil one byte of a member's content."""
    content = bytearray(path.read_bytes())
    content[content.index(member) + 512 + 300] ^= 1
    path.write_bytes(content)


def flip_header(path, member):
    content = bytearray(path.read_bytes())
    content[content.index(member) + 130] ^= 1
    path.write_bytes(content)


def cut(path, member):
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(member) + 600])


DAMAGES = {
    "flipped byte": lambda path: flip(path, b"b_000.mix.npy"),
    "flipped header": lambda path: flip_header(path, b"b_000.mix.npy"),
    "truncated": lambda path: cut(path, b"b_000.mix.npy"),
    "missing": lambda path: path.unlink(),
}


def rebuild(out, raw):
    return rebuild_damaged(out, raw, checkpoint="tiny", devices=["cpu"], ssl_folder=None, workers=1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_shard_and_sample_and_repair_mends_to_the_original_bytes(built, tmp_path, hashes, damage):
    before = hashes(built)
    DAMAGES[damage](built / "shard-000000.tar")
    problems = [(problem.shard, problem.sample) for problem in verify(built)]
    assert {shard for shard, _ in problems} == {"shard-000000.tar"}
    assert damage == "missing" or ("shard-000000.tar", "b_000") in problems
    assert rebuild(built, tmp_path / "raw").shards == ("shard-000000.tar",)
    assert hashes(built) == before
    assert rebuild(built, tmp_path / "raw").shards == ()
    assert hashes(built) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_songs_only_what_is_damaged_is_dropped(built, build, config, hashes, damage):
    before = hashes(built)
    DAMAGES[damage](built / "shard-000000.tar")
    lost = ("a_000", "b_000") if damage == "missing" else ("b_000",)
    assert drop_damaged(built).dropped == lost
    assert verify(built) == []
    after = hashes(built)
    assert after["shard-000001.tar"] == before["shard-000001.tar"]
    assert after["rejected.jsonl"] == before["rejected.jsonl"]
    report = build(config=config.model_copy(update={"shard_samples": 2}))
    assert sorted({part.song for part in report.encoded}) == [key.removesuffix("_000") for key in lost]


def test_a_song_is_dropped_whole(tmp_path, song, build, config):
    song(tmp_path / "raw", "long", seconds=5.0)
    song(tmp_path / "raw", "a", seed=1)
    segment = config.segment.model_copy(update={"max_seconds": 2.0, "min_seconds": 0.5, "search_seconds": 0.5})
    build(config=config.model_copy(update={"segment": segment}))
    flip(tmp_path / "shards" / "shard-000000.tar", b"long_001.vocal.npy")
    assert drop_damaged(tmp_path / "shards").dropped == tuple(f"long_{number:03d}" for number in range(4))
    assert list(read_manifest(tmp_path / "shards").songs()) == ["a"]


def test_where_nothing_is_whole_nothing_is_dropped(built):
    for path in built.glob("*.tar"):
        path.unlink()
    with pytest.raises(UserError, match=r"no song is whole\. Make all anew: prep build-shards RAW .* --rebuild$"):
        drop_damaged(built)
    assert read_manifest(built).totals.songs == 3


@pytest.fixture(scope="module", params=["other songs", "other settings", "an older one"])
def other(request, pristine, tmp_path_factory, song, build_in, config):
    """Shards of another build; read only."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(pristine / "raw", folder / "raw")
    if request.param == "other songs":
        song(folder / "others", "z", seed=7)
        build_in(folder, raw="others")
    elif request.param == "other settings":
        softer = config.loudness.model_copy(update={"target_lufs": -20.0})
        build_in(folder, config=config.model_copy(update={"shard_samples": 2, "loudness": softer}))
    else:
        text = config.text.model_copy(update={"tag_orders": 1})
        build_in(folder, config=config.model_copy(update={"shard_samples": 2, "text": text}))
    return folder / "shards"


@pytest.fixture
def mistaken(built, other):
    """Shards beside a manifest that is another build's; the folder of that build."""
    shutil.copy(other / "manifest.json", built / "manifest.json")
    return other


@pytest.mark.parametrize("with_songs", [True, False])
def test_a_manifest_of_another_build_is_found_and_mended(built, mistaken, tmp_path, hashes, encoded_songs, with_songs):
    rightful = {name: digest for name, digest in hashes(built).items() if name != "manifest.json"}
    named = [(problem.shard, problem.sample) for problem in verify(built)]
    assert ("shard-000000.tar", "a_000") in named
    done = rebuild(built, tmp_path / "raw") if with_songs else drop_damaged(built)
    assert (done.manifest, done.shards, done.dropped, encoded_songs) == (True, (), (), [])
    assert verify(built) == []
    assert rightful.items() <= hashes(built).items()
    assert [entry.sha256 for entry in read_manifest(built).shards] == [
        digest for name, digest in rightful.items() if name.endswith(".tar")
    ]


def test_a_manifest_and_a_shard_are_mended_together(built, mistaken, tmp_path, build, config, hashes):
    flip(built / "shard-000001.tar", b"c_000.vocal.npy")
    done = rebuild(built, tmp_path / "raw")
    assert (done.manifest, done.shards) == (True, ("shard-000001.tar",))
    build("again", config=config.model_copy(update={"shard_samples": 2}))
    assert hashes(built) == hashes(tmp_path / "again")


@pytest.mark.parametrize("other", ["other settings"], indirect=True)
def test_where_nothing_is_remembered_the_manifest_is_what_shards_are_mended_to(built, mistaken, tmp_path, hashes):
    shutil.rmtree(built / ".build")
    assert rebuild(built, tmp_path / "raw").shards == ("shard-000000.tar", "shard-000001.tar")
    assert hashes(built) == hashes(mistaken)


@pytest.mark.parametrize("other", ["other songs"], indirect=True)
def test_a_manifest_of_songs_that_are_not_there_says_the_way_out(built, mistaken, tmp_path, build, config):
    shutil.rmtree(built / ".build")
    with pytest.raises(UserError) as raised:
        rebuild(built, tmp_path / "raw")
    assert str(raised.value) == (
        f"z, which {built / 'manifest.json'} names, is not in {tmp_path / 'raw'}. Give the folder that it was built "
        f"from; or make all anew: prep build-shards {tmp_path / 'raw'} {built} --rebuild"
    )


def test_an_older_manifest_that_fits_is_left_alone(built, tmp_path, song, build, config):
    older = (built / "manifest.json").read_bytes()
    song(tmp_path / "raw", "d", seed=5)
    build(config=config.model_copy(update={"shard_samples": 2}))
    (built / "manifest.json").write_bytes(older)
    assert not rebuild(built, tmp_path / "raw").manifest
    assert (built / "manifest.json").read_bytes() == older


def test_other_networks_cannot_mend(built, tmp_path):
    (built / "shard-000001.tar").unlink()
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["fingerprint"]["networks"]["music_dcae_f8c8"] = "0" * 64
    (built / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"cannot be made again as it was: network music_dcae_f8c8 was 00000000, is "):
        rebuild(built, tmp_path / "raw")


def test_a_song_that_changed_cannot_mend(built, tmp_path, song):
    (built / "shard-000001.tar").unlink()
    song(tmp_path / "raw", "c", parts=("vocal", "mix"), seed=9)
    with pytest.raises(UserError, match=r"^c, which .*manifest\.json names, is another song now in "):
        rebuild(built, tmp_path / "raw")
