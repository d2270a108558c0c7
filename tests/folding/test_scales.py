"""Scales of tables in few bits that learn while the codes stay."""

import copy

import pytest
import torch
from torch import nn

from folding.test_tuning import Net, batches, loss
from tablefold import fold
from tablefold.folding.scales import LearnedScales
from tablefold.formats import INT2, INT4, INT8

pytestmark = pytest.mark.filterwarnings("ignore:.*tune the model")


@pytest.mark.parametrize("kept", [INT2, INT4, INT8], ids=lambda kept: kept.name)
@pytest.mark.parametrize("width", [16, 10])
def test_scales_move_and_codes_stay(kept, width):
    rows = torch.randn(201, width, generator=torch.Generator().manual_seed(0))
    rows[48:64] = 0.0  # whole blocks of zeros have the smallest scale, and no other
    memory = nn.Parameter(rows)
    before = kept.encode(memory)
    scales = LearnedScales(kept, memory)
    with torch.no_grad():
        scales.factors.copy_(torch.linspace(-1.2, 1.2, len(before)))
    scales.write()
    after = kept.encode(memory)
    assert torch.equal(after[:, 1:], before[:, 1:])
    alive = before[:, 0] > 0
    assert alive.sum() >= len(before) - 16
    wanted = torch.linspace(-1.2, 1.2, len(before))[alive] * 8 / torch.tensor(2.0).log()  # about 8 bytes double a scale
    off = (after[alive, 0].int() - before[alive, 0].int() - wanted).abs() > 2
    assert off.float().mean() < (0.15 if kept == INT8 else 0.001)  # fine codes leave little room to say another scale
    assert torch.equal(after[~alive], before[~alive])
    with torch.no_grad():
        scales.factors.zero_()
    scales.write()
    assert torch.equal(kept.encode(memory), before)


def test_the_gradient_of_a_scale_is_that_of_all_floats_that_it_scales():
    memory = nn.Parameter(torch.randn(10, 16, generator=torch.Generator().manual_seed(0)))
    scales, read = LearnedScales(INT4, memory), INT4.read(memory).detach()
    wanted = torch.randn(10, 16, generator=torch.Generator().manual_seed(1))
    expected = (wanted * read).view(5, 32).sum(1)
    for gradient in (wanted, wanted.to_sparse(1)):
        memory.grad = gradient
        scales.take_gradient()
        assert memory.grad is None
        torch.testing.assert_close(scales.factors.grad, expected)
    scales.factors.grad = None
    scales.take_gradient()  # of a batch that does not read the table
    assert scales.factors.grad is None


@pytest.mark.parametrize("compression", [14, 7])
def test_tuning_moves_the_scales_of_full_tables_and_leaves_their_codes(compression):
    model, data = batches(20)
    data = [(ids, 1.5 * labels) for ids, labels in data]  # of a model whose vectors are longer
    model.top.requires_grad_(False)  # nothing but scales can learn
    plain = copy.deepcopy(model)
    fold(plain, compression=compression, method="full", data=data, loss=loss)
    report = fold(model, compression=compression, method="full", data=data, loss=loss, tune=40)
    assert {table.format for table in report.tables} == {"int2" if compression == 14 else "int4"}
    assert report.tuned.after < report.tuned.before
    for name in ("user", "item"):
        group, same = model.get_submodule(name).group, plain.get_submodule(name).group
        (array,) = group.address_map.arrays
        tuned, untuned = (array.format.encode(each.arrays[0].detach()) for each in (group, same))
        assert torch.equal(tuned[:, 1:], untuned[:, 1:])
        assert not torch.equal(tuned[:, 0], untuned[:, 0])
        assert group.arrays[0].requires_grad
        assert group.arrays[0].grad is None
        assert group.sparse is same.sparse
    vectors = model(data[0][0]).detach()
    for name in ("user", "item"):
        model.get_submodule(name).group.freeze()
    assert torch.equal(model(data[0][0]), vectors)
    with torch.no_grad():
        judged = sum(float(loss(model, batch)) for batch in data[:8]) / 8
    assert judged == pytest.approx(report.tuned.after, rel=1e-5)


def test_tables_in_float32_rest_beside():
    model = Net()
    report = fold(model, compression=1.5, data=batches(20)[1], loss=loss, tune=5)
    assert report.tuned is not None
