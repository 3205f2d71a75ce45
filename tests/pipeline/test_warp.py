from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_loader import collect, make_loader, write_noise
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from grigri_fast.pipeline import affine, decode
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.warp import on_host


def smooth_image(height: int, width: int) -> np.ndarray:
    """Return a photograph-like image without detail finer than a few pixels."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + k) + np.cos(y / 7 - 2 * k) + np.sin((x + y) / 13) for k in range(3)]
    return (127.5 + 40 * np.stack(waves, axis=2)).astype(np.uint8)


def noise_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def warp(image: np.ndarray, map_23: np.ndarray, size_px: int) -> np.ndarray:
    out = np.empty((size_px, size_px, 3), dtype=np.uint8)
    on_host([image], map_23[None], out[None])
    return out


def reference_warp(image: np.ndarray, map_23: np.ndarray, size_px: int) -> np.ndarray:
    """Return the warp in float64: PyTorch's grid_sample at all taps, averaged; borders repeated."""
    ((taps_x, taps_y),) = affine.taps(map_23[None])
    per_axis = np.array([taps_x, taps_y])[:, None]
    ys, xs = np.mgrid[: size_px * taps_y, : size_px * taps_x]
    points = (np.stack([xs, ys]).reshape(2, -1) + 0.5) / per_axis
    source = map_23[:, :2].astype(np.float64) @ points + map_23[:, 2:].astype(np.float64)
    size_xy = np.array([image.shape[1], image.shape[0]])[:, None]
    grid = (2 * source / size_xy - 1).T.reshape(1, size_px * taps_y, size_px * taps_x, 2)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None],
        torch.from_numpy(grid),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    samples = sampled[0].permute(1, 2, 0).numpy()
    return samples.reshape(size_px, taps_y, size_px, taps_x, 3).mean((1, 3))


def by_dali(images: list[np.ndarray], maps: np.ndarray, size_px: int) -> np.ndarray:
    """Return the images warped by the graph of a GPU, on a CPU's operators."""
    graph = decode.look_graph(
        device="cpu",
        kept_on="cpu",
        batch_size=len(images),
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
    )
    graph.feed_input("images", decode.images_on("cpu", [torch.from_numpy(i) for i in images]))
    decode.feed_maps(graph, maps, size_px)
    warped, more = decode.warped_of(graph.run())
    assert not more
    return np.array(warped)


@pytest.mark.parametrize("make", [smooth_image, noise_image])
@pytest.mark.parametrize("seed", range(5))
def test_the_warp_equals_a_reference_warp(make, seed: int) -> None:
    image = make(128, 96)
    (map_23,) = affine.random_matrices(np.random.default_rng(seed), np.array([[128, 96]]), 112)
    ours = warp(image, map_23, 112).astype(np.float64)
    assert np.abs(ours - reference_warp(image, map_23, 112)).max() <= 1


@pytest.mark.parametrize("make", [smooth_image, noise_image])
@pytest.mark.parametrize("size_px", [112, 40, 13])
def test_both_warps_equal_a_reference_where_images_shrink_too(make, size_px: int) -> None:
    """Of a batch, some maps have one tap, others up to seven, and not as many on each axis."""
    sizes_HW = np.array([[128, 96], [33, 200], [90, 90], [150, 40], [20, 20], [128, 128]])
    images = [make(height, width) for height, width in sizes_HW]
    maps = affine.random_matrices(np.random.default_rng(size_px), sizes_HW, size_px)
    maps[5] = affine.whole_image_matrices(sizes_HW[5:], size_px)
    taps = affine.taps(maps)
    assert (taps.min(), taps.max()) == (1, {112: 1, 40: 3, 13: 7}[size_px])
    dali = by_dali(images, maps, size_px)
    for image, map_23, theirs in zip(images, maps, dali, strict=True):
        expected = reference_warp(image, map_23, size_px)
        ours = warp(image, map_23, size_px).astype(np.float64)
        assert np.abs(ours - expected).max() <= 1 + 1e-6
        assert np.abs(theirs - expected).max() <= 1 + 1e-6
        assert np.abs(theirs - ours).max() <= 1


def test_dali_averages_nothing_where_nothing_shrinks() -> None:
    """So the operators that average get an empty batch, which DALI leaves out."""
    sizes_HW = np.array([[64, 64]] * 3)
    setting = {"num_threads": 1, "device_id": None, "prefetch_queue_depth": 1}
    graph = decode.look_graph(device="cpu", kept_on="cpu", batch_size=3, **setting)
    numbers = []
    for size_px in (64, 32):
        images = [torch.from_numpy(noise_image(64, 64))] * 3
        graph.feed_input("images", decode.images_on("cpu", images))
        decode.feed_maps(graph, affine.whole_image_matrices(sizes_HW, size_px), size_px)
        numbers.append([len(output) for output in graph.run()])
    assert numbers == [[3, 0], [3, 3]]


@pytest.mark.parametrize("flip", [False, True])
def test_crop_flip_and_resize_equal_torchvisions_pixel_by_pixel(flip: bool) -> None:
    image, (top, left, height, width), size = noise_image(120, 150), (20, 31, 80, 64), 96
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    theirs = TF.resized_crop(tensor, top, left, height, width, [size, size], antialias=False)
    theirs = (TF.hflip(theirs) if flip else theirs).permute(1, 2, 0).numpy()
    box = np.array([[top, left, height, width]])
    (map_23,) = affine._compose(box, np.array([flip]), np.zeros(1), size)
    ours = warp(image, map_23, size)
    # torchvision repeats the crop's own edge; ours sees the pixel beside it: one pixel of margin.
    inside = np.s_[2:-2, 2:-2]
    assert np.abs(ours[inside].astype(int) - theirs[inside].astype(int)).max() <= 1


@pytest.mark.parametrize("angle_deg", [-25.0, 10.0, 25.0])
def test_rotation_turns_the_way_torchvision_does(angle_deg: float) -> None:
    image, size = smooth_image(96, 96), 96
    turned = TF.rotate(Image.fromarray(image), angle_deg, InterpolationMode.BILINEAR)
    box = np.array([[0, 0, 96, 96]])
    (map_23,) = affine._compose(box, np.zeros(1, bool), np.radians([angle_deg]), size)
    ours = warp(image, map_23, size)
    inside = np.s_[24:-24, 24:-24]  # what is in the picture at every angle
    difference = np.abs(ours[inside].astype(int) - np.asarray(turned)[inside].astype(int))
    assert difference.max() <= 2  # Pillow rounds its coordinates
    wrong_way = TF.rotate(Image.fromarray(image), -angle_deg, InterpolationMode.BILINEAR)
    assert np.abs(ours[inside].astype(int) - np.asarray(wrong_way)[inside].astype(int)).max() > 20


def both_back_ends(paths: list[Path], size_px: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one training epoch as the CPU back-end makes it, and as the GPU's code does."""
    rows = np.arange(len(paths))
    epochs = []
    for host_warp in (True, False):
        loader = make_loader(paths, size_px, host_warp=host_warp)
        images, _ = collect(loader.train_epoch(rows, seed=0, epoch=epoch, augment=True))
        epochs.append(images.astype(int))
    return epochs[0], epochs[1]


def test_the_gpus_way_on_a_cpu_equals_the_cpus(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(16)]
    for i, path in enumerate(paths):
        write_noise(path, 40 + 7 * i, 90 - 3 * i, seed=i)
    for epoch in range(3):
        ours, graph = both_back_ends(paths, size_px=64, epoch=epoch)
        assert np.abs(ours - graph).max() <= 1


def test_both_back_ends_are_equal_where_images_are_shrunk(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        write_noise(path, 200 + 50 * i, 420 - 60 * i, seed=i)
    sizes_HW = check_images(paths, threads=1, max_pixels=10**8).sizes_HW
    working_HW = affine.working_sizes(sizes_HW, 48)
    assert (working_HW < sizes_HW).all()
    assert affine.taps(affine.whole_image_matrices(working_HW, 48)).min() > 1
    ours, graph = both_back_ends(paths, size_px=48, epoch=1)
    assert np.abs(ours - graph).max() <= 1


@pytest.mark.parametrize("size_px", [128, 50])
def test_both_back_ends_are_equal_on_real_photographs(grigri: Path, size_px: int) -> None:
    paths = sorted((grigri / "images").iterdir())[:200]
    ours, graph = both_back_ends(paths, size_px, epoch=1)
    assert np.abs(ours - graph).max() <= 1


def test_large_images_are_anti_aliased(tmp_path: Path) -> None:
    # A one-pixel checkerboard seen from afar is gray. Bilinear sampling alone would pick black
    # and white pixels: the standard deviation shows it.
    checkers = np.indices((512, 512)).sum(0) % 2 * 255
    path = tmp_path / "checkers.png"
    Image.fromarray(checkers.astype(np.uint8)).save(path)
    (batch,) = make_loader([path], size_px=60).eval_epoch(np.array([0]))
    pixels = batch.images_NHWC.numpy().astype(float)
    assert abs(pixels.mean() - 127.5) < 2 and pixels.std() < 5
