"""Streams that other members open to this node, by plan: for the network, which knows no plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.errors import RemoteError
from swarm.rounds.participation import Participation
from swarm.rounds.streams import StreamEnd, StreamName, read_name
from swarm.types import Address, PlanId


@dataclass(frozen=True)
class StreamsOfPlans:
    """Those of the plans in which this node takes part (`network.stream_relay.StreamHost`)."""

    participations: Mapping[PlanId, Participation]

    def admit(self, sender: Address, name: bytes) -> None:
        """Raise RemoteError unless this member may have the stream of this name, now."""
        wanted = read_name(name)
        self._part(wanted).admit_stream(sender, wanted)

    def join(self, sender: Address, name: bytes) -> StreamEnd:
        """The end here of a stream that has come. Raises RemoteError."""
        wanted = read_name(name)
        return self._part(wanted).join_stream(sender, wanted)

    def _part(self, wanted: StreamName) -> Participation:
        part = self.participations.get(PlanId(wanted.plan))
        if part is None:
            raise RemoteError("this node takes no part in that plan")
        return part
