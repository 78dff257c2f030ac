"""The monitor page: how the separator does and what it is told, in a browser, served beside OSCQuery.

    part.py      the routes, who is let in, and the WebSocket that each page holds
    page.py      one page's WebSocket, and what waits for a slow one
    spectra.py   spectrogram columns of the input and of every source, made once for all pages
    hops.py      the hop history as seconds and as a histogram of step times
    facts.py     what a page has to know of the daemon besides what OSC tells
    static/      the page itself: HTML, CSS and ES modules as they are served

The page steers and listens as any OSC client does: OSC packets over its WebSocket, feedback by `notify`, levels by `meters`,
sound by `audio`. What is here adds the pictures. Nothing of it runs while no page looks, and the audio path knows none of it.
"""
