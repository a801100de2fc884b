"""Small networks with one structural difficulty each, for coverage tables and tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.models.super_resolution import CARN
from curvature.pruning.zoo_blocks import C2f, bert, llama, phi


class Residual(nn.Module):
    """Convolutions with batch normalisation and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Concatenation(nn.Module):
    """A dense block: normalisation after a concatenation, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.norm1, self.c = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 3, padding=1)
        self.norm2, self.d = nn.BatchNorm2d(15), nn.Conv2d(15, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        x = torch.cat([x, self.c(F.relu(self.norm1(x)))], 1)
        logits: Tensor = self.head(F.relu(self.d(F.relu(self.norm2(x)))).mean((2, 3)))
        return logits


class Depthwise(nn.Module):
    """An inverted bottleneck with a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.depth, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.project, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm2(self.depth(F.hardswish(self.norm1(self.expand(x))))))
        logits: Tensor = self.head(self.project(x).mean((2, 3)))
        return logits


class Reused(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.leave(F.relu(self.middle(F.relu(self.middle(F.relu(self.enter(x)))))))
        return logits


class Grouped(nn.Module):
    """Group normalisation: norm groups are the units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.b, self.norm2 = nn.Conv2d(8, 12, 3, padding=1), nn.GroupNorm(3, 12)
        self.head = nn.Linear(12 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.b(F.silu(self.norm1(self.a(x))))))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))
        return logits


class SelfAttention(nn.Module):
    """Separate projections, optionally fewer key-value heads than query heads."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_dim = width // num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj, self.v_proj = (nn.Linear(width, self.num_kv_heads * self.head_dim) for _ in range(2))
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeats = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        out: Tensor = self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Transformer(nn.Module):
    """A pre-norm block with attention and an MLP on tokens, with untied, tied or gated parts."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm, kv_heads: int | None = None, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.norm1, self.attention = norm(16), SelfAttention(16, 4, kv_heads)
        self.norm2, self.up, self.down = norm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.norm3, self.head = norm(16), nn.Linear(16, 11, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        logits: Tensor = self.head(self.norm3(x))
        return logits


class TiedWithoutNorm(nn.Module):
    """Embedding and classifier are one tensor, and the stream between them can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        logits: Tensor = self.head(x + self.down(F.gelu(self.up(x))))
        return logits


class Gated(nn.Module):
    """GLU: halves of one layer are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(6, 16), nn.Linear(8, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        logits: Tensor = self.head(F.relu(self.down(value * torch.sigmoid(gate))))
        return logits


class Transposed(nn.Module):
    """Transposed convolution between convolutions; the output is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.norm, self.leave = nn.BatchNorm2d(6), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.leave(F.relu(self.norm(self.up(F.relu(self.enter(x))))))
        return image


class Shuffled(nn.Module):
    """Pixel shuffle ties the channels of a pixel block."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.leave = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.leave(F.pixel_shuffle(self.middle(F.relu(self.enter(x))), 2))
        return image


class Offset(nn.Module):
    """Activations that are not zero at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.c(F.softplus(self.b(torch.sigmoid(self.a(x)))))
        return logits


class Scaled(nn.Module):
    """A bare parameter scales the channels of a flattened convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.ones(8, 1, 1))
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((F.relu(self.conv(x)) * self.scale).flatten(1))
        return logits


class GroupedConvolution(nn.Module):
    """A convolution of two groups between others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """An LSTM between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.lstm = nn.Linear(6, 8), nn.LSTM(8, 8, batch_first=True)
        self.middle, self.head = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(F.relu(self.enter(x)))
        logits: Tensor = self.head(F.relu(self.middle(states[:, -1])))
        return logits


class TorchAttention(nn.Module):
    """``nn.MultiheadAttention`` and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.up, self.down = (
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 12),
            nn.Linear(12, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.down(F.relu(self.up(x + self.attention(x, x, x, need_weights=False)[0])))
        return logits


class TiedAutoencoder(nn.Module):
    """Decoder weights are the transposed encoder's, in functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6) / 3), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.weight, self.bias)), self.weight.t())


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right, self.leave = (
            nn.Linear(6, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        x = F.relu(self.left(x)) if bool(x.mean() > 1e3) else F.relu(self.right(x))
        logits: Tensor = self.leave(x)
        return logits


class HardCoded(nn.Module):
    """A reshape with the number of channels written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.middle, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3)).view(-1, 8)
        logits: Tensor = self.head(F.relu(self.middle(x)))
        return logits


class Frozen(nn.Module):
    """The first layer is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.a.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.c(F.relu(self.b(F.relu(self.a(x)))))
        return logits


def _images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def _vectors() -> Tensor:
    return torch.randn(2, 6)


def _tokens() -> Tensor:
    return torch.arange(10).view(2, 5) % 11


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "residual": (Residual, _images),
    "concatenation, normalised": (Concatenation, _images),
    "depthwise convolution": (Depthwise, _images),
    "layer called twice": (Reused, _vectors),
    "group normalisation": (Grouped, _images),
    "transformer, LayerNorm": (Transformer, _tokens),
    "transformer, RMSNorm": (lambda: Transformer(nn.RMSNorm), _tokens),
    "transformer, 2 of 4 key heads": (lambda: Transformer(kv_heads=2), _tokens),
    "tied transformer, RMSNorm": (lambda: Transformer(nn.RMSNorm, tied=True), _tokens),
    "tied embedding": (TiedWithoutNorm, _tokens),
    "gated linear unit": (Gated, _vectors),
    "transposed convolution": (Transposed, _images),
    "pixel shuffle": (Shuffled, _images),
    "sigmoid and softplus": (Offset, _vectors),
    "bare scale, flattened": (Scaled, _images),
    "grouped convolution": (GroupedConvolution, _images),
    "LSTM": (Recurrent, lambda: torch.randn(2, 5, 6)),
    "nn.MultiheadAttention": (TorchAttention, lambda: torch.randn(2, 5, 8)),
    "tied autoencoder, functional": (TiedAutoencoder, _vectors),
    "data-dependent branch": (Branching, _vectors),
    "hard-coded view": (HardCoded, _images),
    "frozen layer": (Frozen, _vectors),
    "CARN": (lambda: CARN(width=8, stages=2), _images),
    "CARN, two groups": (lambda: CARN(width=8, stages=2, groups=2), _images),
    "YOLO C2f block": (C2f, _images),
    "BERT (transformers)": (bert, _tokens),
    "Llama (transformers)": (llama, _tokens),
    "Phi (transformers)": (phi, _tokens),
}
"""name -> (factory of the network, factory of its example inputs)."""
