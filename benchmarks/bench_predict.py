"""(p) How near is ``predict`` to the bare forward pass, and to what others do?

    python benchmarks/bench_predict.py PHOTOS [--images 20000] [--repeats 3] [--threads N]
        [--arch NAME] [--size 224] [--before CLONE] [--timm-script FILE] [--out result.json]

Labels the first images of a folder with networks of ImageNet weights where a package has them, else
random ones, in rounds, each candidate in a process of its own, with files that were checked before:
the command ``predict`` as a whole (with its start and the CSV); ``load(RUN).predict`` without the
start, here and in a clone of an earlier commit; of an exported file, by ONNX Runtime and by
OpenVINO where it is installed; what timm's ``inference.py`` does (its own loop, or the script if it
is given, as a whole); a plain loop of Pillow and ONNX Runtime. Beside them the bare forward pass of
each engine, of random pixels in batches of 32.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

NUM_CLASSES = 14
BATCH = 32
# In a process of its own, with any commit's package: arguments RUN, threads, paths' file.
IN_PROCESS = """
import json, sys, time
from grigri_fast import load
run, threads, names, *engine = sys.argv[1:]
paths = open(names).read().splitlines()
model = load(run, threads=int(threads), **({"engine": engine[0]} if engine else {}))
model.predict(paths[:64])
start_s = time.perf_counter()
found = model.predict(paths)
seconds = time.perf_counter() - start_s
assert not any(p.error for p in found)
print(json.dumps([len(paths) / seconds, ["|".join(p.labels) for p in found]]))
"""


# ------------------------------------------------------------------- candidates, in child processes


def bare(run: Path, threads: int, engine: str, num_images: int) -> float:
    """Return images per second of an engine's forward pass of pixels that are there."""
    import torch

    from grigri_fast.inference import forward, onnx
    from grigri_fast.runs import checkpoint, run_folder
    from grigri_fast.runtime.compute import Compute

    compute = Compute.resolve("cpu", "auto", threads)
    torch.set_num_threads(threads)
    if engine.startswith("torch"):
        compute.keep_freed_memory()
        model, info = checkpoint.load(run / run_folder.LAST, compute.device)
        if engine == "torch":
            model = forward.prepared(model, compute, info.size_px)
        call = forward.logits_of(model, compute)
    else:
        name, _, amp = engine.partition(" ")
        call, info = onnx.load(run / "model.onnx", threads, name, amp or "fp32")
    images_NHWC = forward.random_images(BATCH, info.size_px, torch.device("cpu"))
    for _ in range(3):
        call(images_NHWC)
    num_batches = max(1, num_images // BATCH)
    start_s = time.perf_counter()
    for _ in range(num_batches):
        call(images_NHWC)
    return num_batches * BATCH / (time.perf_counter() - start_s)


def as_timm_does(run: Path, threads: int, names: Path) -> float:
    """Return images per second of the loop of timm's inference.py, on a CPU in bf16."""
    import torch
    from timm.data import create_loader
    from torch.utils.data import Dataset

    from grigri_fast.runs import checkpoint, run_folder

    class Images(Dataset):
        def __init__(self, paths: list[str]) -> None:
            self.paths, self.transform = paths, None

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, row: int) -> Any:
            from PIL import Image

            with Image.open(self.paths[row]) as image:
                return self.transform(image.convert("RGB")), row

    torch.set_num_threads(threads)
    model, info = checkpoint.load(run / run_folder.LAST, torch.device("cpu"))
    paths = names.read_text().splitlines()
    start_s = time.perf_counter()
    loader = create_loader(
        Images(paths),
        input_size=(3, info.size_px, info.size_px),
        batch_size=BATCH,
        use_prefetcher=False,
        num_workers=threads,
        device=torch.device("cpu"),
        mean=info.mean,
        std=info.std,
        crop_pct=1.0,
    )
    outputs = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for images_NCHW, _ in loader:
            outputs.append(model(images_NCHW.to(memory_format=torch.channels_last)).sigmoid())
    torch.cat(outputs).float().numpy()
    return len(paths) / (time.perf_counter() - start_s)


def check_all(names: Path, threads: int) -> int:
    """Check all files, so that no candidate has to that others would not; return their number."""
    from grigri_fast.config import MAX_PIXELS
    from grigri_fast.pipeline.check import check_images

    paths = [Path(name) for name in names.read_text().splitlines()]
    return len(paths) - len(check_images(paths, threads=threads, max_pixels=MAX_PIXELS).bad)


def plain_loop(run: Path, threads: int, names: Path) -> float:
    """Return images per second of Pillow and ONNX Runtime, one after the other."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(run / "model.onnx", options)
    side = session.get_inputs()[0].shape[1]
    paths = names.read_text().splitlines()
    start_s = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        images = []
        for path in paths[first : first + BATCH]:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize((side, side))))
        session.run(None, {"images": np.stack(images)})
    return len(paths) / (time.perf_counter() - start_s)


# ----------------------------------------------------------------------------------- the rounds


def make_run(folder: Path, arch: str, size_px: int) -> None:
    """Write a run folder with a checkpoint and its exported file."""
    import torch

    from grigri_fast.config import TrainConfig
    from grigri_fast.errors import GrigriError
    from grigri_fast.inference import exporter
    from grigri_fast.models import factory
    from grigri_fast.models.normalize import preprocessing_of
    from grigri_fast.runs import checkpoint, run_folder
    from grigri_fast.runs.checkpoint import ModelInfo
    from grigri_fast.runtime.option import write_toml

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    try:
        model = factory.build_pretrained(arch, NUM_CLASSES, size_px, "imagenet", lambda text: None)
    except GrigriError as e:
        print(f"{arch}: random weights ({e})")
        model = factory.build(arch, NUM_CLASSES, size_px)
    pixels = preprocessing_of(model)
    names = [f"class {i}" for i in range(NUM_CLASSES)]
    info = ModelInfo(arch, size_px, names, mean=pixels.mean, std=pixels.std)
    config = TrainConfig(data="none", arch=arch, weights="none", size=size_px)
    (folder / run_folder.CONFIG).write_text(write_toml(config))
    checkpoint.save(folder / run_folder.LAST, model.eval(), info)
    exporter.export(folder)


def answer_of(words: list[Any], root: Path = record.ROOT) -> Any:
    """Return the JSON that a child process prints last."""
    cache = tempfile.gettempdir() + f"/bench-predict-cache-{os.getpid()}"
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    env = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": cache}
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if "-c" in words or "--child" in words else None


def timed(words: list[Any], num_images: int) -> float:
    """Return images per second of a command as a whole."""
    start_s = time.perf_counter()
    answer_of(words)
    return num_images / (time.perf_counter() - start_s)


def one_round(
    args: argparse.Namespace, run: Path, names: Path, num: int, arch: str
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Return images per second by candidate, and labels by way of predicting."""
    python, threads = sys.executable, args.threads
    speeds: dict[str, float] = {}
    labels: dict[str, list[str]] = {}
    engines = ["torch", "torch with norms", "onnxruntime"]
    files: list[tuple[str, Path, Path, list[str]]] = [("predict", run, record.ROOT, [])]
    if args.before:
        files.append(("before: predict", run, args.before, []))
    files.append(("predict model.onnx", run / "model.onnx", record.ROOT, ["onnxruntime"]))
    if importlib.util.find_spec("openvino"):
        engines += ["openvino", "openvino bf16"]
        files.append(("predict by openvino", run / "model.onnx", record.ROOT, ["openvino"]))
    for name, model, root, engine in files:
        words = [python, "-c", IN_PROCESS, model, threads, names, *engine]
        speeds[name], labels[name] = answer_of(words, root)
    out = run / "labels.csv"
    command = [python, "-m", "grigri_fast", "predict", run, f"@{names}", "--out", out]
    speeds["command predict"] = timed([*command, "--threads", threads], num)
    for kind in ("timm", "plain"):
        words = [python, __file__, "--child", kind, run, threads, names]
        speeds["as timm does" if kind == "timm" else "plain ONNX Runtime loop"] = answer_of(words)
    if args.timm_script and arch not in ("grigri",):
        speeds["timm's inference.py"] = timed(
            [
                *(python, args.timm_script, "--data-dir", names.parent / "photos", "--model"),
                *(arch.removeprefix("timm/"), "--batch-size", BATCH, "--workers", threads),
                *("--img-size", args.size, "--device", "cpu", "--amp", "--amp-dtype", "bfloat16"),
                *("--channels-last", "--num-classes", NUM_CLASSES, "--results-dir", run / "timm"),
            ],
            num,
        )
    for engine in engines:
        words = [python, __file__, "--child", f"bare {engine}", run, threads, min(num, 1024)]
        speeds[f"bare {engine}"] = answer_of(words)
    return speeds, labels


def measure(args: argparse.Namespace, arch: str, paths: list[Path]) -> dict[str, Any]:
    """Return images per second of a network, in every round."""
    with tempfile.TemporaryDirectory() as folder:
        run, names = Path(folder) / "run", Path(folder) / "names.txt"
        (Path(folder) / "photos").mkdir()
        links = [Path(folder) / "photos" / f"{i:06}{p.suffix}" for i, p in enumerate(paths)]
        for link, path in zip(links, paths, strict=True):
            link.symlink_to(path)
        names.write_text("".join(f"{link}\n" for link in links))
        make_run(run, arch, args.size)
        words = [sys.executable, __file__, "--child", "check", run, args.threads, names]
        assert answer_of(words) == len(paths)
        speeds: dict[str, list[float]] = {}
        for _ in range(args.repeats):
            found, labels = one_round(args, run, names, len(paths), arch)
            for name, speed in found.items():
                speeds.setdefault(name, []).append(speed)
    equal = {
        name: sum(a == b for a, b in zip(of, labels["predict"], strict=True))
        for name, of in labels.items()
    }
    result = {"arch": arch, "size_px": args.size, "num_images": len(paths)}
    return {**result, "images_per_s": speeds, "images_with_predicts_labels": equal}


def show(result: dict[str, Any]) -> None:
    """Print medians, and the ratio of ``predict`` to each within the rounds."""
    speeds = result["images_per_s"]
    print(f"{result['arch']} at {result['size_px']} px, {result['num_images']:,} images")
    for name, each in speeds.items():
        ratios = [a / b for a, b in zip(speeds["predict"], each, strict=True)]
        line = f"  {name:26}{statistics.median(each):9.1f} img/s   predict is"
        print(f"{line} {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})")
    print(f"  images with the labels of predict: {result['images_with_predicts_labels']}")


def main() -> None:
    if sys.argv[1] == "--child":
        kind, run, threads, rest = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
        if kind == "check":
            print(json.dumps(check_all(Path(rest), threads)))
        elif kind.startswith("bare "):
            print(json.dumps(bare(run, threads, kind.removeprefix("bare "), int(rest))))
        else:
            way = as_timm_does if kind == "timm" else plain_loop
            print(json.dumps(way(run, threads, Path(rest))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--arch", action="append")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--timm-script", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    from grigri_fast.data.images import find_images

    found = find_images([str(args.photos)]).images
    # A smaller folder is gone through again: links of other names, so that each counts.
    paths = [found[i % len(found)].resolve() for i in range(args.images)]
    about = record.environment(torch.device("cpu"), "bf16")
    results = []
    for arch in args.arch or ["resnet34", "timm/tf_efficientnet_lite0", "grigri"]:
        results.append(measure(args, arch, paths))
        show(results[-1])
        record.write(args.out, {**about, "threads": args.threads, "networks": results})


if __name__ == "__main__":
    main()
