"""The recipe of the shipped adapters, at the smallest size."""

from models.adapters.adapter import read_card
from models.adapters.lora import LORA_FILE
from models.adapters.shipped import SHIPPED
from recipe.objectives.settings import SongSettings
from recipe.objectives.shipped import ARMS, SETTINGS, make_adapters


def test_it_makes_an_adapter_of_the_shipped_kind_and_goes_on_where_it_was(tmp_path, capsys):
    songs = SongSettings(training=2, seconds=3.0)
    settings = SETTINGS.model_copy(update={"songs": songs, "training_steps": 1})
    make_adapters(tmp_path / "work", tmp_path / "out", settings)
    for name in ARMS:
        made, shipped = read_card(tmp_path / "out" / name), read_card(SHIPPED / name)
        assert (made.conditioning, made.lora, made.sampler) == (shipped.conditioning, shipped.lora, shipped.sampler)
    made = tmp_path / "out" / "controlnet"
    weights = (made / LORA_FILE).read_bytes()
    (made / LORA_FILE).unlink()
    capsys.readouterr()
    make_adapters(tmp_path / "work", tmp_path / "out", settings)
    assert (made / LORA_FILE).read_bytes() == weights
    assert "train:" not in capsys.readouterr().err
