/* Written by `python -m streamsep.plugin.layout`: the rings as streamsep/rings.py has them, and the shipped model's times. */
#ifndef STREAMSEP_RINGS_H
#define STREAMSEP_RINGS_H

#define STREAMSEP_LAYOUT 3
#define STREAMSEP_SPACE "STREAMSEP_PLUGIN_SPACE" /* the environment variable that tells installations apart */

enum { CHANNELS = 2, SOURCES = 2, HEADER = 96, FADE = 64 };

/* Places of the header, int64 each. After it lie the rings, float32: `in`, then `out`, frame by frame. */
enum {
	VERSION = 0,
	CAPACITY = 1,
	IN_CHANNELS = 2,
	OUT_CHANNELS = 3,
	TAP_CHANNELS = 4,
	SAMPLE_RATE = 6,
	IN_WRITE = 8,
	IN_READ = 16,
	OUT_WRITE = 24,
	OUT_READ = 32,
	PATIENCE = 52,
	MAX_BLOCK = 57,
	ENGINE = 68,
	BEGUN = 69,
	BEAT = 70,
	REFUSED = 71,
	EPOCH = 88,
	START = 89,
	PREFILL = 90,
	HOP = 91,
};

/* Samples at the model's rate; at another rate its durations hold. */
enum { MODEL_RATE = 16000, MODEL_HOP = 128, MODEL_SYNTHESIS = 256 };

#endif
