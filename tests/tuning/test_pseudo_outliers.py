"""Pseudo-outliers keep what they promise to keep, and a seed gives the same ones again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from oodline.errors import InputError
from oodline.tuning.pseudo_outliers import FAR, NEAR, blend, blur, magnify, mosaic, patch_shuffle, phase_scramble, turn

EVERY = {**NEAR, **FAR}

sizes = st.tuples(st.integers(2, 5), st.integers(1, 3), st.integers(2, 11), st.integers(2, 11))


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def images_of(size: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    return torch.randn(size, generator=seeded(seed))


@pytest.mark.parametrize("name", EVERY)
@given(size=sizes, seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_a_transform_keeps_shape_and_dtype_leaves_its_input_and_repeats_by_seed(name, size, seed):
    images = images_of(size)
    before = images.clone()
    made = EVERY[name](images, seeded(seed))
    assert (made.shape, made.dtype) == (images.shape, images.dtype)
    assert bool(made.isfinite().all())
    assert torch.equal(images, before)
    assert torch.equal(made, EVERY[name](images, seeded(seed)))


@pytest.mark.parametrize("name", EVERY)
def test_a_transform_makes_something_else_of_an_image(name):
    images = images_of((4, 3, 16, 16))
    made = EVERY[name](images, seeded(1))
    assert bool(((made - images).abs().amax((1, 2, 3)) > 0.1).all())


@given(size=sizes, grid=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_shuffled_patches_keep_the_multiset_of_pixels(size, grid, seed):
    images = images_of(size)
    made = patch_shuffle(images, seeded(seed), grid=grid)
    # a pixel is a vector of channels: they move together
    assert torch.equal(sorted_pixels(made), sorted_pixels(images))


def sorted_pixels(images: Tensor) -> Tensor:
    pixels = images.flatten(2).transpose(1, 2)
    order = pixels[..., 0].argsort(1)
    return pixels.gather(1, order.unsqueeze(2).expand_as(pixels))


def test_shuffled_patches_are_whole_patches():
    numbers = torch.arange(16.0).reshape(1, 1, 4, 4)
    images = numbers.repeat_interleave(2, 2).repeat_interleave(3, 3)  # patches of 2 x 3 equal pixels
    made = patch_shuffle(images, seeded(3), grid=4)
    kept = made[..., ::2, ::3]
    assert torch.equal(kept.repeat_interleave(2, 2).repeat_interleave(3, 3), made)
    assert not torch.equal(kept, numbers)


@given(size=sizes, seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_scrambled_phases_keep_the_amplitude_spectrum_and_the_mean_colour(size, seed):
    images = images_of(size).double()
    made = phase_scramble(images, seeded(seed))
    torch.testing.assert_close(torch.fft.fft2(made).abs(), torch.fft.fft2(images).abs(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(made.mean((2, 3)), images.mean((2, 3)))


def test_a_turn_is_a_quarter_turn():
    images = images_of((64, 2, 5, 5))
    made = turn(images, seeded(0))
    left = (made == images.rot90(1, (2, 3))).flatten(1).all(1)
    right = (made == images.rot90(3, (2, 3))).flatten(1).all(1)
    assert bool((left ^ right).all())
    assert 10 < int(left.sum()) < 54


def test_a_blend_is_the_mean_of_two_different_images():
    images = torch.eye(6).reshape(6, 6, 1, 1)
    made = blend(images, seeded(0)).flatten(1)
    assert torch.equal(made.sum(1), torch.ones(6))
    assert torch.equal((made == 0.5).sum(1), torch.full((6,), 2))
    assert torch.equal(made.diagonal(), torch.full((6,), 0.5))
    assert torch.equal(made.sum(0), torch.ones(6))  # everyone is the partner of one


def test_a_mosaic_keeps_its_first_quadrant_and_takes_the_others_from_other_images():
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 4, 6)
    made = mosaic(images, seeded(0))
    assert torch.equal(made[:, :, :2, :3], images[:, :, :2, :3])
    for part in (made[:, :, :2, 3:], made[:, :, 2:, :3], made[:, :, 2:, 3:]):
        assert bool((part != images[:, :, : part.shape[2], : part.shape[3]]).all())
        assert torch.equal(part.flatten(1).amin(1), part.flatten(1).amax(1))


def test_a_blur_keeps_a_flat_image_and_the_mean_and_takes_the_detail():
    flat = torch.full((2, 3, 8, 12), 1.7)
    torch.testing.assert_close(blur(flat, seeded(0)), flat)
    images = images_of((2, 3, 24, 24))
    made = blur(images, seeded(0))
    torch.testing.assert_close(made.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=1e-5)
    assert float(made.std()) < 0.3 * float(images.std())


def test_a_blur_is_a_convolution_with_a_gaussian():
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    made = blur(point, seeded(0), strength=2 / 33)[0, 0]
    x = torch.arange(33.0) - 16
    gaussian = torch.exp(-(x**2) / (2 * 2.0**2))
    gaussian /= gaussian.sum()
    torch.testing.assert_close(made, torch.outer(gaussian, gaussian), rtol=0, atol=1e-5)


def test_a_window_is_enlarged_from_the_image_itself():
    ramp = torch.arange(16.0).expand(8, 1, 16, 16)
    made = magnify(ramp, seeded(0), factor=4)
    assert bool((made.amax((1, 2, 3)) - made.amin((1, 2, 3)) <= 3).all())
    assert len(made.amin((1, 2, 3)).unique()) > 1


@pytest.mark.parametrize("transform", [blend, mosaic])
def test_one_image_has_none_to_be_mixed_with(transform):
    with pytest.raises(InputError, match="a batch of one image has none"):
        transform(images_of((1, 1, 4, 4)), seeded(0))
