/* streamsep as an LV2 plugin: two channels in, vocals and accompaniment out, each with a gain and a mute.
 *
 * The network is not in here. An instance shares rings with the user's engine process (streamsep_rings.h): run() puts its input
 * on one and takes the sources off the other, LATENCY frames later, always. What is not there in time is replaced by the
 * delayed input, half of it on each source, so that their sum goes on; the change is a cross-fade of FADE frames, for which the
 * frames are looked at before they run out.
 *
 *     position        frames that went through run(); the rings are addressed by it
 *     stream          begins with the input frame `start`; its sources go out from `start` + prefill on, if the engine serves it
 *     latency         synthesis window - hop + prefill  (see prefill in streamsep/live.py)
 *
 * run() copies, multiplies and looks at memory: no lock, no allocation, no system call. Only while the host is free-wheeling
 * does it sleep until the engine is done, and then not for ever. All that may block is done by instantiate and by a thread that
 * it starts: that looks four times a second whether the engine lives, and starts one. A thread and not LV2's worker, because
 * LADSPA and half of the LV2 hosts have none, and because a host that does not call run() must find an engine too.
 *
 * This file knows no model but its times, no files and no Python but the name of the interpreter that is compiled in.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lv2/buf-size/buf-size.h"
#include "lv2/core/lv2.h"
#include "lv2/options/options.h"
#include "lv2/urid/urid.h"
#include "streamsep_rings.h"

#ifndef PYTHON
#define PYTHON "python3" /* `streamsep plugin install` says which */
#endif
#define PLUGIN_URI "urn:streamsep:live"
#define INT_TYPE "http://lv2plug.in/ns/ext/atom#Int"
#define SECOND INT64_C(1000000000)

enum { IN, STEMS = IN + CHANNELS, AUDIO_PORTS = STEMS + SOURCES * CHANNELS };
enum { GAIN = AUDIO_PORTS, MUTE, PER_SOURCE = 2, ENABLED = GAIN + PER_SOURCE * SOURCES, FREE_WHEELING, LATENCY, CONNECTED, LATE, PORTS };
enum { NO_ENGINE, SERVED, OTHER_VERSION }; /* values of the port CONNECTED */
enum { CHUNK = 1024 };                     /* frames that run() works on at a time */
enum { OUT = SOURCES * CHANNELS };

static const float QUIETEST = -90, LOUDEST = 24; /* dB; at the lower end a source is silent */
static const float LOUD = 1e6f;                  /* a louder sample, or NaN, is a fault and not sound */

static const int64_t NAP = SECOND / 20000;            /* between two looks of a run() that waits */
static const int64_t ENGINE_PATIENCE = 60 * SECOND;   /* how long free-wheeling waits for an engine to come, */
static const int ATTEMPTS = 3;                        /* of engines that end at once */
static const int64_t HOP_PATIENCE = 2 * SECOND;       /* ... and for one that has come to do anything */
static const int64_t LOOK_AGAIN = SECOND / 4;         /* of the thread that starts engines */
static const int64_t SILENCE = SECOND;                /* an engine that has not looked for so long is dead */
static const int64_t LONGEST_PAUSE = 60 * SECOND;     /* between two attempts to start one */

typedef struct {
	float *port[PORTS];
	int64_t rate, hop, synthesis;
	/* The memory that the engine sees too. */
	char name[96], lock[96]; /* of the segment; of the file that the engine has locked */
	int file; /* locked while this instance lives; -1: there is none, and nobody sees the memory */
	size_t size;
	int64_t *header;
	float *in, *out; /* [capacity][CHANNELS], [capacity][OUT] */
	int64_t wrap;    /* capacity - 1 */
	/* What is promised to the host. */
	LV2_URID nominal_key, longest_key, int_type;
	int nominal, renew;                           /* frames of a block as the host tells, or 0; whether to go by it anew */
	int64_t block, prefill, latency, old_latency; /* block: the longest so far, the nominal one included */
	/* The stream. */
	int64_t position, epoch, start, from, tail, engine;
	int64_t late, counted; /* hops that were not there; up to which position they have been counted */
	int began, given_up, wheeling;
	float wet, enabled, settled; /* 0 to 1: sources, not the input; not bypassed; the present latency, not the old */
	float gain[SOURCES], target[SOURCES], slope[SOURCES];
	/* The thread that starts engines. */
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	int watching, stop, attempts; /* engines started since one was seen alive */
} Plugin;

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t load(const Plugin *p, int place) { return __atomic_load_n(&p->header[place], __ATOMIC_ACQUIRE); }
static void store(Plugin *p, int place, int64_t value) { __atomic_store_n(&p->header[place], value, __ATOMIC_RELEASE); }

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

/* A control's value; a host may leave ports unconnected. */
static float value(const Plugin *p, int port, float otherwise) { return p->port[port] ? *p->port[port] : otherwise; }

static void tell(Plugin *p, int port, float value)
{
	if (p->port[port])
		*p->port[port] = value;
}

static float toward(float level, float wanted, float step)
{
	return level < wanted ? fminf(level + step, wanted) : fmaxf(level - step, wanted);
}

/* A level on its way, without corners: 0 and 1 stay what they are. */
static float smooth(float level) { return level * level * (3 - 2 * level); }

/* ----------------------------------------------------------------------------------------------------------- the stream */

/* Up to which position the sources can be heard, as seen from `at`: those of this stream, or the rest of the one before. */
static int64_t end_of_sources(const Plugin *p, int64_t at)
{
	if (at < p->from)
		return p->tail;
	return load(p, BEGUN) == p->epoch ? load(p, OUT_WRITE) : p->from;
}

/* From here on a new stream. Sharp: it must sound from its first frame on, as a file does; else it is faded in once it adds up.
 * Some frames of the stream before are left, to fade out of it. */
static void begin(Plugin *p, int sharp)
{
	p->tail = p->began ? min(end_of_sources(p, p->position), p->position + FADE) : p->position;
	p->start = p->position;
	p->from = p->start + (sharp ? p->prefill : p->latency);
	p->counted = p->start + p->prefill;
	store(p, START, p->start);
	store(p, PREFILL, p->prefill);
	store(p, EPOCH, ++p->epoch);
}

/* Frames of prefill and of latency that serve blocks of any length up to `block`, however they are cut; whether they are others
 * than before. Blocks shorter than a hop leave the engine a hop's time, longer ones their own; a cross-fade needs FADE frames
 * more than the block. */
static int promise(Plugin *p, int64_t block)
{
	int64_t before = p->prefill;
	p->block = block;
	p->prefill = block + p->hop - 1 + max(FADE, p->hop - block);
	p->old_latency = p->latency;
	p->latency = p->synthesis - p->hop + p->prefill;
	store(p, MAX_BLOCK, block);
	return p->prefill != before;
}

/* Whether blocks are longer than was promised for, or the host told another length. Free-wheeling, any block is waited for. */
static int outgrown(Plugin *p, int64_t frames, int wheeling)
{
	int renew = __atomic_exchange_n(&p->renew, 0, __ATOMIC_ACQUIRE);
	int64_t block = renew ? p->nominal : p->block, room = (p->wrap + 1) / 4;
	if (!wheeling || !block)
		block = max(block, frames);
	block = min(block, room);
	return block != p->block && promise(p, block);
}

/* Look at what has changed since the last call: the length of blocks, free-wheeling, the engine. */
static void attend(Plugin *p, int64_t frames)
{
	int wheeling = value(p, FREE_WHEELING, 0) > 0, wheels = wheeling && !p->wheeling;
	int64_t engine = load(p, ENGINE);
	int other = engine != p->engine, longer = outgrown(p, frames, wheeling);
	p->settled = !p->began || (p->settled && !longer);
	if (!p->began || (wheels && p->position != p->start))
		begin(p, 1);
	else if (longer || (other && p->position != p->start))
		begin(p, 0);
	p->given_up = p->given_up && !other && !wheels;
	p->began = 1;
	p->engine = engine;
	p->wheeling = wheeling;
	store(p, PATIENCE, wheeling ? HOP_PATIENCE : 0);
}

/* ------------------------------------------------------------------------------------------------------- the host's call */

static void record(Plugin *p, uint32_t offset, int64_t frames)
{
	for (int64_t n = 0; n < frames; n++) {
		float *frame = p->in + CHANNELS * ((p->position + n) & p->wrap);
		for (int c = 0; c < CHANNELS; c++) {
			float x = p->port[IN + c][offset + n];
			frame[c] = fabsf(x) <= LOUD ? x : 0;
		}
	}
	store(p, IN_WRITE, p->position + frames);
}

/* Half of the input's channel c as it was `latency` frames ago: each source's part where there are no sources. */
static float delayed(const Plugin *p, int64_t at, int c)
{
	float x = p->in[CHANNELS * ((at - p->latency) & p->wrap) + c], settled = smooth(p->settled);
	if (settled < 1)
		x = settled * x + (1 - settled) * p->in[CHANNELS * ((at - p->old_latency) & p->wrap) + c];
	return x / SOURCES;
}

static void play(Plugin *p, uint32_t offset, int64_t frames)
{
	const float step = 1.0f / FADE;
	const float enabled = value(p, ENABLED, 1) > 0;
	const int64_t fresh = end_of_sources(p, p->from);
	for (int64_t n = 0; n < frames; n++) {
		int64_t at = p->position + n;
		float left = (float)((at < p->from ? p->tail : fresh) - at) * step;
		p->wet = fmaxf(fminf(fminf(p->wet + step, 1), left), 0);
		p->enabled = toward(p->enabled, enabled, step);
		p->settled = toward(p->settled, 1, step);
		const float wet = smooth(p->wet), on = smooth(p->enabled);
		const float *sources = p->out + OUT * (at & p->wrap);
		float half[CHANNELS];
		for (int c = 0; c < CHANNELS; c++)
			half[c] = delayed(p, at, c);
		for (int i = 0; i < SOURCES; i++) {
			p->gain[i] = toward(p->gain[i], p->target[i], p->slope[i]);
			for (int c = 0; c < CHANNELS; c++) {
				/* Where a level is 1 or 0 this changes no bit of the other side. */
				float x = wet > 0 ? wet * sources[CHANNELS * i + c] : 0;
				x = p->gain[i] * (x + (1 - wet) * half[c]);
				p->port[STEMS + CHANNELS * i + c][offset + n] = on * x + (1 - on) * half[c];
			}
		}
	}
	store(p, OUT_READ, p->position + frames);
}

/* Count the hops that an engine in service should have brought by the end of these frames. */
static void count(Plugin *p, int64_t frames)
{
	int64_t end = p->position + frames + FADE - 1, there = load(p, OUT_WRITE);
	for (p->counted = max(p->counted, min(there, end)); p->counted < end; p->counted += p->hop)
		p->late++;
}

/* Whether an engine serves this stream and is not far behind. */
static int served(const Plugin *p)
{
	return load(p, ENGINE) && load(p, BEGUN) == p->epoch && load(p, IN_WRITE) - load(p, IN_READ) < p->rate / 4;
}

/* The gains that the ports ask for; they are reached in a hop's time. */
static void look_at_gains(Plugin *p, int jump)
{
	for (int i = 0; i < SOURCES; i++) {
		float db = value(p, GAIN + PER_SOURCE * i, 0), muted = value(p, MUTE + PER_SOURCE * i, 0);
		float target = muted > 0 || !(db > QUIETEST) ? 0 : powf(10, fminf(db, LOUDEST) / 20);
		if (target != p->target[i])
			p->slope[i] = fabsf(target - p->gain[i]) / p->hop;
		p->target[i] = target;
		if (jump)
			p->gain[i] = target;
	}
}

static void nap(void) { nanosleep(&(struct timespec){ .tv_nsec = NAP }, 0); }

/* Free-wheeling: until an engine serves this stream, but not for ever. */
static void await_engine(Plugin *p)
{
	for (int64_t end = now() + ENGINE_PATIENCE; load(p, BEGUN) != p->epoch && !p->given_up; nap())
		p->given_up = now() > end || load(p, REFUSED) || p->file < 0 ||
		              __atomic_load_n(&p->attempts, __ATOMIC_RELAXED) > ATTEMPTS;
	p->engine = load(p, ENGINE); /* it begins with this very stream */
}

/* Free-wheeling: until the sources of the next frames are there, as long as the engine does anything. */
static void await_sources(Plugin *p, int64_t frames)
{
	int64_t seen = load(p, OUT_WRITE), end = now() + HOP_PATIENCE;
	while (!p->given_up && load(p, OUT_WRITE) < p->position + frames + FADE) {
		nap();
		if (load(p, OUT_WRITE) != seen)
			seen = load(p, OUT_WRITE), end = now() + HOP_PATIENCE;
		p->given_up = now() > end;
	}
}

static void run(LV2_Handle instance, uint32_t frames)
{
	Plugin *p = instance;
	look_at_gains(p, !p->began);
	if (frames)
		attend(p, frames);
	for (uint32_t done = 0; done < frames;) {
		int64_t n = min(frames - done, CHUNK);
		if (p->wheeling)
			await_engine(p);
		record(p, done, n);
		if (p->wheeling)
			await_sources(p, n);
		if (served(p))
			count(p, n);
		play(p, done, n);
		p->position += n;
		done += n;
	}
	tell(p, LATENCY, p->latency);
	tell(p, CONNECTED, load(p, REFUSED) ? OTHER_VERSION : served(p) ? SERVED : NO_ENGINE);
	tell(p, LATE, p->late);
}

/* ------------------------------------------------------------------------------------------- the thread that starts engines */

/* This user's part of the names in shared memory; the same rule as `plugin.prefix` in Python. */
static void prefixed(char *name, size_t size, const char *rest)
{
	const char *space = getenv(STREAMSEP_SPACE);
	snprintf(name, size, "/streamsep-%u%s%s-%s", (unsigned)getuid(), space && *space ? "." : "", space ? space : "", rest);
}

/* Start an engine unless one holds the lock; whether one was started. The new one is born with it: so no two ever are. */
static int start_engine(const char *lock_name)
{
	enum { LOCK = 3 };
	static const char script[] = "exec </dev/null >/dev/null 2>&1; \"$0\" -P -m streamsep engine --lock 3 &";
	int lock = shm_open(lock_name, O_RDWR | O_CREAT, 0600);
	int started = 0;
	if (lock < 0)
		return 0;
	if (flock(lock, LOCK_EX | LOCK_NB) == 0 && ftruncate(lock, 0) == 0) { /* what an engine before said of itself is over */
		posix_spawn_file_actions_t files;
		posix_spawnattr_t attributes;
		sigset_t none, all;
		pid_t shell;
		sigemptyset(&none);
		sigfillset(&all);
		posix_spawn_file_actions_init(&files);
		posix_spawn_file_actions_adddup2(&files, lock, LOCK);
		posix_spawnattr_init(&attributes);
		posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
		posix_spawnattr_setsigmask(&attributes, &none);
		posix_spawnattr_setsigdefault(&attributes, &all);
		/* By way of a shell that ends at once: the engine is nobody's child, and outlives the host where others need it. */
		char *arguments[] = { "sh", "-c", (char *)script, PYTHON, 0 };
		started = posix_spawn(&shell, "/bin/sh", &files, &attributes, arguments, environ) == 0;
		if (started)
			waitpid(shell, 0, 0);
		posix_spawnattr_destroy(&attributes);
		posix_spawn_file_actions_destroy(&files);
	}
	close(lock);
	return started;
}

static void *watch(void *instance)
{
	Plugin *p = instance;
	int64_t next = 0, pause = SECOND;
	pthread_mutex_lock(&p->mutex);
	while (!p->stop) {
		int64_t t = now();
		if (t - load(p, BEAT) < SILENCE) {
			next = 0, pause = SECOND;
			__atomic_store_n(&p->attempts, 0, __ATOMIC_RELAXED);
		} else if (t > next && !load(p, REFUSED)) {
			__atomic_fetch_add(&p->attempts, start_engine(p->lock), __ATOMIC_RELAXED);
			next = t + pause, pause = min(2 * pause, LONGEST_PAUSE);
		}
		struct timespec until = { .tv_sec = (now() + LOOK_AGAIN) / SECOND, .tv_nsec = (now() + LOOK_AGAIN) % SECOND };
		pthread_cond_timedwait(&p->wake, &p->mutex, &until);
	}
	pthread_mutex_unlock(&p->mutex);
	return 0;
}

static void start_watching(Plugin *p)
{
	pthread_condattr_t monotonic;
	sigset_t all, before;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&p->mutex, 0);
	sigfillset(&all); /* the host's signals are for the host's threads */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	p->watching = pthread_create(&p->thread, 0, watch, p) == 0;
	pthread_sigmask(SIG_SETMASK, &before, 0);
}

static void stop_watching(Plugin *p)
{
	if (p->watching) {
		pthread_mutex_lock(&p->mutex);
		p->stop = 1;
		pthread_cond_signal(&p->wake);
		pthread_mutex_unlock(&p->mutex);
		pthread_join(p->thread, 0);
	}
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->mutex);
}

/* ------------------------------------------------------------------------------------------------------- birth and death */

/* A new segment that only this user can open, locked; 0 where the system has none to give. */
static void *share(Plugin *p)
{
	static unsigned made;
	char rest[40];
	void *memory = MAP_FAILED;
	snprintf(rest, sizeof rest, "%ld-%x-%llx", (long)getpid(), __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED),
	         (unsigned long long)now());
	prefixed(p->name, sizeof p->name, rest);
	prefixed(p->lock, sizeof p->lock, "engine");
	p->file = shm_open(p->name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (p->file < 0)
		return 0;
	if (flock(p->file, LOCK_EX | LOCK_NB) == 0 && ftruncate(p->file, p->size) == 0 && posix_fallocate(p->file, 0, p->size) == 0)
		memory = mmap(0, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->file, 0);
	if (memory != MAP_FAILED)
		return memory;
	shm_unlink(p->name);
	close(p->file);
	p->file = -1;
	return 0;
}

static int make_rings(Plugin *p)
{
	int64_t capacity = 1;
	while (capacity < p->rate + 8 * p->hop)
		capacity *= 2;
	p->wrap = capacity - 1;
	p->size = sizeof(int64_t) * HEADER + sizeof(float) * capacity * (CHANNELS + OUT);
	void *memory = share(p);
	if (!memory && !(memory = calloc(1, p->size)))
		return 0;
	memset(memory, 0, p->size); /* so that run() finds every page */
	p->header = memory;
	p->in = (float *)(p->header + HEADER);
	p->out = p->in + CHANNELS * capacity;
	p->header[CAPACITY] = capacity;
	p->header[IN_CHANNELS] = CHANNELS;
	p->header[OUT_CHANNELS] = OUT;
	p->header[SAMPLE_RATE] = p->rate;
	p->header[HOP] = p->hop;
	store(p, VERSION, STREAMSEP_LAYOUT); /* from here on it may be looked at */
	return 1;
}

static Plugin *make(double rate)
{
	Plugin *p = calloc(1, sizeof *p);
	if (!p)
		return 0;
	p->rate = lround(rate);
	p->hop = (2 * MODEL_HOP * p->rate + MODEL_RATE) / (2 * MODEL_RATE);
	p->synthesis = MODEL_SYNTHESIS / MODEL_HOP * p->hop;
	if (!make_rings(p)) {
		free(p);
		return 0;
	}
	promise(p, 0);
	p->renew = 1;
	if (p->file >= 0)
		start_watching(p);
	return p;
}

static void activate(LV2_Handle instance)
{
	Plugin *p = instance;
	memset(p->in, 0, sizeof(float) * CHANNELS * (p->wrap + 1)); /* nothing was heard */
	p->began = p->wheeling = p->given_up = 0;
	p->wet = 0;
	p->enabled = value(p, ENABLED, 1) > 0;
	p->renew = 1;
}

static void cleanup(LV2_Handle instance)
{
	Plugin *p = instance;
	if (p->file >= 0) {
		stop_watching(p);
		munmap(p->header, p->size);
		shm_unlink(p->name);
		close(p->file);
	} else {
		free(p->header);
	}
	free(p);
}

static void connect_port(LV2_Handle instance, uint32_t port, void *data)
{
	if (port < PORTS)
		((Plugin *)instance)->port[port] = data;
}

/* ------------------------------------------------------------------------------------------------------------------- LV2 */

/* Take the nominal length of blocks from a host's options, else the longest. */
static void take_options(Plugin *p, const LV2_Options_Option *options)
{
	int nominal = 0, longest = 0;
	for (; options && (options->key || options->value); options++) {
		if (options->type == p->int_type && options->key == p->nominal_key)
			nominal = *(const int32_t *)options->value;
		else if (options->type == p->int_type && options->key == p->longest_key)
			longest = *(const int32_t *)options->value;
	}
	if (nominal > 0 || longest > 0)
		p->nominal = nominal > 0 ? nominal : longest;
}

static LV2_Handle instantiate(const LV2_Descriptor *descriptor, double rate, const char *bundle, const LV2_Feature *const *features)
{
	const LV2_Options_Option *options = 0;
	LV2_URID_Map *map = 0;
	for (; features && *features; features++) {
		if (!strcmp((*features)->URI, LV2_OPTIONS__options))
			options = (*features)->data;
		else if (!strcmp((*features)->URI, LV2_URID__map))
			map = (*features)->data;
	}
	Plugin *p = make(rate);
	if (p && map) {
		p->nominal_key = map->map(map->handle, LV2_BUF_SIZE__nominalBlockLength);
		p->longest_key = map->map(map->handle, LV2_BUF_SIZE__maxBlockLength);
		p->int_type = map->map(map->handle, INT_TYPE);
		take_options(p, options);
		promise(p, min(p->nominal, p->rate / 4)); /* what the host may ask before the first run() */
	}
	return p;
}

static uint32_t get_options(LV2_Handle instance, LV2_Options_Option *options) { return LV2_OPTIONS_ERR_BAD_KEY; }

/* The host has changed its block. */
static uint32_t set_options(LV2_Handle instance, const LV2_Options_Option *options)
{
	Plugin *p = instance;
	take_options(p, options);
	__atomic_store_n(&p->renew, 1, __ATOMIC_RELEASE);
	return LV2_OPTIONS_SUCCESS;
}

static const void *extension_data(const char *uri)
{
	static const LV2_Options_Interface options = { get_options, set_options };
	return strcmp(uri, LV2_OPTIONS__interface) ? 0 : &options;
}

static const LV2_Descriptor lv2 = { PLUGIN_URI, instantiate, connect_port, activate, run, 0, cleanup, extension_data };

LV2_SYMBOL_EXPORT const LV2_Descriptor *lv2_descriptor(uint32_t index) { return index ? 0 : &lv2; }
