"""last.ckpt and best.json: whole or as they were, and refused where going on would not be going on."""

import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from common.config import leaves
from common.errors import UserError
from train.config import TrainingConfig
from train.loop.checkpoint import BEST, LAST, Best, check_resumable, find_last, save_best, save_last
from train.loop.fit import quiet_lightning

BASE = "a" * 64
HARMLESS = {
    "max_steps", "checkpoint_every_n_steps", "val_every_n_steps", "early_stop_patience", "render_every_n_steps",
    "gradient_checkpointing", "num_workers", "compile", "exp_name", "logger_dir", "dataset_path",
}  # fmt: skip
"""What changes nothing of what has been learned so far, and of what would have been learned next."""


class Trained(LightningModule):
    """A few numbers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(5000.0))


@pytest.fixture
def trainer():
    with quiet_lightning():
        made = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
    made.strategy.connect(Trained())
    return made


def held(folder):
    return torch.load(folder / LAST, weights_only=True)["state_dict"]["weight"]


def test_whatever_the_disk_refuses_the_checkpoint_is_the_old_or_the_new_one(tmp_path, trainer, each_refusal):
    weight, found = trainer.lightning_module.weight.data, []

    def old():
        weight.zero_()
        save_last(trainer, tmp_path)
        weight.fill_(1.0)

    for message in each_refusal(lambda: save_last(trainer, tmp_path), before=old):
        assert message == f"{tmp_path / LAST}: cannot be written (No space left on device)."
        assert [path.name for path in tmp_path.iterdir()] == [LAST]
        found.append(held(tmp_path).unique().tolist())
    assert found == [[0.0], [0.0], [1.0]]  # the file's flush, its name, the folder's flush


@pytest.mark.parametrize("room", [0, 100, 15_000, 20_000])
def test_a_disk_that_is_full_amid_the_checkpoint_keeps_the_old_one(tmp_path, trainer, full_disk, room):
    save_last(trainer, tmp_path)
    before = (tmp_path / LAST).read_bytes()
    trainer.lightning_module.weight.data.zero_()
    with full_disk(room), pytest.raises(UserError) as caught:
        save_last(trainer, tmp_path)
    assert str(caught.value) == f"{tmp_path / LAST}: cannot be written (File too large)."
    assert (tmp_path / LAST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_whatever_the_disk_refuses_best_json_names_one_adapter(tmp_path, each_refusal):
    first, second = (Best(adapter=f"step={step}_lora", step=step, figures={}) for step in (1, 2))
    for message in each_refusal(lambda: save_best(tmp_path, second), before=lambda: save_best(tmp_path, first)):
        assert message.startswith(f"{tmp_path / BEST}: cannot be written (")
        assert Best(**json.loads((tmp_path / BEST).read_text())) in (first, second)
        assert [path.name for path in tmp_path.iterdir()] == [BEST]
    assert json.loads((tmp_path / BEST).read_text())["step"] == 2


@pytest.fixture
def saved(tmp_path):
    """saved(**held) writes a last.ckpt at step 3 of a run by the defaults, with `held` in place of what it holds."""
    config = TrainingConfig(dataset_path="shards", max_steps=10)

    def save(**other):
        weights = {"weight": torch.arange(4000.0)}
        usual = {"global_step": 3, "config": config.model_dump(mode="json"), "base": BASE, "state_dict": weights}
        torch.save(usual | other, tmp_path / LAST)
        return tmp_path / LAST, config

    return save


def said_of(path, config):
    try:
        check_resumable(path, config, BASE)
    except UserError as error:
        return str(error)
    return ""


def complaint(path, config):
    message = said_of(path, config)
    assert message
    assert "\n" not in message
    return message


def test_a_setting_that_touches_what_is_learned_may_not_change(saved):
    _, config = saved()
    written = config.model_dump(mode="json")
    refused = set()
    for name, value in leaves(written).items():
        section, _, rest = name.partition(".")
        other = written | {section: written[section] | {rest: "other"} if rest else "other"}
        path, _ = saved(config=other)
        if section in HARMLESS:
            check_resumable(path, config, BASE)
            continue
        refused.add(section)
        now = config.meant_by_null.get(name) if value is None else value
        assert complaint(path, config) == (
            f"{path}: trained with {name} other, now it is {now}. Resume with the first, or start anew."
        )
    assert refused == written.keys() - HARMLESS
    assert refused >= {"seed", "batch_size", "learning_rate", "lora", "accompaniment"}


def test_a_run_that_has_no_step_left_is_finished(saved):
    path, config = saved(global_step=9)
    check_resumable(path, config, BASE)
    for step in (10, 11):
        assert complaint(*saved(global_step=step)) == (
            f"{path}: stands at step {step} of max_steps 10. Raise max_steps to go on."
        )


def test_damage_anywhere_to_what_a_checkpoint_holds_is_one_line(saved):
    path, config = saved()
    whole = path.read_bytes()
    check_resumable(path, config, BASE)
    for at in range(0, len(whole), 397):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        if message := said_of(path, config):
            assert message.startswith(f"{path}: cannot be read (")
            continue
        now = torch.load(path, weights_only=True)  # padding, or a date
        assert torch.equal(now["state_dict"]["weight"], torch.arange(4000.0))
        assert now["config"] == config.model_dump(mode="json")
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert complaint(path, config).startswith(f"{path}: cannot be read (")


@pytest.mark.parametrize("content", [{"global_step": 3}, [1], torch.nn.Linear(1, 1)], ids=["keys", "list", "object"])
def test_a_file_of_something_else_is_one_line(tmp_path, saved, content):
    _, config = saved()
    torch.save(content, tmp_path / LAST)
    assert complaint(tmp_path / LAST, config).startswith(f"{tmp_path / LAST}: cannot be read (")


def test_a_folder_whose_name_only_begins_like_a_version_is_none(tmp_path):
    config = TrainingConfig(dataset_path="shards", logger_dir=str(tmp_path), exp_name="run")
    for name in ("version_9", "version_10", "version_11_copy", "version_x"):
        folder = tmp_path / "run" / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / LAST).touch()
    assert find_last(config).parents[1].name == "version_10"
