/* Waves: const, sine, ramp, square, step. Each integral is exact: an energy counter can be checked against it. */
#include "simulated.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *word;
    Kind kind;
    int least, most; /* numbers */
} WORDS[] = {
    {"const", CONST, 1, 1},               /* value */
    {"sine", SINE, 3, 4},                 /* mean, amplitude, period, phase */
    {"ramp", RAMP, 3, 4},                 /* from, to, seconds, start */
    {"square", SQUARE, 3, 5},             /* low, high, period, share of it that is high, phase */
    {"step", STEP, 1, 2 * MAX_STEPS + 1}, /* value, then (second, value) ... */
};

const char *wave_read(Wave *wave, const char *text) {
    Wave made = {CONST, 0, {0}};
    const char *numbers = text;
    const char *colon = strchr(text, ':');
    int least = 1, most = 1;
    if (colon) {
        size_t word, words = sizeof WORDS / sizeof *WORDS;
        for (word = 0; word < words; word++)
            if (strlen(WORDS[word].word) == (size_t)(colon - text) && !strncmp(text, WORDS[word].word, colon - text))
                break;
        if (word == words) return "no such wave; const, sine, ramp, square and step are";
        made.kind = WORDS[word].kind, least = WORDS[word].least, most = WORDS[word].most;
        numbers = colon + 1;
    }
    for (char *end; made.count < most; numbers = end + 1) {
        made.at[made.count++] = strtod(numbers, &end);
        if (end == numbers || (*end && *end != ',')) return "not a number";
        if (!*end) break;
        if (made.count == most) return "too many numbers";
    }
    if (made.count < least || (made.kind == STEP && made.count % 2 == 0)) return "too few numbers";
    if ((made.kind == SINE || made.kind == RAMP || made.kind == SQUARE) && made.at[2] <= 0)
        return "a period above 0 is needed";
    if (made.kind == SQUARE && made.count < 4) made.at[3] = 0.5;
    *wave = made;
    return NULL;
}

double wave_value(const Wave *wave, double s) {
    const double *at = wave->at;
    switch (wave->kind) {
    case SINE: return at[0] + at[1] * sin(2 * M_PI * (s + at[3]) / at[2]);
    case RAMP: return at[0] + (at[1] - at[0]) * fmin(1, fmax(0, (s - at[3]) / at[2]));
    case SQUARE: {
        double turns = (s + at[4]) / at[2];
        return turns - floor(turns) < at[3] ? at[1] : at[0];
    }
    case STEP: {
        int last = 0;
        while (last + 2 < wave->count && at[last + 1] <= s) last += 2;
        return at[last];
    }
    default: return at[0];
    }
}

static double ramp_integral(const double *at, double s) {
    double into = fmin(at[2], fmax(0, s - at[3]));
    return at[0] * s + (at[1] - at[0]) * (into * into / (2 * at[2]) + fmax(0, s - at[3] - at[2]));
}

static double square_integral(const double *at, double s) {
    double turns = (s + at[4]) / at[2], whole = floor(turns);
    double high = at[2] * (whole * at[3] + fmin(at[3], turns - whole));
    return at[0] * s + (at[1] - at[0]) * high;
}

static double step_integral(const Wave *wave, double s) {
    double sum = wave->at[0] * s;
    for (int i = 1; i + 1 < wave->count && wave->at[i] <= s; i += 2)
        sum += (wave->at[i + 1] - wave->at[i - 1]) * (s - wave->at[i]);
    return sum;
}

static double integral(const Wave *wave, double s) {
    const double *at = wave->at;
    switch (wave->kind) {
    case SINE: return at[0] * s - at[1] * at[2] / (2 * M_PI) * cos(2 * M_PI * (s + at[3]) / at[2]);
    case RAMP: return ramp_integral(at, s);
    case SQUARE: return square_integral(at, s);
    case STEP: return step_integral(wave, s);
    default: return at[0] * s;
    }
}

double wave_integral(const Wave *wave, double s) { return integral(wave, s) - integral(wave, 0); }
