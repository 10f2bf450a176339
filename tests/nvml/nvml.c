/* NVML's functions, as far as monitors call them. Structures have the layout of nvml.h, which pynvml repeats. */
#include "simulated.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC visibility push(default)

typedef struct {
    unsigned gpu, memory;
} Rates;
typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} Pci;
typedef struct {
    unsigned version, sensor;
    int temperature;
} Temperature;

static Code text(char *out, unsigned size, const char *value) {
    if (!out) return INVALID_ARGUMENT;
    if (strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static Code number(unsigned *out, double value) {
    if (!out) return INVALID_ARGUMENT;
    *out = whole(value);
    return SUCCESS;
}

static Code shown(const Device *device, Quantity quantity, double scale, unsigned *out) {
    if (!is_supported(device, quantity)) return NOT_SUPPORTED;
    return number(out, scale * value_of(device, quantity, call_time()));
}

static unsigned percent(const Device *device, Quantity quantity) {
    return whole(fmin(100, value_of(device, quantity, call_time())));
}

static double used_of(const Device *device) {
    double most = device->memory_total - device->memory_reserved;
    return MIB * fmin(most, fmax(0, value_of(device, MEMORY, call_time())));
}

#define NUMBER(function, value)                          \
    Code function(const Handle *handle, unsigned *out) { \
        CALL_ON(handle);                                 \
        return number(out, value);                       \
    }
#define SHOWN(function, quantity, scale)                 \
    Code function(const Handle *handle, unsigned *out) { \
        CALL_ON(handle);                                 \
        return shown(device, quantity, scale, out);      \
    }
#define TEXT(function, member)                                      \
    Code function(const Handle *handle, char *out, unsigned size) { \
        CALL_ON(handle);                                            \
        return text(out, size, device->member);                     \
    }
#define UNSUPPORTED(function)             \
    Code function(const Handle *handle) { \
        CALL_ON(handle);                  \
        return NOT_SUPPORTED;             \
    }
#define ALSO(result, other, name, ...) result other(__VA_ARGS__) __attribute__((alias(#name)))

/* The library */

Code nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    CALL();
    initialized++;
    return SUCCESS;
}
Code nvmlInit_v2(void) {
    CALL();
    initialized++;
    return SUCCESS;
}
ALSO(Code, nvmlInit, nvmlInit_v2, void);
Code nvmlShutdown(void) {
    CALL();
    initialized--;
    return SUCCESS;
}

const char *nvmlErrorString(Code code) {
    switch ((int)code) {
    case 0: return "Success";
    case 1: return "Uninitialized";
    case 2: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 6: return "Not Found";
    case 7: return "Insufficient Size";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 13: return "Function Not Found";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 25: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

Code nvmlSystemGetDriverVersion(char *out, unsigned size) {
    CALL();
    return text(out, size, scenario->driver);
}
Code nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    char version[MAX_NAME + 8];
    CALL();
    snprintf(version, sizeof version, "12.%s", scenario->driver);
    return text(out, size, version);
}
Code nvmlSystemGetCudaDriverVersion_v2(int *out) {
    CALL();
    *out = 12040;
    return SUCCESS;
}
ALSO(Code, nvmlSystemGetCudaDriverVersion, nvmlSystemGetCudaDriverVersion_v2, int *);
Code nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size) {
    char path[64], name[MAX_PATH];
    CALL();
    snprintf(path, sizeof path, "/proc/%u/exe", pid);
    ssize_t length = readlink(path, name, sizeof name - 1);
    if (length < 0) return NOT_FOUND;
    name[length] = '\0';
    snprintf(out, size, "%s", name);
    return SUCCESS;
}

/* Which GPUs there are */

Code nvmlDeviceGetCount_v2(unsigned *out) {
    CALL();
    return number(out, scenario->gpus);
}
ALSO(Code, nvmlDeviceGetCount, nvmlDeviceGetCount_v2, unsigned *);

static Code handle_of(const char *function, int index, Handle **out) { /* a lost GPU's handle is not to be had */
    GUARD(call_begin_on(function, &handles[index]));
    *out = &handles[index];
    return SUCCESS;
}

/* The index of the GPU whose text is this, or -1. */
static int found(const char *wanted, size_t member) {
    for (int i = 0; i < scenario->gpus; i++)
        if (!strcasecmp((const char *)&scenario->devices[i] + member, wanted)) return i;
    return -1;
}

static Code search(const char *wanted, size_t first, size_t second, int *index) {
    CALL();
    *index = found(wanted, first);
    if (*index < 0) *index = found(wanted, second);
    return *index < 0 ? NOT_FOUND : SUCCESS;
}

Code nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **out) {
    return index < MAX_GPUS ? handle_of(__func__, (int)index, out) : INVALID_ARGUMENT;
}
ALSO(Code, nvmlDeviceGetHandleByIndex, nvmlDeviceGetHandleByIndex_v2, unsigned, Handle **);
Code nvmlDeviceGetHandleByUUID(const char *uuid, Handle **out) {
    int index;
    Code code = search(uuid, offsetof(Device, uuid), offsetof(Device, uuid), &index);
    return code ? code : handle_of(__func__, index, out);
}
Code nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Handle **out) {
    int index;
    Code code = search(bus, offsetof(Device, bus), offsetof(Device, bus_legacy), &index);
    return code ? code : handle_of(__func__, index, out);
}
ALSO(Code, nvmlDeviceGetHandleByPciBusId, nvmlDeviceGetHandleByPciBusId_v2, const char *, Handle **);

/* What a GPU is */

TEXT(nvmlDeviceGetName, name)
TEXT(nvmlDeviceGetUUID, uuid)
TEXT(nvmlDeviceGetSerial, serial)
NUMBER(nvmlDeviceGetIndex, device->index)
NUMBER(nvmlDeviceGetMinorNumber, device->index)
NUMBER(nvmlDeviceGetBrand, 14)       /* NVIDIA */
NUMBER(nvmlDeviceGetArchitecture, 7) /* Ampere */
NUMBER(nvmlDeviceGetNumGpuCores, 9216)
NUMBER(nvmlDeviceGetPersistenceMode, 1)
NUMBER(nvmlDeviceGetDisplayMode, 0)
NUMBER(nvmlDeviceGetDisplayActive, 0)
NUMBER(nvmlDeviceGetComputeMode, 0)
NUMBER(nvmlDeviceGetPerformanceState, value_of(device, UTIL, call_time()) > 0 ? 0 : 8)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, 4)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, 8)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, 8)
UNSUPPORTED(nvmlDeviceGetDriverModel)
UNSUPPORTED(nvmlDeviceGetNvLinkState)

Code nvmlDeviceGetPciInfo_v3(const Handle *handle, Pci *out) {
    CALL_ON(handle);
    *out = (Pci){.device = 0x10 + (unsigned)device->index, .id = 0x223710de, .subsystem = 0x152f10de};
    strcpy(out->legacy, device->bus_legacy);
    strcpy(out->bus_id, device->bus);
    return SUCCESS;
}
ALSO(Code, nvmlDeviceGetPciInfo_v2, nvmlDeviceGetPciInfo_v3, const Handle *, Pci *);
ALSO(Code, nvmlDeviceGetPciInfo, nvmlDeviceGetPciInfo_v3, const Handle *, Pci *);

Code nvmlDeviceGetCudaComputeCapability(const Handle *handle, int *major, int *minor) {
    CALL_ON(handle);
    *major = 8, *minor = 6;
    return SUCCESS;
}
Code nvmlDeviceGetMigMode(const Handle *handle, unsigned *current, unsigned *pending) {
    CALL_ON(handle);
    if (device->mig < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)device->mig;
    return SUCCESS;
}
Code nvmlDeviceGetEccMode(const Handle *handle, unsigned *current, unsigned *pending) {
    CALL_ON(handle);
    *current = *pending = 1;
    return SUCCESS;
}

/* What it does */

Code nvmlDeviceGetUtilizationRates(const Handle *handle, Rates *out) {
    CALL_ON(handle);
    if (device->mig > 0) return NOT_SUPPORTED;
    out->gpu = percent(device, UTIL), out->memory = percent(device, MEMORY_UTIL);
    return SUCCESS;
}
static Code unused(const Handle *handle, const char *function, unsigned *out, unsigned *period) {
    GUARD(call_begin_on(function, handle));
    *period = 167000;
    return number(out, 0);
}
Code nvmlDeviceGetEncoderUtilization(const Handle *handle, unsigned *out, unsigned *period) {
    return unused(handle, __func__, out, period);
}
Code nvmlDeviceGetDecoderUtilization(const Handle *handle, unsigned *out, unsigned *period) {
    return unused(handle, __func__, out, period);
}

Code nvmlDeviceGetMemoryInfo(const Handle *handle, Memory *out) { /* what the driver keeps counts as used */
    CALL_ON(handle);
    double used = used_of(device) + MIB * device->memory_reserved, total = MIB * device->memory_total;
    *out = (Memory){(unsigned long long)total, (unsigned long long)(total - used), (unsigned long long)used};
    return SUCCESS;
}
Code nvmlDeviceGetMemoryInfo_v2(const Handle *handle, MemoryV2 *out) {
    CALL_ON(handle);
    if (out->version != (sizeof *out | 2u << 24)) return VERSION_MISMATCH;
    double used = used_of(device), total = MIB * device->memory_total, reserved = MIB * device->memory_reserved;
    out->total = (unsigned long long)total, out->reserved = (unsigned long long)reserved;
    out->used = (unsigned long long)used, out->free = (unsigned long long)(total - reserved - used);
    return SUCCESS;
}
Code nvmlDeviceGetBAR1MemoryInfo(const Handle *handle, Memory *out) {
    CALL_ON(handle);
    *out = (Memory){32768ull << 20, 32766ull << 20, 2ull << 20};
    return SUCCESS;
}

Code nvmlDeviceGetTemperature(const Handle *handle, unsigned sensor, unsigned *out) {
    CALL_ON(handle);
    return sensor ? INVALID_ARGUMENT : shown(device, TEMPERATURE, 1, out);
}
Code nvmlDeviceGetTemperatureV(const Handle *handle, Temperature *out) {
    CALL_ON(handle);
    if (out->version != (sizeof *out | 1u << 24)) return VERSION_MISMATCH;
    out->temperature = (int)lround(value_of(device, TEMPERATURE, call_time()));
    return out->sensor ? INVALID_ARGUMENT : SUCCESS;
}
Code nvmlDeviceGetTemperatureThreshold(const Handle *handle, unsigned kind, unsigned *out) {
    CALL_ON(handle);
    return kind > 3 ? NOT_SUPPORTED : number(out, (double[]){98, 95, 88, 88}[kind]);
}
SHOWN(nvmlDeviceGetFanSpeed, FAN, 1)
Code nvmlDeviceGetFanSpeed_v2(const Handle *handle, unsigned fan, unsigned *out) {
    CALL_ON(handle);
    return fan ? INVALID_ARGUMENT : shown(device, FAN, 1, out);
}

NUMBER(nvmlDeviceGetPowerUsage, 1000 * watts_of(device, device->power_window))
NUMBER(nvmlDeviceGetEnforcedPowerLimit, 1000 * device->power_limit)
NUMBER(nvmlDeviceGetPowerManagementLimit, 1000 * device->power_limit)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, 1000 * device->power_limit)
Code nvmlDeviceGetPowerManagementLimitConstraints(const Handle *handle, unsigned *least, unsigned *most) {
    CALL_ON(handle);
    *least = 100000;
    return number(most, 1000 * device->power_limit);
}
Code nvmlDeviceGetTotalEnergyConsumption(const Handle *handle, unsigned long long *out) {
    CALL_ON(handle);
    *out = (unsigned long long)(1000 * energy_of(device, call_time()));
    return SUCCESS;
}

static Code clocks(const Handle *handle, const char *function, unsigned kind, bool most, unsigned *out) {
    GUARD(call_begin_on(function, handle)); /* 0 graphics, 1 SM, 2 memory, 3 video */
    if (kind > 3) return INVALID_ARGUMENT;
    if (most) return number(out, kind == 2 ? 6251 : 1710);
    return shown(call.device, kind == 2 ? MEMORY_CLOCK : SM_CLOCK, 1, out);
}
Code nvmlDeviceGetClockInfo(const Handle *handle, unsigned kind, unsigned *out) {
    return clocks(handle, __func__, kind, false, out);
}
Code nvmlDeviceGetMaxClockInfo(const Handle *handle, unsigned kind, unsigned *out) {
    return clocks(handle, __func__, kind, true, out);
}

static Code reasons(const Handle *handle, const char *function, unsigned long long *out) {
    GUARD(call_begin_on(function, handle));
    *out = (unsigned long long)value_of(call.device, THROTTLE, call_time());
    return SUCCESS;
}
Code nvmlDeviceGetCurrentClocksEventReasons(const Handle *handle, unsigned long long *out) {
    return reasons(handle, __func__, out);
}
Code nvmlDeviceGetCurrentClocksThrottleReasons(const Handle *handle, unsigned long long *out) {
    return reasons(handle, __func__, out);
}
Code nvmlDeviceGetSupportedClocksEventReasons(const Handle *handle, unsigned long long *out) {
    CALL_ON(handle);
    *out = 0x1ff;
    return SUCCESS;
}
Code nvmlDeviceGetSupportedClocksThrottleReasons(const Handle *handle, unsigned long long *out) {
    CALL_ON(handle);
    *out = 0x1ff;
    return SUCCESS;
}

static Code errors(const Handle *handle, const char *function, unsigned kind, unsigned long long *out) {
    GUARD(call_begin_on(function, handle)); /* 0 corrected, 1 uncorrected */
    *out = (unsigned long long)value_of(call.device, kind ? ECC_UNCORRECTED : ECC_CORRECTED, call_time());
    return SUCCESS;
}
Code nvmlDeviceGetTotalEccErrors(const Handle *handle, unsigned kind, unsigned counter, unsigned long long *out) {
    (void)counter;
    return errors(handle, __func__, kind, out);
}
Code nvmlDeviceGetMemoryErrorCounter(
    const Handle *handle, unsigned kind, unsigned counter, unsigned place, unsigned long long *out) {
    (void)counter, (void)place;
    return errors(handle, __func__, kind, out);
}
Code nvmlDeviceGetPcieThroughput(const Handle *handle, unsigned counter, unsigned *out) { /* KB/s */
    CALL_ON(handle);
    return counter > 1 ? INVALID_ARGUMENT : shown(device, counter ? PCIE_RX : PCIE_TX, 1, out);
}
