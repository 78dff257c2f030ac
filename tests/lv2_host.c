/* An LV2 host for the tests: loads the plugin's object, plays a file of samples through some instances, writes what came out.
 *
 *     lv2_host PLUGIN.so play IN.f32 OUT.f32 [options]     stereo in; vocals and accompaniment, 4 channels, out; float32 frames
 *     lv2_host PLUGIN.so cycles N                          makes, runs and destroys an instance N times
 *
 *     --rate HZ            (48000)          --nominal N, --max N     length of blocks, told to the plugin if given
 *     --blocks A,B,...     (128)            lengths of the blocks, round and round
 *     --instances N        (1)              all get the same input; the first one's output is written
 *     --set PORT=VALUE     from the start   --at FRAME:PORT=VALUE    from the block that begins at FRAME or later
 *     --connect            run silence until all instances are connected, then activate them anew
 *     --paced              in real time     --strict                 no system call in run(): the kernel kills who makes one
 *     --in-place           the vocals' buffers are the input's       --wait S    stay alive so long after the last block
 *
 * Prints a JSON object: what the output ports said, and how long run() took, microseconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lv2/buf-size/buf-size.h"
#include "lv2/core/lv2.h"
#include "lv2/options/options.h"
#include "lv2/urid/urid.h"

enum { INS = 2, OUTS = 4, PORTS = 15, ENABLED = 10, LATENCY = 12, CONNECTED, LATE };
enum { MOST_INSTANCES = 64, MOST_BLOCKS = 4096, MOST_CHANGES = 64 };

typedef struct {
	LV2_Handle handle;
	float control[PORTS];
	float *in[INS], *out[OUTS];
} Instance;

typedef struct {
	long frame;
	int port;
	float value;
} Change;

static const LV2_Descriptor *plugin;
static Instance instances[MOST_INSTANCES];
static Change changes[MOST_CHANGES];
static int count = 1, n_blocks = 1, n_changes, paced, strict, connect_first, in_place, nominal, longest, blocks[MOST_BLOCKS] = { 128 };
static double rate = 48000, wait_after;
static long frames;
static uint32_t *times; /* of each call of run(), nanoseconds */
static long calls, latency_changes;
static int ticks[2], done[2]; /* pipes: reading and writing are what a strict thread may do */

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void sleep_until(double when)
{
	struct timespec t = { .tv_sec = (time_t)when, .tv_nsec = (long)(1e9 * (when - (time_t)when)) };
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
}

static LV2_URID map_uri(LV2_URID_Map_Handle handle, const char *uri)
{
	static char *known[64];
	for (int i = 0; i < 63; i++) {
		if (!known[i])
			known[i] = strdup(uri);
		if (!strcmp(known[i], uri))
			return i + 1;
	}
	return 0;
}

static LV2_Handle make(void)
{
	static LV2_URID_Map map = { 0, map_uri };
	LV2_URID type = map_uri(0, "http://lv2plug.in/ns/ext/atom#Int");
	LV2_Options_Option options[3] = { 0 };
	int n = 0;
	if (longest)
		options[n++] = (LV2_Options_Option){ 0, 0, map_uri(0, LV2_BUF_SIZE__maxBlockLength), 4, type, &longest };
	if (nominal)
		options[n++] = (LV2_Options_Option){ 0, 0, map_uri(0, LV2_BUF_SIZE__nominalBlockLength), 4, type, &nominal };
	LV2_Feature map_feature = { LV2_URID__map, &map }, options_feature = { LV2_OPTIONS__options, options };
	const LV2_Feature *features[] = { &map_feature, &options_feature, 0 };
	LV2_Handle handle = plugin->instantiate(plugin, rate, "", features);
	if (!handle)
		fail("instantiate");
	return handle;
}

static void connect(Instance *i, long at)
{
	for (int c = 0; c < INS; c++)
		plugin->connect_port(i->handle, c, i->in[c] + at);
	for (int c = 0; c < OUTS; c++)
		plugin->connect_port(i->handle, INS + c, i->out[c] + at);
	for (int c = INS + OUTS; c < PORTS; c++)
		plugin->connect_port(i->handle, c, &i->control[c]);
}

static void set(int port, float value)
{
	for (int k = 0; k < count; k++)
		instances[k].control[port] = value;
}

/* All blocks of the song through all instances. */
static void *play(void *unused)
{
	char tick;
	int change = 0, block = 0;
	if (strict && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		fail("seccomp");
	for (long at = 0, n; at < frames; at += n, block++) {
		n = blocks[block % n_blocks];
		n = n < frames - at ? n : frames - at;
		for (; change < n_changes && changes[change].frame <= at; change++)
			set(changes[change].port, changes[change].value);
		if (paced && read(ticks[0], &tick, 1) != 1)
			break;
		float before = instances[0].control[LATENCY];
		for (int k = 0; k < count; k++) {
			double begin = strict ? 0 : now();
			connect(&instances[k], at);
			plugin->run(instances[k].handle, n);
			if (!strict)
				times[calls++] = 1e9 * (now() - begin);
		}
		latency_changes += at && before != instances[0].control[LATENCY];
	}
	if (write(done[1], "x", 1) == 1)
		syscall(SYS_exit, 0); /* of this thread; a strict one may do nothing else */
	return 0;
}

/* Wakes the playing thread for each block when it is due. */
static void pace(void)
{
	double start = now();
	long at = 0;
	for (int block = 0; at < frames; at += blocks[block++ % n_blocks]) {
		sleep_until(start + at / rate);
		if (write(ticks[1], "x", 1) != 1)
			return;
	}
}

static void activate(void)
{
	for (int k = 0; k < count; k++) {
		connect(&instances[k], 0);
		if (plugin->activate)
			plugin->activate(instances[k].handle);
	}
}

static int connected(void)
{
	int all = 1;
	for (int k = 0; k < count; k++)
		all &= instances[k].control[CONNECTED] == 1;
	return all;
}

static void wait_for_connection(void)
{
	static float nothing[OUTS + INS][128];
	double end = now() + 60;
	while (!connected() && now() < end) {
		for (int k = 0; k < count; k++) {
			for (int c = 0; c < INS + OUTS; c++)
				plugin->connect_port(instances[k].handle, c, nothing[c]);
			plugin->run(instances[k].handle, 128);
		}
		sleep_until(now() + 128 / rate);
	}
	activate();
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void report(void)
{
	float *c = instances[0].control;
	double late = 0;
	for (int k = 0; k < count; k++)
		late += instances[k].control[LATE];
	qsort(times, calls, sizeof *times, ascending);
	printf("{\"latency\": %g, \"latency_changes\": %ld, \"connected\": %g, \"all_connected\": %d, \"late\": %g, \"calls\": %ld, ",
	       c[LATENCY], latency_changes, c[CONNECTED], connected(), late, calls);
	printf("\"p50_us\": %g, \"p99_us\": %g, \"max_us\": %g}\n", calls ? 1e-3 * times[calls / 2] : 0,
	       calls ? 1e-3 * times[calls * 99 / 100] : 0, calls ? 1e-3 * times[calls - 1] : 0);
}

static float *read_song(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END))
		fail(path);
	frames = ftell(file) / (INS * sizeof(float));
	rewind(file);
	float *song = malloc(frames * INS * sizeof(float));
	if (fread(song, INS * sizeof(float), frames, file) != (size_t)frames)
		fail(path);
	fclose(file);
	return song;
}

static void write_output(const char *path)
{
	FILE *file = fopen(path, "wb");
	for (long n = 0; file && n < frames; n++)
		for (int c = 0; c < OUTS; c++)
			fwrite(instances[0].out[c] + n, sizeof(float), 1, file);
	if (!file || fclose(file))
		fail(path);
}

static void play_file(const char *in, const char *out)
{
	float *song = read_song(in);
	times = malloc((frames + 1) * count * sizeof *times);
	memset(times, 0, (frames + 1) * count * sizeof *times);
	for (int k = 0; k < count; k++) {
		Instance *i = &instances[k];
		for (int c = 0; c < INS; c++) {
			i->in[c] = malloc((frames + 1) * sizeof(float));
			for (long n = 0; n < frames; n++)
				i->in[c][n] = song[INS * n + c];
		}
		for (int c = 0; c < OUTS; c++)
			i->out[c] = in_place && c < INS ? i->in[c] : calloc(frames + 1, sizeof(float));
		i->handle = make();
	}
	free(song);
	activate();
	if (connect_first)
		wait_for_connection();
	pthread_t thread;
	char tick;
	if (pipe(ticks) || pipe(done) || pthread_create(&thread, 0, play, 0))
		fail("thread");
	fprintf(stderr, "playing\n");
	if (paced)
		pace();
	if (read(done[0], &tick, 1) != 1)
		fail("the playing thread");
	pthread_join(thread, 0);
	sleep_until(now() + wait_after);
	report();
	for (int k = 0; k < count; k++) {
		if (plugin->deactivate)
			plugin->deactivate(instances[k].handle);
		plugin->cleanup(instances[k].handle);
	}
	write_output(out);
	for (int k = 0; k < count; k++) {
		for (int c = 0; c < OUTS; c++)
			free(in_place && c < INS ? 0 : instances[k].out[c]);
		for (int c = 0; c < INS; c++)
			free(instances[k].in[c]);
	}
	free(times);
}

static void cycles(int n)
{
	static float silence[INS + OUTS][256];
	for (int i = 0; i < n; i++) {
		Instance *one = &instances[0];
		one->handle = make();
		for (int c = 0; c < INS; c++)
			one->in[c] = silence[c];
		for (int c = 0; c < OUTS; c++)
			one->out[c] = silence[INS + c];
		activate();
		for (int k = 0; k < 20; k++)
			plugin->run(one->handle, 256);
		plugin->cleanup(one->handle);
	}
	printf("{\"cycles\": %d}\n", n);
}

static void parse(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
		Change c = { 0 };
		int flag = 1;
		if (!strcmp(name, "--paced"))
			paced = 1;
		else if (!strcmp(name, "--strict"))
			strict = 1;
		else if (!strcmp(name, "--connect"))
			connect_first = 1;
		else if (!strcmp(name, "--in-place"))
			in_place = 1;
		else
			flag = 0;
		if (flag)
			continue;
		if (!strcmp(name, "--rate"))
			rate = atof(value);
		else if (!strcmp(name, "--nominal"))
			nominal = atoi(value);
		else if (!strcmp(name, "--max"))
			longest = atoi(value);
		else if (!strcmp(name, "--instances"))
			count = atoi(value);
		else if (!strcmp(name, "--wait"))
			wait_after = atof(value);
		else if (!strcmp(name, "--set") && sscanf(value, "%d=%f", &c.port, &c.value) == 2)
			set(c.port, c.value);
		else if (!strcmp(name, "--at") && sscanf(value, "%ld:%d=%f", &c.frame, &c.port, &c.value) == 3)
			changes[n_changes++] = c;
		else if (!strcmp(name, "--blocks")) {
			n_blocks = 0;
			for (char *rest = (char *)value; *rest && n_blocks < MOST_BLOCKS; rest += *rest == ',')
				blocks[n_blocks++] = strtol(rest, &rest, 10);
		} else {
			fprintf(stderr, "lv2_host: what is %s %s?\n", name, value);
			exit(2);
		}
		i++;
	}
}

int main(int argc, char **argv)
{
	void *object = argc > 3 ? dlopen(argv[1], RTLD_NOW) : 0;
	if (!object) {
		fprintf(stderr, "lv2_host: %s\n", argc > 3 ? dlerror() : "see the text at the top of this file");
		return 2;
	}
	plugin = ((const LV2_Descriptor *(*)(uint32_t))dlsym(object, "lv2_descriptor"))(0);
	count = MOST_INSTANCES;
	set(ENABLED, 1);
	count = 1;
	for (int i = 4; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--instances"))
			count = atoi(argv[i + 1]); /* before --set, which is for all of them */
	if (!strcmp(argv[2], "play") && argc > 4) {
		parse(argc - 5, argv + 5);
		play_file(argv[3], argv[4]);
	} else {
		parse(argc - 4, argv + 4);
		cycles(atoi(argv[3]));
	}
	dlclose(object);
	return 0;
}
