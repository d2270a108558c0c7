"""The optimisers against torch's plain forms, step by step."""

import pytest
import torch
from torch.nn import Parameter

from tablefold.train.optimizer import build_optimizer, state_bytes


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adagrad", lambda p: torch.optim.Adagrad(p, foreach=False)),
        ("amsgrad", lambda p: torch.optim.Adam(p, amsgrad=True, foreach=False)),
        ("sgd", lambda p: torch.optim.SGD(p, foreach=False)),
    ],
)
def test_defaults_are_torchs(name, plain):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (Parameter(torch.linspace(-1, 1, 101)) for _ in range(2))
    optimizers = build_optimizer(name, [ours]), plain([theirs])
    for _ in range(5):
        ours.grad = torch.randn(101, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "floats"), [("adagrad", 1), ("amsgrad", 3), ("sgd", 0)])
def test_state_bytes_count_what_is_held(name, floats):
    parameter = Parameter(torch.zeros(1000))
    optimizer = build_optimizer(name, [parameter])
    parameter.grad = torch.ones(1000)
    optimizer.step()
    assert state_bytes(optimizer) == floats * 4000


def test_rowwise_adagrad_keeps_one_float_per_row():
    parameter = Parameter(torch.zeros(10, 16))
    optimizer = build_optimizer("rowwise_adagrad", [parameter])
    parameter.grad = torch.ones(10, 16)
    optimizer.step()
    assert state_bytes(optimizer) == 10 * 4


def test_frozen_parameters_are_left_out():
    parameters = [Parameter(torch.zeros(3)), Parameter(torch.zeros(3), requires_grad=False)]
    assert len(build_optimizer("sgd", parameters).param_groups[0]["params"]) == 1


def test_mistakes_name_the_way_out():
    parameters = [Parameter(torch.zeros(1))]
    with pytest.raises(ValueError, match=r"unknown optimizer 'adagard'; did you mean 'adagrad'\?"):
        build_optimizer("adagard", parameters)
    for lr in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be greater than 0"):
            build_optimizer("sgd", parameters, lr)
