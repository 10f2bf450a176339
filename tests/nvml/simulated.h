/* A libnvidia-ml.so.1 without a GPU: what its sources share. README.md says what a scenario may hold. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define MIB 1048576.0

enum { MAX_GPUS = 16, MAX_STEPS = 16, MAX_RULES = 64, MAX_PIDS = 32, MAX_NAME = 96, MAX_PATH = 4096 };

/* The codes of nvmlReturn_t that we give of our own accord; a scenario may name any other. */
typedef enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
} Code;

/* waves.c: a value over time, with its exact integral. */
typedef enum { UNSET, CONST, SINE, RAMP, SQUARE, STEP } Kind;
typedef struct {
    Kind kind;
    int count; /* of numbers in at[] */
    double at[2 * MAX_STEPS + 1];
} Wave;

const char *wave_read(Wave *wave, const char *text); /* NULL, or what is wrong with the text */
double wave_value(const Wave *wave, double seconds);
double wave_integral(const Wave *wave, double seconds); /* from 0 on */

/* scenario.c: what is simulated now. */
typedef enum {
    UTIL,
    MEMORY,
    MEMORY_UTIL,
    TEMPERATURE,
    POWER,
    SM_CLOCK,
    MEMORY_CLOCK,
    THROTTLE,
    FAN,
    ECC_CORRECTED,
    ECC_UNCORRECTED,
    PCIE_TX,
    PCIE_RX,
    SM,
    TENSOR,
    DRAM,
    QUANTITIES,
} Quantity;

typedef struct { /* what a GPU is */
    int index;
    char name[MAX_NAME], uuid[MAX_NAME], serial[MAX_NAME], bus[MAX_NAME], bus_legacy[MAX_NAME];
    double memory_total, memory_reserved; /* MiB */
    double power_limit, power_window;     /* W, s over which a power reading is averaged */
    double energy, energy_reset;          /* J at 0 s, and when the counter starts again from 0 */
    double lost_after;                    /* calls */
    double mig, gpm;
    Wave waves[QUANTITIES];
    int pid[MAX_PIDS];           /* processes that the scenario makes up */
    double pid_memory[MAX_PIDS]; /* MiB */
    int pids;
} Device;

typedef enum { ERROR, SLOW, HANG, LOST } Effect;
typedef struct { /* what happens to calls of a function, on one GPU or all (-1), for a time */
    Effect effect;
    char function[MAX_NAME];
    int gpu;
    double value, from, to;
} Rule;

typedef struct {
    double epoch; /* seconds since 1970 at which its time is 0 */
    double clock; /* its time, if that stands still; else NAN */
    int gpus;
    char driver[MAX_NAME];
    double sample_period; /* s between the driver's own samples */
    char follow[MAX_PATH], counts[MAX_PATH];
    double core; /* the share of a CPU core that is 100 % of a GPU */
    Device devices[MAX_GPUS];
    Rule rules[MAX_RULES];
    int rule_count;
} Scenario;

const char *scenario_read(Scenario *scenario, const char *text, double epoch);

/* processes.c: real processes that a GPU follows. */
typedef struct {
    int pid;
    double cpu, memory, share; /* s so far, MiB, cores in the last window */
} Process;
typedef struct {
    int count;
    Process all[MAX_PIDS];
    double looked, seconds; /* when last, and GPU seconds so far, 1 a second at 100 % */
} Followed;

const Followed *followed(const Scenario *scenario, int gpu, double now);

/* calls.c: what every function does first. The lock is held until the function returns. */
typedef struct {
    char nothing; /* what NVML's users hold: its place in handles[] is the GPU's index */
} Handle;
typedef struct {
    Code code;
    const Device *device; /* NULL where the function has none */
} Call;
extern Handle handles[MAX_GPUS];
extern Scenario *scenario; /* as it is now */
extern int initialized;    /* how often, less the shutdowns */

Call call_begin(const char *function);                          /* of the library itself */
Call call_begin_on(const char *function, const Handle *handle); /* of a GPU */
void call_end(Call *call);
double call_clock(void); /* seconds since 1970 */
double call_time(void);  /* seconds of the scenario */

/* What a GPU shows. */
double value_of(const Device *device, Quantity quantity, double seconds);
double integral_of(const Device *device, Quantity quantity, double seconds); /* from 0 on */
double energy_of(const Device *device, double seconds);                      /* J */
double watts_of(const Device *device, double window);                        /* averaged over so many seconds */
unsigned whole(double value);
bool is_supported(const Device *device, Quantity quantity);

#define GUARD(begin)                                      \
    Call call __attribute__((cleanup(call_end))) = begin; \
    if (call.code) return call.code
#define CALL() GUARD(call_begin(__func__))
#define CALL_ON(handle)                     \
    GUARD(call_begin_on(__func__, handle)); \
    const Device *device __attribute__((unused)) = call.device
