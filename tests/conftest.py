"""Fixtures that every room's tests share."""

import os
import sys
from pathlib import Path

# Before torch and numpy are imported. Tests start many processes, each of which would compile torch and diffusers anew
# where bytecode may not be written. And two run side by side, where threads that wait for each other spin: one thread
# each, in numpy too, is several times faster.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["OMP_NUM_THREADS"] = "1"
# Two processes that compile one of librosa's functions at the same time leave halves of both in numba's cache, and
# every later process that calls it dies: each worker has a cache of its own.
CACHES = Path(__file__).resolve().parents[1] / ".pytest_cache" / "numba"
os.environ["NUMBA_CACHE_DIR"] = str(CACHES / os.environ.get("PYTEST_XDIST_WORKER", "main"))

import errno
import io
import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import Tensor

from common.errors import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from models.acestep1.transformer.transformer import ACEStepTransformer2DModel

torch.set_num_threads(1)

GOLDENS = Path(__file__).resolve().parent / "goldens"
SHARED_AUDIO = Path(__file__).resolve().parents[2] / "shared" / "audio"


def pytest_configure(config: pytest.Config) -> None:
    """Unless -m asks for gpu, no test and no process that it starts sees a card: what calls fit() would train there."""
    asked = str(config.getoption("markexpr"))
    if "gpu" not in asked or "not gpu" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


UNIT = (
    "test_layout.py",
    "test_configs.py",
    "common/audio/test_loudness.py",
    "common/texts",
    "common/test_config.py",
    "common/test_table.py",
    "models/acestep1/text/test_lyric_tokens.py",
    "models/flow/test_guidance.py",
    "models/flow/test_schedule.py",
    "models/flow/test_windows.py",
    "models/flow/test_conditioning.py",
    "prep/sources/test_align.py",
    "prep/sources/test_segment.py",
    "prep/encoding/test_gate.py",
    "shards/test_fingerprint.py",
    "train/data/test_plan.py",
    "train/data/test_prefetch.py",
    "train/loop/test_losses.py",
    "train/test_config.py",
    "infer/compare/test_ratings.py",
    "infer/request/test_request.py",
)
"""Tests of the inner loop: arithmetic, formats and words, no training and no process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what LONGEST names; mark `unit` what UNIT names, but for what is slow or needs a card."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    here = Path(__file__).resolve().parent
    for item in items:
        path = item.path.relative_to(here).as_posix()
        named = any(path == name or path.startswith(f"{name}/") for name in UNIT)
        if named and not item.get_closest_marker("slow") and not item.get_closest_marker("gpu"):
            item.add_marker("unit")


TOGETHER = ("tests/infer/evaluate/measures/",)
"""Folders whose files one worker runs, because they share what takes long to make."""
LONGEST = (
    "tests/recipe/test_objectives.py",
    "tests/train/search/",
    "tests/prep/building/test_survive.py",
    "tests/prep/building/test_rebuild.py",
    "tests/demo/",
    "tests/test_docs.py",
    "tests/prep/test_memory.py",
    "tests/train/devices/",
    "tests/infer/evaluate/",
)
"""What workers begin with, so that none is left with it at the end while the other has nothing to do."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling | None":
    """A file goes to one worker whole, and a folder of TOGETHER does."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@dataclass(frozen=True)
class Golden:
    """Numbers that upstream computed: its weights, what went in, what must come out; `notes` is the JSON beside it."""

    notes: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


@cache
def read_golden(name: str) -> Golden:
    notes = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    tensors = load_file(GOLDENS / f"{name}.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    return Golden(notes, part("w."), part("in."), part("out."))


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Callable[..., Browser]]":
    """chromium(*flags) starts a Chromium from PATH or BACKLINE_CHROMIUM."""
    from playwright.sync_api import expect, sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("BACKLINE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing = "no Chromium: install one, or name it in BACKLINE_CHROMIUM"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    expect.set_options(timeout=30_000)  # a page on a busy machine answers late
    with sync_playwright() as driver:
        yield lambda *flags: driver.chromium.launch(executable_path=found, args=flags)


@pytest.fixture(scope="session")
def browser(chromium: "Callable[..., Browser]") -> "Iterator[Browser]":
    """A Chromium as it is."""
    browser = chromium()
    yield browser
    browser.close()


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """golden("transformer") reads tests/goldens/transformer.{json,safetensors}; treat its tensors as read-only."""
    return read_golden


@pytest.fixture
def golden_transformer(golden) -> Callable[[str], "ACEStepTransformer2DModel"]:
    """golden_transformer("transformer") is the small transformer of that golden, in eval mode, without gradients."""
    from models.acestep1.transformer.transformer import ACEStepTransformer2DModel

    def build(name: str) -> ACEStepTransformer2DModel:
        notes, weights = golden(name).notes, golden(name).weights
        lyrics = notes["lyric_encoder_args"]
        transformer = ACEStepTransformer2DModel(
            **notes["config"],
            lyric_encoder_heads=lyrics["attention_heads"],
            lyric_encoder_ff=lyrics["linear_units"],
            lyric_encoder_layers=lyrics["num_blocks"],
        )
        transformer.load_state_dict(weights)
        return transformer.eval().requires_grad_(False)

    return build


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> "Iterator[torch.device]":
    """A CUDA device, and the CPU, so that no test of the first is written that could not run; float32 unrounded."""
    from models.device import whole_float32

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with whole_float32():
        yield torch.device(request.param)


@pytest.fixture(scope="module")
def few_clips() -> Iterator[None]:
    """Validations of a module's trainings take two clips, not eight, which cost more than the few steps around them:
    for tests in which figures need not be sure."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.loop.validation.FEWEST_CLIPS", 2)
        yield


@pytest.fixture(scope="module")
def few_rounds() -> Iterator[None]:
    """The tiny vocoder finds phases in two rounds of Griffin-Lim, not in 32: for tests in which a band's sound need not
    be good."""
    from models.acestep1.codec.griffin_lim import griffin_lim

    def quick(magnitudes: Tensor, window: Tensor, hop: int, *, rounds: int, momentum: float) -> Tensor:
        return griffin_lim(magnitudes, window, hop, rounds=min(rounds, 2), momentum=momentum)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("models.acestep1.codec.vocoder.griffin_lim", quick)
        yield


@pytest.fixture
def goldens_folder() -> Path:
    return GOLDENS


@pytest.fixture
def shared_audio() -> Path:
    """Real songs that lie beside the checkout of a developer; tests that want them skip elsewhere."""
    if not SHARED_AUDIO.is_dir():
        pytest.skip("no ../shared/audio beside this checkout")
    return SHARED_AUDIO


@pytest.fixture
def small_ssl_network() -> Callable[..., Path]:
    """small_ssl_network(folder, width=1024) saves a HuBERT of one layer and returns its folder; options go into
    config.json afterwards."""

    def make(folder: Path, *, width: int = 768, **options: Any) -> Path:
        from transformers import HubertConfig, HubertModel

        config = HubertConfig(
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=width // 64,
            intermediate_size=32,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=16,
        )
        HubertModel(config).eval().save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
        return folder

    return make


@pytest.fixture
def ssl_networks(small_ssl_network: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a small random mert and mhubert."""
    small_ssl_network(tmp_path / "networks" / "mert", width=1024)
    small_ssl_network(tmp_path / "networks" / "mhubert")
    return tmp_path / "networks"


@pytest.fixture
def save_vocabulary() -> Callable[[Path], None]:
    """save_vocabulary(path) writes a vocabulary of single letters, with ACE-Step's ids for what is checked."""

    def save(path: Path) -> None:
        special = {"[UNK]": 1, "[SPACE]": 2, "[START]": 261, "[en]": 259, "[break]": 6692}
        letters = {letter: 10 + number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
        tokenizer = Tokenizer(models.BPE(vocab={**special, **letters}, merges=[], unk_token="[UNK]"))
        tokenizer.add_special_tokens([token for token in special if token != "[UNK]"])
        tokenizer.save(str(path))

    return save


@pytest.fixture
def without_romanisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra `lyrics` were not installed."""
    for package in ("cutlet", "unidic_lite", "hangul_romanize", "pypinyin"):
        monkeypatch.setitem(sys.modules, package, None)


@dataclass
class Disk:
    """Refuses one thing that is asked of it: to make a folder, to open a file for writing, to flush or to rename."""

    at: int
    asked: int = 0

    def ask(self, name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if name != "open" or "w" in (*arguments[1:2], options.get("mode", "r"))[0]:
            self.asked += 1
            if self.asked == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(*arguments, **options)


@pytest.fixture
def each_refusal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[str]]:
    """each_refusal(act, before) calls before(), then act() while the disk refuses the first thing asked of it; then
    both again while it refuses the second, and so on.

    It gives the line that each UserError is, and ends once there was nothing left to refuse.
    """
    calls = [(os, "mkdir"), (io, "open"), (os, "fsync"), (os, "replace"), (os, "rename")]

    def each(act: Callable[[], object], before: Callable[[], object]) -> Iterator[str]:
        for at in count(1):
            before()
            disk = Disk(at)
            with monkeypatch.context() as patched:
                for place, name in calls:
                    patched.setattr(place, name, partial(disk.ask, name, getattr(place, name)))
                try:
                    act()
                except UserError as error:
                    message = str(error)
                else:
                    if disk.asked < at:
                        return
                    continue  # a folder that was there already need not be made
            assert "\n" not in message
            assert "(No space left on device)" in message
            yield message

    return each


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """full_disk(size): within the block no file grows beyond `size` bytes; what is written last is cut short there."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(size: int) -> Generator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


_TESTS = count()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for all builds of a machine is kept for those of these tests alone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BACKLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _cache_of_a_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another kept, so that each separates by itself, in any order."""
    monkeypatch.setenv("BACKLINE_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-of-test-{next(_TESTS)}"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
