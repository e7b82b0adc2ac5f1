"""Checkpoints in and out, against diffusers' own class and files; refusals by their sentence."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import PRXTransformer2DModel, UNet2DModel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import CPU, store, tiny

from prx_lab import interop
from prx_lab.errors import LabError
from prx_lab.model import PRX, PUBLISHED, Arch
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD
from prx_lab.sprint import SPRINT
from prx_lab.train import Training

ARCH = Arch(channels=4, patch=2, context=12, width=64, depth=3, heads=2)
THEIRS = {  # ours -> the original framework's, written out from its module tree
    "attention.img_qkv_proj.weight": "img_qkv_proj.weight",
    "attention.txt_kv_proj.weight": "txt_kv_proj.weight",
    "attention.to_out.0.weight": "attn_out.weight",
    "attention.norm_q.weight": "qk_norm.query_norm.scale",
    "attention.norm_k.weight": "qk_norm.key_norm.scale",
    "attention.norm_added_k.weight": "k_norm.scale",
}


def theirs(bottleneck: int = 0, **changes) -> PRXTransformer2DModel:
    torch.manual_seed(0)
    model = PRXTransformer2DModel(**{
        "in_channels": 4, "patch_size": 2, "context_in_dim": 12, "hidden_size": 64, "mlp_ratio": 3.5, "num_heads": 2, "depth": 3,
        "axes_dim": [16, 16], "bottleneck_size": bottleneck or None,
    } | changes)  # fmt: skip
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, mean=float("norm_" in name), std=0.05)
    return model.eval()


@torch.no_grad()
def outputs(model) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    x, t, text = torch.randn(2, 4, 8, 12, generator=g), torch.rand(2, generator=g), torch.randn(2, 7, 12, generator=g)
    mask = torch.arange(7)[None] < torch.tensor([[3], [7]])
    if isinstance(model, PRX):
        return model(x, t, text, mask)[0]
    return model(hidden_states=x, timestep=t, encoder_hidden_states=text, attention_mask=mask, return_dict=False)[0]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def original(state: dict, prefix: str = "", norm: str = "scale") -> dict:
    """A state dict under the original framework's names."""
    old = {}
    for key, value in state.items():
        head, inner = (".".join(key.split(".")[:2]) + ".", ".".join(key.split(".")[2:])) if key.startswith("blocks.") else ("", key)
        old[prefix + head + THEIRS.get(inner, inner).replace("norm.scale", f"norm.{norm}")] = value.contiguous()
    return old


# ------------------------------------------------------------------------------------------------ what loads
@pytest.mark.parametrize("bottleneck", [0, 24])
@pytest.mark.parametrize("size", ["10GB", "200KB"])
def test_a_diffusers_folder_loads_and_goes_back(tmp_path, size, bottleneck):
    upstream = theirs(bottleneck)
    upstream.save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if size == "10GB" else 7)
    ours = PRX.from_pretrained(tmp_path)
    assert ours.arch == replace(ARCH, bottleneck=bottleneck)
    assert same(ours.state_dict(), dict(upstream.state_dict())) and not ours.training
    assert (outputs(ours) - outputs(upstream)).abs().max() < 1e-5 < outputs(upstream).std()
    back = interop.to_diffusers(ours)
    assert same(dict(back.state_dict()), dict(upstream.state_dict()))
    assert {k: v for k, v in back.config.items() if k[0] != "_"} == {k: v for k, v in upstream.config.items() if k[0] != "_"}
    ours.txt_in.weight.data.zero_()
    assert same(dict(back.state_dict()), dict(upstream.state_dict()))  # a copy


@pytest.mark.parametrize("shard", ["10GB", "200KB"])
def test_what_we_write_diffusers_reads(tmp_path, shard):
    ours = interop.load(saved(tmp_path / "start"))
    again = PRXTransformer2DModel.from_pretrained(interop.save(ours, tmp_path / "out", shard))
    assert (outputs(ours) - outputs(again)).abs().max() < 1e-5
    assert same(PRX.from_pretrained(tmp_path / "out").state_dict(), ours.state_dict())  # a pipeline's folder: transformer/ inside


def saved(folder):
    theirs().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_exactly_unless_asked_otherwise(tmp_path, stored):
    upstream = theirs().to(stored)
    upstream.save_pretrained(tmp_path)
    assert same(PRX.from_pretrained(tmp_path).state_dict(), {k: v.float() for k, v in upstream.state_dict().items()})
    half = interop.load(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16} and all(p.requires_grad for p in half.parameters())


def test_the_file_may_be_replaced_once_it_is_loaded(tmp_path):
    ours = PRX.from_pretrained(saved(tmp_path))
    before = outputs(ours)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert torch.equal(outputs(ours), before)


@pytest.mark.parametrize("prefix", ["", "denoiser.", "state.model.denoiser."])
@pytest.mark.parametrize("norm", ["scale", "weight"])
def test_the_original_framework_s_keys_load(tmp_path, prefix, norm):
    upstream = theirs()
    state = original(upstream.state_dict(), prefix, norm)
    assert not any("attention." in key for key in state)
    if prefix:  # a training state holds more than the denoiser
        state |= {f"{prefix.replace('denoiser', 'text_tower')}txt_in.weight": torch.ones(1), "state.step": torch.tensor(3)}
    save_file(state, tmp_path / "step-9.safetensors")
    ours = interop.load(tmp_path / "step-9.safetensors", arch=ARCH)
    assert same(ours.state_dict(), dict(upstream.state_dict()))
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in upstream.config.items() if k[0] != "_"}))
    assert same(PRX.from_pretrained(tmp_path).state_dict(), ours.state_dict())


@pytest.mark.parametrize("prefix", ["denoiser.", "model.denoiser.", "state.model.denoiser."])
def test_of_an_original_training_state_the_average_is_taken(tmp_path, prefix):
    trained, file = theirs().state_dict(), tmp_path / "ep1.safetensors"
    average = {k: 0.5 * v for k, v in trained.items()}
    flag = prefix.replace("denoiser.", "ema_denoiser._is_active")
    state = original(trained, prefix) | original(average, prefix.replace("denoiser.", "ema_denoiser.model."))
    save_file(state, file)
    assert same(interop.load(file, arch=ARCH).state_dict(), average)
    assert same(interop.load(file, arch=ARCH, averaged=False).state_dict(), dict(trained))
    for begun, wanted in ((True, average), (False, trained)):  # until it has begun, an average is the weights at the start
        save_file(state | {flag: torch.tensor(begun)}, file)
        assert same(interop.load(file, arch=ARCH).state_dict(), dict(wanted))
    save_file(original(trained, prefix) | {flag: torch.tensor(False)}, file)  # trained without one
    assert same(interop.load(file, arch=ARCH).state_dict(), dict(trained))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("kind", ["file", "parts"])
@pytest.mark.parametrize("place", ["plain", "a $(touch hacked) 'quoted\" ünd"])
def test_the_advice_on_a_pickle_works(tmp_path, kind, place):
    """What the refusal says is run as it stands, on a nested training state with tied, transposed and other things in it."""
    import shlex

    import torch.distributed.checkpoint as dcp

    (tmp_path := tmp_path / place).mkdir()
    trained = theirs().state_dict()
    model = {f"denoiser.{k}": v for k, v in original(trained).items()} | {"loss.weight": trained["txt_in.weight"].T}
    state = {"state": {"model": model, "optimizers": {"step": 3, "exp_avg": {"0": trained["txt_in.weight"]}}}, "note": "nested"}
    if kind == "file":
        torch.save(state, given := tmp_path / "ep1-rank0.pt")
    else:
        dcp.save(state, checkpoint_id=(given := tmp_path / "ep1"), no_dist=True)
    with pytest.raises(LabError, match="is pickled, and reading a pickle can run any code") as told:
        PRX.from_pretrained(given)
    assert "\n" not in str(told.value)
    program, option, code = shlex.split(str(told.value).split("`")[1])
    assert (program, option) == ("python", "-c")
    exec(code, {})
    made = str(told.value).partition("this makes ")[2].split(" of its")[0]
    assert made == str(tmp_path / "ep1-rank0.safetensors" if kind == "file" else tmp_path / "ep1.safetensors")
    assert same(interop.load(made, arch=ARCH).state_dict(), dict(trained))


def test_a_run_folder_loads_as_what_it_samples_from(tmp_path):
    for name, averaged in (("baseline", False), ("ema", True), ("sprint", False)):
        training = Training(tiny(RECIPES[name]), store(), 0, CPU)
        list(training.fit(2, tmp_path / name))
        ours = PRX.from_pretrained(tmp_path / name)
        assert bool(training.ema) == averaged and same(ours.state_dict(), training.sampler_model().state_dict())
        assert ours.arch == training.learner.model.arch


def test_weights_without_a_router_get_a_fresh_one(tmp_path):
    model = interop.load(saved(tmp_path), router=SPRINT())
    assert model.route.fuse.weight.std() > 0 and outputs(model).isfinite().all()
    assert interop.load(tmp_path, router=TREAD()).route.span == TREAD().span(3)


def test_a_cached_name_loads_offline(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home, commit = tmp_path / "models--Photoroom--prx-256-t2i", "0" * 40
    upstream = theirs()
    upstream.save_pretrained(home / "snapshots" / commit / "transformer")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name in ("Photoroom/prx-256-t2i", "prx-256-t2i"):
        assert same(PRX.from_pretrained(name).state_dict(), dict(upstream.state_dict()))
    (home / "snapshots" / commit / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(LabError, match="hub's cache has none of .*transformer/.*: connect once"):
        PRX.from_pretrained("prx-256-t2i")


# ------------------------------------------------------------------------------------------------ shapes
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_is_told_by_its_config_and_by_its_tensors(name):
    arch = PUBLISHED[name]
    assert interop.arch_of(interop.config_of(arch)) == arch
    with torch.device("meta"):
        upstream = PRXTransformer2DModel.from_config(interop.config_of(arch))
        ours = PRX(arch)
    shapes = {k: tuple(v.shape) for k, v in upstream.state_dict().items()}
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == shapes
    assert interop.infer(shapes) == arch


def test_a_config_s_gaps_are_filled_as_diffusers_does():
    with torch.device("meta"):
        assert interop.arch_of({}) == interop.arch_of(PRXTransformer2DModel().config) == PUBLISHED["prx-1.2b"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 900), st.integers(1, 4), st.booleans())
@example(1, 7, 61, 1, False)  # int(61 / 28 * 28) is 60
def test_tensors_tell_any_shape(heads, quarter, hidden, depth, narrow):
    width = 4 * quarter * heads
    arch = Arch(5, 3, 7, width, depth, heads, bottleneck=6 * narrow)
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in PRX(arch).state_dict().items()}
    assert interop.infer(shapes, channels=5) == arch
    found = interop.infer(shapes | {"blocks.0.gate_proj.weight": (hidden, width)}, channels=5)
    assert int(found.mlp_ratio * width) == hidden


# ------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"theta": 100}, "theta = 100, and this network knows 10000 only"),
        ({"time_factor": 1.0}, "time_factor = 1.0"),
        ({"time_max_period": 2}, "time_max_period = 2"),
        ({"resolution_embeds": True}, "resolution_embeds = True"),
        ({"axes_dim": [8, 24]}, r"axes_dim = \[8, 24\], and this network turns rows and columns alike, \[16, 16\]"),
        ({"num_heads": 3}, "Width 64 over 3 heads is not a multiple of 4"),
        ({"depth": 0}, "depth = 0; it must be a positive number"),
        ({"hidden_size": "64"}, "hidden_size = '64'; it must be a positive number"),
        ({"bottleneck_size": -1}, "bottleneck = -1"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio = nan"),
        ({"_class_name": "FluxTransformer2DModel"}, "describes a FluxTransformer2DModel, not a PRXTransformer2DModel"),
    ],
)
def test_configs_this_network_cannot_have(change, sentence):
    config = interop.config_of(ARCH)
    assert interop.arch_of(config) == ARCH
    with pytest.raises(LabError, match=sentence):
        interop.arch_of(config | change)


def broken(kind: str):
    """(what to do to a good folder, the sentence that is expected)"""
    file, config = "diffusion_pytorch_model.safetensors", "config.json"

    def tensors(change):
        def act(folder):
            state = load_file(folder / file)
            change(state)
            save_file(state, folder / file)

        return act

    def rewrite(**changes):
        return lambda folder: (folder / config).write_text(json.dumps(json.loads((folder / config).read_text()) | changes))

    return {
        "missing": (tensors(lambda s: s.pop("txt_in.bias")), r"lacks 'txt_in.bias' \(1 missing\)"),
        "extra": (tensors(lambda s: s.update(more=torch.ones(1))), r"holds 'more' \(1 such\)"),
        "shape": (tensors(lambda s: s.update({"txt_in.bias": torch.ones(3)})), r"'txt_in.bias' in .* has the shape \(3,\) and not \(64,\)"),
        "twice": (tensors(lambda s: s.update({"blocks.0.k_norm.scale": torch.ones(32)})), "Two tensors of this checkpoint stand for"),
        "nan": (tensors(lambda s: s["txt_in.bias"].fill_(torch.nan)), "'txt_in.bias' in .* holds values that are not finite"),
        "inf": (tensors(lambda s: s["time_in.in_layer.bias"][3:4].fill_(torch.inf)), "not finite"),
        "int8": (tensors(lambda s: s.update({"txt_in.bias": torch.ones(64, dtype=torch.int8)})), "stored as int8: .* not quantised"),
        "resolution": (tensors(lambda s: s.update({"resolution_embedder.mlp.in_layer.bias": torch.ones(1)})), "embeds the resolution"),
        "cut": (lambda f: (f / file).write_bytes((f / file).read_bytes()[:-100]), "cannot be read as safetensors .* cut short"),
        "header": (lambda f: (f / file).write_bytes(b"\xff" * 40), "cannot be read as safetensors"),
        "empty": (lambda f: (f / file).unlink(), r"holds no \*.safetensors: give a diffusers"),
        "two": (lambda f: (f / file).rename(f / "a.safetensors") and save_file({}, f / "b.safetensors"), "holds 2 safetensors files"),
        "bin": (lambda f: (f / file).rename(f / "diffusion_pytorch_model.bin"), "is pickled, .*save_file.*torch.load.*weights_only=True"),
        "dcp": (lambda f: (f / file).rename(f / ".metadata"), "is pickled, .*dcp_to_torch_save.*save_file"),
        "json": (lambda f: (f / config).write_text("{"), "config.json cannot be read as JSON"),
        "list": (lambda f: (f / config).write_text("[]"), "does not hold a JSON object"),
        "depth": (rewrite(depth=4), r"lacks 'blocks.3.*\(11 missing\)"),
        "width": (rewrite(hidden_size=96, num_heads=3), "config and weights disagree"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["missing", "extra", "shape", "twice", "nan", "inf", "int8", "resolution", "cut", "header", "empty", "two", "bin", "dcp", "json",
     "list", "depth", "width"],
)  # fmt: skip
def test_a_damaged_folder_is_refused(tmp_path, kind):
    act, sentence = broken(kind)
    act(saved(tmp_path))
    with pytest.raises(LabError, match=sentence) as told:
        PRX.from_pretrained(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "map_, sentence",
    [
        ({"a": "gone.safetensors"}, "The shard gone.safetensors that .* names is not beside it"),
        ({"a": "../x.safetensors"}, "is not beside it"),
        ({}, "names no shard"),
        ([], "names no shard"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, map_, sentence):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    folder = saved(tmp_path / "inner")
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    with pytest.raises(LabError, match=sentence):
        PRX.from_pretrained(folder)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    for name in ("x.pt", "x.bin", "x.safetensors"):
        torch.save(Trap(), tmp_path / name)
        with pytest.raises(LabError, match="is pickled|cannot be read as safetensors"):
            PRX.from_pretrained(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_other_networks_and_unknown_patches_are_refused(tmp_path):
    UNet2DModel(block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4
                ).save_pretrained(tmp_path / "unet")  # fmt: skip
    with pytest.raises(LabError, match="describes a UNet2DModel"):
        PRX.from_pretrained(tmp_path / "unet")
    (tmp_path / "unet" / "config.json").unlink()
    with pytest.raises(LabError, match="not the weights of a PRX transformer: 'img_in.weight' is missing"):
        PRX.from_pretrained(tmp_path / "unet")
    (saved(tmp_path / "prx") / "config.json").unlink()
    with pytest.raises(LabError, match=r"Patches of 16 numbers are none of the published ones \(32, 64, 128, 3072\)"):
        PRX.from_pretrained(tmp_path / "prx")
    assert interop.load(tmp_path / "prx", arch=ARCH).arch == ARCH


def test_a_router_s_weights_stay_with_it(tmp_path):
    list(Training(tiny(RECIPES["sprint"]), store(), 0, CPU).fit(1, tmp_path))
    with pytest.raises(LabError, match="trained with a router that has weights of its own .*: use the same router"):
        interop.load(tmp_path, router=TREAD())
    with pytest.raises(LabError, match=r"no place for this router's own weights \(Fuse\): export a run whose router is Dense or TREAD"):
        interop.to_diffusers(PRX.from_pretrained(tmp_path))
    assert isinstance(interop.to_diffusers(PRX(ARCH, TREAD())), PRXTransformer2DModel)


def test_a_run_without_weights_or_with_damaged_ones_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(BASE.to_json()))
    with pytest.raises(LabError, match="has no checkpoint .records are shared without weights"):
        PRX.from_pretrained(tmp_path)
    list(Training(tiny(BASE), store(), 0, CPU).fit(1, tmp_path))
    file = next(tmp_path.glob("checkpoint/*/state.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(LabError, match="is damaged .its hash differs"):
        PRX.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("prx-512-t2i-stf", "nor is it a name on the hub. Did you mean 'prx-512-t2i-sft'?"),
        ("a/b/c", "nor is it a name on the hub"),
        ("bad name/x", "not a valid name on the hub"),
        ("Photoroom/prx-1024-t2i-beta", "in the hub's local cache, and the hub cannot be reached"),
    ],
)
def test_names_that_lead_nowhere(tmp_path, monkeypatch, name, sentence):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabError) as told:
        PRX.from_pretrained(name)
    assert sentence in str(told.value)
