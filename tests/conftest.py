"""What many tests share: a pipeline of the reef's classes with random weights, and a check of error messages.

Two processes share the tests (`pytest -n 2`), each with one thread: small models gain little by a second one. A file's
tests stay together, for their fixtures; those that build the book here do so one after the other.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch; the processes that tests start have it as well

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import pytest
import torch
from filelock import FileLock

from dori_lite.book import pages
from dori_lite.reef import canaries, networks
from dori_lite.reef.captions import write
from dori_lite.reef.tokenizer import new_tokenizer
from dori_lite.reef.networks import pipeline


FIRST = ("test_book", "test_pages", "test_stable_diffusion", "test_a2", "test_a3", "test_assignments")
LAST = ("test_reproduce",)  # it waits for the first


def pytest_collection_modifyitems(items):
    """Long files first, so that both processes end together."""
    order = {name: k for k, name in enumerate(FIRST)} | dict.fromkeys(LAST, 1000)
    items.sort(key=lambda item: order.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="module")
def builder():
    """The checkout's `_build` for this process alone, as long as a module's tests need it."""
    (folder := pages.checkout() / "_build").mkdir(exist_ok=True)
    with FileLock(folder / "tests.lock"):
        yield


@pytest.fixture(scope="session")
def pipe():
    """A tiny pipeline, fp32 on the CPU, frozen. Shared: copy it before changing anything about it."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer([write(canaries.base(k)[0]) for k in range(100)], merges=150)
    text_encoder, unet, vae = (
        networks.new_text_encoder(tokenizer, smoke=True),
        networks.new_unet(smoke=True),
        networks.new_autoencoder(smoke=True),
    )
    vae.register_to_config(scaling_factor=0.7)  # neither 1 nor the default, so that forgetting it shows
    pipe = pipeline(vae, text_encoder, tokenizer, unet)
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def one_line():
    """Call something that must fail with this kind of error, its message matching and on one line."""

    def check(kind, match, function, *args, **options):
        with pytest.raises(kind, match=match) as error:
            function(*args, **options)
        assert "\n" not in str(error.value)

    return check
