"""Networks: the published sizes, the shapes, and what their structure promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gpt2.model import GPT2
from lenet5.model import LeNet5
from lib.errors import Refused
from resnet50.model import Bottleneck, ResNet


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- LeNet-5 --------------------------------------------------------------------------------------------------------


def test_lenet5_has_61750_parameters_with_batch_norm_and_61706_without() -> None:
    assert count(LeNet5()) == 61_750
    assert count(LeNet5(batch_norm=False)) == 61_706


@pytest.mark.parametrize("batch_norm", [True, False])
def test_lenet5_turns_images_into_logits_and_every_weight_learns(batch_norm: bool) -> None:
    model = LeNet5(batch_norm=batch_norm)
    logits = model(torch.randn(3, 1, 32, 32))
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# --- ResNet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (50, 25_557_032)])
def test_resnets_have_the_published_sizes(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(ResNet(depth=depth)) == parameters


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(("image_size", "last_map"), [(32, 4), (63, 8), (64, 2), (96, 3)])
def test_small_images_keep_their_resolution_in_the_stem(depth: int, image_size: int, last_map: int) -> None:
    model = ResNet(depth=depth, width=4, in_channels=1, classes=10, image_size=image_size)
    images = torch.randn(2, 1, image_size, image_size)
    assert model.blocks(model.stem(images)).shape[2:] == (last_map, last_map)
    assert model(images).shape == (2, 10)


def test_every_residual_block_starts_as_its_shortcut() -> None:
    for depth in (18, 50):
        for block in ResNet(depth=depth, width=4).blocks:
            x = torch.randn(2, block.conv1.in_channels, 6, 6)
            torch.testing.assert_close(block(x), block.shortcut(x).relu())


def test_the_stride_is_on_the_3x3_convolution() -> None:
    block = Bottleneck(16, 8, stride=2)
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


def test_a_depth_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused, match=r"RESNET50_DEPTH=34: .*18, 50"):
        ResNet(depth=34)


# --- GPT-2 ----------------------------------------------------------------------------------------------------------


def tiny(**changes: float) -> GPT2:
    torch.manual_seed(0)
    sizes = {"layers": 2, "heads": 4, "width": 32, "block_size": 16, "vocabulary": 64} | changes
    return GPT2(**sizes)  # type: ignore[arg-type]  # whole numbers where they have to be


PUBLISHED = {  # (layers, heads, width): parameters of transformers' GPT2LMHeadModel, and operations per token
    (12, 12, 768): (124_439_808, 855_383_040),
    (24, 16, 1024): (354_823_168, 2_424_926_208),
}


@pytest.mark.parametrize(("shape", "expected"), PUBLISHED.items())
def test_gpt2_has_the_published_sizes(shape: tuple[int, int, int], expected: tuple[int, int]) -> None:
    layers, heads, width = shape
    with torch.device("meta"):
        model = GPT2(layers=layers, heads=heads, width=width, block_size=1024, vocabulary=50257, bias=True)
    filling = 50304 - 50257
    assert (count(model) - filling * width, model.flops_per_token()) == expected


def test_no_token_sees_what_comes_after_it() -> None:
    model = tiny().eval()
    tokens = torch.randint(64, (2, 16))
    changed = tokens.clone()
    changed[:, 9] = (tokens[:, 9] + 1) % 64
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_attention_is_the_formula_of_the_paper() -> None:
    attention = tiny().blocks[0].attention
    x = torch.randn(2, 16, 32)
    query, key, value = (part.view(2, 16, 4, 8).transpose(1, 2) for part in attention.qkv(x).split(32, dim=-1))
    scores = (query @ key.mT / math.sqrt(8)).masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf)
    expected = attention.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(2, 16, 32))
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_cross_entropy_of_the_targets_that_count() -> None:
    model = tiny().eval()
    tokens, targets = torch.randint(64, (2, 2, 16))
    log_chances = model(tokens).log_softmax(-1)
    chosen: Tensor = -log_chances.gather(-1, targets[..., None])[..., 0]  # (B, T, V) -> (B, T)
    torch.testing.assert_close(model(tokens, targets), chosen.mean())
    targets[:, 10:] = -100
    torch.testing.assert_close(model(tokens, targets), chosen[:, :10].mean())


def test_weights_start_as_openai_starts_them() -> None:
    model = tiny(width=256, layers=8)
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for block in model.blocks:
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8) = 4
        assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_the_bias_switch_removes_every_bias() -> None:
    assert not [name for name, _ in tiny().named_parameters() if name.endswith("bias")]
    with_biases = tiny(bias=True)
    biases = [parameter for name, parameter in with_biases.named_parameters() if name.endswith("bias")]
    assert len(biases) == 2 * 6 + 1
    assert all(bias.abs().max() == 0 for bias in biases)


@pytest.mark.parametrize("gelu_tanh", [True, False])
def test_gelu_is_the_formula_that_was_asked_for(gelu_tanh: bool) -> None:
    block = tiny(gelu_tanh=gelu_tanh).blocks[0].double()
    nn.init.constant_(block.attention.out.weight, 0)  # attention adds nothing
    nn.init.normal_(block.up.weight)
    x = torch.randn(2, 16, 32, dtype=torch.float64)
    z = block.up(block.norm2(x))
    erf = (z / math.sqrt(2)).erf()  # Hendrycks and Gimpel 2016, section 2: exact, and by tanh
    tanh = (math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)).tanh()
    expected = x + block.down(z / 2 * (1 + (tanh if gelu_tanh else erf)))
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)


def test_dropout_acts_in_training_alone() -> None:
    model = tiny(dropout=0.5)
    tokens = torch.randint(64, (2, 16))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_a_width_that_the_heads_do_not_divide_is_refused_with_what_fits() -> None:
    with pytest.raises(Refused, match=r"GPT2_HEADS=5: does not divide GPT2_WIDTH=32\. Use one of: 1, 2, 4, 8"):
        tiny(heads=5)
