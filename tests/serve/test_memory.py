"""What images may cost together: pixels being decoded, inputs that wait, and what one pass of the classifier sees."""

import asyncio
import threading

import pytest
import torch

import oodline as ol
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.serve import ServeSettings
from oodline.serve.batching import Batcher
from oodline.serve.budget import Budget

PNG = {"content-type": "image/png"}


@pytest.fixture
def unsized(guard):
    def made(**preprocessing):
        return ol.Guard(
            guard.classifier, guard.detector, guard.calibration, preprocessing=Preprocessing(**preprocessing)
        )

    return made


@pytest.mark.parametrize(
    ("preprocessing", "size", "seen"),
    [({}, (101, 100), "101 x 100"), ({"resize": 50}, (20, 100), "50 x 250"), ({"resize": 50}, (4, 100), "50 x 1250")],
)
def test_where_no_size_is_stated_an_image_may_not_choose_what_the_classifier_costs(
    serving, unsized, picture, preprocessing, size, seen
):
    client = serving(unsized(**preprocessing), max_input=10_000)
    answer = client.post("/v1/predict", content=picture("red", size), headers=PNG)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:oodline:problem:too-many-pixels"
    assert f"would see all {seen} pixels" in answer.json()["detail"]
    assert "at most 10000 pixels (max_input)" in answer.json()["remedy"]
    assert client.post("/v1/predict", content=picture("red", (100, 100)), headers=PNG).status_code == 200


def test_where_a_size_is_stated_the_image_itself_may_be_larger(serving, unsized, picture):
    for preprocessing in ({"resize": (8, 8)}, {"crop": 8}, {"resize": 8, "crop": 8}):
        client = serving(unsized(**preprocessing), max_input=100)
        assert client.post("/v1/predict", content=picture("red", (300, 100)), headers=PNG).status_code == 200


def test_a_batch_has_no_more_pixels_than_one_pass_may_see():
    seen, gate, entered = [], threading.Event(), threading.Event()

    def work(batch):
        entered.set()
        assert gate.wait(60)
        seen.append(tuple(batch.shape))
        return [0] * len(batch)

    batcher = Batcher(ServeSettings(), max_pixels=250)
    jobs = [batcher.submit(torch.zeros(3, 10, 10), work)]
    assert entered.wait(60)
    jobs += [batcher.submit(torch.zeros(3, 10, 10), work) for _ in range(5)]
    jobs += [batcher.submit(torch.zeros(3, 20, 20), work) for _ in range(2)]  # alone, whatever it has
    gate.set()
    for job in jobs:
        job.result(60)
    batcher.close()
    assert seen == [(1, 3, 10, 10), (2, 3, 10, 10), (2, 3, 10, 10), (1, 3, 10, 10), (1, 3, 20, 20), (1, 3, 20, 20)]


def test_the_input_of_one_that_was_cancelled_is_let_go():
    gate, entered = threading.Event(), threading.Event()

    def work(batch):
        entered.set()
        assert gate.wait(60)
        return [0] * len(batch)

    batcher = Batcher(ServeSettings())
    first = batcher.submit(torch.zeros(1), work)
    assert entered.wait(60)
    late = batcher.submit(torch.zeros(1), work)
    assert batcher.queued == 1
    assert late.cancel()
    assert batcher.queued == 0
    gate.set()
    assert first.result(60) == 0
    batcher.close()


def test_a_budget_is_kept_first_come_first_served_and_given_back_by_those_that_leave():
    async def main():
        budget, order = Budget(10), []

        async def one(name, count):
            taken = await budget.take(count)
            order.append(name)
            return taken

        first = await one("first", 8)
        large, small, last = (asyncio.create_task(one(*args)) for args in (("large", 99), ("small", 2), ("last", 3)))
        await asyncio.sleep(0)
        assert order == ["first"]  # the small one would fit, and waits behind the large one
        large.cancel()
        await asyncio.sleep(0.01)
        assert order == ["first", "small"]
        assert budget.taken == 10
        budget.give(first)
        await asyncio.sleep(0.01)
        assert (await small, await last) == (2, 3)
        assert budget.taken == 5
        unlucky = asyncio.create_task(one("unlucky", 6))
        await asyncio.sleep(0)
        budget.give(3)
        unlucky.cancel()  # in the turn in which it was given its part
        await asyncio.sleep(0.01)
        assert unlucky.cancelled()
        assert budget.taken == 2

    asyncio.run(main())


def test_what_was_taken_comes_back_whatever_happens(held, serving, picture):
    client = serving(held, max_pixels=600, timeout=1.0)
    judge = client.app.state.service
    for content in (picture("red"), picture("noise", (20, 20))[:300], picture("red", (100, 100))):
        client.post("/v1/predict", content=content, headers=PNG)
    held.gate.clear()
    assert client.post("/v1/predict", files=[("images", picture("red"))] * 6).status_code == 504
    held.gate.set()
    assert client.post("/v1/predict", files=[("images", picture("red"))] * 6).status_code == 200
    assert judge._pixels.taken == 0
