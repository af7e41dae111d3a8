"""Reading, refusing and writing weights."""

import os
import socket
import zipfile

import huggingface_hub
import pytest
import safetensors.torch
import torch
from torch import nn

from attnsearch.config.model import BrNpaSettings, CnnSettings
from attnsearch.errors import ConfigError, StoreError
from attnsearch.files import is_temporary, writer_of
from attnsearch.models import build_model
from attnsearch.models.backbones.resnet import build_resnet
from attnsearch.models.weights import load_file, load_into, read_checkpoint, save_checkpoint
from attnsearch.processes import ProcessName
from attnsearch.tasks.classification import LinearHeads

METADATA = {"class_names": '["a", "b"]', "config": "{}", "epoch": "3"}


class RunsCode:
    def __reduce__(self):
        return os.getcwd, ()


@pytest.fixture
def state():
    return {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_torch_files_are_read_whether_wrapped_or_not(tmp_path, state, wrap):
    torch.save(wrap({f"module.{name}": tensor for name, tensor in state.items()}), tmp_path / "w.pt")
    loaded = load_file(tmp_path / "w.pt")
    assert set(loaded) == {"weight", "bias"}
    assert torch.equal(loaded["weight"], state["weight"])


def test_safetensors_are_known_by_their_content(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "w.bin")
    assert torch.equal(load_file(tmp_path / "w.bin")["weight"], state["weight"])


def test_paths_are_expanded(tmp_path, state, monkeypatch):
    monkeypatch.setenv("WEIGHTS_FOLDER", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "w.pt")
    assert set(load_file("$WEIGHTS_FOLDER/w.pt")) == set(load_file("~/w.pt")) == {"weight", "bias"}


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_that_would_run_code_is_refused(tmp_path, legacy):
    torch.save({"weight": RunsCode()}, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigError, match=r"evil\.pt would run code \(posix\.getcwd\) and is refused"):
        load_file(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pt", b""),
        ("text.pt", b"not weights at all"),
        ("zip.pt", b"PK\x03\x04" + bytes(60)),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
        ("empty.safetensors", b""),
        ("page.safetensors", b"<html>404</html>"),
    ],
)
def test_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        load_file(tmp_path / name)


def test_truncated_files_are_named(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ConfigError, match=file.name):
            load_file(file)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.ones(2)])
def test_file_without_a_state_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"other\.pt holds no state"):
        load_file(tmp_path / "other.pt")


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(ConfigError, match=f"{path} does not exist or is not a file"):
            load_file(path)


def test_load_into_lists_every_kind_of_misfit(state):
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(
        ConfigError,
        match=r"w\.pt .*1 missing: bias; 1 unexpected: extra; 1 misshapen: weight \(3, 3\) instead of \(2, 3\)",
    ):
        load_into(module, {"weight": torch.ones(3, 3), "extra": torch.ones(1)}, "w.pt")
    assert torch.equal(module.weight, before)


def test_load_into_lists_the_first_ten():
    names = {f"k{index:02d}": torch.ones(1) for index in range(12)}
    with pytest.raises(ConfigError, match=r"12 unexpected: k00, .*k09, …"):
        load_into(nn.Identity(), names, "w.pt")


def small(**changes):
    return CnnSettings(backbone="test_resnet", **changes)


@pytest.fixture
def body_state():
    state = build_resnet(small()).state_dict()
    return {name: torch.full_like(tensor, 0.5) for name, tensor in state.items()}


@pytest.mark.parametrize("kind", ["body", "with classifier", "checkpoint", "old torch"])
def test_backbone_takes_every_layout(tmp_path, body_state, kind):
    classifier = {"fc.weight": torch.ones(1000, 96), "fc.bias": torch.ones(1000)}
    layouts = {
        "body": body_state,
        "with classifier": body_state | classifier,
        "checkpoint": {f"backbone.{name}": t for name, t in body_state.items()} | {"head.weight": torch.ones(2, 96)},
        "old torch": {name: t for name, t in body_state.items() if not name.endswith("num_batches_tracked")},
    }
    torch.save(layouts[kind], tmp_path / "w.pt")
    body = build_resnet(small(weights=str(tmp_path / "w.pt"), stride_stage4=1))
    assert all((parameter == 0.5).all() for parameter in body.parameters())


def test_weights_of_another_backbone_are_refused(tmp_path, body_state):
    torch.save(body_state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w\.pt does not fit the model \(.*misshapen"):
        build_resnet(CnnSettings(backbone="resnet18", weights=str(tmp_path / "w.pt")))


def test_weights_are_not_looked_for_when_the_state_comes_later():
    build_model(small(weights="/absent/w.pt"), LinearHeads(2), load_weights=False)
    with pytest.raises(ConfigError, match=r"/absent/w\.pt does not exist"):
        build_model(small(weights="/absent/w.pt"), LinearHeads(2))


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_unreachable_hub_gives_one_line_with_the_mend(empty_hub, monkeypatch):
    def refuse(address, timeout):
        raise ConnectionRefusedError(f"refused by {address[0]} within {timeout:g} s")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(
        ConfigError, match=r"'test_resnet' from .*refused by .* 5 s.*model\.weights=/path/to/file"
    ) as caught:
        build_resnet(small(weights="hub"))
    assert "\n" not in str(caught.value)


def test_offline_hub_asks_nobody(empty_hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "create_connection", None)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        build_resnet(small(weights="hub"))


def test_connection_is_tried_at_the_proxy_where_there_is_one(empty_hub, monkeypatch):
    def refuse(address, timeout):
        raise OSError(f"asked {address}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.example")
    with pytest.raises(ConfigError, match=r"asked \('proxy\.example', 3128\)"):
        build_resnet(small(weights="hub"))


def test_hub_weights_are_taken_from_the_cache(tmp_path, monkeypatch, body_state):
    safetensors.torch.save_file(body_state | {"fc.weight": torch.ones(3)}, tmp_path / "model.safetensors")

    def cached(repo, filename, *, local_files_only):
        assert (repo, filename, local_files_only) == ("timm/test_resnet.r160_in1k", "model.safetensors", True)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    body = build_resnet(small(weights="hub"))
    assert all((parameter == 0.5).all() for parameter in body.parameters())


def test_backbone_without_published_weights_is_named():
    with pytest.raises(ConfigError, match="no pretrained weights for 'resnet50t'"), torch.device("meta"):
        build_resnet(CnnSettings(backbone="resnet50t", weights="hub"))


def test_checkpoint_carries_state_and_metadata(tmp_path):
    model = build_model(BrNpaSettings(backbone="test_resnet"), LinearHeads(2)).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), METADATA | {"val_hash": "f00"})
    state, metadata = read_checkpoint(tmp_path / "best.safetensors")
    assert metadata == METADATA | {"val_hash": "f00"}
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_checkpoint_stays_when_the_rename_is_refused(tmp_path):
    def refuse():
        raise RuntimeError("another attempt owns the trial")

    save_checkpoint(tmp_path / "best.safetensors", nn.Linear(2, 2).state_dict(), METADATA)
    before = (tmp_path / "best.safetensors").read_bytes()
    with pytest.raises(RuntimeError, match="another attempt"):
        save_checkpoint(tmp_path / "best.safetensors", nn.Linear(2, 2).state_dict(), METADATA, before_rename=refuse)
    assert (tmp_path / "best.safetensors").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_half_written_checkpoint_is_known_as_a_temporary_file(tmp_path):
    def find():
        (temporary,) = tmp_path.iterdir()
        assert is_temporary(temporary)
        assert writer_of(temporary) == ProcessName.of_this_process()

    save_checkpoint(tmp_path / "best.safetensors", nn.Linear(2, 2).state_dict(), METADATA, before_rename=find)


def test_checkpoint_needs_its_metadata_and_a_folder(tmp_path, state):
    with pytest.raises(ValueError, match="lacks class_names, epoch"):
        save_checkpoint(tmp_path / "best.safetensors", nn.Linear(2, 2).state_dict(), {"config": "{}"})
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"/file: File exists"):
        save_checkpoint(tmp_path / "file" / "best.safetensors", nn.Linear(2, 2).state_dict(), METADATA)
    safetensors.torch.save_file(state, tmp_path / "foreign.safetensors")
    with pytest.raises(
        ConfigError, match=r"foreign\.safetensors is not a checkpoint .* lacks class_names, config, epoch"
    ):
        read_checkpoint(tmp_path / "foreign.safetensors")


def packed(path, content):
    """A torch file whose entries are compressed, as torch itself never writes them."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as plain:
        entries = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_archive_that_unpacks_to_many_times_its_size_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    packed(tmp_path / "bomb.pt", {"w": torch.zeros(2**20)})
    monkeypatch.setattr(torch, "load", None)  # would be called if anything was unpacked
    with pytest.raises(ConfigError, match=r"bomb\.pt of 0\.00\d+ MB unpacks to 4\.1\d MB and is refused"):
        load_file(tmp_path / "bomb.pt")


def test_file_that_is_larger_than_the_free_memory_is_refused(tmp_path, state, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 0 kB\n")
    monkeypatch.setattr("attnsearch.device._MEMORY", tmp_path / "meminfo")
    torch.save(state, tmp_path / "w.pt")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        with pytest.raises(StoreError, match=rf"{file.name} needs 0\.\d+ MB of memory and 0 MB are free"):
            load_file(file)


def test_tensor_that_repeats_a_smaller_storage_is_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(2**30)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w has the shape \(1073741824,\) and stores fewer values"):
        load_file(tmp_path / "w.pt")


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_that_fills_memory_is_refused(tmp_path, legacy):
    class Filler:
        def __reduce__(self):
            return bytearray, (2**33,)

    torch.save({"w": Filler()}, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigError, match=r"w\.pt makes a bytearray of any size"):
        load_file(tmp_path / "w.pt")


@pytest.mark.parametrize("n_bytes", [2**63, 2**40, 100])
def test_safetensors_header_that_is_longer_than_the_file_is_refused(tmp_path, n_bytes):
    (tmp_path / "w.safetensors").write_bytes(n_bytes.to_bytes(8, "little") + b"{" + bytes(20))
    with pytest.raises(ConfigError, match=r"w\.safetensors is not a readable safetensors file"):
        load_file(tmp_path / "w.safetensors")


def test_safetensors_tensor_that_is_longer_than_the_file_is_refused(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ConfigError, match=r"w\.safetensors is not a readable safetensors file"):
        load_file(tmp_path / "w.safetensors")
