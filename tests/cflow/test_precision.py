"""fp32 means fp32 on a GPU, and the program's own settings of torch are left as they were."""

from __future__ import annotations

import threading

import pytest
import torch

from cflow_ad.cflow import precision as precision_module
from cflow_ad.cflow.precision import products_in

CUDA = torch.device("cuda")


def values():
    return [getattr(holder, name) for holder, name, _ in precision_module._settings()]


@pytest.fixture
def matmul():
    """The setting of matrix products, put back after the test."""
    holder, name, of = precision_module._settings()[-1]
    before = getattr(holder, name)
    yield lambda wanted: setattr(holder, name, of[wanted])
    setattr(holder, name, before)


def exact(value):
    return value in ("ieee", "none", False)


@pytest.mark.parametrize("own", ["ieee", "tf32"])
def test_fp32_is_exact_and_the_settings_are_put_back(matmul, own):
    matmul(own)
    before = values()
    assert not all(map(exact, before))  # cuDNN's own default
    with products_in("fp32", CUDA):
        assert all(map(exact, values()))
        with products_in("tf32", CUDA):
            assert not any(map(exact, values()))
        assert all(map(exact, values()))
    assert values() == before


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_below_fp32_products_are_in_tf32(precision):
    before = values()
    with products_in(precision, CUDA):
        assert not any(map(exact, values()))
    assert values() == before


def test_the_settings_are_put_back_after_an_error():
    before = values()
    with pytest.raises(KeyError), products_in("fp32", CUDA):
        raise KeyError
    assert values() == before


def test_nothing_is_changed_for_a_cpu():
    before = values()
    with products_in("fp32", torch.device("cpu")):
        assert values() == before


def test_threads_do_not_put_back_each_others_settings():
    before, seen = values(), []

    def work(precision):
        for _ in range(50):
            with products_in(precision, CUDA):
                seen.append(precision == "fp32" or not any(map(exact, values())))
                seen.append(precision == "tf32" or all(map(exact, values())))

    threads = [threading.Thread(target=work, args=(which,)) for which in ("fp32", "tf32") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)
    assert values() == before
