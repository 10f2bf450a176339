/* What every function does first: the scenario as it is now, counting, what is to go wrong. And what a GPU shows. */
#define _GNU_SOURCE
#include "simulated.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 64, MAX_COUNTED = 128 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Scenario scenarios[2];
Scenario *scenario; /* NULL as long as none could be read */
int initialized;
Handle handles[MAX_GPUS];
static struct stat seen;        /* the file as it was read last */
static double before[MAX_GPUS]; /* J by which a counter is ahead, because its scenario changed */
static long calls_of[MAX_GPUS]; /* since the scenario was read, for lost_after */
static char *counts;            /* a mapped file, so that they outlive any end of the process */
static int counted;

double call_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

double call_time(void) { return isnan(scenario->clock) ? call_clock() - scenario->epoch : scenario->clock; }

/* What a GPU shows where the scenario is silent: this when idle, that at 100 %; with NAN it is not supported. */
// clang-format off
static const double SHOWN[QUANTITIES][2] = {
    [UTIL] = {0, 0},          [MEMORY] = {0, 0},           [MEMORY_UTIL] = {0, 50},      [TEMPERATURE] = {30, 70},
    [POWER] = {16, 270},      [SM_CLOCK] = {210, 1710},    [MEMORY_CLOCK] = {405, 6251}, [THROTTLE] = {0, 0},
    [FAN] = {-1, -1},         [ECC_CORRECTED] = {0, 0},    [ECC_UNCORRECTED] = {0, 0},   [PCIE_TX] = {0, 800000},
    [PCIE_RX] = {0, 800000},  [SM] = {0, 80},              [TENSOR] = {0, 40},           [DRAM] = {0, 50},
};
// clang-format on

bool is_supported(const Device *device, Quantity quantity) {
    return device->waves[quantity].kind != UNSET || SHOWN[quantity][0] >= 0;
}

static const Followed *real(const Device *device) {
    return *scenario->follow ? followed(scenario, device->index, call_clock()) : NULL;
}

double value_of(const Device *device, Quantity quantity, double seconds) {
    if (device->waves[quantity].kind != UNSET) return wave_value(&device->waves[quantity], seconds);
    const Followed *processes = quantity == UTIL || quantity == MEMORY ? real(device) : NULL;
    double sum = 0;
    for (int i = 0; processes && i < processes->count; i++)
        sum += quantity == UTIL ? 100 * processes->all[i].share : processes->all[i].memory;
    if (quantity == UTIL) return sum < 100 ? sum : 100;
    if (processes) return sum;
    double idle = SHOWN[quantity][0], full = SHOWN[quantity][1];
    return idle == full ? idle : idle + (full - idle) * value_of(device, UTIL, seconds) / 100;
}

double integral_of(const Device *device, Quantity quantity, double seconds) {
    if (device->waves[quantity].kind != UNSET) return wave_integral(&device->waves[quantity], seconds);
    const Followed *processes = quantity == UTIL ? real(device) : NULL;
    if (quantity == UTIL) return processes ? 100 * processes->seconds : 0;
    double idle = SHOWN[quantity][0], full = SHOWN[quantity][1];
    return idle * seconds + (full - idle) * integral_of(device, UTIL, seconds) / 100;
}

double energy_of(const Device *device, double seconds) {
    double now = integral_of(device, POWER, seconds);
    if (seconds >= device->energy_reset) return now - integral_of(device, POWER, device->energy_reset);
    return device->energy + before[device->index] + now;
}

double watts_of(const Device *device, double window) {
    double now = call_time();
    if (window <= 0) return value_of(device, POWER, now);
    return (integral_of(device, POWER, now) - integral_of(device, POWER, now - window)) / window;
}

unsigned whole(double value) { return value > 0 ? (unsigned)lround(value) : 0; }

static void use(const char *text, double epoch, double when) {
    static double told = -1; /* of this version of the file */
    Scenario *next = scenario == &scenarios[0] ? &scenarios[1] : &scenarios[0];
    const char *fault = scenario_read(next, text, epoch);
    if (fault) {
        if (when != told) fprintf(stderr, "simulated NVML: %s\n", fault);
        told = when;
        return;
    }
    /* An energy counter goes on from where it was at the moment of the change. */
    for (int i = 0; scenario && i < MAX_GPUS; i++)
        before[i] += integral_of(&scenario->devices[i], POWER, when - scenario->epoch) -
                     integral_of(&next->devices[i], POWER, when - next->epoch);
    memset(calls_of, 0, sizeof calls_of);
    scenario = next;
}

/* SIMULATED_NVML is the scenario, or the absolute path of a file that holds it and is read again when it changes. */
static void refresh(void) {
    const char *source = getenv("SIMULATED_NVML");
    if (!source || *source != '/') {
        if (!scenario) use(source ? source : "", call_clock(), 0);
        return;
    }
    struct stat now;
    if (stat(source, &now)) return;
    if (scenario && now.st_ino == seen.st_ino && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec)
        return;
    int file = open(source, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &now)) return; /* the file that is open, whatever has the name by now */
    char *text = calloc(1, (size_t)now.st_size + 1);
    double changed = now.st_mtim.tv_sec + now.st_mtim.tv_nsec * 1e-9;
    if (read(file, text, (size_t)now.st_size) == now.st_size) {
        use(text, changed, changed);
        seen = now;
    }
    close(file);
    free(text);
}

static void open_counts(pid_t pid) {
    char path[MAX_PATH + 32];
    snprintf(path, sizeof path, "%s/%d", scenario->counts, pid);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool failed = file < 0 || ftruncate(file, LINE * MAX_COUNTED);
    counts = failed ? MAP_FAILED : mmap(NULL, LINE * MAX_COUNTED, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    counted = 0;
}

/* <counts>/<pid>: a line of 64 characters per function, its name and how often it was called. */
static void count(const char *function) {
    static char folder[MAX_PATH];
    static pid_t counting;
    if (!*scenario->counts) return;
    if (counting != getpid() || strcmp(folder, scenario->counts)) { /* a fork counts for itself */
        open_counts(counting = getpid());
        strcpy(folder, scenario->counts);
    }
    if (counts == MAP_FAILED) return;
    int line = 0;
    size_t length = strlen(function);
    while (line < counted && (strncmp(counts + line * LINE, function, length) || counts[line * LINE + length] != ' '))
        line++;
    if (line == MAX_COUNTED) return;
    long before = line < counted ? atol(counts + line * LINE + LINE - 16) : 0;
    counted = line < counted ? counted : line + 1;
    char text[2 * LINE];
    snprintf(text, sizeof text, "%-48.48s%15ld\n", function, before + 1);
    memcpy(counts + line * LINE, text, LINE);
}

static bool applies(const Rule *rule, const char *function, const char *base, long gpu) {
    double now = call_time();
    bool named = !strcmp(rule->function, "any") || !strcmp(rule->function, function) || !strcmp(rule->function, base);
    return named && (rule->gpu < 0 || gpu == rule->gpu) && now >= rule->from && now < rule->to;
}

static double effect_of(Effect effect, const char *function, const char *base, long gpu) {
    for (int i = 0; i < scenario->rule_count; i++)
        if (scenario->rules[i].effect == effect && applies(&scenario->rules[i], function, base, gpu))
            return effect == ERROR || effect == SLOW ? scenario->rules[i].value : 1;
    return 0;
}

static void let_others_for(double seconds) { /* a slow or a hung call keeps nobody else from calling */
    struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    pthread_mutex_unlock(&lock);
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&lock);
    refresh();
}

static Call outcome(const char *function, const Handle *handle) {
    char base[MAX_NAME];
    refresh();
    if (!scenario) return (Call){INVALID_ARGUMENT, NULL};
    bool starts = !strncmp(function, "nvmlInit", 8); /* in each of its forms */
    snprintf(base, sizeof base, "%s", starts ? "nvmlInit" : function);
    char *version = strrchr(base, '_');
    if (version && version[1] == 'v') *version = '\0';
    count(base);
    long gpu = handle ? handle - handles : -1;
    double slow = effect_of(SLOW, function, base, gpu);
    if (slow > 0) let_others_for(slow / 1000);
    while (effect_of(HANG, function, base, gpu)) let_others_for(0.01);
    if (!initialized && !starts) return (Call){UNINITIALIZED, NULL};
    bool lost =
        gpu >= 0 && (calls_of[gpu]++ >= scenario->devices[gpu].lost_after || effect_of(LOST, function, base, gpu));
    Code code = lost ? GPU_IS_LOST : (Code)effect_of(ERROR, function, base, gpu);
    return (Call){code, gpu >= 0 ? &scenario->devices[gpu] : NULL};
}

Call call_begin(const char *function) {
    pthread_mutex_lock(&lock);
    return outcome(function, NULL);
}

Call call_begin_on(const char *function, const Handle *handle) {
    pthread_mutex_lock(&lock);
    bool ours = handle >= handles && handle < handles + (scenario ? scenario->gpus : 0);
    return ours ? outcome(function, handle) : (Call){initialized ? INVALID_ARGUMENT : UNINITIALIZED, NULL};
}

void call_end(Call *call) {
    (void)call;
    pthread_mutex_unlock(&lock);
}
