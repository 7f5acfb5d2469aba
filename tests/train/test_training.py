"""The training loop on a tiny network: it learns, it resumes exactly, and what goes wrong is said in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.tiny_training_data import TINY_NETWORK, moving, tiny_recipe, training_folder, write_clip
from vidsr.errors import DeviceError, InputError, ModelError, OutputError, UsageError
from vidsr.evaluation.metrics import to_8_bits
from vidsr.models.registry import build
from vidsr.nets.layers.resize import resize
from vidsr.nets.secnet.network import SECNet
from vidsr.runtime.device import training_autocast
from vidsr.train import loop
from vidsr.train.checkpoint import check_same_recipe, load_checkpoint, plain_values
from vidsr.train.data import Batch
from vidsr.train.dataset import cached_frames, find_training_files, split_holdout
from vidsr.train.degrade import degrade_bi
from vidsr.train.loop import train, train_step, validate
from vidsr.train.losses import secnet_losses
from vidsr.train.recipe import DataConfig, DegradationConfig, OptimizationConfig, PolicyConfig, Recipe
from vidsr.train.trainer import TrainOptions, learning_rate

CPU = torch.device("cpu")
RECIPE = tiny_recipe(
    DataConfig(crop=32, frames=3, batch=2, burn_in_share=0.4, burn_in_frames=3, holdout_clips=2),
    DegradationConfig(noise_share=0.3, jpeg_share=0.3, h264_share=0),
    OptimizationConfig(steps=6, learning_rate=3e-3, warmup_steps=2, validate_every=4),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("data"))


def options(data: Path, output: Path, **more: Any) -> TrainOptions:
    return TrainOptions(data, output, **({"workers": 0} | more))


def tiny_network(seed: int = 0) -> SECNet:
    torch.manual_seed(seed)
    return build("secnet", TINY_NETWORK)


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert train(RECIPE, options(data, output)) == output / "last.pt"
    return output


# ------------------------------------------------------------------------------------------------ stop and resume


def test_a_run_stopped_after_every_step_gives_the_same_weights(data: Path, whole: Path, tmp_path: Path) -> None:
    for step in range(1, 7):
        torch.manual_seed(step)  # whatever happened in between must not matter
        train(RECIPE, options(data, tmp_path / "run", stop_after_minutes=0.0))
        assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == step
    expected, resumed = load_checkpoint(whole / "last.pt"), load_checkpoint(tmp_path / "run" / "last.pt")
    for part in ("step", "recipe", "network", "average", "optimiser"):
        assert same(expected[part], resumed[part]), part
    fresh = tiny_network(RECIPE.seed).state_dict()
    assert not same(expected["network"], fresh) and not same(expected["network"], expected["average"])


def test_a_finished_run_stays_as_it_is(data: Path, whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert train(RECIPE, options(data, whole)) == whole / "last.pt"
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # fork, Python 3.12 and 3.13
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with one core
def test_workers_change_nothing(data: Path, whole: Path, tmp_path: Path) -> None:
    train(RECIPE, options(data, tmp_path / "run", workers=2))
    assert same(load_checkpoint(tmp_path / "run" / "last.pt")["network"], load_checkpoint(whole / "last.pt")["network"])


def test_another_recipe_is_refused(data: Path, whole: Path) -> None:
    before = (whole / "last.pt").read_bytes()
    other = replace(RECIPE, optimisation=replace(RECIPE.optimisation, gamma=0.2))
    with pytest.raises(UsageError, match=r"last\.pt was made by another recipe \('optimisation' differs\)"):
        train(other, options(data, whole))
    with pytest.raises(UsageError, match="'seed' differs"):
        train(replace(RECIPE, seed=8), options(data, whole))
    train(replace(RECIPE, summary="said in other words"), options(data, whole))
    assert (whole / "last.pt").read_bytes() == before


def test_a_setting_that_came_later_counts_as_its_default(tmp_path: Path) -> None:
    saved, default = plain_values(RECIPE), OptimizationConfig().gamma
    del saved["optimisation"]["gamma"], saved["policy"]

    def check(gamma: float, policy: PolicyConfig | None) -> None:
        optimization = replace(RECIPE.optimisation, gamma=gamma)
        check_same_recipe(saved, replace(RECIPE, optimisation=optimization, policy=policy), tmp_path)

    check(default, None)
    with pytest.raises(UsageError, match="'optimisation' differs"):
        check(default + 1, None)
    with pytest.raises(UsageError, match="'policy' differs"):
        check(default, PolicyConfig())


# -------------------------------------------------------------------------------------------------------- learning


def fixed_batch(burn_in: int = 0) -> Batch:
    truth = torch.from_numpy(moving(4 + burn_in, 64, 64, 3)).permute(0, 3, 1, 2)[None].float() / 255
    return Batch(degrade_bi(truth[0])[None], truth[:, burn_in:], burn_in)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_the_loss_falls(burn_in: int) -> None:
    network = tiny_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    totals = []
    for _ in range(30):
        parts = train_step(network, fixed_batch(burn_in), optimizer, RECIPE, CPU)
        totals.append(parts["total"])
    assert np.mean(totals[-3:]) < 0.9 * totals[0]
    assert set(parts) == {"total", "final", "first", "flow", "gradient_norm"}


def test_a_step_reports_the_losses_of_the_frames_after_burn_in() -> None:
    network, batch = tiny_network(), fixed_batch(burn_in=2)
    with torch.no_grad(), training_autocast(CPU):
        state = network(batch.low[:, :2]).state
        output = network(batch.low[:, 2:], state, batch.low[:, :2])
    expected = secnet_losses(output, batch.low[:, 2:], batch.truth, network.config.offsets, RECIPE.optimisation)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    parts = train_step(network, batch, optimizer, RECIPE, CPU)
    # Without gradients convolutions are fused with what follows: float32 rounds elsewhere.
    assert [parts[key] for key in expected._fields] == pytest.approx([float(value) for value in expected], rel=1e-5)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_pretraining_moves_the_local_fusion_and_the_motion_alone(burn_in: int) -> None:
    network = tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    totals = [
        train_step(network, fixed_batch(burn_in), optimizer, RECIPE, CPU, pretraining=True)["total"] for _ in range(12)
    ]
    assert totals[-1] < totals[0]
    moved = {name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"fusion", "flow"}


def test_the_first_steps_of_a_recipe_pretrain(data: Path, tmp_path: Path) -> None:
    """III-A: first the local fusion alone, then the whole; a stopped run continues where it was."""
    recipe = replace(RECIPE, optimisation=replace(RECIPE.optimisation, fusion_steps=2))
    fresh = tiny_network(RECIPE.seed).state_dict()
    for step in range(1, 5):
        train(recipe, options(data, tmp_path / "run", stop_after_minutes=0.0))
        saved = load_checkpoint(tmp_path / "run" / "last.pt")["network"]
        moved = {name.split(".")[0] for name, value in saved.items() if not torch.equal(value, fresh[name])}
        assert moved == {"fusion", "flow"} | ({"recurrent"} if step > 2 else set())


def test_a_network_in_the_papers_form_learns() -> None:
    torch.manual_seed(1)
    form = {"t1": 2, "t2": 2, "t3": 3, "encoding": "fused", "aligned": False, "detail_widths": [4, 6],
            "fusion_tail": 4, "attention": True}  # fmt: skip
    network = build("secnet", TINY_NETWORK | form)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    totals = [train_step(network, fixed_batch(2), optimizer, RECIPE, CPU)["total"] for _ in range(20)]
    assert np.mean(totals[-3:]) < 0.95 * totals[0]


def test_a_broken_batch_does_not_break_the_weights() -> None:
    network, batch = tiny_network(), fixed_batch()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    parts = train_step(network, batch._replace(truth=batch.truth * math.nan), optimizer, RECIPE, CPU)
    assert math.isnan(parts["gradient_norm"]) and same(network.state_dict(), before)


def test_gradients_are_clipped() -> None:
    """Plain descent with rate 1 moves the weights by the clipped gradient."""
    network = tiny_network()
    before = [p.detach().clone() for p in network.parameters()]
    recipe = replace(RECIPE, optimisation=replace(RECIPE.optimisation, gradient_clip=1e-3))
    parts = train_step(network, fixed_batch(), torch.optim.SGD(network.parameters(), lr=1.0), recipe, CPU)
    moved = math.sqrt(
        sum(float((p - q).detach().square().sum()) for p, q in zip(network.parameters(), before, strict=True))
    )
    assert parts["gradient_norm"] > 2e-3 and moved == pytest.approx(1e-3, rel=0.01)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    settings = OptimizationConfig(steps=110, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    recipe = tiny_recipe(DataConfig(), optimisation=settings)
    rates = [learning_rate(step, recipe) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(1.0) and rates[60] == pytest.approx(0.55) and rates[110] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[10:]))


# ------------------------------------------------------------------------------------------------- log, validation


def test_the_log_holds_losses_and_scores(data: Path, whole: Path) -> None:
    log = log_of(whole)
    scores = [entry for entry in log if "psnr_bi" in entry]
    losses = [entry for entry in log if "total" in entry]
    assert [entry["step"] for entry in scores] == [4, 6] and [entry["step"] for entry in losses] == [6]
    assert set(losses[0]) == {"step", "seconds", "lr", "total", "final", "first", "flow", "gradient_norm"}
    assert losses[0]["lr"] == pytest.approx(learning_rate(5, RECIPE))
    assert all(math.isfinite(value) for entry in log for value in entry.values())
    best = load_checkpoint(whole / "best.pt")
    assert best["best"] == pytest.approx(max(entry["psnr_bi"] + entry["psnr_bd"] for entry in scores))
    assert not list(whole.glob(".*"))


def test_logged_losses_are_means_over_the_steps_since_the_last_entry(data: Path, whole: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    for _ in range(6):
        train(RECIPE, options(data, tmp_path / "run", stop_after_minutes=0.0), seen.append)
    assert seen == log_of(tmp_path / "run")
    single = [entry["total"] for entry in seen if "total" in entry]
    assert len(single) == 6
    together = next(entry["total"] for entry in log_of(whole) if "total" in entry)
    assert together == pytest.approx(np.mean(single), rel=1e-5)


def test_validation_scores_the_averaged_weights_on_held_out_videos(data: Path, whole: Path, tmp_path: Path) -> None:
    last = load_checkpoint(whole / "last.pt")
    network = tiny_network()
    network.load_state_dict(last["average"])
    _, held = split_holdout(find_training_files(data, ("A", "B")), 2)
    clips = [torch.from_numpy(np.array(cached_frames(i, tmp_path))).permute(0, 3, 1, 2) / 255 for i in held]
    expected = validate(network.to(memory_format=torch.channels_last), clips, CPU)  # type: ignore[call-overload]
    logged = log_of(whole)[-1]
    assert {key: logged[key] for key in expected} == pytest.approx(expected, abs=1e-4)


def test_validation_psnr_of_a_network_that_is_bicubic() -> None:
    network = tiny_network().requires_grad_(False)
    for out in (network.fusion.out, network.recurrent.out):
        out.weight.zero_()
    clip = torch.from_numpy(moving(3, 64, 80, 5)).permute(0, 3, 1, 2) / 255
    error = (to_8_bits(resize(degrade_bi(clip), (64, 80))) - clip)[..., 8:-8, 8:-8].double().square().mean()
    assert validate(network, [clip], CPU)["psnr_bi"] == pytest.approx(-10 * math.log10(error), abs=0.02)
    assert validate(network, [torch.zeros(2, 3, 32, 32)], CPU) == {"psnr_bi": 100.0, "psnr_bd": 100.0}


def test_without_held_out_clips_there_is_no_score_and_no_best(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, data=replace(RECIPE.data, holdout_clips=0))
    train(recipe, options(data, tmp_path / "run", stop_after_minutes=0.0))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"last.pt", "log.jsonl"}
    assert [set(entry) & {"psnr_bi", "total"} for entry in log_of(tmp_path / "run")] == [{"total"}]


# ----------------------------------------------------------------------------------------------------------- start


def barely_moving() -> Recipe:
    """One step too small to change any weight noticeably."""
    settings = replace(RECIPE.optimisation, steps=1, learning_rate=1e-12, final_learning_rate=1e-12)
    return replace(RECIPE, optimisation=settings)


def test_a_new_run_starts_from_a_weights_file(data: Path, tmp_path: Path) -> None:
    start = tiny_network(99)
    save_file({name: value.half() for name, value in start.state_dict().items()}, tmp_path / "start.safetensors")
    train(barely_moving(), options(data, tmp_path / "run", init_from=tmp_path / "start.safetensors"))
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    for name, value in start.state_dict().items():
        for part in ("network", "average"):
            torch.testing.assert_close(saved[part][name], value.half().float(), atol=1e-9, rtol=0)


def test_a_new_run_starts_from_the_averaged_weights_of_a_checkpoint(data: Path, whole: Path, tmp_path: Path) -> None:
    train(barely_moving(), options(data, tmp_path / "run", init_from=whole / "best.pt"))
    expected = load_checkpoint(whole / "best.pt")["average"]
    torch.testing.assert_close(load_checkpoint(tmp_path / "run" / "last.pt")["network"], expected, atol=1e-9, rtol=0)
    (tmp_path / "gone.pt").unlink(missing_ok=True)
    train(barely_moving(), options(data, tmp_path / "run", init_from=tmp_path / "gone.pt"))  # resumed: not needed


def test_weights_that_cannot_be_used_are_a_model_error(data: Path, tmp_path: Path) -> None:
    save_file(build("secnet", TINY_NETWORK | {"fusion_width": 8}).state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, message in (
        ("other", r"the weights in .*other\.safetensors do not fit the network of the recipe"),
        ("text", r"cannot read the weights .*text\.safetensors"),
        ("missing", r"cannot read the weights .*missing\.safetensors"),
    ):
        with pytest.raises(ModelError, match=message):
            train(RECIPE, options(data, tmp_path / "run", init_from=tmp_path / f"{name}.safetensors"))
    assert not (tmp_path / "run" / "last.pt").exists()


def test_invalid_options_are_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot create the folder"):
        train(RECIPE, options(data, tmp_path / "file"))
    with pytest.raises(UsageError, match="unknown device 'toaster'"):
        train(RECIPE, options(data, tmp_path / "run", device="toaster"))
    with pytest.raises(DeviceError, match="device 'cuda:99' is not available"):
        train(RECIPE, options(data, tmp_path / "run", device="cuda:99"))
    with pytest.raises(InputError, match="no training clip"):
        train(RECIPE, options(tmp_path, tmp_path / "run"))
    assert not (tmp_path / "frames").exists()


def test_clips_shorter_than_the_window_are_refused(data: Path, tmp_path: Path) -> None:
    """Motion over two frames needs a third frame; the loss would be NaN for the whole run."""
    recipe = replace(RECIPE, data=replace(RECIPE.data, frames=2), network=TINY_NETWORK | {"t1": 2})
    with pytest.raises(UsageError, match="'tiny' trains on 2 frames; motion over 2 frames needs more"):
        train(recipe, options(data, tmp_path / "run"))


@pytest.mark.parametrize("share_faces, share_general", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_the_kinds_with_a_share_are_validated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share_faces: float, share_general: float
) -> None:
    """Stills alone cannot validate a model: then clips of both kinds do."""
    shares = replace(RECIPE.data, share_faces=share_faces, share_general=share_general)
    kinds: list[str] = []
    clip = loop._validation_clip
    monkeypatch.setattr(loop, "_validation_clip", lambda item, cache: (kinds.append(item.kind), clip(item, cache))[1])
    train(replace(RECIPE, data=shares), options(data, tmp_path / "run", stop_after_minutes=0.0))
    both = share_faces == share_general
    assert kinds == (["faces", "general"] if both else ["faces"] * 2 if share_faces else ["general"] * 2)


def test_a_validation_clip_too_small_to_score_is_an_input_error(tmp_path: Path) -> None:
    for index in range(3):
        write_clip(tmp_path / f"{index}.avi", moving(4, 24, 64, index))
    with pytest.raises(InputError, match=r"the validation clip .*\.avi is 64x24; it needs at least 32x32 pixels"):
        train(RECIPE, options(tmp_path, tmp_path / "run"))


def test_training_loads_no_codec() -> None:
    """PyAV comes in only when a recipe wants H.264, through one function; evaluation writes files and may have it."""
    folder = Path(__file__).parents[2] / "vidsr" / "train"
    others = {"__init__", "evaluate", "present"}
    modules = [f"vidsr.train.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem not in others]
    assert "vidsr.train.loop" in modules
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print([n for n in sys.modules if n == 'av' or n.startswith(('av.', 'vidsr.video'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.parents[1], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_h264_compression_takes_part_when_the_recipe_wants_it(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, degradation=replace(RECIPE.degradation, h264_share=1.0, jpeg_share=0.0))
    train(recipe, options(data, tmp_path / "run", stop_after_minutes=0.0))
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 1


@pytest.mark.parametrize(("capability", "is_bf16"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)])
def test_training_computes_in_bf16_only_where_the_processor_does(
    monkeypatch: pytest.MonkeyPatch, capability: str, is_bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    with training_autocast(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if is_bf16 else torch.float32)


def test_no_task_chooses_bf16_on_its_own() -> None:
    """All go by `training_autocast`, so that none imitates it."""
    folder = Path(loop.__file__).parent
    found = [path.name for path in folder.rglob("*.py") if "torch.autocast(" in path.read_text()]
    assert len(list(folder.rglob("*.py"))) > 20 and found == []
