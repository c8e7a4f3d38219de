"""Mixed precision, memory formats, compiling, accumulation: the same training for less."""

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, DSAHLoss, HashingModel
from pml_hashing.losses import CSQLoss
from pml_hashing.trainers import AsymmetricTrainer
from pml_hashing.trainers._precision import Precision

LABELS = torch.arange(24) % 3


def make_trainer(device="cpu", loss=None, rate=0.01, images=None, **options):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    embedder = nn.Sequential(nn.Linear(64, 8), nn.Tanh())
    models = {"trunk": trunk.to(device), "embedder": embedder.to(device)}
    images = torch.randn(24, 3, 6, 6) if images is None else images
    return AsymmetricTrainer(
        models,
        {f"{name}_optimizer": torch.optim.SGD(m.parameters(), rate) for name, m in models.items()},
        **{"batch_size": 12} | options.pop("more", {}),
        loss_funcs={"metric_loss": (loss or CSQLoss(3, 8)).to(device)},
        dataset=TensorDataset(images, LABELS),
        dataloader_num_workers=0,
        data_device=device,
        **options,
    )


def weights(trainer):
    return [p.detach().cpu().clone() for m in trainer.models.values() for p in m.parameters()]


def trained(**options):
    trainer = make_trainer(**options)
    trainer.train(num_epochs=2)
    return trainer


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_networks_compute_in_half_precision_and_the_loss_in_float32(amp, device):
    seen = []

    class Spy(CSQLoss):
        def forward(self, embeddings, *args, **kwargs):
            assert not torch.is_autocast_enabled(embeddings.device.type)
            seen.append(embeddings.dtype)
            return super().forward(embeddings, *args, **kwargs)

    trainer = make_trainer(device, Spy(3, 8), amp=amp)
    dtypes = []
    trainer.models["trunk"][0].register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    trainer.train(num_epochs=2)
    assert set(dtypes) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[amp]}
    assert set(seen) == {torch.float32}
    assert {weight.dtype for weight in weights(trainer)} == {torch.float32}
    assert_close(weights(trainer), weights(trained(device=device)), rtol=0, atol=2e-3)
    assert trainer.precision.skipped_steps == 0


def test_float64_stays():
    trainer = make_trainer(dtype=torch.float64, loss=CSQLoss(3, 8).double())
    for model in trainer.models.values():
        model.double()
    trainer.train()
    assert trainer.losses["total_loss"] == 0  # at the end of a round, as in PML


def test_steps_that_overflow_are_skipped_and_counted(device):
    def spoil(trainer):
        weight = trainer.models["trunk"][0].weight
        if trainer.iteration == 0:
            weight.register_hook(
                lambda grad: grad * float("inf") if trainer.iteration == 1 else grad
            )
        after.append(weight.detach().clone())

    after = []
    trainer = make_trainer(device, amp="fp16", end_of_iteration_hook=spoil, more={"batch_size": 6})
    trainer.train()
    assert trainer.precision.skipped_steps == 1
    assert not torch.equal(after[0], make_trainer(device).models["trunk"][0].weight)
    assert torch.equal(after[1], after[0])
    assert not torch.equal(after[2], after[1])
    assert trainer.precision.scaler.get_scale() == 2.0**15


def test_a_loss_that_no_scale_makes_finite_stops():
    images = torch.full((24, 3, 6, 6), float("nan"))
    trainer = make_trainer(amp="fp16", images=images, passes_per_round=30)
    with pytest.raises(FloatingPointError, match="finite gradients at some scale of the loss"):
        trainer.train()
    assert trainer.iteration == 30  # 2**16, halved 30 times, is below 1e-4
    assert trainer.precision.skipped_steps == trainer.iteration


def test_gradients_are_clipped_at_their_own_scale(device):
    norms = []

    def clip():
        norms.append(nn.utils.clip_grad_norm_(trainer.models["trunk"].parameters(), 1e-3).item())

    for amp in (None, "fp16"):
        trainer = make_trainer(device, amp=amp, gradient_clippers={"trunk_grad_clipper": clip})
        trainer.train()
    assert norms[0] == pytest.approx(norms[2], rel=0.02)


def test_what_is_frozen_is_not_stepped(device):
    trainer = make_trainer(device, amp="fp16", freeze_these=("trunk",))
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[2], before[2])


def test_channels_last(device):
    trainer = make_trainer(device, channels_last=True)
    layouts = []
    trainer.models["trunk"][0].register_forward_hook(
        lambda _, inputs, __: layouts.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    trainer.train(num_epochs=2)
    assert all(layouts)
    assert layouts
    assert trainer.models["trunk"][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(weights(trainer), weights(trained(device=device)))


def test_data_that_are_no_images_are_moved_as_they_are():
    precision = Precision(None, True, torch.device("cpu"))
    rows, images = torch.zeros(2, 3), torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    assert precision.to_device(rows).shape == (2, 3)
    assert precision.to_device(images, torch.float32).dtype == torch.float32
    assert precision.to_device(["text"]) == ["text"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's
def test_compiled_networks_keep_their_names():
    model = HashingModel("test_resnet", 8, img_size=32)
    names = list(model.state_dict())
    trainer = make_trainer(compile={"backend": "eager"})
    plain = make_trainer()
    assert trainer.models["trunk"].state_dict().keys() == plain.models["trunk"].state_dict().keys()
    trainer.train(num_epochs=2)
    plain.train(num_epochs=2)
    assert_close(weights(trainer), weights(plain))
    trainer.precision.prepare(model.trunk, {"backend": "eager"})
    assert list(model.state_dict()) == names
    HashingModel("test_resnet", 8, img_size=32).load_state_dict(model.state_dict())


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_loss_of_samples_is_that_of_the_whole_batch(steps, device):
    """Also where parts are of different sizes: 12 in five parts."""
    whole, parts = (trained(device=device, accumulate_steps=k) for k in (1, steps))
    assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    assert whole.iterations_per_epoch == parts.iterations_per_epoch == 2


def test_the_loss_of_a_step_is_recorded_whole():
    losses = [
        make_losses(accumulate_steps=steps)[:1]  # before weights part in their last digits
        for steps in (1, 4)
    ]
    assert_close(*losses)


def make_losses(**options):
    losses = []

    def record(trainer):
        losses.append(trainer.losses["total_loss"])
        assert trainer.losses["total_loss"] == trainer.losses["metric_loss"]
        assert len(trainer.sample_indices) == 12

    make_trainer(end_of_iteration_hook=record, **options).train()
    return torch.stack(losses)


def test_a_loss_of_pairs_sees_those_within_a_part():
    sizes = []

    class Spy(ContrastiveLoss):
        def forward(self, embeddings, *args, **kwargs):
            sizes.append(len(embeddings))
            return super().forward(embeddings, *args, **kwargs)

    trained(loss=Spy(), accumulate_steps=3)
    assert sizes == [4] * 12


ERRORS = {
    "amp": ({"amp": "fp8"}, "`amp` to be one of None, 'bf16', 'fp16', got 'fp8'"),
    "accumulate": ({"accumulate_steps": 0}, "`accumulate_steps` of at least 1, got 0"),
    "parts": ({"accumulate_steps": 13}, "at least 1 samples, one per process, got one of 0"),
    "every": ({"checkpoint_every": -1}, "`checkpoint_every` of at least 1, got -1"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp", [None, "bf16"])
@pytest.mark.parametrize("with_bank", [False, True])
def test_a_step_does_not_wait_for_the_gpu(amp, with_bank):
    def strict(trainer):
        # The first step starts the code bank; every twentieth shows the loss.
        torch.cuda.set_sync_debug_mode("error" if trainer.iteration in range(1, 18) else "default")

    trainer = make_trainer("cuda", amp=amp, passes_per_round=10, end_of_iteration_hook=strict)
    if with_bank:
        bank = CodeBank(LABELS, 8).to("cuda")
        trainer.models["code_bank"] = bank
        trainer.loss_funcs["metric_loss"] = DSAHLoss(3, 8, code_bank=bank).to("cuda")
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
