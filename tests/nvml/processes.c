/* GPUs that follow real processes: utilization is their share of a CPU core, memory their resident set.

`follow=/folder`: the file /folder/<gpu> holds the pids, one a line. `follow=word`: every process with the same
SIMULATED_NVML that runs a script whose name ends in that word, on the GPU that its LOCAL_RANK names (0 without one). */
#define _GNU_SOURCE
#include "simulated.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double WINDOW = 0.2, SEARCH = 1; /* s: the driver's own window is 1/6 to 1 s */
static Followed gpus[MAX_GPUS];
static int found[MAX_GPUS][MAX_PIDS], founds[MAX_GPUS];
static double searched;

static size_t contents(const char *path, char *text, size_t size) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, text, size - 1);
    if (file >= 0) close(file);
    text[length > 0 ? length : 0] = '\0';
    return length > 0 ? (size_t)length : 0;
}

/* The first argument that is no option is the script: `python -u lenet5/train.py`, not `-m torch.distributed.run`. */
static bool runs(int pid, const char *word) {
    char path[64], text[MAX_PATH];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    size_t length = contents(path, text, sizeof text);
    const char *argument = text;
    do argument += strlen(argument) + 1;
    while (argument < text + length && *argument == '-' && strcmp(argument, "-m"));
    size_t size = argument < text + length ? strlen(argument) : 0;
    return size >= strlen(word) && !strcmp(argument + size - strlen(word), word);
}

/* The GPU of a process that is among the same simulated GPUs, else -1. */
static int gpu_of(int pid) {
    char path[64];
    static char text[1 << 17];
    const char *ours = getenv("SIMULATED_NVML");
    bool among = false;
    int gpu = 0;
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    size_t length = contents(path, text, sizeof text);
    for (const char *item = text; item < text + length; item += strlen(item) + 1) {
        if (!strncmp(item, "LOCAL_RANK=", 11)) gpu = atoi(item + 11);
        if (!strncmp(item, "SIMULATED_NVML=", 15)) among = ours && !strcmp(item + 15, ours);
    }
    return among ? gpu : -1;
}

static void search(const char *word, double now) {
    if (now - searched < SEARCH) return;
    searched = now;
    memset(founds, 0, sizeof founds);
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        int pid = atoi(entry->d_name), gpu;
        if (pid > 0 && runs(pid, word) && (gpu = gpu_of(pid)) >= 0 && gpu < MAX_GPUS && founds[gpu] < MAX_PIDS)
            found[gpu][founds[gpu]++] = pid;
    }
    if (folder) closedir(folder);
}

static int pids_of(const Scenario *now_simulated, int gpu, double now, int *pids) {
    if (*now_simulated->follow != '/') {
        search(now_simulated->follow, now);
        memcpy(pids, found[gpu], sizeof found[gpu]);
        return founds[gpu];
    }
    char path[MAX_PATH + 8], text[1024];
    int count = 0;
    snprintf(path, sizeof path, "%s/%d", now_simulated->follow, gpu);
    contents(path, text, sizeof text);
    for (char *end, *at = text; count < MAX_PIDS; at = end) {
        pids[count] = (int)strtol(at, &end, 10);
        if (end == at) break;
        count++;
    }
    return count;
}

static bool look_at(Process *process) {
    clockid_t clock;
    struct timespec cpu;
    char path[64], text[128];
    long pages = 0;
    if (clock_getcpuclockid(process->pid, &clock) || clock_gettime(clock, &cpu)) return false;
    snprintf(path, sizeof path, "/proc/%d/statm", process->pid);
    contents(path, text, sizeof text);
    if (sscanf(text, "%*d %ld", &pages) != 1) return false;
    process->cpu = cpu.tv_sec + cpu.tv_nsec * 1e-9;
    process->memory = pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
    return true;
}

const Followed *followed(const Scenario *now_simulated, int gpu, double now) {
    Followed *last = &gpus[gpu];
    if (now - last->looked < WINDOW) return last;
    int pids[MAX_PIDS], count = pids_of(now_simulated, gpu, now, pids);
    double passed = now - last->looked, busy = 0;
    Followed next = {.looked = now, .seconds = last->seconds};
    for (int i = 0; i < count; i++) {
        Process *process = &next.all[next.count];
        *process = (Process){.pid = pids[i]};
        if (!look_at(process)) continue;
        next.count++;
        for (int j = 0; j < last->count; j++)
            if (last->all[j].pid == pids[i])
                process->share = (process->cpu - last->all[j].cpu) / passed / now_simulated->core;
        busy += process->share;
    }
    next.seconds += passed * (busy < 1 ? busy : 1);
    *last = next;
    return last;
}
