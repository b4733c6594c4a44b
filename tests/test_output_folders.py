"""A place for results that refuses them is found before anything that takes long: before any input is looked for."""

from pathlib import Path

import pytest

from common.command import run
from common.config import load_config
from common.errors import UserError
from infer.cli import app as infer
from prep.cli import app as prep
from train.cli import app as train
from train.config import TrainingConfig
from train.search.config import OptunaConfig
from train.search.process import search

COMMANDS = {
    "infer generate": "--vocal gone.wav --adapter gone --checkpoint-dir gone --output-dir OUT",
    "infer compare": "--test-set gone.json --adapters gone --checkpoint-dir gone --output-dir OUT",
    "infer evaluate": "--items gone --checkpoint-dir gone --output-dir OUT",
    "infer ratings": "gone.json --output-dir OUT",
    "train run": "--config tiny_image2image --shards gone --checkpoint-dir gone --set logger_dir=OUT",
    "train export": "gone OUT/band.safetensors --format comfyui --checkpoint-dir gone",
    "train export --format": "merged gone OUT/band --checkpoint-dir gone",
    "prep build-shards": "gone OUT --checkpoint-dir gone",
    "prep encode": "gone.wav OUT --vocal-lufs -20 --checkpoint-dir gone",
}
APPS = {"infer": infer, "train": train, "prep": prep}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_tries_its_place_for_results_first(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    program, *words = command.split()
    with pytest.raises(SystemExit) as stopped:
        run(APPS[program], [*words, *COMMANDS[command].replace("OUT", "file/below").split()])
    *_, last = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert last.startswith("error: file/below")
    assert last.endswith(": cannot be written (file is a file, not a folder). Name another folder.")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_search_tries_it_too(tmp_path):
    (tmp_path / "file").touch()
    wanted = load_config(OptunaConfig, "tiny_search")
    with pytest.raises(UserError, match="is a file, not a folder"):
        search(
            load_config(TrainingConfig, "tiny_image2image"), wanted,
            checkpoint_dir="gone", storage="sqlite://", study_name="s", out=tmp_path / "file",
        )  # fmt: skip
