/* The NVML calls that calijoule makes, and those that other meters need besides, answering from a script: a
 * library named like the driver's own, so that the real Python bindings load and call it.
 *
 * Each GPU draws a constant power or a square wave. Its sensor looks once in every update period, averages
 * over the last part of it (the averaging window) and takes that for the whole period; the counter adds up
 * what the sensor saw, times a gain. Energy counts millijoules. Time is the machine's, or the script's. */

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SUCCESS 0
#define UNINITIALIZED 1
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define DRIVER_NOT_LOADED 9
#define HOPPER 9 /* of nvmlDeviceArchitecture_t */
#define MAX_GPUS 8
#define MAX_FIELDS 8
#define ENERGY 83
#define AVERAGE_POWER 185
#define INSTANT_POWER 186
#define UNSIGNED_INT 1
#define UNSIGNED_LONG_LONG 3

typedef struct {
    unsigned int id, scope;
    int result;
    double share; /* of the power */
} field_t;

typedef struct {
    unsigned long long energy_mj; /* spent at once by the script */
    int handle_result, energy_result, power_result, fields_result;
    double high_w, low_w, period_s; /* period 0: constant high_w */
    double update_s, window_s, gain, noise;
    double seen_j; /* by the sensor, up to tick */
    long long tick;
    double start_s;
    unsigned int random;
    field_t fields[MAX_FIELDS];
    int field_count;
    unsigned int mig, virtualization, clock_mhz, temperature_c, limit_mw;
    unsigned long long reasons;
} gpu_t;

typedef union {
    double dVal;
    int siVal;
    unsigned int uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    long long sllVal;
} value_t;

typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType, nvmlReturn;
    value_t value;
} field_value_t;

static gpu_t gpus[MAX_GPUS];
static unsigned int gpu_count;
static int init_result = DRIVER_NOT_LOADED;
static int count_result;
static int users;
static double scripted_s = -1, slow_s;
static unsigned long calls;

static double now_s(void)
{
    struct timespec now;
    if (scripted_s >= 0)
        return scripted_s;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Joules since the start of the script: in a square wave each period begins with the high half. */
static double true_j(const gpu_t *gpu, double time_s)
{
    double t = time_s - gpu->start_s;
    if (gpu->period_s <= 0)
        return gpu->high_w * t;
    double whole = floor(t / gpu->period_s), part = t - whole * gpu->period_s, half = gpu->period_s / 2;
    return whole * half * (gpu->high_w + gpu->low_w) +
           (part < half ? part * gpu->high_w : half * gpu->high_w + (part - half) * gpu->low_w);
}

static double noisy(gpu_t *gpu)
{
    gpu->random = gpu->random * 1664525u + 1013904223u;
    return 1 + gpu->noise * ((gpu->random >> 8) / 8388608.0 - 1);
}

static double tick_s(const gpu_t *gpu, long long tick)
{
    return gpu->start_s + tick * gpu->update_s;
}

static double mean_w(const gpu_t *gpu, double end_s, double window_s)
{
    double begin_s = fmax(end_s - window_s, gpu->start_s);
    return end_s > begin_s ? (true_j(gpu, end_s) - true_j(gpu, begin_s)) / (end_s - begin_s) : gpu->high_w;
}

static void look(gpu_t *gpu)
{
    long long last = (long long)floor((now_s() - gpu->start_s) / gpu->update_s);
    for (; gpu->tick < last; gpu->tick++)
        gpu->seen_j += gpu->gain * noisy(gpu) * gpu->update_s *
                       mean_w(gpu, tick_s(gpu, gpu->tick + 1), gpu->window_s);
}

static unsigned long long counter_mj(gpu_t *gpu)
{
    look(gpu);
    return gpu->energy_mj + (unsigned long long)(gpu->seen_j * 1000);
}

static unsigned int power_mw(gpu_t *gpu, double window_s)
{
    look(gpu);
    return (unsigned int)(1000 * gpu->gain * noisy(gpu) * mean_w(gpu, tick_s(gpu, gpu->tick), window_s));
}

static void take_time(void)
{
    struct timespec wait = {(time_t)slow_s, (long)((slow_s - (time_t)slow_s) * 1e9)};
    calls++;
    if (slow_s > 0)
        nanosleep(&wait, NULL);
}

/* The script. */

void fake_script(int next_init_result, int next_count_result, unsigned int next_gpu_count)
{
    memset(gpus, 0, sizeof gpus);
    init_result = next_init_result;
    count_result = next_count_result;
    gpu_count = next_gpu_count;
    scripted_s = -1;
    slow_s = 0;
    calls = 0;
    for (unsigned int i = 0; i < MAX_GPUS; i++) {
        gpus[i].update_s = gpus[i].window_s = 0.1;
        gpus[i].gain = 1;
        gpus[i].power_result = NOT_SUPPORTED;
        gpus[i].start_s = now_s();
        gpus[i].clock_mhz = 1980;
        gpus[i].temperature_c = 45;
        gpus[i].limit_mw = 700000;
    }
}

void fake_set_time_s(double time_s)
{
    if (scripted_s < 0)
        for (unsigned int i = 0; i < MAX_GPUS; i++)
            gpus[i].start_s = time_s;
    scripted_s = time_s;
}

void fake_set_slow_s(double seconds)
{
    slow_s = seconds;
}

void fake_set_results(unsigned int index, int handle_result, int energy_result)
{
    gpus[index].handle_result = handle_result;
    gpus[index].energy_result = energy_result;
}

void fake_set_power_result(unsigned int index, int power_result, int fields_result)
{
    gpus[index].power_result = power_result;
    gpus[index].fields_result = fields_result;
}

void fake_set_power(unsigned int index, double high_w, double low_w, double period_s)
{
    look(&gpus[index]);
    gpus[index].high_w = high_w;
    gpus[index].low_w = low_w;
    gpus[index].period_s = period_s;
    gpus[index].power_result = SUCCESS;
}

void fake_set_sensor(unsigned int index, double update_s, double window_s, double gain, double noise)
{
    gpus[index].update_s = update_s;
    gpus[index].window_s = window_s;
    gpus[index].gain = gain;
    gpus[index].noise = noise;
}

void fake_set_field(unsigned int index, unsigned int id, unsigned int scope, int result, double share)
{
    gpu_t *gpu = &gpus[index];
    field_t field = {id, scope, result, share};
    for (int i = 0; i < gpu->field_count; i++)
        if (gpu->fields[i].id == id && gpu->fields[i].scope == scope) {
            gpu->fields[i] = field;
            return;
        }
    gpu->fields[gpu->field_count++] = field;
}

void fake_set_state(unsigned int index, unsigned int mig, unsigned int virtualization, unsigned int clock_mhz,
                    unsigned int temperature_c, unsigned int limit_mw, unsigned long long reasons)
{
    gpus[index].mig = mig;
    gpus[index].virtualization = virtualization;
    gpus[index].clock_mhz = clock_mhz;
    gpus[index].temperature_c = temperature_c;
    gpus[index].limit_mw = limit_mw;
    gpus[index].reasons = reasons;
}

void fake_spend(unsigned int index, unsigned long long energy_mj)
{
    gpus[index].energy_mj += energy_mj;
}

int fake_users(void)
{
    return users;
}

unsigned long fake_calls(void)
{
    return calls;
}

/* NVML. */

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (init_result == SUCCESS)
        users++;
    return init_result;
}

int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlShutdown(void)
{
    if (users == 0)
        return UNINITIALIZED;
    users--;
    return SUCCESS;
}

const char *nvmlErrorString(int result)
{
    static char text[32];
    snprintf(text, sizeof text, "NVML result %d", result);
    return text;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    if (users == 0)
        return UNINITIALIZED;
    *count = gpu_count;
    return count_result;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, gpu_t **gpu)
{
    if (users == 0)
        return UNINITIALIZED;
    if (index >= gpu_count)
        return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return gpus[index].handle_result;
}

int nvmlDeviceGetName(gpu_t *gpu, char *name, unsigned int length)
{
    if (users == 0)
        return UNINITIALIZED;
    snprintf(name, length, "Fake GPU %d", (int)(gpu - gpus));
    return SUCCESS;
}

int nvmlDeviceGetUUID(gpu_t *gpu, char *uuid, unsigned int length)
{
    if (users == 0)
        return UNINITIALIZED;
    snprintf(uuid, length, "GPU-fake-%d", (int)(gpu - gpus));
    return SUCCESS;
}

int nvmlDeviceGetArchitecture(gpu_t *gpu, unsigned int *architecture)
{
    (void)gpu;
    *architecture = HOPPER;
    return users == 0 ? UNINITIALIZED : SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(gpu_t *gpu, unsigned long long *energy_mj)
{
    if (users == 0)
        return UNINITIALIZED;
    take_time();
    *energy_mj = counter_mj(gpu);
    return gpu->energy_result;
}

int nvmlDeviceGetPowerUsage(gpu_t *gpu, unsigned int *milliwatts)
{
    if (users == 0)
        return UNINITIALIZED;
    take_time();
    *milliwatts = gpu->power_result == SUCCESS ? power_mw(gpu, 1.0) : 0;
    return gpu->power_result;
}

static void answer(gpu_t *gpu, field_value_t *value)
{
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    value->timestamp = wall.tv_sec * 1000000LL + wall.tv_nsec / 1000;
    value->latencyUsec = 7;
    value->nvmlReturn = NOT_SUPPORTED;
    for (int i = 0; i < gpu->field_count; i++) {
        field_t *field = &gpu->fields[i];
        if (field->id != value->fieldId || field->scope != value->scopeId)
            continue;
        value->nvmlReturn = field->result;
        if (field->id < ENERGY) { /* a policy's time: its share, in ns */
            value->valueType = UNSIGNED_LONG_LONG;
            value->value.ullVal = field->share;
        } else if (field->id == ENERGY) {
            value->valueType = UNSIGNED_LONG_LONG;
            value->value.ullVal = counter_mj(gpu);
        } else {
            value->valueType = UNSIGNED_INT;
            value->value.uiVal = field->share * power_mw(gpu, field->id == AVERAGE_POWER ? 1.0 : gpu->window_s);
        }
    }
}

int nvmlDeviceGetFieldValues(gpu_t *gpu, int count, field_value_t *values)
{
    if (users == 0)
        return UNINITIALIZED;
    take_time();
    for (int i = 0; i < count; i++)
        answer(gpu, &values[i]);
    return gpu->fields_result;
}

int nvmlDeviceGetMigMode(gpu_t *gpu, unsigned int *current, unsigned int *pending)
{
    *current = *pending = gpu->mig;
    return SUCCESS;
}

int nvmlDeviceGetVirtualizationMode(gpu_t *gpu, unsigned int *mode)
{
    *mode = gpu->virtualization;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(gpu_t *gpu, int type, unsigned int *megahertz)
{
    (void)type;
    *megahertz = gpu->clock_mhz;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(gpu_t *gpu, int sensor, unsigned int *degrees)
{
    (void)sensor;
    *degrees = gpu->temperature_c;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(gpu_t *gpu, unsigned int *milliwatts)
{
    *milliwatts = gpu->limit_mw;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(gpu_t *gpu, unsigned long long *reasons)
{
    *reasons = gpu->reasons;
    return SUCCESS;
}
