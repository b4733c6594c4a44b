import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.texts.tags import one_line, spelt, tags_of


@pytest.mark.parametrize(
    ("prompt", "tags"),
    [
        ("folk,guitar", ["folk", "guitar"]),
        (" folk ,\tslow  guitar ,", ["folk", "slow guitar"]),
        ("女性ボーカル、ピアノ，ドラム；静か;夏", ["女性ボーカル", "ピアノ", "ドラム", "静か", "夏"]),
        ("folk\npiano\r\ndrums,\n\n slow", ["folk", "piano", "drums", "slow"]),
        ('"pop","piano"', ["pop", "piano"]),
        ('"pop, piano; 120bpm"', ["pop", "piano", "120bpm"]),
        ('"drums, brushed", piano', ["drums, brushed", "piano"]),
        ('piano, "drums; brushed"\n"a ""quiet"" bass"', ["piano", "drums; brushed", 'a "quiet" bass']),
        ('12" mix, disco', ['12" mix', "disco"]),
        ('"Heroes" style, "Low', ['"Heroes" style', '"Low']),
        ('rock, "drums\nbrushed", pop', ["rock", "drums brushed", "pop"]),
        ("instrumental", ["instrumental"]),
        (" , ;\n", []),
        ("", []),
    ],
)
def test_a_prompt_is_parted_as_people_part_it(prompt, tags):
    assert tags_of(prompt) == tags
    assert tags_of(one_line(prompt)) == tags


prompts = st.text(st.sampled_from('ab ,;、，；\n"\r'), max_size=20)


@given(prompt=prompts)
def test_on_one_line_it_has_the_same_tags(prompt):
    line = one_line(prompt)
    assert "\n" not in line
    assert line == " ".join(line.split())
    assert tags_of(line) == tags_of(prompt)
    if '"' not in prompt:
        assert tags_of(spelt(tags_of(prompt))) == tags_of(prompt)


@given(prompt=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_what_is_on_one_line_already_stays_as_it_is(prompt):
    assert one_line(prompt) == " ".join(prompt.split())
