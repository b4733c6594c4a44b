"""The table of captions counts what is said and right, and what chance would give."""

from benchmarks.captions import QUESTIONS, TaggedSong, score, table
from prep.made_up.melody import compose
from prep.made_up.truth import tell_truth
from prep.made_up.world import draw_world


def truth(seed):
    world = draw_world(seed, 8.0)
    return tell_truth(world, compose(world))


def test_scores_are_those_of_a_count_by_hand():
    a, b = truth(1), truth(2)
    assert (a.tempo_bpm, a.full_key) != (b.tempo_bpm, b.full_key)
    songs = [TaggedSong(a, (f"{2 * a.tempo_bpm} bpm", a.full_key)), TaggedSong(b, ())]
    found = {question.name: score(question, songs) for question in QUESTIONS}
    assert (found["tempo"].said, found["tempo"].right) == (1, 0.0)
    assert found["tempo, or an octave apart"].right == 1.0
    assert (found["key and mode"].said, found["key and mode"].right, found["key and mode"].null) == (1, 1.0, 0.0)
    assert found["mode"].null == float(a.mode == b.mode)
    assert found["drums"].said == 0
    assert "| key and mode | 1 of 2 | 100% | 0% |" in table(songs)
