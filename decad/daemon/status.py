"""What `decad status` is told: one message put together from everybody's live figures."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import psutil
import torch

from decad import __version__
from decad._proto import control_pb2 as pb
from decad.config import PeerConfig, loading
from decad.core.absence import PROBE
from decad.core.privacy import DELTA
from decad.core.schedule import horizon, last_step
from decad.daemon.context import PeerContext
from decad.daemon.exchange import Exchange
from decad.daemon.neighbour import Neighbour
from decad.daemon.network import Network
from decad.daemon.progress import Activity, Notices, Progress
from decad.membership.table import Peer, State
from decad.trust.protection import in_words
from decad.wire.counters import ByteCounter
from decad.wire.numbers import as_sint64, as_uint32, as_uint64


@dataclass
class StatusBoard:
    """Everything a status is made of; read at any time, written by nobody here."""

    context: PeerContext
    network: Network
    exchange: Exchange
    device: torch.device

    def __post_init__(self) -> None:
        self._process = psutil.Process()
        self.config, self.plan, self.progress = self.context.config, self.context.plan, self.context.progress

    def reply(self) -> pb.StatusReply:
        """The status now."""
        spec, progress, traffic = self.context.run.spec, self.progress, self.context.traffic
        return pb.StatusReply(
            version=__version__,
            peer_id=self.context.peer_id,
            name=self.config.name,
            run=spec.run,
            fingerprint=spec.fingerprint,
            loading=loading(spec),
            pid=os.getpid(),
            state_dir=str(self.config.state_dir.resolve()),
            model=str(self.config.model.resolve()) if self.config.model else "",
            listen=self.network.listening,
            insecure=self.context.protection is None,
            protection=in_words(self.context.protection, self.context.listen),
            mdns=self.network.discovery.state,
            activity=progress.activity.value,
            waiting_for=self.waiting_for(),
            progress=self._progress(),
            training=self._training(),
            traffic=pb.Traffic(sent=_bytes(traffic.sent), received=_bytes(traffic.received)),
            neighbours=self._neighbours(),
            notices=_noticed(progress.notices),
            uptime_s=time.time() - self._process.create_time(),
        )

    def waiting_for(self) -> str:
        """Why nothing goes on just now, in words; empty when it does."""
        if self.progress.waiting_for:
            return self.progress.waiting_for
        if self.progress.activity in (Activity.TRAINING, Activity.SETTLING) and (
            missing := self.exchange.waiting_for()
        ):
            who = self.network.neighbourhood.labels(missing)
            return f"the blocks of {who}, at most {self.exchange.last_deadline:.1f} s"
        return ""

    def _progress(self) -> pb.Progress:
        spec, progress = self.context.run.spec, self.progress
        schedule = spec.calendar(len(self.plan), self.network.end)
        position = schedule.position(progress.step)
        total = last_step(self.config.steps, schedule) or horizon(spec.schedule)
        still = schedule.over - max(schedule.end, progress.step) if schedule.over == total else 0
        left = max(0, total - max(0, still) - progress.step)
        seconds = left * progress.step_s + max(0, still) * progress.exchange_s
        return pb.Progress(
            step=as_uint64(progress.step),
            steps_total=as_uint64(total),
            percent=100.0 * min(1.0, progress.step / total) if total else 0.0,
            round=as_uint64(position.round),
            block=position.block,
            block_name=self.plan[position.block].name,
            blocks_total=len(self.plan),
            inner_step=as_uint32(position.inner),
            inner_steps=as_uint32(len(schedule.steps_of(position.phase))),
            eta_s=seconds if total and progress.step_s else -1.0,
        )

    def _training(self) -> pb.Training:
        p = self.progress
        return pb.Training(
            loss=p.loss,
            held_out_loss=p.held_out_loss,
            held_out_step=as_uint64(p.held_out_step),
            first_held_out_loss=p.first_held_out_loss,
            learning_rate=p.learning_rate,
            tokens_per_s=p.tokens_per_s,
            step_s=p.step_s,
            compute_s=p.compute_s,
            exchange_s=p.exchange_s,
            memory_bytes=self._process.memory_info().rss,
            device_memory_bytes=torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0,
            steps_taken=p.steps_taken,
            steps_incomplete=p.steps_incomplete,
            steps_skipped=as_uint64(p.steps_skipped),
            deadline_s=self.exchange.last_deadline,
            dp_epsilon=p.epsilon,
            dp_delta=DELTA if p.epsilon >= 0 else 0.0,
        )

    def _neighbours(self) -> list[pb.Neighbour]:
        now = self.network.now()
        known = [self._neighbour(peer.id, now) for peer in self.network.table.peers]
        met = {peer.id for peer in self.network.table.peers}
        places = {peer.address for peer in self.network.table.peers}
        for address in self.network.dials.addresses:
            if address.peer not in met and address.address not in places and not address.myself:
                state = "refused" if "cannot train" in address.reason else "dialling"
                known.append(
                    pb.Neighbour(
                        peer_id=(address.peer or "") if address.reached or address.found != "mdns" else "",
                        address=address.address,
                        found=address.found,
                        state=state,
                        round_trip_ms=-1,
                        relative_distance=-1,
                        last_seen_s=-1,
                        detail=address.reason,
                    )
                )
        return known

    def _neighbour(self, peer_id: str, now: float) -> pb.Neighbour:
        peer = self.network.table[peer_id]
        figures = self.exchange.neighbour(peer_id)
        there = peer.state is not State.GONE
        return pb.Neighbour(
            peer_id=peer.id,
            name=peer.name,
            address=peer.address,
            found=self.network.found(peer_id),
            state=peer.state.value,
            mixing_weight=figures.weight if figures else 0.0,
            step=as_uint64(peer.step),
            step_lag=as_sint64(peer.step - self.progress.step),
            round_trip_ms=peer.round_trip_s * 1e3 if there and peer.round_trip_s is not None else -1,
            sent_mb_per_s=figures.sent_meter.per_second() / 1e6 if figures else 0.0,
            received_mb_per_s=figures.received_meter.per_second() / 1e6 if figures else 0.0,
            relative_distance=figures.distance if figures else -1.0,
            last_seen_s=now - peer.last_seen,
            clipped_share=figures.clipped if figures else 0.0,
            due=figures.due if figures else 0,
            late=figures.late if figures else 0,
            detail=_detail(peer, figures),
        )

    def line(self) -> str:
        """One line for the log: where the run is."""
        p, reply, waiting = self.progress, self._progress(), self.waiting_for()
        if not p.steps_taken:
            return f"waiting for {waiting}" if waiting else p.activity.value
        total = f"/{reply.steps_total}" if reply.steps_total else ""
        settles = p.activity is Activity.SETTLING
        parts = [
            f"step {p.step}{total}",
            f"{'settling' if settles else f'round {reply.round}'} {reply.block_name} "
            f"{reply.inner_step}/{reply.inner_steps}",
            f"loss {p.loss:.4f}",
        ]
        if not math.isnan(p.held_out_loss):
            parts.append(f"held-out {p.held_out_loss:.4f}")
        near = len(self.network.neighbourhood.edges())
        parts += [f"{p.tokens_per_s:.0f} tokens/s", f"{near} neighbour{'' if near == 1 else 's'}"]
        if waiting:
            parts.append(f"waiting for {waiting}")
        return ", ".join(parts)


def _detail(peer: Peer, figures: Neighbour | None) -> str:
    if peer.state is not State.ALIVE:
        return peer.reason
    return (
        f"has long brought no whole block; asked in every {PROBE}th step"
        if figures and figures.absent
        else ""
    )


def _bytes(counter: ByteCounter) -> pb.Bytes:
    return pb.Bytes(
        block=counter.block,
        first_moment=counter.first_moment,
        second_moment=counter.second_moment,
        adapters=counter.adapters,
        overhead=counter.overhead,
        fetch=counter.fetch,
    )


def _noticed(notices: Notices) -> list[pb.Notice]:
    return [pb.Notice(age_s=time.monotonic() - at, text=text) for at, text in notices.entries]


def loading_reply(config: PeerConfig, run: str, progress: Progress) -> pb.StatusReply:
    """The status while the model is being loaded, when there is little to tell yet."""
    process = psutil.Process()
    return pb.StatusReply(
        version=__version__,
        name=config.name,
        run=run,
        pid=process.pid,
        state_dir=str(config.state_dir.resolve()),
        activity=progress.activity.value,
        waiting_for=progress.waiting_for,
        progress=pb.Progress(steps_total=as_uint64(config.steps), eta_s=-1),
        training=pb.Training(
            loss=math.nan,
            held_out_loss=math.nan,
            first_held_out_loss=math.nan,
            memory_bytes=process.memory_info().rss,
            dp_epsilon=-1.0,
        ),
        notices=_noticed(progress.notices),
        uptime_s=time.time() - process.create_time(),
    )
