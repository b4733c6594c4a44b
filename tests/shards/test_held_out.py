from shards.held_out import validation_songs


def test_a_songs_side_does_not_depend_on_the_others():
    songs = [f"song {number}" for number in range(400)]
    kept = validation_songs(songs, 0.1)
    assert 20 < len(kept) < 60
    assert kept & set(songs[:300]) == validation_songs(songs[:300], 0.1)
    assert validation_songs([*reversed(songs), *songs], 0.1) == kept


def test_at_least_two_songs_validate_and_one_trains():
    songs = ["a", "b", "c", "d"]
    assert len(validation_songs(songs, 0.001)) == 2
    assert len(validation_songs(songs[:3], 0.5)) == 2
    assert validation_songs(songs[:2], 0.5) == frozenset()
    assert validation_songs(songs, 0) == frozenset()
