"""The inspection station: a service and a page on one machine, with a record of every inspection.

::

    config.py     the settings of a station
    schema.py     the tables; migrations/ brings an older database to them
    database.py   the connection, and the one thread that writes
    chain.py      seals rows, so that an altered or missing one shows
    records.py    the record of inspections: written once, then read
    verify.py     checks the record, and exports it
    backup.py     copies a running station's data
    pictures.py   which pictures are kept, and for how long
    registry.py   the models, their versions and thresholds
    scoring.py    scores pictures in one thread for each core
    inspector.py  a picture's way to its verdict and its record
    auth.py       users, keys and sessions
    permission.py roles, and what each may do
    station.py    Station: all of these together
    api/          the routes under /v1
    pages/        the page
    drift/        alarms of drift
    training/     training jobs, each a process of its own
    sources/      watched folders and cameras
    sinks/        MQTT, webhook, CSV, OPC UA and Modbus
    app.py        the application
    client.py     a client in Python

An inspection is in the database before it is answered.
"""
