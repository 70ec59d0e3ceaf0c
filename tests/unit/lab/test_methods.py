"""What each method does to a small network of peers, computed by the laboratory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from support.tiny import make_tiny_llama
from torch import Tensor

from decad.core.constants import ADAM_STEP
from decad.errors import ConfigError
from decad.lab.attacks import Kind
from decad.lab.engine import Laboratory
from decad.lab.experiment import make_experiment
from decad.lab.methods import METHODS, method
from decad.lab.pool import Share


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    make_tiny_llama(folder / "model", hidden=16)
    for name, word in zip("abcd", ("hello ", "12345 ", "lorem ipsum ", "-+*/ "), strict=True):
        (folder / f"{name}.txt").write_text(word * 400)
    return folder


def laboratory(folder: Path, name: str = "deca", **settings: Any) -> Laboratory:
    defaults: dict[str, Any] = {
        **{"model": folder / "model", "data": [folder / f"{n}.txt" for n in "abcd"], "peers": 4},
        **{"steps": 12, "inner_steps": 4, "seq_len": 16, "batch_size": 2, "lr": 3e-3, "overlay": "ring"},
        **{"eval_units": 16, "threads": 1},
    }
    return Laboratory(make_experiment({**defaults, "method": name, **settings}))


def take(lab: Laboratory, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        lab.step(step)


def parameters(lab: Laboratory) -> list[Tensor]:
    """Of each peer, all that it trains, end to end."""
    return [torch.cat([peer.model.block(b.index) for b in peer.model.plan.blocks]) for peer in lab.peers]


def whole(lab: Laboratory) -> Tensor:
    """Of each peer a row: all that it trains, the adapters too."""
    return torch.stack(
        [torch.cat([peer.model.block(b.index) for b in peer.model.blocks]) for peer in lab.peers]
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name: str, folder: Path) -> None:
    lab = laboratory(folder, name, lr=2e-2 if name == "dec-lora" else 3e-3)
    before = lab.evaluate()
    take(lab, 12)
    after = lab.evaluate()
    assert after.averaged.mean < before.averaged.mean
    assert before.consensus_distance == 0
    assert (after.consensus_distance > 0) == (len(lab.peers) > 1)


@pytest.mark.parametrize("name", ["deca", "gossip", "fedavg", "dec-lora"])
def test_between_exchanges_nothing_is_sent(name: str, folder: Path) -> None:
    key = "local_steps" if name == "fedavg" else "every"
    lab = laboratory(folder, name, options={key: 3})
    sent = []
    for step in range(6):
        before = lab.peers[0].sent
        lab.step(step)
        sent.append(lab.peers[0].sent - before)
    assert [step for step, count in enumerate(sent) if count] == [2, 5]


def test_after_an_average_all_clients_are_alike(folder: Path) -> None:
    lab = laboratory(folder, "fedavg", options={"local_steps": 3})
    take(lab, 2)
    assert lab.evaluate().consensus_distance > 1e-3
    mean = torch.stack(parameters(lab)).mean(dim=0)
    lab.step(2)
    first, *others = parameters(lab)
    assert all(torch.allclose(other, first, atol=1e-6) for other in others)
    assert not torch.allclose(first, mean, atol=1e-6)  # the third step was taken first


def test_the_average_of_all_parameters_does_not_change_by_mixing(folder: Path) -> None:
    alone, mixed = laboratory(folder, "local", options={"whole": True}), laboratory(folder, "gossip")
    for lab in (alone, mixed):
        lab.step(0)
    assert torch.allclose(
        torch.stack(parameters(alone)).mean(dim=0), torch.stack(parameters(mixed)).mean(dim=0), atol=1e-6
    )


def test_a_peer_sends_its_block_once_to_each_neighbour(folder: Path) -> None:
    lab = laboratory(folder, moments="none")
    lab.step(0)
    block = lab.peers[0].model.plan[lab.schedule.position(0).block]
    assert lab.peers[0].sent == 2 * 4 * block.numel


class TestSettling:
    SETTINGS: ClassVar[dict[str, Any]] = {"schedule": "linear:12", "peers": 8, "partition": "iid"}

    def test_all_end_with_the_average_of_all(self, folder: Path) -> None:
        lab = laboratory(folder, settle=10, adapters=2, **self.SETTINGS)
        assert lab.steps == 12 + 10 * len(lab.averaged.plan)
        take(lab, 12)
        before, averaged, positions = lab.evaluate(), whole(lab).mean(dim=0), [p._position for p in lab.peers]
        take(lab, lab.steps - 12, start=12)
        after = lab.evaluate()
        assert after.consensus_distance < 5e-3 * before.consensus_distance
        assert torch.allclose(whole(lab).mean(dim=0), averaged, atol=1e-6)
        assert [p._position for p in lab.peers] == positions  # nothing was trained
        assert max(score.mean for score in after.peers) == pytest.approx(before.averaged.mean, abs=1e-4)

    def test_who_was_away_in_the_middle_of_it_comes_along(self, folder: Path) -> None:
        lab = laboratory(folder, settle=10, faults=["away:p3:14:19"], **self.SETTINGS)
        take(lab, 12)
        before = lab.evaluate().consensus_distance
        take(lab, lab.steps - 12, start=12)
        assert lab.evaluate().consensus_distance < 0.05 * before

    def test_moments_do_not_travel(self, folder: Path) -> None:
        lab = laboratory(folder, settle=2, **self.SETTINGS)
        take(lab, 12)
        before = lab.peers[0].sent
        lab.step(12)
        block = lab.averaged.plan[lab.schedule.position(12).block]
        assert lab.peers[0].sent - before == 2 * 4 * block.numel

    @pytest.mark.parametrize("name", [name for name in METHODS if name != "deca"])
    def test_other_methods_end_as_they_do(self, name: str, folder: Path) -> None:
        assert laboratory(folder, name, schedule="linear:12").steps == 12


class TestAdapters:
    SETTINGS: ClassVar[dict[str, Any]] = {"adapters": 2, "adapter_lr": 1e-2}

    def test_they_are_trained_beside_the_block_and_mixed(self, folder: Path) -> None:
        lab = laboratory(folder, overlay="full", **self.SETTINGS)
        begun = adapters(lab)
        lab.step(0)
        after = adapters(lab)
        assert torch.allclose(after, after[0].expand_as(after), atol=1e-6)
        assert (after - begun).abs().max() == pytest.approx(1e-2, rel=1e-2)  # one step of Adam

    def test_without_others_the_mean_is_the_same(self, folder: Path) -> None:
        mixed = laboratory(folder, overlay="ring", **self.SETTINGS)
        alone = laboratory(folder, overlay="ring", options={"every": 2}, **self.SETTINGS)
        for lab in (mixed, alone):
            lab.step(0)
        assert torch.allclose(adapters(mixed).mean(dim=0), adapters(alone).mean(dim=0), atol=1e-6)
        assert not torch.equal(adapters(mixed), adapters(alone))

    def test_what_would_spoil_them_is_taken_back(self, folder: Path) -> None:
        lab = laboratory(folder, overlay="full", **self.SETTINGS)
        lab.step(0)
        lab.peers[1].model.adapter_values.mul_(3.0)
        lab.step(1)
        honest = adapters(lab)[[0, 2, 3]]
        assert (honest - honest.mean(dim=0)).abs().max() <= 2 * 1e-2  # they took that step alone
        lab.step(2)
        after = adapters(lab)[[0, 2, 3]]
        assert all(peer._shut_out == {"p1"} for peer in (lab.peers[0], *lab.peers[2:]))
        assert (after - honest).abs().max() <= 4e-2

    def test_their_moments_live_through_the_phases(self, folder: Path) -> None:
        lab = laboratory(folder, **self.SETTINGS)
        take(lab, 9)
        for peer in lab.peers:
            assert peer._adapters is not None
            assert peer._adapters.state.updates == 9

    def test_they_travel_beside_the_block(self, folder: Path) -> None:
        lab, plain = laboratory(folder, **self.SETTINGS), laboratory(folder)
        for each in (lab, plain):
            each.step(0)
        numel = lab.peers[0].model.adapter_values.numel()
        assert lab.peers[0].sent == plain.peers[0].sent + 2 * 4 * numel

    def test_they_learn(self, folder: Path) -> None:
        lab, plain = laboratory(folder, **self.SETTINGS), laboratory(folder)
        for each in (lab, plain):
            take(each, 12)
        assert lab.evaluate().averaged.mean < plain.evaluate().averaged.mean

    def test_who_was_away_takes_them_too(self, folder: Path) -> None:
        lab = laboratory(folder, faults=["away:p1:2:8"], overlay="full", **self.SETTINGS)
        take(lab, 8)
        others = adapters(lab)[0].clone()
        lab.step(8)
        assert (adapters(lab)[1] - others).abs().max() < 3e-2


def adapters(lab: Laboratory) -> Tensor:
    """Of each peer: [peers, a]."""
    return torch.stack([peer.model.adapter_values.clone() for peer in lab.peers])


def test_pooled_training_sees_what_all_train_on_and_nothing_held_out(folder: Path) -> None:
    peers, pooled = laboratory(folder), laboratory(folder, "pooled")
    shares = [peer.data for peer in peers.peers if isinstance(peer.data, Share)]
    (everything,) = [peer.data for peer in pooled.peers if isinstance(peer.data, Share)]
    assert len(shares) == 4
    together = sorted(unit for share in shares for unit in share.train_units)
    assert sorted(everything.train_units) == together
    assert not set(together) & {unit for share in shares for unit in share.held_out_units}


class TestFaults:
    def test_who_is_away_stands_still_and_takes_what_it_missed(self, folder: Path) -> None:
        lab = laboratory(folder, faults=["away:p1:2:8"])
        take(lab, 2)
        before = parameters(lab)[1]
        take(lab, 6, 2)
        assert torch.equal(parameters(lab)[1], before)
        assert parameters(lab)[0].sub(before).abs().max() > 0
        donor = lab.peers[0].model.block(lab.schedule.position(4).block)
        lab.step(8)
        missed = lab.schedule.position(4).block
        assert torch.equal(lab.peers[1].model.block(missed), donor)

    def test_who_is_late_is_not_mixed_and_trains_on(self, folder: Path) -> None:
        late, alone = (
            laboratory(folder, faults=["late:p1:0:4"]),
            laboratory(folder, "local", moments="rowwise"),
        )
        for lab in (late, alone):
            take(lab, 4)
        assert torch.equal(parameters(late)[1], parameters(alone)[1])
        assert not torch.equal(parameters(late)[0], parameters(alone)[0])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sgd", {}, "method 'sgd' is not known. Use one of deca"),
        ("gossip", {"tau": 3}, "option tau = 3 is not accepted. Its options: every"),
        ("gossip", {"every": "often"}, "option every = 'often' is not accepted"),
    ],
)
def test_what_a_method_does_not_know_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method(name, options)


@pytest.mark.parametrize("attack", get_args(Kind))
def test_the_figures_are_those_of_the_honest_and_an_attack_moves_them(attack: str, folder: Path) -> None:
    attackers = [] if attack == "none" else ["p0"]
    settings: dict[str, Any] = {"overlay": "full", "attack": attack, "attackers": attackers}
    lab, calm = laboratory(folder, **settings), laboratory(folder, overlay="full")
    for one in (lab, calm):
        take(one, 12)
    assert len(lab.evaluate().peers) == 4 - len(attackers)
    moved = (parameters(lab)[1] - parameters(calm)[1]).norm()
    assert (moved > 0) == (attack != "none")


@pytest.mark.parametrize("rule", ["none", "clip", "median", "trimmed"])
@pytest.mark.parametrize("attack", ["noise", "scale", "flip", "manipulate"])
def test_the_step_of_a_block_out_of_all_proportion_is_taken_back(
    attack: str, rule: str, folder: Path
) -> None:
    lab = laboratory(folder, overlay="full", attack=attack, attackers=["p0"], robust=rule)
    before = parameters(lab)
    lab.step(0)
    for peer, was, now in zip(lab.peers[1:], before[1:], parameters(lab)[1:], strict=True):
        assert float((now - was).abs().max()) < 2 * ADAM_STEP * lab.experiment.spec.lr, peer.name


@pytest.mark.parametrize("attack", ["noise", "scale", "flip"])
def test_without_the_checks_it_is_mixed(attack: str, folder: Path) -> None:
    plain: dict[str, Any] = {"overlay": "full", "options": {"checks": False}}
    lab = laboratory(folder, attack=attack, attackers=["p0"], **plain)
    before = parameters(lab)
    lab.step(0)
    for was, now in zip(before[1:], parameters(lab)[1:], strict=True):
        assert float((now - was).abs().max()) > 2 * ADAM_STEP * lab.experiment.spec.lr


@pytest.mark.parametrize(
    "settings",
    [
        {"attack": "noise", "attackers": ["nobody"]},
        {"attack": "noise"},
        {"attackers": ["p0"]},
        {"attack": "noise", "attackers": ["p0", "p1", "p2", "p3"]},
    ],
)
def test_attackers_that_make_no_sense_are_refused(settings: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ConfigError, match="attack"):
        laboratory(folder, **settings)
