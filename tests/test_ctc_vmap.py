"""torch.vmap over the CTC loss and its gradient, against torch's own loss one item at a time."""

import pytest
import torch

from ctcspeech import ctc_loss

T, N, C, L = 12, 4, 6, 3
FRAMES, LABELS = torch.tensor([12, 12, 9, 7]), torch.tensor([3, 2, 1, 0])
generator = torch.Generator().manual_seed(0)
X = torch.randn(3, T, N, C, dtype=torch.float64, generator=generator)
Y = torch.randint(1, C, (3, N, L), generator=generator)


def torchs(x, y, frames, labels, reduction="sum"):
    log_probs = x.log_softmax(-1)
    return torch.nn.functional.ctc_loss(log_probs, y, frames, labels, reduction=reduction)


def torchs_gradient(x, *rest):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(torchs(x, *rest), x)[0]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_losses(reduction):
    def loss(x):
        return ctc_loss(x, Y[0], FRAMES, LABELS, reduction=reduction)

    wanted = torch.stack([torchs(x, Y[0], FRAMES, LABELS, reduction) for x in X])
    torch.testing.assert_close(torch.vmap(loss)(X), wanted)
    torch.testing.assert_close(torch.vmap(loss, in_dims=3)(X.movedim(0, 3)), wanted)


def test_gradients():
    def loss(x):
        return ctc_loss(x, Y[0], FRAMES, LABELS, reduction="sum")

    wanted = torch.stack([torchs_gradient(x, Y[0], FRAMES, LABELS) for x in X])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(X), wanted)
    torch.testing.assert_close(torch.func.grad(lambda x: torch.vmap(loss)(x).sum())(X), wanted)
    x = X.clone().requires_grad_()
    torch.vmap(loss)(x).sum().backward()
    torch.testing.assert_close(x.grad, wanted)


def test_labels_and_lengths_are_mapped_too():
    frames = torch.stack([FRAMES, FRAMES - 1, FRAMES])
    labels = torch.stack([LABELS, LABELS, LABELS.flip(0)])
    inputs = X, Y, frames, labels
    mapped = torch.vmap(lambda *inputs: ctc_loss(*inputs, reduction="none"))(*inputs)
    alone = [torchs(*item, "none") for item in zip(*inputs, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(alone))
    gradients = torch.vmap(torch.func.grad(lambda *inputs: ctc_loss(*inputs, reduction="sum")))
    alone = [torchs_gradient(*item) for item in zip(*inputs, strict=True)]
    torch.testing.assert_close(gradients(*inputs), torch.stack(alone))


def test_concatenated_labels():
    joined = Y.flatten()[:8]
    labels = torch.stack([LABELS, LABELS.flip(0), torch.tensor([1, 1, 2, 2])])

    def loss(x, labels):
        return ctc_loss(x, joined, FRAMES, labels, reduction="none")

    alone = [torchs(X[0], joined[: n.sum()], FRAMES, n, "none") for n in labels]
    torch.testing.assert_close(torch.vmap(loss, (None, 0))(X[0], labels), torch.stack(alone))
    with pytest.raises(ValueError, match="must be in"):
        torch.vmap(loss, (None, 0))(X[0], labels + 1)


def test_batch_first_a_single_utterance_and_one_map_within_another():
    def loss(x):
        return ctc_loss(x, Y[0], FRAMES, LABELS, batch_first=True, reduction="none")

    wanted = torch.stack([torchs(x, Y[0], FRAMES, LABELS, "none") for x in X])
    by_batch = X.permute(2, 0, 1, 3)  # (N, 3, T, C)
    torch.testing.assert_close(torch.vmap(loss, in_dims=1)(by_batch), wanted)

    def single(x):
        return ctc_loss(x, Y[0, 0], 12, 3, reduction="none")

    wanted = torch.stack([torchs(x, Y[0, :1].expand(N, L), 12 + 0 * FRAMES, 3 + 0 * LABELS, "none")
                          for x in X])  # fmt: skip
    torch.testing.assert_close(torch.vmap(torch.vmap(single, in_dims=1))(X), wanted)


def test_jacobians_and_hessians():
    def losses(x):
        return ctc_loss(x, Y[0], FRAMES, LABELS, reduction="none")

    one_by_one = torch.autograd.functional.jacobian(losses, X[0])
    torch.testing.assert_close(torch.func.jacrev(losses)(X[0]), one_by_one)
    together = torch.autograd.functional.jacobian(losses, X[0], vectorize=True)
    torch.testing.assert_close(together, one_by_one)

    def loss(x):
        return ctc_loss(x, Y[0, :1], 4, 2, reduction="sum")

    x = X[0, :4, :1]
    wanted = torch.autograd.functional.hessian(
        lambda x: torchs_by_paths(x, Y[0, 0, :2].tolist()), x
    )
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(x), wanted)


def torchs_by_paths(x, labels):
    """-ln of the sum over all paths of 4 frames."""
    log_probs = x[:, 0].log_softmax(-1)
    scores = []
    for path in torch.cartesian_prod(*[torch.arange(C)] * 4).tolist():
        kept = [c for i, c in enumerate(path) if c and (i == 0 or c != path[i - 1])]
        if kept == labels:
            scores.append(log_probs[range(4), path].sum())
    return -torch.stack(scores).logsumexp(0)
