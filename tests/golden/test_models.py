"""Model cards and weight files: every shipped one is whole, and nothing that was tampered with is ever loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vidsr.errors import ModelError
from vidsr.models import cards
from vidsr.models.cards import ModelCard, find_card, list_cards, models_folder, read_card
from vidsr.models.loading import describe, load_network, verify

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

FAST = "secnet-fast"
CARDS = list_cards()


@pytest.fixture
def card_path(tmp_path: Path) -> Path:
    """A copy of the shipped models; the path of one card in it."""
    shutil.copytree(models_folder(), tmp_path / "models")
    return tmp_path / "models" / f"{FAST}.toml"


def set_field(card: Path, name: str, value: str) -> None:
    """Replaces a line `name = ...` of a card by one with this TOML value."""
    lines = [f"{name} = {value}" if line.startswith(f"{name} =") else line for line in card.read_text().splitlines()]
    card.write_text("\n".join(lines) + "\n")


def describe_anew(card: Path) -> None:
    """Makes a card state the size and hash of its weights as they are now."""
    path = read_card(card).weights_path
    set_field(card, "bytes", str(path.stat().st_size))
    set_field(card, "sha256", f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')


# ---------------------------------------------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_shipped_model_is_whole(card: ModelCard) -> None:
    assert 0 <= verify(card) <= cards.GOLDEN_TOLERANCE
    assert hashlib.sha256(card.weights_path.read_bytes()).hexdigest() == card.sha256
    assert card.path.stem == card.name
    assert (card.path.parent / card.recipe).is_file()
    assert card.licence and card.data and card.data_licences


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_loaded_network_is_frozen_float32_and_the_same_every_time(card: ModelCard) -> None:
    network, again = load_network(card), load_network(card)
    assert not network.training
    for (name, one), (other_name, two) in zip(network.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name and one.dtype == torch.float32 and torch.equal(one, two)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_description_is_the_card_with_counted_parameters(card: ModelCard) -> None:
    values = json.loads(json.dumps(describe(card.name)))
    table = tomllib.loads(card.path.read_text())
    assert {key: values[key] for key in table} == table
    stored = sum(tensor.numel() for tensor in load_file(card.weights_path).values())
    parts = dict(values["parameters"])
    assert parts.pop("total") == sum(parts.values()) == stored
    assert set(values) - set(table) == {"parameters", "multiply_adds_per_pixel", "trained"}


def test_fast_model_keeps_its_budget() -> None:
    values = describe(FAST)
    assert values["parameters"]["total"] <= 350_000
    assert 10_000 < values["multiply_adds_per_pixel"] <= 300_000
    assert (values["scale"], values["lookahead"]) == (4, 1)


def test_names_are_found_and_unknown_ones_name_the_known() -> None:
    assert FAST in {card.name for card in CARDS}
    assert find_card(FAST) == find_card(str(models_folder() / f"{FAST}.toml"))
    with pytest.raises(ModelError, match=f"'nosuch'.*bicubic.*{FAST}"):
        find_card("nosuch")


def test_models_lie_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "vidsr" / "models"
    package.mkdir(parents=True)
    monkeypatch.setattr(cards, "__file__", str(package / "cards.py"))
    with pytest.raises(ModelError, match="missing"):
        models_folder()
    (tmp_path / "models").mkdir()
    assert models_folder() == tmp_path / "models"
    (package / "shipped").mkdir()
    assert models_folder() == package / "shipped"


# ----------------------------------------------------------------------------------------------- what is not loaded


def test_a_copy_loads_from_its_own_folder(card_path: Path) -> None:
    assert find_card(str(card_path)).weights_path.parent == card_path.parent
    load_network(find_card(str(card_path)))


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_one_changed_bit_is_found(card_path: Path, place: float) -> None:
    path = read_card(card_path).weights_path
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        load_network(read_card(card_path))


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_cut_off_file_is_found_by_its_size(card_path: Path, kept: int) -> None:
    path = read_card(card_path).weights_path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="bytes, its card says"):
        load_network(read_card(card_path))


def test_missing_weights(card_path: Path) -> None:
    read_card(card_path).weights_path.unlink()
    with pytest.raises(ModelError, match="is missing"):
        load_network(read_card(card_path))


@pytest.mark.parametrize("content", [b"", b"no tensors here" * 100, b"\xff" * 1000])
def test_what_is_no_safetensors_file(card_path: Path, content: bytes) -> None:
    read_card(card_path).weights_path.write_bytes(content)
    describe_anew(card_path)
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_network(read_card(card_path))


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit(card_path: Path, change: str) -> None:
    path = read_card(card_path).weights_path
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["extra"] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(1, 2, 3, dtype=torch.float16)
    save_file(tensors, path)
    describe_anew(card_path)
    with pytest.raises(ModelError, match="does not fit 'secnet'"):
        load_network(read_card(card_path))


def test_other_weights_do_not_compute_the_example(card_path: Path) -> None:
    path = read_card(card_path).weights_path
    save_file({name: tensor * 1.1 for name, tensor in load_file(path).items()}, path)
    describe_anew(card_path)
    with pytest.raises(ModelError, match="does not reproduce its stored example"):
        verify(read_card(card_path))


def test_weights_that_are_no_numbers_do_not_pass(card_path: Path) -> None:
    path = read_card(card_path).weights_path
    save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(path).items()}, path)
    describe_anew(card_path)
    with pytest.raises(ModelError, match="holds values that are not"):
        verify(read_card(card_path))


def test_a_changed_example_is_found(card_path: Path) -> None:
    card = read_card(card_path)
    with np.load(card.golden_path) as golden:
        clip, output = golden["input"], golden["output"]
    np.savez(card.golden_path, input=clip, output=output + 1)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        verify(card)
    set_field(card_path, "golden_sha256", f'"{hashlib.sha256(card.golden_path.read_bytes()).hexdigest()}"')
    with pytest.raises(ModelError, match="does not reproduce its stored example"):
        verify(read_card(card_path))


# ------------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", sorted(tomllib.loads(CARDS[0].path.read_text())))
def test_a_card_without_one_field_is_refused(card_path: Path, name: str) -> None:
    table = tomllib.loads(card_path.read_text())
    del table[name]
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, part in table.items():
        if isinstance(part, dict):
            lines += [f"[{key}]", *(f"{inner} = {json.dumps(value)}" for inner, value in part.items())]
    card_path.write_text("\n".join(lines))
    with pytest.raises(ModelError, match=f"is incomplete: '{name}' is missing"):
        read_card(card_path)


def test_a_card_with_a_field_too_many_is_refused(card_path: Path) -> None:
    card_path.write_text("mood = 3\n" + card_path.read_text())
    with pytest.raises(ModelError, match="unknown key 'mood'"):
        read_card(card_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("file", "3"), ("bytes", '"many"'), ("sha256", "[]"), ("network", "1"), ("scale", "4.0"), ("name", "true")],
)
def test_a_value_of_the_wrong_kind_is_refused(card_path: Path, name: str, value: str) -> None:
    text = card_path.read_text()
    if name == "network":
        head, _, tail = text.partition("[network]")
        card_path.write_text("network = 1\n" + head + tail[tail.index("[metrics]") :])
    else:
        set_field(card_path, name, value)
    with pytest.raises(ModelError, match=f": '{name}' must be of type"):
        read_card(card_path)


@pytest.mark.parametrize(("name", "value"), [("fusion_width", '"32"'), ("fusion_width", "0"), ("unheard_of", "1")])
def test_arguments_that_make_no_network(card_path: Path, name: str, value: str) -> None:
    text = card_path.read_text()
    card_path.write_text(
        text.replace("[network]", f"[network]\n{name} = {value}", 1)
        if name not in text
        else "\n".join(f"{name} = {value}" if line.startswith(f"{name} =") else line for line in text.splitlines())
    )
    with pytest.raises(ModelError):
        load_network(read_card(card_path))


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"= 1"])
def test_a_card_that_is_no_toml(card_path: Path, content: bytes) -> None:
    card_path.write_bytes(content)
    with pytest.raises(ModelError, match="not valid TOML"):
        read_card(card_path)


def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read the model card"):
        read_card(tmp_path / "none.toml")
    with pytest.raises(ModelError, match="is not a regular file"):
        read_card(tmp_path)


def test_an_unknown_architecture(card_path: Path) -> None:
    set_field(card_path, "architecture", '"other"')
    with pytest.raises(ModelError, match="unknown architecture 'other'"):
        load_network(read_card(card_path))
