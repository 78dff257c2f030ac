"""The benchmark behind `streamsep bench`: how long a hop takes, stage by stage, against its deadline and the memory floor.

    measuring.py   what is measured, and in which order
    measurement.py what was measured, and the figures that follow
    hops.py        the worker's own functions, with a look at the clock between them
    handover.py    the live path with a device that notes when each block came
    streams.py     how many independent streams hold their deadlines
    floor.py       reading the weights and nothing else          weights.py   what a model file holds
    machine.py     processor, memory, kernel, versions           loads.py     what can be busy beside it
    picture.py     histogram and time line                       report.py    one HTML file

It measures the runtime as it is and holds no copy of any part of it.
"""
