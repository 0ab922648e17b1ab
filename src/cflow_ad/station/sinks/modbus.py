"""A Modbus TCP server: the last verdict in holding registers, from address 0, read-only.

====  ===========================================
0     heartbeat
1     verdict: 0 none, 1 good, 2 anomalous
2, 3  number of the inspection, 32 bits, high word first
4, 5  score, float32
6, 7  threshold, float32
8, 9  p-value, float32; -1 where it is not known
====  ===========================================

One read of all gives values of one inspection.
"""

from __future__ import annotations

import asyncio
import struct

from cflow_ad.station.sinks.live import Live, LiveSink

COUNT = 10
"""Registers."""


class ModbusSink(LiveSink):
    """See `LiveSink`."""

    name = "modbus"
    library = "pymodbus.server"

    async def serve(self) -> None:
        """Serve until the station stops."""
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        async def fill(
            function_code: int,
            start_address: int,
            address: int,
            count: int,
            current_registers: list[int],
            set_values: list[int] | list[bool] | None,
        ) -> None:
            current_registers[:COUNT] = to_registers(self.live)

        registers = SimData(0, values=0, count=COUNT, datatype=DataType.REGISTERS, readonly=True)
        device = SimDevice(0, simdata=[registers], action=fill)
        server = ModbusTcpServer(device, address=(self.config.host, self.config.port))
        serving = asyncio.create_task(server.serve_forever())
        try:
            while await self.tick():
                _ = self.live  # the heartbeat goes on whether anybody reads it or not
                if serving.done():
                    await serving  # raises what stopped it
        finally:
            await server.shutdown()


def to_registers(live: Live) -> list[int]:
    """Write the values as registers.

    >>> to_registers(Live(7, 2, 65537, 1.0))
    [7, 2, 1, 1, 16256, 0, 0, 0, 49024, 0]
    """
    data = struct.pack(
        ">HHIfff",
        live.heartbeat,
        live.verdict,
        live.seq % 2**32,
        live.score,
        live.threshold,
        live.p_value,
    )
    return list(struct.unpack(f">{COUNT}H", data))
