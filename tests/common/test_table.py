from hypothesis import given
from hypothesis import strategies as st

from common.table import in_columns

CELL = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=9)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1)))
def test_cells_of_a_column_begin_at_one_place_and_nothing_trails(rows):
    lines = in_columns(rows).split("\n")
    assert [line.split() for line in lines] == rows
    assert all(line == line.rstrip() for line in lines)
    for number in range(len(rows[0])):
        place = sum(max(len(row[before]) for row in rows) + 2 for before in range(number))
        assert all(line[place:].startswith(row[number]) for line, row in zip(lines, rows, strict=True))
