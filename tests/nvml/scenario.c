/* A scenario's text, `key=value` by `;` or by line, to what every GPU is and what happens to calls. */
#include "simulated.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *QUANTITY[QUANTITIES] = {
    "util",
    "memory",
    "memory_util",
    "temperature",
    "power",
    "sm_clock",
    "memory_clock",
    "throttle",
    "fan",
    "ecc_corrected",
    "ecc_uncorrected",
    "pcie_tx",
    "pcie_rx",
    "sm",
    "tensor",
    "dram",
};

static const struct {
    const char *key;
    size_t offset;
} NUMBERS[] =
    {
        {"memory_total", offsetof(Device, memory_total)},
        {"memory_reserved", offsetof(Device, memory_reserved)},
        {"power_limit", offsetof(Device, power_limit)},
        {"power_window", offsetof(Device, power_window)},
        {"energy", offsetof(Device, energy)},
        {"energy_reset", offsetof(Device, energy_reset)},
        {"lost_after", offsetof(Device, lost_after)},
        {"mig", offsetof(Device, mig)},
        {"gpm", offsetof(Device, gpm)},
    },
  GLOBALS[] = {
      {"epoch", offsetof(Scenario, epoch)},
      {"clock", offsetof(Scenario, clock)},
      {"sample_period", offsetof(Scenario, sample_period)},
      {"core", offsetof(Scenario, core)},
  };

static const struct {
    const char *key;
    size_t offset, size;
} TEXTS[] =
    {
        {"name", offsetof(Device, name), MAX_NAME},
        {"uuid", offsetof(Device, uuid), MAX_NAME},
        {"serial", offsetof(Device, serial), MAX_NAME},
    },
  GLOBAL_TEXTS[] = {
      {"driver", offsetof(Scenario, driver), MAX_NAME},
      {"follow", offsetof(Scenario, follow), MAX_PATH},
      {"counts", offsetof(Scenario, counts), MAX_PATH},
  };

#define LENGTH(table) (sizeof(table) / sizeof *(table))

static void reset(Scenario *made, double epoch) {
    memset(made, 0, sizeof *made);
    made->gpus = 4, made->epoch = epoch, made->clock = NAN, made->sample_period = 1.0 / 6, made->core = 1;
    strcpy(made->driver, "550.163.01");
    for (int i = 0; i < MAX_GPUS; i++) {
        Device *device = &made->devices[i];
        *device = (Device){.index = i, .memory_total = 23028, .memory_reserved = 513, .power_limit = 300, .mig = -1};
        device->energy = 1e6 + 1000 * i, device->energy_reset = DBL_MAX, device->lost_after = DBL_MAX;
        strcpy(device->name, "NVIDIA A10G");
        snprintf(device->uuid, MAX_NAME, "GPU-a10%x%04x-0a10-4a10-8a10-%012x", i, i * 0x1111, i + 1);
        snprintf(device->serial, MAX_NAME, "165492100%04d", i);
        snprintf(device->bus, MAX_NAME, "00000000:00:%02X.0", 0x10 + i);
        snprintf(device->bus_legacy, MAX_NAME, "0000:00:%02X.0", 0x10 + i);
    }
}

static const char *number(const char *text, double *value) {
    char *end;
    *value = strtod(text, &end);
    return end == text || *end ? "not a number" : NULL;
}

static const char *copied(char *to, const char *text, size_t size) {
    if (strlen(text) >= size) return "too long";
    strcpy(to, text);
    return NULL;
}

static const char *span(char *text, Rule *rule) { /* FROM-TO, FROM- or -TO, in seconds */
    char *dash = strchr(text, '-');
    if (!dash) return "not a time FROM-TO";
    *dash = '\0';
    const char *fault = *text ? number(text, &rule->from) : NULL;
    return fault ? fault : dash[1] ? number(dash + 1, &rule->to) : NULL;
}

static const char *add_rule(Scenario *made, Effect effect, const char *function, int gpu, char *value) {
    if (made->rule_count == MAX_RULES) return "too many rules";
    Rule rule = {effect, "", gpu, 0, -DBL_MAX, DBL_MAX};
    const char *fault = copied(rule.function, function, MAX_NAME);
    bool timed = effect == LOST || effect == HANG;
    char *at = strchr(value, '@');
    char *time = timed ? value : at ? at + 1 : NULL;
    if (at) *at = '\0';
    if (!fault && time) fault = span(time, &rule);
    if (!fault && !timed) fault = number(value, &rule.value);
    if (!fault) made->rules[made->rule_count++] = rule;
    return fault;
}

static const char *add_processes(Device *device, char *text) { /* pid:MiB,pid:MiB */
    device->pids = 0;
    for (char *kept, *item = strtok_r(text, ",", &kept); item; item = strtok_r(NULL, ",", &kept)) {
        int used = 0, pid;
        double memory;
        if (device->pids == MAX_PIDS) return "too many processes";
        if (sscanf(item, "%d:%lf%n", &pid, &memory, &used) != 2 || item[used]) return "not pid:MiB";
        device->pid[device->pids] = pid, device->pid_memory[device->pids++] = memory;
    }
    return NULL;
}

static const char *set_device(Device *device, const char *key, const char *value) {
    for (size_t i = 0; i < QUANTITIES; i++)
        if (!strcmp(key, QUANTITY[i])) return wave_read(&device->waves[i], value);
    for (size_t i = 0; i < LENGTH(NUMBERS); i++)
        if (!strcmp(key, NUMBERS[i].key)) return number(value, (double *)((char *)device + NUMBERS[i].offset));
    for (size_t i = 0; i < LENGTH(TEXTS); i++)
        if (!strcmp(key, TEXTS[i].key)) return copied((char *)device + TEXTS[i].offset, value, TEXTS[i].size);
    if (!strcmp(key, "processes")) {
        char text[MAX_PATH];
        const char *fault = copied(text, value, sizeof text);
        return fault ? fault : add_processes(device, text);
    }
    return "no such key";
}

static const char *set_global(Scenario *made, const char *key, const char *value, bool *known) {
    *known = true;
    for (size_t i = 0; i < LENGTH(GLOBALS); i++)
        if (!strcmp(key, GLOBALS[i].key)) return number(value, (double *)((char *)made + GLOBALS[i].offset));
    for (size_t i = 0; i < LENGTH(GLOBAL_TEXTS); i++)
        if (!strcmp(key, GLOBAL_TEXTS[i].key))
            return copied((char *)made + GLOBAL_TEXTS[i].offset, value, GLOBAL_TEXTS[i].size);
    if (!strcmp(key, "gpus")) {
        double gpus;
        const char *fault = number(value, &gpus);
        made->gpus = (int)gpus;
        return fault ? fault : made->gpus < 0 || made->gpus > MAX_GPUS ? "0 to 16 are possible" : NULL;
    }
    *known = false;
    return NULL;
}

static int gpu_of(char *key) { /* cuts the number off: util.2 -> 2, util -> -1 */
    char *dot = strrchr(key, '.'), *end;
    if (!dot || !dot[1]) return -1;
    long gpu = strtol(dot + 1, &end, 10);
    if (*end) return -1;
    *dot = '\0';
    return gpu >= 0 && gpu < MAX_GPUS ? (int)gpu : MAX_GPUS;
}

static const char *set(Scenario *made, char *key, char *value) {
    static const char *EFFECTS[] = {"error", "slow", "hang", "lost"};
    int gpu = gpu_of(key);
    if (gpu == MAX_GPUS) return "GPUs 0 to 15 are possible";
    char *dot = strchr(key, '.');
    if (dot) *dot = '\0';
    for (Effect effect = ERROR; effect <= LOST; effect++)
        if (!strcmp(key, EFFECTS[effect])) {
            if (!dot && effect != LOST) return "needs a function: error.nvmlInit";
            return add_rule(made, effect, dot ? dot + 1 : "any", gpu, value);
        }
    if (dot) return "no such key";
    bool known;
    const char *fault = set_global(made, key, value, &known);
    if (known) return gpu < 0 ? fault : "is not a GPU's";
    for (int i = gpu < 0 ? 0 : gpu; i <= (gpu < 0 ? MAX_GPUS - 1 : gpu) && !fault; i++)
        fault = set_device(&made->devices[i], key, value);
    return fault;
}

static char *trimmed(char *text) {
    text += strspn(text, " \t\r");
    for (size_t length = strlen(text); length && strchr(" \t\r", text[length - 1]);) text[--length] = '\0';
    return text;
}

/* NULL, or what is wrong and where; valid until the next call. */
const char *scenario_read(Scenario *made, const char *text, double epoch) {
    static char message[512];
    char *copy = strdup(text), *kept;
    const char *fault = NULL;
    reset(made, epoch);
    for (char *item = strtok_r(copy, ";\n", &kept); item && !fault; item = strtok_r(NULL, ";\n", &kept)) {
        char said[200];
        item = trimmed(item);
        if (!*item || *item == '#') continue;
        snprintf(said, sizeof said, "%s", item);
        char *equals = strchr(item, '=');
        if (equals) *equals = '\0';
        fault = equals ? set(made, trimmed(item), trimmed(equals + 1)) : "needs key=value";
        if (fault) snprintf(message, sizeof message, "%s: %s", said, fault);
    }
    free(copy);
    return fault ? message : NULL;
}
