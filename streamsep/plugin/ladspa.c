/* The same plugin as a LADSPA object, for PipeWire's filter-chain and hosts without LV2: the ports of streamsep.ttl, in their order.
 *
 * It is part of the same file: streamsep.so answers to both. LADSPA knows no free-wheeling and tells no length of blocks, so the
 * first one tells; "latency" is the name by which its hosts know that port. The declarations are those of LADSPA 1.1's binary
 * interface, as far as they are used here. */
#include "streamsep.c"

typedef struct {
	int hints;
	float lowest, highest;
} LadspaHint;

typedef struct LadspaDescriptor {
	unsigned long id;
	const char *label;
	int properties;
	const char *name, *maker, *copyright;
	unsigned long ports;
	const int *port_descriptors;
	const char *const *port_names;
	const LadspaHint *port_hints;
	void *implementation;
	void *(*instantiate)(const struct LadspaDescriptor *, unsigned long rate);
	void (*connect_port)(void *, unsigned long, float *);
	void (*activate)(void *);
	void (*run)(void *, unsigned long);
	void (*run_adding)(void *, unsigned long);
	void (*set_run_adding_gain)(void *, float);
	void (*deactivate)(void *);
	void (*cleanup)(void *);
} LadspaDescriptor;

enum { INPUT = 1, OUTPUT = 2, CONTROL = 4, AUDIO = 8 };
enum { BELOW = 1, ABOVE = 2, TOGGLED = 4, INTEGER = 32, DEFAULT_0 = 0x200, DEFAULT_1 = 0x240 };
enum { HARD_RT_CAPABLE = 4 };

#define GAIN_HINT { BELOW | ABOVE | DEFAULT_0, -90, 24 }
#define SWITCH_HINT(set) { TOGGLED | (set), 0, 0 }

static const int descriptors[PORTS] = {
	AUDIO | INPUT,    AUDIO | INPUT,    AUDIO | OUTPUT,  AUDIO | OUTPUT,  AUDIO | OUTPUT,
	AUDIO | OUTPUT,   CONTROL | INPUT,  CONTROL | INPUT, CONTROL | INPUT, CONTROL | INPUT,
	CONTROL | INPUT,  CONTROL | INPUT,  CONTROL | OUTPUT, CONTROL | OUTPUT, CONTROL | OUTPUT,
};
static const char *const names[PORTS] = {
	"In left",        "In right",       "Vocals left",        "Vocals right",       "Accompaniment left",
	"Accompaniment right", "Vocals gain", "Vocals mute",      "Accompaniment gain", "Accompaniment mute",
	"Enabled",        "Free-wheeling",  "latency",            "Connected",          "Late hops",
};
static const LadspaHint hints[PORTS] = {
	[GAIN] = GAIN_HINT,
	[MUTE] = SWITCH_HINT(DEFAULT_0),
	[GAIN + PER_SOURCE] = GAIN_HINT,
	[MUTE + PER_SOURCE] = SWITCH_HINT(DEFAULT_0),
	[ENABLED] = SWITCH_HINT(DEFAULT_1),
	[FREE_WHEELING] = SWITCH_HINT(DEFAULT_0),
	[CONNECTED] = { INTEGER | BELOW | ABOVE, 0, 2 },
};

static void *ladspa_make(const LadspaDescriptor *descriptor, unsigned long rate) { return make(rate); }
static void ladspa_connect(void *instance, unsigned long port, float *data) { connect_port(instance, port, data); }
static void ladspa_run(void *instance, unsigned long frames) { run(instance, frames); }

LV2_SYMBOL_EXPORT const LadspaDescriptor *ladspa_descriptor(unsigned long index)
{
	static const LadspaDescriptor ladspa = {
		.id = 7531, /* unique among those of this maker; hosts of today go by file and label */
		.label = "streamsep",
		.properties = HARD_RT_CAPABLE,
		.name = "streamsep: vocals and accompaniment",
		.maker = "The streamsep developers",
		.copyright = "MIT",
		.ports = PORTS,
		.port_descriptors = descriptors,
		.port_names = names,
		.port_hints = hints,
		.instantiate = ladspa_make,
		.connect_port = ladspa_connect,
		.activate = activate,
		.run = ladspa_run,
		.cleanup = cleanup,
	};
	return index ? 0 : &ladspa;
}
