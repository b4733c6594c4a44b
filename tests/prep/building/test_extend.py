"""What a rerun does, and what it leaves alone: each part and each prompt that is made is counted."""

import json
import os
import shutil
import sys
import tarfile
import time
from functools import partial

import pytest

from common.audio.wave import read_audio, write_audio
from common.canonical import sha256_of
from common.errors import UserError
from models.loading.checkpoint import TINY
from prep.building.cache import BuildCache
from prep.encoding.encode import SongEncoder
from shards.reader import read_manifest, read_song
from shards.verify import verify


def members(shard, *, without=()):
    """Contents of a tar's members by name."""
    with tarfile.open(shard) as tar:
        found = {member.name: content.read() for member in tar if (content := tar.extractfile(member))}
    return {name: content for name, content in found.items() if not name.endswith(tuple(without))}


def parts_of(*keys):
    return [(key, part, 0) for key in keys for part in ("inst", "mix", "vocal")]


def encoded(report):
    return [(part.song, part.part, part.segment) for part in report.encoded]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, song, build_in):
    """Songs a and b and their shards; read only."""
    folder = tmp_path_factory.mktemp("pristine")
    for seed, key in enumerate("ab"):
        song(folder / "raw", key, seed=seed)
    build_in(folder)
    return folder


@pytest.fixture
def two_songs(pristine, tmp_path):
    """A copy of those shards, and of their songs beside them."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path / "shards"


TEXT_FIELDS = ("json", "text.npy", "text_mask.npy", "lyrics.npy")


def test_only_added_songs_are_encoded_and_touching_encodes_nothing(tmp_path, song, build, two_songs):
    for path in (tmp_path / "raw").iterdir():
        path.touch()
    assert encoded(build()) == []
    song(tmp_path / "raw", "c", seed=3)
    song(tmp_path / "raw", "0", seed=4)
    report = build()
    assert encoded(report) == parts_of("0", "c")
    assert report.embedded == ("folk, guitar, slow",)


def test_changing_a_prompt_embeds_one_text_and_leaves_the_sound(tmp_path, build, two_songs, hashes):
    before = members(two_songs / "shard-000000.tar")
    (tmp_path / "raw" / "b_prompt.txt").write_text("jazz, piano")
    report = build()
    assert (encoded(report), report.embedded) == ([], ("jazz, piano",))
    after = members(two_songs / "shard-000000.tar")
    assert [name for name in before if before[name] != after[name]] == [
        "b_000.json",
        "b_000.text.npy",
        "b_000.text_mask.npy",
    ]
    assert read_song(two_songs, "b")[0].meta.tag_orders == ("jazz, piano", "piano, jazz")
    assert verify(two_songs) == []
    build("anew")
    assert hashes(tmp_path / "anew") == hashes(two_songs)


def test_changing_lyrics_embeds_nothing(tmp_path, build, two_songs):
    (tmp_path / "raw" / "a_lyrics.txt").write_text("[verse]\n[chorus]")
    report = build()
    assert (encoded(report), report.embedded) == ([], ())
    assert read_song(two_songs, "a")[0].lyrics.tolist() == [261, 259, 6683, 2, 259, 6684, 2]
    assert read_song(two_songs, "b")[0].lyrics.tolist() != read_song(two_songs, "a")[0].lyrics.tolist()


def test_changed_text_settings_embed_each_distinct_text_once(tmp_path, build, config, two_songs, hashes):
    before = members(two_songs / "shard-000000.tar", without=TEXT_FIELDS)
    fewer = config.model_copy(update={"text": config.text.model_copy(update={"tag_orders": 2})})
    report = build(config=fewer)
    assert (encoded(report), report.embedded) == ([], ("folk, guitar, slow",))
    assert members(two_songs / "shard-000000.tar", without=TEXT_FIELDS) == before
    assert read_song(two_songs, "a")[0].text.shape[0] == 2
    build("anew", config=fewer)
    assert hashes(tmp_path / "anew") == hashes(two_songs)
    assert build(config=fewer).embedded == ()
    roomier = config.model_copy(update={"text": fewer.text.model_copy(update={"prompt_cache_mib": 512})})
    assert build(config=roomier).embedded == ()


def test_a_vocabulary_that_comes_and_goes_rewrites_lyrics(tmp_path, build, two_songs, hashes, save_vocabulary):
    (tmp_path / "raw" / "a_lyrics.txt").write_text("[verse]\nla la")
    build()
    before = hashes(two_songs)
    shutil.copytree(TINY, tmp_path / "base")
    save_vocabulary(tmp_path / "base" / "lyric_vocab.json")
    assert encoded(build(checkpoint=str(tmp_path / "base"))) == []
    assert "lyric_vocab.json" in read_manifest(two_songs).fingerprint.networks
    assert read_song(two_songs, "a")[0].lyrics.size > read_song(two_songs, "b")[0].lyrics.size
    build("anew", checkpoint=str(tmp_path / "base"))
    assert hashes(tmp_path / "anew") == hashes(two_songs)
    build()
    assert hashes(two_songs) == before


def test_the_extra_that_reads_japanese_comes_and_goes_and_costs_no_song(
    tmp_path, build, config, two_songs, save_vocabulary, monkeypatch, capsys
):
    """Without it the line is left out with one notice; with it a rerun reads the line and encodes nothing."""
    (tmp_path / "raw" / "a_lyrics.txt").write_text("[verse]\n君を\nla", encoding="utf-8")
    shutil.copytree(TINY, tmp_path / "base")
    save_vocabulary(tmp_path / "base" / "lyric_vocab.json")
    japanese = config.model_copy(update={"text": config.text.model_copy(update={"lyrics_language": "ja"})})
    read = partial(build, config=japanese, checkpoint=str(tmp_path / "base"))
    with monkeypatch.context() as patch:
        for package in ("cutlet", "unidic_lite"):
            patch.setitem(sys.modules, package, None)
        report = read()
    assert (report.kept, report.rejections) == (2, ())
    left_out = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(left_out) == 1
    assert left_out[0].startswith(
        'lyrics of these songs: 1 line of lyrics is left out. The first: lyrics line "君を": '
    )
    without, prints = read_song(two_songs, "a")[0].lyrics.tolist(), read_manifest(two_songs).fingerprint.networks
    assert without[:5] == [261, 259, 6683, 2, 5412]
    assert "lyric_romaniser" not in prints
    report = read()
    assert (encoded(report), report.rejections) == ([], ())
    assert "left out" not in capsys.readouterr().err
    ids = read_song(two_songs, "a")[0].lyrics.tolist()
    assert ids[:5] == without[:5]
    assert len(ids) == len(without) + 2 + len("kimi wo")  # its language, its letters and the blank, its end
    assert read_manifest(two_songs).fingerprint.networks == {
        **prints, "lyric_romaniser": sha256_of("cutlet 0.5.2, unidic_lite 1.0.8")
    }  # fmt: skip


def test_lyrics_that_cannot_be_read_keep_the_old_ones(tmp_path, build, two_songs):
    (tmp_path / "raw" / "a_prompt.txt").write_bytes(b"\xff")
    report = build()
    assert [(row.key, row.reason) for row in report.rejections] == [("a", "bad_text")]
    assert read_song(two_songs, "a")[0].meta.prompt == "folk, guitar, slow"


def test_a_damaged_shard_is_not_given_new_hashes(tmp_path, build, two_songs):
    shard = two_songs / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[-20_000] ^= 1
    shard.write_bytes(content)
    (tmp_path / "raw" / "b_prompt.txt").write_text("jazz, piano")
    with pytest.raises(UserError, match=r"damaged, so it cannot be changed\. Mend it with: prep repair "):
        build()


def test_pruning_leaves_out_songs_that_left(tmp_path, song, build, two_songs):
    before = members(two_songs / "shard-000000.tar")
    song(tmp_path / "raw", "c", seed=3)
    for path in (tmp_path / "raw").glob("a_*"):
        path.unlink()
    assert build().gone == ("a",)
    report = build(prune=True)
    assert (encoded(report), report.embedded) == ([], ())
    assert [[song.key for song in shard.songs] for shard in report.manifest.shards] == [["b"], ["c"]]
    after = members(two_songs / "shard-000000.tar")
    assert after == {name: content for name, content in before.items() if name.startswith("b")}
    for path in (tmp_path / "raw").glob("b_*"):
        path.unlink()
    song(tmp_path / "raw", "d", seed=4)
    assert [shard.name for shard in build(prune=True).manifest.shards] == ["shard-000001.tar", "shard-000002.tar"]
    assert sorted(path.name for path in two_songs.glob("*.tar")) == ["shard-000001.tar", "shard-000002.tar"]
    assert verify(two_songs) == []


def test_the_same_sound_in_another_format_is_a_duplicate(tmp_path, build, two_songs):
    for part in ("vocal", "inst", "mix"):
        audio = read_audio(tmp_path / "raw" / f"b_{part}.wav")
        write_audio(tmp_path / "raw" / f"again_{part}.flac", audio.samples, audio.rate_hz)
    report = build()
    assert [(row.key, row.reason, row.detail) for row in report.rejections] == [
        ("again", "duplicate", "again_mix.flac: the same audio as b. Keep one of them.")
    ]
    assert encoded(report) == parts_of("again")
    assert encoded(build()) == []
    assert len(build().rejections) == 1
    report = build("anew")
    assert [(row.key, row.detail) for row in report.rejections] == [
        ("b", "b_mix.wav: the same audio as again. Keep one of them.")
    ]


def test_a_song_that_cannot_be_used_is_not_tried_again(tmp_path, song, build, two_songs, encoded_songs):
    song(tmp_path / "raw", "unsung", parts=("inst", "mix"))
    shutil.copy(tmp_path / "raw" / "unsung_inst.wav", tmp_path / "raw" / "unsung_mix.wav")
    first, second = build(), build()
    assert first.rejections == second.rejections
    assert first.rejections[0].reason == "no_vocal"
    assert encoded_songs == ["unsung"]


def test_files_are_read_again_only_if_they_changed(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("prep.building.cache.sha256_of_file", lambda path: read.append(path.name) or "0" * 64)
    monkeypatch.setattr("prep.building.cache.SETTLED_NS", 0)
    for name in "ab":
        (tmp_path / name).write_bytes(b"old")
    for _ in range(2):
        cache = BuildCache(tmp_path)
        for name in "ab":
            cache.sha256(tmp_path / name)
        cache.save()
    assert read == ["a", "b"]
    times = (tmp_path / "a").stat()
    time.sleep(0.01)
    (tmp_path / "a").write_bytes(b"new")
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    BuildCache(tmp_path).sha256(tmp_path / "a")
    assert read == ["a", "b", "a"]


def test_a_file_that_just_changed_is_read_next_time_too(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    cache = BuildCache(tmp_path)
    cache.sha256(tmp_path / "a")
    cache.save()
    assert json.loads((tmp_path / "known.json").read_text())["files"] == {}


def test_a_file_that_vanishes_or_changes_under_way_is_its_songs_fault(tmp_path, song, build, monkeypatch):
    for seed, key in enumerate("abc"):
        song(tmp_path / "raw", key, seed=seed)
    tracks = SongEncoder.tracks

    def meddle(self, found, *rest):
        if found.key == "a":
            (tmp_path / "raw" / "a_inst.wav").unlink()
        waves = tracks(self, found, *rest)
        if found.key == "b":
            shutil.copy(tmp_path / "raw" / "c_mix.wav", tmp_path / "raw" / "b_mix.wav")
        return waves

    monkeypatch.setattr(SongEncoder, "tracks", meddle)
    report = build()
    assert (report.kept, [(row.key, row.reason) for row in report.rejections]) == (
        1,
        [("a", "unreadable"), ("b", "unreadable")],
    )
