"""What a lead sheet says is found in the band that played it."""

from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet
from infer.evaluate.measures.sheet import chords_of
from prep.made_up.melody import compose
from prep.made_up.truth import lead_sheet_of_truth, tell_truth
from prep.made_up.world import draw_world


def test_chords_follow_the_song():
    world = draw_world(900_001, 4.0)
    chords = chords_of(lead_sheet_of_truth(tell_truth(world, compose(world))), 20)
    assert set(chords[:7]) <= set(range(24))
    assert len(set(chords[:7])) > 1


def test_triads_are_numbered_and_what_is_none_is_left_out():
    sheet = read_lead_sheet("bpm: 120\n| C | Am7 | Gsus4 | N.C. | Bm7b5 |")
    assert list(chords_of(sheet, 11)) == [0] * 4 + [9 + 12] * 4 + [-1] * 3
    assert list(chords_of(LeadSheet(), 2)) == [-1, -1]
