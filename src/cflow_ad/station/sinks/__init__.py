"""Where verdicts go by themselves.

Messages (MQTT, webhook, CSV) are rows of the outbox, written with their inspection: they survive a
kill, and are sent at least once. OPC UA and Modbus show the last verdict of the present.
"""
