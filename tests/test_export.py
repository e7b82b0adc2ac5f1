"""Pipelines out: diffusers alone, in a process where this package cannot be imported, draws what our own sampler draws."""

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import standin
import torch
from made_up import write_run
from PIL import Image
from safetensors.torch import load_file, save_file

from prx_lab import checkpoint, cli, variants
from prx_lab.errors import LabError
from prx_lab.export import export
from prx_lab.flow import noise, scheduler_times, times
from prx_lab.guidance import PathDrop, SelfGuidance
from prx_lab.model import PRX
from prx_lab.optim import EMA
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, JIT, RECIPES
from prx_lab.record import write_json
from prx_lab.routing import TREAD
from prx_lab.sample import CFG, from_run
from prx_lab.scales import SCALES
from prx_lab.spaces import load_space
from prx_lab.sprint import SPRINT

SMALL = replace(SCALES["smoke"], width=48)
PLAIN = BASE.but(scale=SMALL, precision=Precision("fp32", "fp32"))
PIXELS = PLAIN.but(space="pixels", predict="x", bottleneck=8)
STEPS = 4
PROMPTS = ["A RED Cube, left of a BLUE sphere!", "two (2) cones & a torus: https://x.org/a.png #123 - 1234567"]
BROKEN = "&amp;lt;b&gt; a caf\u00c3\u00a9 \u4e2d on <person> "  # twice-escaped HTML, a wrong encoding, Chinese
CASES = {
    "latents": PLAIN.but(cleaning="full"),
    "latents, shifted": PLAIN.but(shift=3.0, ema=EMA(0.9)),
    "latents, few tokens": PLAIN.but(cleaning="light", text_tokens=9, shift=3.0, guidance=CFG(1.0), router=TREAD()),
    "pixels": PIXELS.but(cleaning="light"),
    "pixels, shifted": PIXELS.but(shift=3.0, noise=2.0),
}


def write(root: Path, recipe: Recipe, seed: int = 0, step: int = 120, phase: int = 0, finished: bool = True) -> Path:
    """A run folder whose network is random in every weight, and its average another."""
    name = "baseline" if finished else "custom"
    folder = write_run(root, name, seed, 20.0, recipe.id, "smoke") if finished else root / "smoke" / f"{name}-{recipe.id}" / f"seed{seed}"
    write_json(folder / "recipe.json", recipe.to_json())
    space, now = load_space(recipe.space), recipe.plan[phase][1]
    torch.manual_seed(seed)
    tensors = {"mean": torch.zeros(space.channels, recipe.scale.size // space.stride, recipe.scale.size // space.stride)}
    for prefix in ("learner/model.", "ema/") if now.ema.decay else ("learner/model.",):
        model = PRX(recipe.arch(space.channels, space.stride, 128), now.router)
        for name, p in model.named_parameters():
            tensors[prefix + name] = p.detach() + 0.08 * torch.randn_like(p)
    checkpoint.save(folder / "checkpoint", step, tensors, {"seed": seed, "seconds": 1.0, "phase": phase, "recipe": recipe.to_json()})
    if finished:
        Image.new("RGB", (32, 32)).save(folder / "samples.png")
    return folder


THEIRS = r"""
import sys
sys.modules["prx_lab"] = None  # whoever imports it now fails
import json, os, re, diffusers, torch
from safetensors.torch import load_file, save_file

found, cases = {}, json.load(open("cases.json"))
for name, case in cases.items():
    tensors = load_file(f"{case['folder']}.safetensors")
    pipe = getattr(diffusers, case["kind"]).from_pretrained(case["folder"])
    pipe.set_progress_bar_config(disable=True)
    assert not pipe.text_encoder.training and not pipe.transformer.training
    options = {"guidance_scale": case["guidance"], "use_resolution_binning": False, "output_type": "np"}
    skip = {} if case["kind"] == "PRXPixelPipeline" else {"skip_text_cleaning": case["skip"]}
    def draw(way, prompts, **more):  # one prompt a call: guided, diffusers 0.42.1 stops at several
        images = [pipe(p, **options | skip | {k: v[i : i + 1] if k == "latents" else v for k, v in more.items()}).images
                  for i, p in enumerate(prompts)]
        found[f"{name}/{way}"] = torch.cat([torch.from_numpy(image).movedim(-1, 1) for image in images])
    prompts, noise, steps = case["prompts"], tensors["noise"], {"num_inference_steps": case["steps"]}
    draw("theirs", prompts, latents=noise, **steps)
    draw("unguided", prompts[1:2], latents=noise[1:], **steps | {"guidance_scale": 1.0})
    if skip:
        draw("other cleaning", prompts[1:2], latents=noise[1:], **steps | {"skip_text_cleaning": not case["skip"]})
    seeded = case["noise"] * torch.randn(noise[:1].shape, generator=torch.Generator().manual_seed(3))
    draw("drawn", prompts[:1], latents=seeded, **steps)
    draw("seeded", prompts[:1], **steps, generator=torch.Generator().manual_seed(3))
    pipe.scheduler.set_shift(1.0)
    draw("ours", prompts, latents=noise, timesteps=(1000 * tensors["times"]).tolist())
    if case["shifted"]:
        assert type(diffusers.DiffusionPipeline.from_pretrained(case["folder"])) is type(pipe)
        names = {}
        for code in re.findall(r"```python\n(.*?)```", open(f"{case['folder']}/README.md").read(), re.S):
            exec(code, names)
            assert names["image"].size == (32, 32) and os.path.getsize("image.png")
            os.remove("image.png")
save_file({key: value.contiguous().float() for key, value in found.items()}, "found.safetensors")
assert sys.modules["prx_lab"] is None and not [m for m in sys.modules if m.startswith("prx_lab.")]
"""


def autoencoders(root: Path) -> dict[str, Recipe]:
    """Runs in local autoencoders: a deep-compression one, one without a shift, one with a mean and a spread for every channel."""
    dc, kl, each = standin.dc(), standin.kl(), standin.kl()
    kl.register_to_config(shift_factor=None)
    each.register_to_config(latents_mean=[0.1, -0.3, 0.0, 0.2], latents_std=[0.5, 2.0, 1.0, 0.7])
    for name, vae in (("dc", dc), ("kl", kl), ("each", each)):
        vae.save_pretrained(root / name)
    return {
        "deep compression": PLAIN.but(space=str(root / "dc"), shift=3.0),
        "no shift factor": PLAIN.but(space=str(root / "kl")),
        "numbers for each channel": PLAIN.but(space=str(root / "each")),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """{case/way: images in [-1, 1]} from our sampler (`expected ...`) and from diffusers without this package."""
    root = tmp_path_factory.mktemp("exported")
    found, jobs = {}, {}
    for i, (name, recipe) in enumerate((CASES | autoencoders(root)).items()):
        run = write(root / "runs", recipe, i)
        folder = export(run, root / f"case{i}")
        prompts = PROMPTS + [BROKEN] * (recipe.cleaning != "none")
        sampler = from_run(run)
        for grid in (times, scheduler_times):
            found[f"{name}/expected {'ours' if grid is times else 'theirs'}"] = sampler(prompts, 7, STEPS, grid=grid)
        side = recipe.scale.size // sampler.space.stride
        eps = recipe.noise * noise(7, range(len(prompts)), (sampler.space.channels, side, side))
        save_file({"noise": eps, "times": times(STEPS, recipe.shift)[:-1]}, f"{folder}.safetensors")
        jobs[name] = {
            "folder": folder.name, "kind": "PRXPixelPipeline" if recipe.space == "pixels" else "PRXPipeline", "prompts": prompts,
            "steps": STEPS, "noise": float(recipe.noise), "shifted": "shifted" in name, "guidance": recipe.guidance.scale,
            "skip": recipe.cleaning != "full",
        }  # fmt: skip
    (root / "cases.json").write_text(json.dumps(jobs))
    done = subprocess.run([sys.executable, "-c", THEIRS], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return found | {key: 2 * images - 1 for key, images in load_file(root / "found.safetensors").items()}


ALL = [*CASES, "deep compression", "no shift factor", "numbers for each channel"]


@pytest.mark.parametrize("case", ALL)
def test_diffusers_alone_draws_our_images_on_either_grid(drawn, case):
    for grid in ("ours", "theirs"):
        assert drawn[f"{case}/expected {grid}"].std() > 0.05  # there is something to agree on
        assert (drawn[f"{case}/{grid}"] - drawn[f"{case}/expected {grid}"]).abs().max() < 1e-3
    assert (drawn[f"{case}/ours"] - drawn[f"{case}/theirs"]).abs().max() > 1e-2  # so the grids matter
    assert drawn[f"{case}/ours"].diff(dim=0).abs().amax((1, 2, 3)).min() > 1e-2  # as do noise and prompts


@pytest.mark.parametrize("case", ALL)
def test_a_plain_call_starts_from_the_noise_of_the_run(drawn, case):
    assert torch.allclose(drawn[f"{case}/seeded"], drawn[f"{case}/drawn"], atol=1e-5)


def test_what_the_comparison_must_see_makes_a_difference(drawn):
    """Guidance and cleaning move these images by far more than the tolerance."""
    for case in ("latents", "latents, shifted", "pixels", "deep compression"):
        assert (drawn[f"{case}/unguided"] - drawn[f"{case}/theirs"][1:2]).abs().max() > 1e-2
    for case in ("latents", "latents, shifted", "latents, few tokens"):
        assert (drawn[f"{case}/other cleaning"] - drawn[f"{case}/theirs"][1:2]).abs().max() > 5e-3


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_the_grid_of_the_scheduler_is_known(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    for steps in (1, 2, 28):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps)
        assert torch.allclose(scheduler.sigmas.double(), scheduler_times(steps, shift), atol=1e-6, rtol=0)


def test_an_exported_folder_opens_here_too(tmp_path):
    """Out and in again: the same weights, the scheduler's grid, and the images of the run on it."""
    run = write(tmp_path, CASES["latents"].but(shift=3.0))
    back, ours = variants.sampler(export(run, tmp_path / "out"), dtype="fp32"), from_run(run)
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, back.model.state_dict()[name])
    expected = ours(PROMPTS, 7, STEPS, CFG(2.0), grid=scheduler_times)
    assert (back(PROMPTS, 7, STEPS, CFG(2.0)) - expected).abs().max() < 1e-5


def test_the_averaged_weights_are_exported(tmp_path):
    run = write(tmp_path, CASES["latents, shifted"])
    theirs = load_file(export(run, tmp_path / "out") / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors, _ = checkpoint.load(checkpoint.steps(run / "checkpoint")[-1])
    averaged = {key.removeprefix("ema/"): value for key, value in tensors.items() if key.startswith("ema/")}
    assert theirs.keys() == averaged.keys() and all(torch.equal(theirs[key], averaged[key]) for key in theirs)


@pytest.mark.parametrize(
    "recipe, said",
    [
        (PLAIN.but(router=SPRINT()), "SPRINT gives the network weights of its own"),
        (PIXELS.but(predict="v"), "a run in pixels can be exported with predict='x'"),
        (PLAIN.but(predict="x"), "a run in latents can be exported with predict='v'"),
        (PLAIN.but(noise=2.0), "noise of standard deviation 1"),
    ],
)
def test_what_a_pipeline_would_draw_wrongly_is_refused(recipe, said, tmp_path):
    run = write(tmp_path, recipe, finished=False)
    with pytest.raises(LabError, match=re.escape(said)):
        export(run, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_space_with_a_batch_norm_is_refused(tmp_path):
    from diffusers import AutoencoderKLFlux2

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    AutoencoderKLFlux2(block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, **kinds).save_pretrained(
        tmp_path / "vae"
    )
    with pytest.raises(LabError, match="statistics of a batch norm"):
        export(write(tmp_path, PLAIN.but(space=str(tmp_path / "vae")), finished=False), tmp_path / "out")


def test_an_existing_folder_and_runs_that_cannot_be_read_are_refused(tmp_path):
    run, taken = write(tmp_path, PLAIN), tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(LabError, match="exists already"):
        export(run, taken)
    with pytest.raises(LabError, match="There is no folder"):
        export(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(LabError, match="has no checkpoint"):
        export(taken, tmp_path / "out")
    weights = checkpoint.steps(run / "checkpoint")[-1] / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(LabError, match="is damaged"):
        export(run, tmp_path / "out")
    assert not list(taken.iterdir()) and not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("limit", [200, 15_000, 1_000_000])  # bytes a file may have: stops JSON, the tokenizer, the weights
def test_a_full_disk_leaves_nothing_behind(limit, tmp_path):
    run = write(tmp_path / "runs", PLAIN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(LabError, match="Cannot write .*out.* nothing was left behind"):
            export(run, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert (export(run, tmp_path / "deep" / "out") / "model_index.json").is_file()


def test_the_card_tells_the_record_and_only_the_record(tmp_path):
    from huggingface_hub import ModelCard

    run = write(tmp_path, PLAIN.but(guidance=CFG(4.0, 0.2, 0.7)))
    folder = export(run, tmp_path / "my model")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "text-to-image" and card.data.license is None
    assert "| lab-FID ↓ | 20.00 | 19.00 to 21.00 | 512 | lab-inception | – |" in card.text
    assert "| composition % ↑ | 5.0 | 0.0 to 100.0 | 512 | lab-inception | 97.5 |" in card.text
    assert not [name for name in ("FID", "CMMD", "DINO-MMD") if f"| {name}" in card.text]  # the embedded judges' are lab-FID, ...
    assert "| `guidance.scale` | `3.0` | `4.0` |" in card.text and "guidance at times from 0.2 to 0.7 only" in card.text
    assert "a processor" in card.text and "120 of 120 steps" in card.text and "](samples.png)" in card.text
    assert (folder / "samples.png").read_bytes() == (run / "samples.png").read_bytes()
    assert Recipe.from_json(json.loads((folder / "recipe.json").read_text())) == PLAIN.but(guidance=CFG(4.0, 0.2, 0.7))


def test_an_unfinished_run_is_exported_and_says_so(tmp_path):
    """It samples by the phase it is in, and nothing on the card pretends a score."""
    recipe = RECIPES["distilled"].but(scale=SMALL)
    text = (export(write(tmp_path, recipe, step=40, finished=False), tmp_path / "out") / "README.md").read_text()
    assert "not finished" in text and "40 of 120 steps" in text and "guidance_scale=3.0" in text
    assert "## Scores" not in text and "samples.png" not in text and "recorded when it ends" in text


@pytest.mark.parametrize(
    "recipe, phase, said",
    [
        (
            RECIPES["distilled"].but(scale=SMALL),
            2,
            ["8 steps at exactly these times", "steps, shift = 8, 1.0", "guidance_scale=1.0"],
        ),
        (PLAIN.but(router=TREAD(), guidance=SelfGuidance()), 0, ["made with `SelfGuidance`", "guidance_scale of 3.0"]),
        (RECIPES["contrastive-corrected"].but(scale=SMALL), 0, ["made with `Corrected`", "guidance_scale=3.0"]),
        (PLAIN.but(scale=replace(SMALL, size=256, grid=4)), 0, ["height=256", "generator"]),
        (JIT.but(scale=SMALL, cleaning="full"), 0, ["TextPreprocessor", "from diffusers import PRXPixelPipeline"]),
    ],
)
def test_the_card_says_how_to_sample_what_the_pipeline_does_otherwise(recipe, phase, said, tmp_path):
    text = (export(write(tmp_path, recipe, phase=phase, finished=False), tmp_path / "out") / "README.md").read_text()
    for words in said:
        assert words in text
    assert ("use_resolution_binning=False" in text) == (recipe.scale.size != 256)
    assert ("skip_text_cleaning" in text) == (recipe.space != "pixels")


def test_the_command_takes_a_run_folder_or_a_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = BASE.but(scale=replace(SCALES["smoke"], depth=1))
    run = write(tmp_path, recipe)
    assert cli.call(["export", str(run), "by-folder"]) == 0
    assert "by-folder" in capsys.readouterr().out
    assert cli.call(["export", "baseline", "by-name", "--scale", "smoke", "--set", "scale.depth=1", "--root", str(tmp_path)]) == 0
    assert Path("by-name/model_index.json").read_bytes() == Path("by-folder/model_index.json").read_bytes()
    capsys.readouterr()
    for words, said in (
        (["export", str(run), "by-name"], "exists already"),
        (["export", "baseline", "out", "--seed", "3", "--root", str(tmp_path)], "prx-lab run baseline"),
        (["export", "baselin", "out"], "Did you mean 'baseline'?"),
        (["export", "no/such/folder", "out"], "no/such/folder"),
    ):
        assert cli.call(words) == 2
        shown = capsys.readouterr().err
        assert said in shown and shown.count("\n") == 1 and not Path("out").exists()


def test_path_drop_stands_only_with_sprint_which_is_refused(tmp_path):
    run = write(tmp_path, PLAIN.but(router=SPRINT(), guidance=PathDrop()), finished=False)
    with pytest.raises(LabError, match="weights of its own"):
        export(run, tmp_path / "out")
