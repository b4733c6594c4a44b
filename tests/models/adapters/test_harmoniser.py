"""Which harmoniser adapters use: their own, as adapter.json names it, or the one inside Backline."""

import re
import shutil

import pytest

from common.errors import UserError
from models.adapters.adapter import read_card
from models.adapters.harmoniser import find_harmoniser
from models.adapters.shipped import SHIPPED
from models.harmony.network import WEIGHTS_FILE, harmony_network_hash
from models.harmony.trained import SHIPPED_HARMONISER

CARD = read_card(SHIPPED / "controlnet")
NAMED = CARD.model_copy(update={"harmoniser": harmony_network_hash(SHIPPED_HARMONISER)})


def test_it_is_that_of_the_first_adapter_which_has_its_own(tmp_path):
    plain, own = tmp_path / "plain", tmp_path / "own"
    shutil.copytree(SHIPPED_HARMONISER, own / "harmoniser")
    assert find_harmoniser([plain, own], [CARD, NAMED]) == own / "harmoniser"
    assert find_harmoniser([plain], [CARD]) == find_harmoniser([], []) == SHIPPED_HARMONISER
    assert "harmoniser" not in CARD.model_dump_json()  # cards without one are as they were


def test_a_broken_or_foreign_one_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "harmoniser"
    complaints = []

    def refused(card):
        with pytest.raises(UserError) as raised:
            find_harmoniser([tmp_path], [card])
        complaints.append(str(raised.value))

    refused(NAMED)  # it is not there
    shutil.copytree(SHIPPED_HARMONISER, folder)
    refused(CARD)
    (folder / WEIGHTS_FILE).write_bytes(b"other")
    refused(NAMED)
    expected = (
        r"cannot be read \(No such file or directory\), though adapter\.json names it\. Copy the whole adapter\.",
        r"adapter\.json names no harmoniser\. Train it with train harmoniser --adapter .*",
        r"is [0-9a-f]{8}, and adapter\.json names [0-9a-f]{8}\. Copy the whole adapter, or train it .*",
    )
    for complaint, pattern in zip(complaints, expected, strict=True):
        assert re.fullmatch(f"{re.escape(str(folder))}: {pattern}", complaint)
