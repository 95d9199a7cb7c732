"""Networks in directories and on a Hub that is only a folder."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from combinations import full
from safetensors.torch import load_file, save_file
from torch import nn

import dynfilters
from dynfilters import create_model, from_pretrained, load_model, push_to_hub, save_pretrained
from dynfilters.models import CheckpointError, FeatureMaps, ResNet, ShuffleNetV2, SmallResNet

ROOT = Path(__file__).parents[1]
FILES = {"config.json", "model.safetensors", "README.md"}


def _model(**options) -> nn.Module:
    given = {"depth": 1, "width": 4, "in_chans": 3, "num_classes": 5} | options
    return create_model("small_resnet", **given).eval()


def _assert_same(found: nn.Module, wanted: nn.Module, size: int = 9) -> None:
    assert not found.training and type(found) is type(wanted)
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(found(x), wanted.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small_resnet", {"filter": "involution", "filter_options": {"group_channels": 4}}),
        full(("ddf_resnet26", {"layers": (1, 1, 1, 1), "filter_options": {"kernel_size": (1, 3)}})),
        full(("resnet18", {"filter": "weightnet", "num_classes": 0, "global_pool": ""})),
        full(("rednet26", {"layers": (1, 1, 1, 1), "features_only": True, "out_indices": (1, -1)})),
        full(("weightnet_shufflenet_v2_x0_5", {})),
    ],
)
def test_round_trip(tmp_path: Path, name: str, options: dict) -> None:
    """Through the function, the method, and the file of weights alone."""
    model = create_model(name, in_chans=3, **options)
    model.save_pretrained(tmp_path / "new" / "place")
    assert {path.name for path in (tmp_path / "new" / "place").iterdir()} == FILES
    for found in (
        from_pretrained(tmp_path / "new" / "place"),
        type(model).from_pretrained(str(tmp_path / "new" / "place")),
        from_pretrained(tmp_path / "new" / "place" / "model.safetensors"),
        load_model(tmp_path / "new" / "place" / "model.safetensors").eval(),
    ):
        _assert_same(found, model, 33)


def test_what_a_model_was_made_with_stays_with_it() -> None:
    options = {"kernel_size": 5}
    model = _model(filter_options=options)
    options["kernel_size"] = 3
    assert model.init_kwargs["name"] == "small_resnet"
    assert model.init_kwargs["filter_options"] == {"kernel_size": 5}
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.init_kwargs == model.init_kwargs


def test_a_new_classifier_is_followed(tmp_path: Path) -> None:
    model = create_model("resnet18", layers=(1, 1, 1, 1))
    model.reset_classifier(3, "max")
    save_pretrained(model, tmp_path)
    found = from_pretrained(tmp_path)
    assert (found.num_classes, found.pool_name) == (3, "max")
    _assert_same(found, model, 33)


@pytest.mark.full
def test_in_a_fresh_process_offline(tmp_path: Path) -> None:
    """Without huggingface_hub, which directories do not need."""
    model = _model()
    save_pretrained(model, tmp_path)
    x = torch.randn(2, 3, 7, 8)
    torch.save((x, model(x).detach()), tmp_path / "io.pt")
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "import torch, dynfilters\n"
        "x, y = torch.load(sys.argv[1] + '/io.pt')\n"
        "model = dynfilters.from_pretrained(sys.argv[1])\n"
        "torch.testing.assert_close(model(x).detach(), y)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_card(tmp_path: Path) -> None:
    model = create_model("ddf_resnet50")
    save_pretrained(model, tmp_path, licence="apache-2.0")
    card = (tmp_path / "README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    assert front[:3] == [
        "library_name: dynfilters", "pipeline_tag: image-classification", "license: apache-2.0"
    ]  # fmt: skip
    assert "| parameters | 16,843,748 |" in card  # as the paper has both
    assert "| multiply-accumulates | 2,26" in card and "for 3×224×224 |" in card
    assert "Filters: ddf." in card and "| classes | 1000 |" in card
    assert (
        "- ddf: Decoupled Dynamic Filter Networks, 2021, https://arxiv.org/abs/2104.14107" in card
    )
    assert 'dynfilters.from_pretrained("owner/name")' in card
    assert "accuracy" not in card.lower()


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("by hand")
    save_pretrained(_model(filter="conv"), tmp_path)
    assert (tmp_path / "README.md").read_text() == "by hand"
    other = tmp_path / "other"
    save_pretrained(create_model("resnet18"), other)
    assert "Filters: static convolutions alone." in (other / "README.md").read_text()
    assert "| licence | not stated by who made these weights |" in (other / "README.md").read_text()


def test_models_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one that create_model made, got a Linear"):
        save_pretrained(nn.Linear(2, 2), tmp_path)
    swapped = _model()
    dynfilters.swap_filters(swapped.blocks, "involution", types=dynfilters.DDF, group_channels=1)
    with pytest.raises(ValueError, match=r"got another: missing .*blocks\.0"):
        save_pretrained(swapped, tmp_path)
    with pytest.raises(ValueError, match="licence: expected a name such as"):
        save_pretrained(_model(), tmp_path, licence="mine\ntags: no")
    unplain = _model()
    unplain.init_kwargs["note"] = {1, 2}
    with pytest.raises(ValueError, match="options: expected plain data"):
        save_pretrained(unplain, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library_name": "timm"}, "expected the configuration of a network of dynfilters"),
        ({"model": "resnet18"}, r"model\.safetensors is for 'small_resnet'"),
        ({"num_classes": "5"}, "num_classes: expected an integer or null, got '5'"),
        ({"num_classes": -5}, "num_classes: expected"),
        ({"num_classes": 6}, r"mis-shaped \['head.bias: \(5,\) for \(6,\)'"),
        ({"options": {"depht": 1}}, "depht"),
        ({"options": {"depth": 3, "width": 4}}, "does not fit 'small_resnet': missing"),
        ({"options": {"filter": "dff"}}, "unknown filter 'dff'"),
        ({"options": {"name": "resnet18"}}, "options: expected options of create_model"),
        ({"options": [1]}, "options: expected options of create_model"),
        ({"code": "print()"}, r"got \['code'\] too"),
    ],
)
def test_tampered_configurations(tmp_path: Path, change: dict, message: str) -> None:
    save_pretrained(_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["smal_resnet", ["small_resnet"], None])
def test_names_of_no_model(tmp_path: Path, name: object) -> None:
    """Beside weights that do not say which network they are for."""
    model = _model()
    save_pretrained(model, tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    _assert_same(from_pretrained(tmp_path), model)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": name}))
    with pytest.raises(CheckpointError, match=r"unknown model .*did you mean|no name is close"):
        from_pretrained(tmp_path)


def test_damaged_directories(tmp_path: Path) -> None:
    save_pretrained(_model(), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, said = weights.read_bytes(), config.read_text()
    for text in ("", "{", "[]", "null", "\udcff"):
        config.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(CheckpointError, match="cannot be made: expected"):
            from_pretrained(tmp_path)
    config.write_text(said)
    weights.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"is no whole \.safetensors"):
        from_pretrained(tmp_path)
    save_file({**load_file_of(whole, tmp_path), "extra": torch.ones(1)}, weights)
    with pytest.raises(CheckpointError, match=r"unexpected \['extra'\]"):
        from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        from_pretrained(tmp_path)


def load_file_of(content: bytes, directory: Path) -> dict[str, torch.Tensor]:
    path = directory / "whole.safetensors"
    path.write_bytes(content)
    return load_file(path)


def test_another_class(tmp_path: Path) -> None:
    save_pretrained(_model(), tmp_path)
    assert isinstance(SmallResNet.from_pretrained(tmp_path), SmallResNet)
    for other in (ResNet, ShuffleNetV2, FeatureMaps):
        with pytest.raises(ValueError, match=f"expected a {other.__name__}.* a SmallResNet"):
            other.from_pretrained(tmp_path)


def test_sources_that_are_nothing(tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", "one", "a/b/c", "a b/c", "https://a/b"):
        with pytest.raises(CheckpointError, match="source: expected a directory"):
            from_pretrained(source)


def test_from_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = _model(), {}
    save_pretrained(model, tmp_path)

    def download(repo_id: str, **options) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    _assert_same(from_pretrained("owner/name", revision="v1", token="t", cache_dir="c"), model)
    assert asked == {
        "repo_id": "owner/name",
        "revision": "v1",
        "token": "t",
        "cache_dir": "c",
        "local_files_only": False,
        "force_download": False,
        "allow_patterns": ["config.json", "model.safetensors"],
    }


@pytest.mark.full
def test_offline_nothing_is_asked_for(tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is read as huggingface_hub is imported."""
    code = (
        "import dynfilters, huggingface_hub.errors as errors\n"
        "try:\n    dynfilters.from_pretrained('owner/name', cache_dir=__import__('sys').argv[1])\n"
        "except errors.LocalEntryNotFoundError as error:\n    print('offline', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("offline"), done.stderr


@pytest.mark.parametrize("has_card", [False, True])
def test_to_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_card: bool) -> None:
    model, calls = _model(), {}

    class Hub:
        def __init__(self, token: str) -> None:
            calls["token"] = token

        def create_repo(self, repo_id: str, **options) -> None:
            calls["create"] = repo_id, options

        def file_exists(self, repo_id: str, filename: str, **_) -> bool:
            return has_card

        def upload_folder(self, *, folder_path: str, **options) -> SimpleNamespace:
            calls["upload"] = options
            for path in Path(folder_path).iterdir():
                (tmp_path / path.name).write_bytes(path.read_bytes())
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    address = model.push_to_hub("owner/name", private=True, token="t", licence="mit")
    assert address == "https://hub/commit"
    assert calls["token"] == "t"
    assert calls["create"] == ("owner/name", {"private": True, "exist_ok": True})
    assert calls["upload"]["ignore_patterns"] == (["README.md"] if has_card else None)
    assert "license: mit" in (tmp_path / "README.md").read_text()
    _assert_same(from_pretrained(tmp_path), model)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: from_pretrained("owner/name"),
        lambda: push_to_hub(_model(), "owner/name"),
    ):
        with pytest.raises(ImportError, match=r"huggingface_hub: pip install 'dynfilters\[hub\]'"):
            call()
