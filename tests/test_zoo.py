"""The zoo: what is saved comes back, what is damaged is refused with the file and the remedy, nothing is unpickled."""

import json
from pathlib import Path

import pytest
import torch

from prx_lab import zoo
from prx_lab.errors import LabError
from prx_lab.locks import locked


@pytest.fixture
def store(tmp_path: Path) -> Path:
    state = {"w": torch.linspace(-1, 1, 12).view(3, 4), "steps": torch.tensor([7])}
    zoo.save("lab-dino", state, {"width": 4}, "# lab-dino\n\nA card.", zoo.metrics_file({"accuracy": 0.5}), tmp_path)
    return tmp_path


def test_round_trip(store: Path) -> None:
    state, config = zoo.load("lab-dino", store)
    assert config == {"width": 4}
    assert state["w"].dtype == torch.float32 and torch.allclose(state["w"], torch.linspace(-1, 1, 12).view(3, 4), atol=1e-3)
    assert state["steps"].dtype == torch.int64 and state["steps"].item() == 7
    assert json.loads((store / "lab-dino" / "metrics.json").read_text()) == {"accuracy": 0.5}
    assert zoo.sizes(store)["lab-dino"] == sum(p.stat().st_size for p in (store / "lab-dino").iterdir())


def test_save_replaces_and_keeps_the_others(store: Path) -> None:
    zoo.save("lab-t5", {"a": torch.zeros(2)}, {}, "# t5", root=store)
    zoo.save("lab-dino", {"w": torch.ones(2)}, {"width": 2}, "# new", root=store)
    assert zoo.load("lab-dino", store)[1] == {"width": 2}
    assert not (store / "lab-dino" / "metrics.json").exists()
    assert zoo.folder("lab-t5", store).is_dir()
    assert [p.name for p in store.iterdir() if p.name.startswith(".")] in ([], [".lock"]), "drafts are cleared away"


def test_one_process_at_a_time_writes(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "PATIENCE", 0.1)
    with locked(store / ".lock", 0, "in use"), pytest.raises(LabError, match="Another process is writing networks into .* run again"):
        zoo.save("lab-t5", {"a": torch.zeros(2)}, {}, "# t5", root=store)
    assert "lab-t5" not in zoo.sizes(store)
    zoo.save("lab-t5", {"a": torch.zeros(2)}, {}, "# t5", root=store)
    assert "lab-t5" in zoo.sizes(store)


def test_a_killed_process_of_an_older_version_locks_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "PATIENCE", 0.1)
    (tmp_path / ".lock").mkdir()  # its lock was a folder
    zoo.save("lab-t5", {"a": torch.zeros(2)}, {}, "# t5", root=tmp_path)
    assert "lab-t5" in zoo.sizes(tmp_path) and not (tmp_path / ".lock").is_dir()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "card.md", "metrics.json"])
@pytest.mark.parametrize("harm", ["truncated", "changed", "missing"])
def test_damage_is_named(store: Path, file: str, harm: str) -> None:
    path = store / "lab-dino" / file
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if harm == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    zoo._checked.cache_clear()
    with pytest.raises(LabError, match="prx-lab pretrain lab-dino") as error:
        zoo.load("lab-dino", store)
    assert file in str(error.value)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(LabError, match="Did you mean 'lab-inception'"):
        zoo.folder("lab-incepton")
    with pytest.raises(LabError, match="Did you mean 'dinov2-b'"):
        zoo.reachable("dinov2-bb")


def test_not_yet_trained_says_how_to(store: Path) -> None:
    with pytest.raises(LabError, match="prx-lab pretrain lab-clip"):
        zoo.folder("lab-clip", store)


def test_broken_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(LabError, match="cannot be read as JSON .* reinstall the package"):
        zoo.folder("lab-dino", tmp_path)


def test_reachable_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    zoo._ask_hub.cache_clear()
    assert zoo.reachable("dinov3-b").startswith("offline")
    assert zoo.reachable("inception-v3").startswith("local file")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in zoo.reachable("clip-vit-l-14-336")
    zoo._ask_hub.cache_clear()


@pytest.mark.parametrize("name", sorted(zoo.sizes()))
def test_shipped_networks_are_whole(name: str) -> None:
    folder = zoo.folder(name)
    assert (folder / "card.md").read_text().startswith(f"# {name}")
    assert name in zoo.EMBEDDED


def test_shipped_networks_are_small() -> None:
    assert sum(zoo.sizes().values()) <= 16e6
