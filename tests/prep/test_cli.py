import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.audio.wave import loudness_lufs, read_audio
from common.bases import ACE_STEP_1
from common.command import run
from common.latents import LatentStatistics
from models.adapters.adapter import AdapterCard, save_conditioning
from models.adapters.conditioning import Conditioning
from prep.cli import app
from shards.reader import read_manifest, read_song

LATENTS = ACE_STEP_1.latents

TINY = ("--checkpoint-dir", "tiny")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prep(capsys, monkeypatch, tmp_path):
    """Run prep in tmp_path: prep("verify", "shards") -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            run(app, arguments)
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return call


def test_build_says_what_it_made(prep, song):
    song(Path("raw"), "a", seed=1)
    song(Path("raw"), "b", parts=("vocal",))
    code, out, err = prep("build-shards", "raw", "shards", *TINY, "--workers", "1")
    short = read_manifest(Path("shards")).fingerprint.short
    assert (code, out) == (
        0,
        f"1 of 2 songs kept, 1 rejected (shards/rejected.jsonl); 1 segments in 1 shards, fingerprint {short}\n",
    )
    assert 'checkpoint "tiny"' in err or "pack: 1/1 songs" in err


def test_no_song_is_exit_code_2_and_one_line(prep, song):
    song(Path("raw"), "b", parts=("vocal",))
    code, out, err = prep("build-shards", "raw", "shards", *TINY, "--workers", "1")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: none of 1 songs can be used (shards/rejected.jsonl); the first, b: ")
    assert prep("build-shards", "nowhere", "shards", *TINY)[::2] == (2, "error: nowhere: no such folder.\n")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--set", "loudness.target=3"], "prep_base: unknown key loudness.target; did you mean target_lufs?"),
        (["--separator", "no such"], "no such: no folder, and no name of a Demucs model such as htdemucs."),
        (["--device", "tpu9"], "--device tpu9: cannot be used ("),
        (["--checkpoint-dir", "./gone"], "./gone: no such folder."),
        (["--ssl", "wav2vec"], "prep_base: ssl.0: Input should be 'mert' or 'mhubert', got 'wav2vec'"),
        (["--ssl", "mert"], "mert: config.json is missing, so mert cannot be opened; download m-a-p/MERT-v1-330M"),
        (["--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_a_wrong_flag_is_one_line(prep, song, flags, complaint):
    song(Path("raw"), "a", parts=("song",))
    code, out, err = prep("build-shards", "raw", "shards", *TINY, *flags)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert complaint in last
    assert not Path("shards").exists()


def test_verify_lists_what_is_wrong(prep, song):
    song(Path("raw"), "a")
    prep("build-shards", "raw", "shards", *TINY, "--workers", "1")
    assert prep("verify", "shards") == (0, "1 segments of 1 songs are as the manifest says\n", "")
    shard = Path("shards/shard-000000.tar")
    content = bytearray(shard.read_bytes())
    content[-20_000] ^= 1
    shard.write_bytes(content)
    code, out, _ = prep("verify", "shards")
    assert code == 1
    assert re.match(r"shard-000000\.tar: sha256 is [0-9a-f]{8}, the manifest says [0-9a-f]{8}\n", out)
    assert prep("verify", "raw")[0] == 2


def test_inspect_shows_each_song(prep, song):
    song(Path("raw"), "a", seconds=2.0)
    prep("build-shards", "raw", "shards", *TINY, "--workers", "1")
    _, out, _ = prep("inspect", "shards")
    assert re.search(r"^a +1 +2\.0 +-\d\d\.\d$", out, re.MULTILINE)
    found = json.loads(prep("inspect", "shards", "--json")[1])
    assert (found["songs"], found["segments"], found["targets"]) == (1, 1, ["inst", "mix"])
    assert [row["key"] for row in found["per_song"]] == ["a"]
    assert out.endswith(
        "the preset for 1 songs is singer; the bundle tiny takes tiny_controlnet (train run --config tiny_controlnet)\n"
    )
    assert found["preset"] == "tiny_controlnet"


def test_a_vocal_alone_is_encoded_whole_and_levelled(prep, song):
    song(Path("raw"), "ballad", parts=("vocal",), seconds=2.0, prompt="jazz, piano")
    code, out, _ = prep("encode", "raw/ballad_vocal.wav", "vocal", *TINY, "--vocal-lufs", "-23")
    assert (code, out) == (0, "ballad: 2.0 s in 1 segments of vocal\n")
    (sample,) = read_song(Path("vocal"), "ballad")
    assert not sample.targets
    assert (sample.meta.start_seconds, sample.meta.samples, sample.meta.prompt) == (0.0, 88_200, "jazz, piano")
    wave = read_audio(Path("raw/ballad_vocal.wav")).samples * np.float32(10 ** (sample.meta.gain_db / 20))
    assert loudness_lufs(wave, LATENTS.sample_rate_hz) == pytest.approx(-23.0, abs=1e-3)
    manifest = read_manifest(Path("vocal"))
    assert (manifest.targets, manifest.statistics) == ((), None)
    assert manifest.vocal_lufs == pytest.approx(-23.0)


def test_encode_takes_other_texts_and_replaces_only_its_own_shards(prep, song):
    song(Path("raw"), "a")
    Path("words.txt").write_text("[verse]\n\n[chorus]")
    flags = ["--vocal-lufs", "-20", "--prompt", "metal", "--lyrics", "words.txt"]
    assert prep("encode", "raw/a_vocal.wav", "vocal", *TINY, *flags)[0] == 0
    assert prep("encode", "raw/a_vocal.wav", "vocal", *TINY, *flags)[0] == 0
    assert read_song(Path("vocal"), "a_000")[0].meta.prompt == "metal"
    assert read_song(Path("vocal"), "a")[0].lyrics.tolist() == [261, 259, 6683, 2, 2, 259, 6684, 2]
    prep("build-shards", "raw", "shards", *TINY, "--workers", "1")
    code, _, err = prep("encode", "raw/a_vocal.wav", "shards", *TINY, *flags)
    assert code == 2
    assert err.endswith("error: shards: holds shards to train from, which would be replaced. Give another folder.\n")


def test_encode_does_not_replace_another_vocal(prep, song):
    song(Path("raw"), "a", parts=("vocal",))
    song(Path("other"), "a", parts=("vocal",), seed=1)
    assert prep("encode", "raw/a_vocal.wav", "vocal", *TINY, "--vocal-lufs", "-20")[0] == 0
    before = Path("vocal/manifest.json").read_bytes()
    code, _, err = prep("encode", "other/a_vocal.wav", "vocal", *TINY, "--vocal-lufs", "-20")
    assert code == 2
    assert err.endswith("error: vocal: holds another vocal, a, which would be replaced. Give another folder.\n")
    assert Path("vocal/manifest.json").read_bytes() == before


def test_encode_wants_one_level(prep, song):
    song(Path("raw"), "a", parts=("vocal",))
    complaint = "error: say how loud the vocal shall be: either --adapter DIR or --vocal-lufs LEVEL.\n"
    assert prep("encode", "raw/a_vocal.wav", "vocal", *TINY)[::2] == (2, complaint)
    assert prep("encode", "raw/a_vocal.wav", "v", *TINY, "--vocal-lufs", "-20", "--adapter", "b")[::2] == (2, complaint)


def test_encode_reads_lyrics_in_the_adapters_language_unless_a_setting_says_another(prep, song, tmp_path):
    song(Path("raw"), "a", parts=("vocal",))
    levels = {"silence": ((0.0,) * 16,) * 8, "mean": (0.0,) * 8, "std": (1.0,) * 8}
    card = AdapterCard(
        conditioning=Conditioning(), output_type="accompaniment", strength_range=(0.3, 1.0), lora=None,
        statistics=LatentStatistics(**levels), vocal_lufs=-20.0, lyrics_language="ja", base_fingerprint="a" * 64,
        shards_fingerprint="b" * 64, epoch=1, step=20,
    )  # fmt: skip
    (tmp_path / "adapter").mkdir()
    save_conditioning(tmp_path / "adapter", None, card)
    flags = ["raw/a_vocal.wav", "vocal", *TINY, "--adapter", "adapter"]
    assert prep("encode", *flags)[0] == 0
    assert read_manifest(Path("vocal")).lyrics_language == "ja"
    assert prep("encode", *flags, "--set", "text.lyrics_language=de")[0] == 0
    assert read_manifest(Path("vocal")).lyrics_language == "de"


def test_songs_that_left_are_named_until_they_are_pruned(prep, song):
    for seed, key in enumerate("ab"):
        song(Path("raw"), key, seed=seed)
    prep("build-shards", "raw", "shards", *TINY, "--workers", "1")
    for path in Path("raw").glob("b_*"):
        path.unlink()
    assert "1 songs are no longer in raw; they stay until --prune\n" in prep("build-shards", "raw", "shards", *TINY)[2]
    code, out, _ = prep("build-shards", "raw", "shards", *TINY, "--prune")
    assert code == 0
    assert out.startswith("1 of 1 songs kept, 0 rejected (shards/rejected.jsonl); 1 segments in 1 shards")
    assert list(read_manifest(Path("shards")).songs()) == ["a"]


def test_repair_says_what_it_did(prep, song):
    for seed, key in enumerate("ab"):
        song(Path("raw"), key, seed=seed)
    prep("build-shards", "raw", "shards", *TINY, "--workers", "1", "--set", "shard_samples=1")
    whole = Path("shards/shard-000000.tar").read_bytes()
    for arguments, said in (
        (["raw"], "1 shards were damaged and are as they were again\n"),
        ([], "1 shards were damaged; without RAW, 1 samples were dropped\n  a_000\n"),
    ):
        Path("shards/shard-000000.tar").write_bytes(whole[:5000])
        assert prep("repair", "shards", *arguments)[:2] == (0, said)
        assert prep("verify", "shards")[0] == 0
