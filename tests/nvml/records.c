/* NVML's functions that give lists: processes, the driver's own samples, fields by number, and GPM's two samples. */
#define _GNU_SOURCE
#include "simulated.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#pragma GCC visibility push(default)

enum { KEPT = 120 };              /* samples in the driver's ring */
enum { UNSIGNED = 1, LARGE = 3 }; /* nvmlValueType_t */

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;
typedef struct {
    unsigned pid;
    unsigned long long time;
    unsigned sm, memory, encoder, decoder;
} ProcessShare;
typedef union {
    double real;
    unsigned number;
    unsigned long long large;
} Value;
typedef struct {
    unsigned long long time;
    Value value;
} Sample;
typedef struct {
    uint32_t field, scope;
    int64_t time, latency;
    unsigned type, code;
    Value value;
} Field;
typedef struct {
    double time, at[QUANTITIES];
} GpmSample;
typedef struct {
    unsigned id, code;
    double value;
    const char *names[3];
} GpmMetric;
typedef struct {
    unsigned version, count;
    GpmSample *first, *second;
    GpmMetric metrics[];
} GpmMetrics;
typedef struct {
    unsigned version, supported;
} GpmSupport;

static unsigned long long microseconds(double seconds) { return (unsigned long long)(1e6 * seconds); }

/* Processes: those that the scenario makes up, and those that the GPU follows. */

Code nvmlDeviceGetComputeRunningProcesses_v3(const Handle *handle, unsigned *count, ProcessInfo *out) {
    CALL_ON(handle);
    const Followed *real = *scenario->follow ? followed(scenario, device->index, call_clock()) : NULL;
    unsigned there = (unsigned)(device->pids + (real ? real->count : 0)), room = *count;
    *count = there;
    if (there > room) return INSUFFICIENT_SIZE;
    for (int i = 0; i < device->pids; i++)
        *out++ = (ProcessInfo){(unsigned)device->pid[i], (unsigned long long)(MIB * device->pid_memory[i]), ~0u, ~0u};
    for (int i = 0; real && i < real->count; i++)
        *out++ = (ProcessInfo){(unsigned)real->all[i].pid, (unsigned long long)(MIB * real->all[i].memory), ~0u, ~0u};
    return SUCCESS;
}
Code nvmlDeviceGetComputeRunningProcesses_v2(const Handle *, unsigned *, ProcessInfo *)
    __attribute__((alias("nvmlDeviceGetComputeRunningProcesses_v3")));

Code nvmlDeviceGetGraphicsRunningProcesses_v3(const Handle *handle, unsigned *count, ProcessInfo *out) {
    (void)out;
    CALL_ON(handle);
    *count = 0;
    return SUCCESS;
}
Code nvmlDeviceGetGraphicsRunningProcesses_v2(const Handle *, unsigned *, ProcessInfo *)
    __attribute__((alias("nvmlDeviceGetGraphicsRunningProcesses_v3")));

Code nvmlDeviceGetProcessUtilization(
    const Handle *handle, ProcessShare *out, unsigned *count, unsigned long long since) {
    CALL_ON(handle);
    const Followed *real = *scenario->follow ? followed(scenario, device->index, call_clock()) : NULL;
    unsigned long long looked = real ? microseconds(real->looked) : 0;
    if (!real || !real->count || looked <= since) return NOT_FOUND;
    unsigned room = *count;
    *count = (unsigned)real->count;
    if (*count > room || !out) return INSUFFICIENT_SIZE;
    for (int i = 0; i < real->count; i++)
        out[i] = (ProcessShare){(unsigned)real->all[i].pid, looked, whole(100 * real->all[i].share), 0, 0, 0};
    return SUCCESS;
}

/* The driver's ring: a value every sample_period, at times that are the same for every caller. */

static double sampled(const Device *device, unsigned kind, double seconds) { /* by nvmlSamplingType_t */
    static const Quantity OF[] = {POWER, UTIL, MEMORY_UTIL, QUANTITIES, QUANTITIES, SM_CLOCK, MEMORY_CLOCK};
    return OF[kind] == QUANTITIES ? 0 : value_of(device, OF[kind], seconds) * (kind == 0 ? 1000 : 1);
}

Code nvmlDeviceGetSamples(
    const Handle *handle, unsigned kind, unsigned long long since, unsigned *type, unsigned *count, Sample *out) {
    CALL_ON(handle);
    if (kind > 6) return NOT_SUPPORTED;
    double period = scenario->sample_period, newest = floor(call_time() / period);
    double oldest = fmax(newest - KEPT + 1, floor((since * 1e-6 - scenario->epoch) / period) + 1);
    *type = UNSIGNED;
    unsigned filled = 0;
    for (double at = oldest; at <= newest; at++) {
        unsigned long long time = microseconds(scenario->epoch + at * period);
        if (time <= since) continue;
        if (out && filled == *count) break;
        if (out) out[filled] = (Sample){time, {.number = whole(sampled(device, kind, at * period))}};
        filled++;
    }
    *count = filled;
    return filled ? SUCCESS : NOT_FOUND;
}

/* Fields: power and energy, by nvml.h's NVML_FI_DEV_* numbers. */

static Code field(const Device *device, Field *out) {
    out->type = UNSIGNED;
    switch (out->field) {
    case 83:
        out->type = LARGE, out->value.large = (unsigned long long)(1000 * energy_of(device, call_time()));
        return SUCCESS;
    case 185: out->value.number = whole(1000 * watts_of(device, 1)); return SUCCESS; /* average */
    case 186: out->value.number = whole(1000 * watts_of(device, 0)); return SUCCESS; /* instant */
    case 187: out->value.number = 100000; return SUCCESS;
    case 188:
    case 189:
    case 190: out->value.number = whole(1000 * device->power_limit); return SUCCESS;
    default: return NOT_SUPPORTED;
    }
}

Code nvmlDeviceGetFieldValues(const Handle *handle, int count, Field *fields) {
    CALL_ON(handle);
    for (int i = 0; i < count; i++) {
        fields[i].time = (int64_t)microseconds(call_clock()), fields[i].latency = 0;
        fields[i].code = field(device, &fields[i]);
    }
    return SUCCESS;
}

/* GPM: means between two samples, of Hopper and later; with `gpm=1`. */

Code nvmlGpmQueryDeviceSupport(const Handle *handle, GpmSupport *out) {
    CALL_ON(handle);
    out->supported = device->gpm > 0;
    return SUCCESS;
}
Code nvmlGpmSampleAlloc(GpmSample **out) {
    CALL();
    *out = calloc(1, sizeof **out);
    return SUCCESS;
}
Code nvmlGpmSampleFree(GpmSample *sample) {
    CALL();
    free(sample);
    return SUCCESS;
}
Code nvmlGpmSampleGet(const Handle *handle, GpmSample *sample) {
    CALL_ON(handle);
    if (device->gpm <= 0) return NOT_SUPPORTED;
    sample->time = call_time();
    for (Quantity quantity = 0; quantity < QUANTITIES; quantity++)
        sample->at[quantity] = integral_of(device, quantity, sample->time);
    return SUCCESS;
}
Code nvmlGpmMetricsGet(GpmMetrics *out) {
    CALL();
    double passed = out->second->time - out->first->time;
    if (out->version != 1) return VERSION_MISMATCH;
    if (passed <= 0) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < out->count; i++) {
        GpmMetric *metric = &out->metrics[i];
        Quantity of = metric->id == 1    ? UTIL
                      : metric->id == 2  ? SM
                      : metric->id == 5  ? TENSOR
                      : metric->id == 10 ? DRAM
                                         : QUANTITIES;
        metric->code = of == QUANTITIES ? NOT_SUPPORTED : SUCCESS;
        metric->value = metric->code ? 0 : (out->second->at[of] - out->first->at[of]) / passed;
    }
    return SUCCESS;
}
