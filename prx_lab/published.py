"""The real counterparts: found in a local folder or the hub's cache, or fetched once; safetensors only, never unpickled."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from prx_lab import hub, zoo
from prx_lab.errors import LabError
from prx_lab.files import read_json
from prx_lab.teachers import CLIP_MEAN, CLIP_STD, CLIPTeacher, InceptionFeatures, TimmTeacher, VisionTeacher
from prx_lab.text import T5GemmaText

FILES = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt", "vocab.json"]
PICKLED = ("pytorch_model.bin", "open_clip_pytorch_model.bin")


def is_vision(real: zoo.Real) -> bool:
    """Whether a row of the table of real networks makes image features."""
    return real.library in ("timm", "local") or "CLIP" in real.role


def fetch(name: str) -> Path:
    """The folder of a real network: its copy from the hub, or the local folder that `name` is the path of.

    LabError for a network of the hub that cannot be had; whether a local folder holds one is not looked at.
    """
    if not hub.means_name(name, zoo.REAL):
        return Path(name).expanduser()
    real = zoo.REAL[name]
    if real.library == "local":
        raise LabError(f"'{name}' has no hub repository: give {real.repo}.")
    inside = f"{Path(real.file).parent}/" if "/" in real.file else ""  # of a whole pipeline only the folder that is needed
    return hub.fetch(real.repo, [inside + file for file in FILES], ["*fp16*", "*onnx*", "*openvino*"], [f"{inside}*.safetensors"])


def vision(name: str) -> VisionTeacher | InceptionFeatures:
    """A vision teacher of the kind its folder's config.json tells: timm, transformers CLIP, or FID Inception; LabError for another."""
    folder = fetch(name)
    config = _config(folder)
    if "architecture" in config:
        return _timm(name, folder, config)
    if config.get("model_type") in ("clip", "clip_vision_model"):
        return _clip(name, folder)
    if config.get("model_type") == "inception-v3-fid":
        return _inception(folder)
    raise LabError(
        f"The config.json in {folder} names neither a timm architecture, a CLIP, nor inception-v3-fid: "
        "give a folder saved by timm or transformers."
    )


def t5gemma(name: str, folder: Path, dtype: torch.dtype) -> T5GemmaText:
    """A T5Gemma's encoder, its weights in `dtype`, and tokenizer from a folder: the encoder's own, a whole model's or a pipeline's.

    LabError where it holds no T5Gemma, or weights that do not fit.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5GemmaConfig
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    folder = folder / "text_encoder" if (folder / "text_encoder" / "config.json").is_file() else folder
    config = _config(folder)
    if config.get("model_type") not in ("t5gemma", "t5_gemma_module"):
        raise LabError(f"The config.json in {folder} is not a T5Gemma's: give a folder saved by transformers' T5Gemma classes.")
    embedded = name in zoo.EMBEDDED
    tokenizer_class = PreTrainedTokenizerFast if embedded else AutoTokenizer
    tokenizer = tokenizer_class.from_pretrained(_tokenizer_folder(folder), local_files_only=True)
    alone = config["model_type"] == "t5_gemma_module"  # saved by the encoder's own class
    shape = T5GemmaModuleConfig.from_dict(config) if alone else T5GemmaConfig.from_dict(config).encoder
    with weights_in(dtype):
        network = T5GemmaEncoder(shape)
    state = _state(folder)
    prefix = next((p for p in ("model.encoder.", "encoder.", "") if f"{p}embed_tokens.weight" in state), "")
    _fill(network, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, folder)
    length = tokenizer.model_max_length if embedded else min(tokenizer.model_max_length, 256)
    return T5GemmaText(name, network, tokenizer, length)


@contextmanager
def weights_in(dtype: torch.dtype) -> Iterator[None]:
    """Networks made inside have their weights in `dtype` from the start, so that no larger copy of them is ever there."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _timm(name: str, folder: Path, config: dict) -> TimmTeacher:
    import timm

    network = timm.create_model(config["architecture"], num_classes=0, dynamic_img_size=True, **config.get("model_args", {}))
    _fill(network, _state(folder), folder)
    known = config.get("pretrained_cfg", {})
    mean, std = known.get("mean", network.pretrained_cfg["mean"]), known.get("std", network.pretrained_cfg["std"])
    return TimmTeacher(name, network, mean, std, known.get("input_size", network.pretrained_cfg["input_size"])[-1])


def _clip(name: str, folder: Path) -> CLIPTeacher:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    config.projection_dim = _config(folder).get("projection_dim", config.projection_dim)  # a whole CLIP's lies at the top
    network = CLIPVisionModelWithProjection(config)
    wanted = ("vision_model.", "visual_projection.")
    _fill(network, {k: v for k, v in _state(folder).items() if k.startswith(wanted)}, folder)
    return CLIPTeacher(name, network, CLIP_MEAN, CLIP_STD)


def _inception(folder: Path) -> InceptionFeatures:
    from prx_lab.inception import FIDInception

    network = FIDInception()
    wanted = network.state_dict()
    _fill(network, {k: v for k, v in _state(folder).items() if k in wanted}, folder)
    return InceptionFeatures(network)


def _config(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        raise LabError(f"There is no config.json in {folder}: give a folder saved by timm or transformers.")
    return read_json(path, "download or save the model again")


def _tokenizer_folder(folder: Path) -> Path:
    """PRX repositories keep the tokenizer beside the text encoder's folder, T5Gemma's own keeps it inside."""
    beside = folder.parent / "tokenizer"
    if not (folder / "tokenizer_config.json").is_file() and beside.is_dir():
        return beside
    return folder


def _state(folder: Path) -> dict[str, Tensor]:
    """All safetensors of a folder, mapped and in the dtypes they are stored in; sharded files are merged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        pickled = [p for p in PICKLED if (folder / p).is_file()]
        why = f"only {pickled[0]}, which would have to be unpickled" if pickled else "no *.safetensors"
        raise LabError(f"{folder} holds {why}: convert the model to safetensors with its own library's save_pretrained.")
    try:
        parts = [load_file(path) for path in paths]
    except SafetensorError as error:
        raise LabError(f"A safetensors file in {folder} cannot be read ({error}): download or save the model again.") from error
    return {k: v for part in parts for k, v in part.items()}


def _fill(network: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Load weights in the network's dtype; every parameter must be there with its shape, and what is not needed may be left over."""
    missing = [k for k in dict(network.named_parameters()) if k not in state]
    if missing:
        raise LabError(f"The weights in {folder} lack '{missing[0]}' ({len(missing)} missing): they belong to another model.")
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise LabError(f"The weights in {folder} do not fit its config.json: {str(error).splitlines()[-1].strip()}") from error
