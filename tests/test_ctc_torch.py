"""The CTC loss inside torch: operator checks, compile, export, DDP, autocast, layouts, modes."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

from ctcspeech import CTCLoss, ctc_loss

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def batch(T=20, N=3, C=6, L=4, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, N, C, generator=g, dtype=dtype)
    targets = torch.randint(1, C, (N, L), generator=g)
    return logits, targets, torch.tensor([T, T - 3, T - 5]), torch.tensor([L, L - 1, 0])


def loss_and_gradient(function, logits, *args):
    x = logits.clone().requires_grad_()
    loss = function(x, *args)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient


OPTIONS = (0, False, False, None, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck_loss(dtype):
    logits, *rest = batch(dtype=dtype)
    x = logits.requires_grad_()
    torch.library.opcheck(torch.ops.ctcspeech.ctc_loss.default, (x, *rest, *OPTIONS, True))
    torch.library.opcheck(
        torch.ops.ctcspeech.ctc_loss.default, (x.detach(), *rest, *OPTIONS, False)
    )


def test_opcheck_backward():
    logits, *rest = batch()
    _, gradient = torch.ops.ctcspeech.ctc_loss(logits, *rest, *OPTIONS, True)
    grad_losses = torch.rand(3)
    torch.library.opcheck(
        torch.ops.ctcspeech.ctc_loss_backward.default,
        (grad_losses, gradient, logits, *rest, 0, False, None, 0.0),
    )


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_operator_equals_eager(reduction, batch_first, monkeypatch):
    logits, *rest = batch(dtype=torch.float64)
    if batch_first:
        logits = logits.transpose(0, 1)

    def function(x, *args):
        return ctc_loss(x, *args, reduction=reduction, batch_first=batch_first)

    eager = loss_and_gradient(function, logits, *rest)
    monkeypatch.setattr("ctcspeech.ctc.loss.traced", lambda logits: True)
    operator = loss_and_gradient(function, logits, *rest)
    for one, other in zip(eager, operator, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)
    x = logits[:5] if not batch_first else logits[:, :5]
    x = x.clone().requires_grad_()
    rest = rest[0], torch.tensor([5, 5, 4]), torch.tensor([2, 1, 0])
    assert torch.autograd.gradgradcheck(lambda x: function(x, *rest), x, fast_mode=True)


def test_compile_fullgraph():
    logits, *rest = batch()

    def function(x, *args):
        return ctc_loss((x * 2).log_softmax(2), *args, zero_infinity=True)

    wanted = loss_and_gradient(function, logits, *rest)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for one, other in zip(wanted, loss_and_gradient(compiled, logits, *rest), strict=True):
        torch.testing.assert_close(one, other)
    module = torch.compile(CTCLoss(label_smoothing=0.1), fullgraph=True, backend="aot_eager")
    wanted = loss_and_gradient(CTCLoss(label_smoothing=0.1), logits, *rest)
    for one, other in zip(wanted, loss_and_gradient(module, logits, *rest), strict=True):
        torch.testing.assert_close(one, other)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(5, 6)
        self.loss = CTCLoss()

    def forward(self, x, targets, input_lengths, target_lengths):
        return self.loss(self.linear(x), targets, input_lengths, target_lengths)


def test_export():
    _, *rest = batch()
    x = torch.randn(20, 3, 5)
    model = Model()
    program = torch.export.export(model, (x, *rest))
    assert "ctcspeech.ctc_loss" in str(program.graph)
    torch.testing.assert_close(program.module()(x, *rest), model(x, *rest))


def train_one_step(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    try:
        _, *rest = batch(N=2 * world, L=4)
        model = torch.nn.parallel.DistributedDataParallel(Model())
        g = torch.Generator().manual_seed(1)
        x = torch.randn(20, 2 * world, 5, generator=g)
        mine = slice(2 * rank, 2 * rank + 2)
        targets = torch.arange(2 * world * 4).reshape(-1, 4) % 5 + 1
        lengths = torch.full((2 * world,), 20), torch.full((2 * world,), 4)
        model(x[:, mine], targets[mine], *(length[mine] for length in lengths)).backward()
        torch.save(model.module.linear.weight.grad, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(train_one_step, args=(2, port, str(tmp_path)), nprocs=2)
    model = Model()
    x = torch.randn(20, 4, 5, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(16).reshape(-1, 4) % 5 + 1
    model(x, targets, 20, 4).backward()
    for rank in range(2):
        gradient = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(gradient, model.linear.weight.grad)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_function_transforms(reduction):
    logits, *rest = batch(T=7, L=3, dtype=torch.float64)
    rest = rest[0], torch.tensor([7, 7, 4]), torch.tensor([3, 2, 0])

    def function(x):
        return ctc_loss(x, *rest, reduction=reduction)

    _, wanted = loss_and_gradient(function, logits)
    torch.testing.assert_close(torch.func.grad(function)(logits), wanted)
    value, pull = torch.func.vjp(function, logits)
    torch.testing.assert_close(value, function(logits))
    torch.testing.assert_close(pull(torch.tensor(2.0, dtype=torch.float64))[0], 2 * wanted)
    direction = torch.rand_like(logits)

    def directional(x):
        return (torch.func.grad(function)(x) * direction).sum()

    x = logits.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x), x, create_graph=True)
    (second,) = torch.autograd.grad((first * direction).sum(), x)
    torch.testing.assert_close(torch.func.grad(directional)(logits), second)


def test_non_contiguous_input():
    logits, *rest = batch(C=6)
    wide = torch.zeros(20, 3, 12)
    wide[:, :, ::2] = logits
    padded = torch.zeros(40, 5, 9)
    padded[::2, 1:4, 3:] = logits
    wanted = loss_and_gradient(ctc_loss, logits, *rest)
    for view in (
        wide[:, :, ::2],
        padded[::2, 1:4, 3:],
        logits.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        logits[:, :1].expand(20, 3, 6),
    ):
        expected = wanted if torch.equal(view, logits) else None
        if expected is None:
            expected = loss_and_gradient(ctc_loss, view.contiguous(), *rest)
        x = view.detach().requires_grad_()
        loss = ctc_loss(x, *rest)
        loss.backward()
        assert torch.equal(loss, expected[0]) and torch.equal(x.grad, expected[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    _, *rest = batch()
    model = Model()
    x = torch.randn(20, 3, 5)
    with torch.autocast("cpu", dtype=dtype):
        emissions = model.linear(x)
        assert emissions.dtype == dtype
        loss = model.loss(emissions, *rest)
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(model.linear.weight.grad).all()
    torch.testing.assert_close(loss, model.loss(emissions.detach().float(), *rest))


def test_inference_mode_and_no_grad():
    logits, *rest = batch()
    wanted, _ = loss_and_gradient(ctc_loss, logits, *rest)
    x = logits.clone().requires_grad_()
    with torch.no_grad():
        loss = ctc_loss(x, *rest)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, wanted)
    with torch.inference_mode():
        loss = ctc_loss(x * 1, *rest)
        assert loss.is_inference()
        torch.testing.assert_close(loss, wanted)
    assert not ctc_loss(logits, *rest).requires_grad


def test_logits_changed_in_place_do_not_spoil_the_gradient():
    logits, *rest = batch()
    _, wanted = loss_and_gradient(ctc_loss, logits, *rest)
    x = logits.clone().requires_grad_()
    y = x * 1
    loss = ctc_loss(y, *rest)
    y.data.zero_()
    loss.backward()
    torch.testing.assert_close(x.grad, wanted)


def test_module_can_be_pickled_and_copied():
    import copy
    import pickle

    logits, *rest = batch()
    module = CTCLoss(reduction="sum", delay_penalty=0.01)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(logits, *rest), module(logits, *rest))
