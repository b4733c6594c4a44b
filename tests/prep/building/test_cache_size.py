"""What a cache takes on the disk, against the arrays that it holds."""

from shards.reader import read_manifest, read_song

PROMPT = "folk, acoustic guitar, female vocal, slow, 92 bpm, warm, intimate, strings, brushed drums, upright bass"


def test_a_minute_takes_little_more_than_its_latents(tmp_path, song, build):
    song(tmp_path / "raw", "minute", parts=("vocal", "mix"), seconds=61.0, prompt=PROMPT)
    build()
    (sample,) = read_song(tmp_path / "shards", "minute")
    assert sample.meta.seconds >= 60
    sizes = {name: array.nbytes for name, array in sample.arrays().items()}
    taken = sum(path.stat().st_size for path in (tmp_path / "shards").iterdir() if path.is_file())
    assert taken <= 1.25 * sum(sizes.values())
    assert taken <= 2.1 * sum(sizes[part] for part in ("vocal", "inst", "mix"))
    assert read_manifest(tmp_path / "shards").totals.bytes <= taken
