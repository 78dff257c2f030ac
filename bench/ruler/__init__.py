"""The ruler's parts; `bench/quality.py` is its command, and docs/quality.md says what is measured and why.

ratios.py      SDR, SI-SDR and BSS Eval v3, of arrays
recordings.py  clips, songs and lists of them, mixed by a protocol
through.py     what sound goes through before it is separated: band limits and codecs
estimates.py   a mixture to its sources: by the runtime engine, by the network over the whole clip at once, by an oracle
rows.py        one clip's figures in one case
report.py      the figures of many clips, and how they are printed
song.py        the figures of a whole song
behaviour.py   silence, instrumentals and solo voices
sheet.py       all of it for one model, in one pool of processes, against what is wanted
markdown.py    a sheet as bench/RESULTS.md has it
pictures.py    box plots, and spectrograms of onsets to look for musical noise
jobs.py        many measurements in several processes
"""
