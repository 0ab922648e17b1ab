"""An OPC UA server: the last verdict in the variables of an object `Inspection`, read-only.

Heartbeat, Verdict (0 none, 1 good, 2 anomalous), Number, Score, Threshold, PValue, Id; with the
status BadNoCommunication while the station cannot inspect.
"""

from __future__ import annotations

from typing import Any

from cflow_ad.station.sinks.live import NONE, Live, LiveSink

NAMESPACE = "urn:cflow-ad:station"


class OpcUaSink(LiveSink):
    """See `LiveSink`."""

    name = "opcua"
    library = "asyncua"

    async def serve(self) -> None:
        """Serve until the station stops."""
        from asyncua import Server, ua

        server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://{self.config.host}:{self.config.port}/cflow-ad")
        server.set_server_name(f"cflow-ad {self.station.config.name}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        space = await server.register_namespace(NAMESPACE)
        folder = await server.nodes.objects.add_object(space, "Inspection")
        nodes = {
            name: await folder.add_variable(space, name, value, kind)
            for name, (value, kind) in _variants(Live(), ua).items()
        }
        async with server:
            before = None
            while await self.tick():
                live = self.live
                if live == before:
                    continue
                bad = live.verdict == NONE and self.station.problem() is not None
                status = ua.StatusCodes.BadNoCommunication if bad else ua.StatusCodes.Good
                for name, (value, kind) in _variants(live, ua).items():
                    await nodes[name].write_value(
                        ua.DataValue(ua.Variant(value, kind), ua.StatusCode(status))
                    )
                before = live


def _variants(live: Live, ua: Any) -> dict[str, tuple[Any, Any]]:
    """The variables, in the order in which they are written: the number last, so that who waits for
    it to change reads what belongs to it.
    """
    kinds = ua.VariantType
    return {
        "Heartbeat": (live.heartbeat, kinds.UInt16),
        "Score": (live.score, kinds.Double),
        "Threshold": (live.threshold, kinds.Double),
        "PValue": (live.p_value, kinds.Double),
        "Id": (live.id, kinds.String),
        "Verdict": (live.verdict, kinds.UInt16),
        "Number": (live.seq, kinds.UInt32),
    }
