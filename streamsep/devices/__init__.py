"""Where sound comes from and goes to. Each device exchanges blocks with the rings (`live.Device`), and knows no engine.

opening.py          which device a configuration means
portaudiodevice.py  PortAudio's streams: one clock or two       callbacks.py  what PortAudio calls, compiled
portaudio.py        the library, its devices and rates          drift.py      two clocks brought together
names.py            devices by name, the last ones used         endpoints.py  devices, channels and rates as they are opened
jackdevice.py       the JACK client `streamsep`                 jackcalls.py  what libjack calls back, compiled
jackgraph.py        the JACK graph: clients, ports, libjack
filedevice.py       a file played as if it were a device        filesink.py   a sound file, written as it comes
oscinput.py         sound from the network                      jitter.py     packets held until it is their time
"""
