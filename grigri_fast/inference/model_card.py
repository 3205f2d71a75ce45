"""The model card of an exported folder: its ``README.md``, as the Hugging Face hub shows it.

A head in YAML (https://huggingface.co/docs/hub/model-cards#model-card-metadata), then text. The
scores stand in the text alone: in the head (``model-index``) they would be compared with those of
others, but others do not have the data.
"""

import html
import re
from dataclasses import dataclass
from typing import Any

import yaml

from .. import __version__
from ..models.weights import forbids_commerce
from ..runs.checkpoint import ModelInfo

# Those of timm's licences that https://huggingface.co/docs/hub/repositories-licenses lists.
_ON_THE_HUB = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gemma")
_SCORES = {
    "micro-F1": "micro_f1",
    "macro-F1": "macro_f1",
    "subset accuracy": "subset_accuracy",
    "mAP": "mAP",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


@dataclass(frozen=True)
class Begun:
    """With which weights a run began.

    Attributes:
        kind: ``none``, ``imagenet`` or ``file``.
        licence: of those weights, "" if it is unknown.
        hub_id: their repository in the hub, "" if they are not from there.
    """

    kind: str
    licence: str = ""
    hub_id: str = ""


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        info: what the model is.
        parts: number of photographs by part of the data; empty if unknown.
        validation: what a run's ``summary.json`` holds under this name; empty if it is not of this
            model.
        begun: with which weights training began.
        torchvision_options: with which torchvision makes the network; None for one of timm's.
    """

    info: ModelInfo
    parts: dict[str, int]
    validation: dict[str, Any]
    begun: Begun
    torchvision_options: dict[str, Any] | None = None

    @property
    def library(self) -> str:
        """The library that loads the model."""
        return "timm" if self.torchvision_options is None else "torchvision"

    @property
    def network(self) -> str:
        """Its name in that library."""
        return self.info.arch.removeprefix("timm/").partition(".")[0]


def to_markdown(card: Card) -> str:
    """Return the text of the card. No path of this machine is in it."""
    head = yaml.safe_dump(_head(card), sort_keys=False, allow_unicode=True)
    paragraphs = [
        f"---\n{head}---\n",
        f"# {len(card.info.class_names)} labels for photographs, by `{card.network}`\n",
        f"Gives a photograph any number of {len(card.info.class_names)} labels. Trained with"
        f" grigri-fast {__version__}.\n",
        _labels(card.info),
        _quality(card),
        _data(card),
        _usage(card),
        _licence(card.begun),
    ]
    return "\n".join(paragraphs)


def _head(card: Card) -> dict[str, Any]:
    """Return the metadata; a licence only where that of the first weights is known."""
    licence = card.begun.licence
    head: dict[str, Any] = {}
    if licence in _ON_THE_HUB:
        head["license"] = licence
    elif licence and licence != "unknown":
        head |= {"license": "other", "license_name": licence}
    head |= {"library_name": card.library, "pipeline_tag": "image-classification"}
    head["tags"] = ["image-classification", "multi-label", card.library, "grigri-fast"]
    if card.begun.hub_id:
        head["base_model"] = card.begun.hub_id
    return head | {"metrics": ["f1"]}


def _labels(info: ModelInfo) -> str:
    rows = [
        f"| {_escaped(name)} | {threshold:.4f} |"
        for name, threshold in zip(info.class_names, info.thresholds_C, strict=True)
    ]
    return "\n".join(
        [
            "## Labels\n",
            "A label is given where its probability is at least its threshold"
            f" ({_escaped(info.threshold_source)}).\n",
            "| label | threshold |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _quality(card: Card) -> str:
    """Return the scores, with intervals where they are known."""
    scores = card.validation.get("scores", {})
    ways = [way for way in ("at 0.5", "cross-fitted") if way in scores]
    mirrored = (
        " A probability is from the mean of the logits of a photograph and its mirror image."
        if card.info.flip_test
        else ""
    )
    if not ways:
        told = {title: card.info.scores.get(key) for title, key in _SCORES.items()}
        known = ", ".join(f"{title} {x:.4f}" for title, x in told.items() if x is not None)
        return (
            f"## How good it is\n\nOn the validation part, at threshold 0.5, without intervals:"
            f" {known}.{mirrored}\n"
            if known
            else "## How good it is\n\nNot known here.\n"
        )
    seen = card.validation.get("exposure", "unseen") != "unseen"
    lines = [
        "## How good it is\n",
        f"On {card.validation['num_images']:,} photographs of the validation part,"
        f" {'some of which it was trained on' if seen else 'which it was not trained on'}, with"
        f" 95 % intervals.{mirrored} Cross-fitted: with one threshold for all labels, tuned on four"
        f" fifths of these photographs and applied to the rest, in turn.\n",
        f"| | {' | '.join(ways)} |",
        f"|---|{'---|' * len(ways)}",
    ]
    for title, key in _SCORES.items():
        lines.append(f"| {title} | {' | '.join(_interval(scores[w].get(key)) for w in ways)} |")
    return "\n".join([*lines, ""])


def _interval(score: dict[str, Any] | None) -> str:
    if not score or score.get("value") is None:
        return "-"
    value, low, high = (score.get(key) for key in ("value", "low", "high"))
    return f"{value:.4f}" + ("" if low is None or high is None else f" ({low:.4f} to {high:.4f})")


def _data(card: Card) -> str:
    names = {"train": "for training", "val": "for validation", "test": "held back as a test part"}
    counts = ", ".join(f"{n:,} {names.get(part, part)}" for part, n in card.parts.items())
    return (
        "## Data\n\nPhotographs of whoever trained this model; they are not part of it."
        + (f" Of these {counts}." if counts else "")
        + " Say here where they are from, who labelled them, and what they show little of.\n"
    )


def _usage(card: Card) -> str:
    """Return a program that labels a photograph."""
    info = card.info
    if card.torchvision_options is None:
        packages, load = "timm pillow", 'timm.create_model(f"local-dir:{folder}", pretrained=True)'
        more = (
            "From the hub it is `timm.create_model('hf-hub:OWNER/NAME', pretrained=True)`. The"
            " transform that timm makes of the model's own settings"
            " (`timm.data.create_transform(**timm.data.resolve_model_data_config(model))`) does"
            " nearly what the lines about `photo` do.\n"
        )
        build = [f"model = {load}.eval()"]
    else:
        packages, more = "torchvision safetensors pillow", ""
        options = ", ".join(f"{key}={value!r}" for key, value in card.torchvision_options.items())
        build = [
            f'model = torchvision.models.get_model("{card.network}", {options}).eval()',
            'model.load_state_dict(safetensors.torch.load_file(f"{folder}/model.safetensors"))',
        ]
    imports = "timm, torch" if card.library == "timm" else "safetensors.torch, torch, torchvision"
    logits = "((model(x) + model(x.flip(3))) / 2)" if info.flip_test else "model(x)"
    code = f"""import json, math, sys
import numpy, {imports}
from PIL import Image, ImageOps
from torch.nn import functional

folder = "."
{chr(10).join(build)}
config = json.load(open(f"{{folder}}/config.json"))
about, data = config["grigri-fast"], config["pretrained_cfg"]

size, photo = about["size_px"], ImageOps.exif_transpose(Image.open(sys.argv[1]))
if photo.mode.startswith("I;16"):  # Pillow would make all above 255 white
    photo = Image.fromarray((numpy.asarray(photo) / 257 + 0.5).astype("uint8"))
photo = photo.convert("RGB")
shrink = max(1, min(photo.size) / (2 * size))
photo = photo.resize([round(side / shrink) for side in photo.size], Image.BILINEAR)
k = [min(16, math.ceil(side / (1.5 * size))) for side in reversed(photo.size)]
x = torch.from_numpy(numpy.array(photo)).permute(2, 0, 1)[None].float()
x = functional.interpolate(x, [size * n for n in k], mode="bilinear")
x = functional.avg_pool2d(x, k).round() / 255
mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
x = (x - mean) / std
with torch.inference_mode():
    p = {logits}.sigmoid()[0].numpy()
print(", ".join(numpy.array(about["class_names"])[p >= numpy.array(about["thresholds"])]))
"""
    return (
        f"## How to use it\n\nIn this folder, with `pip install {packages}`:\n\n"
        f"```python\n{code}```\n\n{more}"
    )


def _licence(begun: Begun) -> str:
    licence = begun.licence
    if begun.kind == "none":
        words = (
            "Trained from scratch: no other weights are in it. Choose a licence and name it in the"
            " head (`license`)."
        )
    elif not licence or licence == "unknown":
        words = (
            "Training began with weights whose licence is not known here. Look it up before you"
            " pass this model on, and name it in the head (`license`)."
        )
    else:
        words = (
            f"Training began with weights under {licence}, whose terms hold for this model, too."
        )
        if forbids_commerce(licence):
            words += " **They forbid commercial use.**"
        if licence not in _ON_THE_HUB:
            words += " Its text has to be added, as `LICENSE`."
    return f"## Licence\n\n{words} What the photographs allow is another question.\n"


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
